"""Settings and the files that hold them: text in, typed values out.

`host` reads host files, `autoballoon` those of the policy daemon; `strategies` names the ways to go about memory;
`toml_table` is what all of them read tables with.
"""
