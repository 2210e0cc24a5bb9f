"""The commands of `xbd`, a file for each family; `xbd.cli.main` lists them."""
