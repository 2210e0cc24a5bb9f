"""The toolstack: the client library and the `xbd` command.

`views`, `targets`, `progress` and `render` decide and draw, and know no socket; `client` carries
calls; `main` and the command modules (`look`, `life`, `memory`, `run`) are the command line.
"""
