"""Settings and the files that hold them: text in, typed values out.

Read `host` first (host files), then `autoballoon` (the policy daemon's file). Both read their tables with
`toml_table`, which refuses unknown keys by name; `strategies` lists the presets that a host file can name.
"""
