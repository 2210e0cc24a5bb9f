"""Settings and the files that hold them: text in, typed values out.

Read `host` first (host files), then `autoballoon` (the policy daemon's file). Each file is a declared class
(`xbd.settings`) that `toml` fills; `guest` is what a host file and `create` say of a guest, `strategies` lists the
presets that they can name.
"""
