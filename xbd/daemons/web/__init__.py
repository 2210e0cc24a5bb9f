"""The daemon of `xbd web`: a page that shows a host while it works, and cannot change it.

`feed` follows the hypervisor once for all pages; `series` reads a file instead; `server` answers requests, and refuses
whom a browser should not have sent; `page` holds the page's own files.
"""
