"""`xbd trace`: records this machine's memory, takes over what other tools recorded, looks at traces and makes others of them."""

from typing import Final

import click

from xbd.cli.common import LazyGroup

COMMANDS: Final = {
    "record": ("xbd.lab.trace.shell.record:command", "Record what this machine's memory is used for."),
    "import": ("xbd.lab.trace.shell.importing:command", "Make a trace of what sysstat, Prometheus or others recorded."),
    "info": ("xbd.lab.trace.shell.looking:info_command", "Tell what a trace holds."),
    "check": ("xbd.lab.trace.shell.looking:check_command", "Find gaps, resets and implausible values, each by line."),
    "plot": ("xbd.lab.trace.shell.looking:plot_command", "Draw a trace's shape over time."),
    "cut": ("xbd.lab.trace.shell.making:cut_command", "Cut a part out of a trace."),
    "synth": (
        "xbd.lab.trace.shell.making:synth_command",
        "Make a guest that is like a recorded one, but not the same.",
    ),
}
EXAMPLES: Final = {
    "record": ("xbd trace record web.csv --every 1s --duration 1h", "xbd trace record web.csv --every 10s --append"),
    "import": (
        "sadf -j -- -r ALL -B -S -q MEM > web.json && xbd trace import sadf web.json web.csv",
        "xbd trace import prometheus answers/ web.csv",
        "xbd trace import csv mem.csv web.csv --column t_s=time --column total_pages=total*MiB --column free_pages=free*MiB --column page_cache_pages=cached*MiB",
    ),
    "info": ("xbd trace info web.csv",),
    "check": ("xbd trace check web.csv",),
    "plot": ("xbd trace plot web.csv", "xbd trace plot web.csv --svg web.svg"),
    "cut": ("xbd trace cut web.csv evening.csv --from 18h --to 20h",),
    "synth": ("xbd trace synth web.csv web2.csv --shift 90s --scale 0.5 --noise 0.05 --seed 2",),
}


@click.group("trace", cls=LazyGroup, table=COMMANDS, examples=EXAMPLES)
def command() -> None:
    """Record, take over, look at, cut and multiply traces of guests' memory, which `xbd replay` and guests play.

    `xbd docs lab` says what a trace has in its columns.
    """
