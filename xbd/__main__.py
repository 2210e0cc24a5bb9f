"""`python -m xbd`: the `xbd` command."""

from xbd.cli.main import main

if __name__ == "__main__":
    main(prog_name="xbd")
