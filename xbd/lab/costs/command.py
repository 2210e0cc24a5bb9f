"""`xbd calibrate`: measures the machine at hand, and writes a file of prices."""

from pathlib import Path

import click

from xbd.cli.common import Failure, check_writable, emit
from xbd.errors import BadArgument, XbdError
from xbd.lab.costs.calibration import calibrated
from xbd.lab.costs.shell.files import read_prices
from xbd.lab.costs.shell.machine import measure
from xbd.units import PAGE_BYTES, SUPER_PAGES, parse_superpages

_LEAST_PAGES = 4 * SUPER_PAGES


@click.command("calibrate")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--memory", default="512m", show_default=True, help="How much is measured with, at least 8 MiB.")
@click.option(
    "--base", metavar="PRESET|FILE", default="kvm-xeon6252", show_default=True, help="Where other prices are from."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON.")
def command(path: Path, *, memory: str, base: str, as_json: bool) -> None:
    """Measure what memory management costs on this machine, as far as a program can, and write FILE for `--prices`.

    It zeroes, copies, faults in, reads, moves and drops memory, for some seconds. What the machine refuses, and what only a
    kernel or a hypervisor could measure, is said, and its price taken over from --base.
    """
    try:
        pages = parse_superpages(memory)
        if pages < _LEAST_PAGES:
            raise BadArgument(f"--memory {memory}", "at least 8 MiB")
        prices = read_prices(base)
        check_writable(path)
        found = measure(pages * PAGE_BYTES)
        path.write_text(calibrated(found, prices).as_toml(), encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: cannot be written: {error.strerror or error}; name another file") from None
    except XbdError as error:
        raise Failure(str(error)) from None
    emit(as_json, found.as_map() | {"file": str(path)}, [*found.lines(), f"{path}: for --prices"])
