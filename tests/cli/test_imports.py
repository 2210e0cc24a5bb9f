"""What a short command imports, which is most of the time that it takes."""

import json
import subprocess
import sys
from pathlib import Path

from tests.client.test_blocking import with_daemon
from xbd.client import connect

# Commands that ask a daemon, or nobody; and daemons that have no arrays.
CLIENTS = tuple(f"xbd.cli.commands.{name}" for name in ("docs", "domains", "inspect", "listings", "memory"))
OTHERS = (
    *(f"xbd.cli.commands.{name}" for name in ("autoballoon", "check", "daemons", "metrics", "top", "xenstored")),
    *("xbd.client.client", "xbd.daemons.supervisor", "xbd.daemons.metrics"),
)
# What `xbd list` is made of: of the packages of xbd these modules, and no other.
OF_LIST = {
    "": ("abi", "abi.words", "domain", "errors", "lazy", "replaceable", "shapes", "target_rules", "text", "units"),
    "cli": ("commands", "commands.listings", "common", "main", "tables"),
    "client": ("blocking", "calls", "discovery", "runtime_dir"),
    "protocol": ("backoff", "client_session", "codec", "fields", "toolstack_session"),
}


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


async def test_a_list_imports_just_what_it_uses(tmp_path: Path) -> None:
    """Of xbd these modules; neither tasks nor arrays nor logs, and JSON only where that is asked for."""

    def list_domains() -> list[str]:
        with connect(tmp_path) as client:
            client.create("web", max_pages=512, target_pages=512)
        script = (
            "import sys; from xbd.cli.main import main\n"
            f"main(['--socket', {str(tmp_path)!r}, 'list'], standalone_mode=False)\n"
            "modules = sorted(sys.modules)\n"
            "import json; print(json.dumps(modules))"
        )
        run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)  # noqa: S603 - our own interpreter
        *table, modules = run.stdout.splitlines()
        assert [line.split()[0] for line in table] == ["Name", "web"]
        imported: list[str] = json.loads(modules)
        return imported

    imported = await with_daemon(tmp_path, list_domains)
    expected = {"xbd", *(f"xbd.{package}" for package in OF_LIST if package)}
    expected |= {".".join(filter(None, ("xbd", package, name))) for package in OF_LIST for name in OF_LIST[package]}
    assert {name for name in imported if name.partition(".")[0] == "xbd"} == expected
    assert not {"trio", "numpy", "structlog", "asyncio", "json", "difflib"} & set(imported)
