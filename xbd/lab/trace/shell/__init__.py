"""The commands of `xbd trace`: `record` writes a file for days, `looking` reads and makes files of it, `importing` others."""
