"""What a short command imports, which is most of the time that it takes."""

import subprocess
import sys

COMMANDS = (
    *(f"xbd.cli.commands.{name}" for name in ("autoballoon", "check", "daemons", "docs", "domains", "inspect")),
    *(f"xbd.cli.commands.{name}" for name in ("memory", "metrics", "top", "xenstored")),
)


def imported_by(*modules: str, names: str) -> list[str]:
    """List those of *names* that a fresh process has imported, each after the module that brought it in."""
    script = (
        "import sys, importlib\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    print(*[f'{{module}}: {{name}}' for name in {names.split()!r} if name in sys.modules], sep='\\n')\n"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)  # noqa: S603 - our own interpreter
    return run.stdout.split("\n")


def test_a_command_that_asks_a_daemon_does_not_wait_for_numpy() -> None:
    """No module of a client command imports numpy, nor do the supervisor, the metrics server and a host file's reader."""
    found = imported_by(*COMMANDS, "xbd.client.client", "xbd.daemons.supervisor", "xbd.daemons.metrics", names="numpy")

    assert [line for line in found if line] == []
