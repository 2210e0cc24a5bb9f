"""What a short command imports, which is most of the time that it takes."""

import subprocess
import sys

# Commands that ask a daemon, or nobody; and daemons that have no arrays.
CLIENTS = tuple(f"xbd.cli.commands.{name}" for name in ("docs", "domains", "inspect", "memory"))
OTHERS = (
    *(f"xbd.cli.commands.{name}" for name in ("autoballoon", "check", "daemons", "metrics", "top", "xenstored")),
    *("xbd.client.client", "xbd.daemons.supervisor", "xbd.daemons.metrics"),
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


def test_a_client_command_waits_for_neither_numpy_nor_trio() -> None:
    """Nor do the blocking client, and what is imported to run `xbd --version`; msgpack is for those who ask a daemon."""
    found = imported_by("xbd.cli.main", names="numpy trio msgpack")
    found += imported_by(*CLIENTS, "xbd.client.blocking", names="numpy trio")

    assert [line for line in found if line] == []


def test_what_has_no_arrays_does_not_wait_for_numpy() -> None:
    """No module of another command imports it, nor do the supervisor, the metrics server and a host file's reader."""
    assert [line for line in imported_by(*OTHERS, names="numpy") if line] == []
