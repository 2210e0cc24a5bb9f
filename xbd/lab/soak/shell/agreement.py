"""Whether all who remember a host's domains remember the same: XenStore, autoballoon and `list`."""

from collections.abc import Sequence
from pathlib import Path

import trio

from xbd.cli.policy_status import autoballoon_status
from xbd.client.client import Client
from xbd.domain import DOM0, DomainInfo
from xbd.lab.simulation.shell.store_stream import ask
from xbd.units import PAGE_KIB
from xbd.xenstore.codec import Decoder, Operation


async def disagreements(client: Client, store: Path, *, autoballoon: Path | None) -> list[str]:
    """Tell what XenStore at *store*, and the autoballoon daemon beside the socket *autoballoon*, say otherwise than `list`.

    Raises OSError, BrokenResourceError: the XenStore cannot be asked.
    """
    domains = [domain for domain in await client.list() if domain.state != "zombie"]
    wrong = await _in_store(domains, store)
    if autoballoon is not None:
        status = await trio.to_thread.run_sync(autoballoon_status, str(autoballoon))
        if status.trouble or not status.runs:
            wrong.append(f"autoballoon does not say what it governs: {status.trouble or 'it does not run'}")
        lives = {str(domain.domid): domain.life for domain in domains}
        wrong += [
            f"autoballoon speaks of d{domid}, {told['life']}; the host has {lives.get(domid, 'none of that number')}"
            for domid, told in status.domains.items()
            if told["life"] != lives.get(domid)
        ]
    return wrong


async def _in_store(domains: Sequence[DomainInfo], path: Path) -> list[str]:
    async with await trio.open_unix_socket(str(path)) as stream:
        listed = await _read(stream, Operation.DIRECTORY, "/local/domain")
        names = {name for name in (listed or b"").decode().split("\0") if name}
        # The store has a Domain-0 on every host.
        known = {str(DOM0), *(str(domain.domid) for domain in domains)}
        wrong = [f"XenStore has /local/domain/{name}, the host has not" for name in sorted(names - known)]
        for domain in domains:
            home = f"/local/domain/{domain.domid}"
            expected = {
                f"{home}/vm": f"/vm/{domain.uuid}",
                f"{home}/memory/target": str(domain.target_pages * PAGE_KIB),
                f"{home}/memory/static-max": str(domain.static_max_pages * PAGE_KIB),
                f"/vm/{domain.uuid}/uuid": domain.uuid,
            }
            for key, value in expected.items():
                found = await _read(stream, Operation.READ, key)
                if found is None or found.decode() != value:
                    wrong.append(f"XenStore has {found!r} at {key}, for {domain.name} of the host it should be {value}")
    return wrong


async def _read(stream: trio.SocketStream, operation: Operation, path: str) -> bytes | None:
    """Read a key, or the names below it; None: there is none."""
    answer = await ask(stream, Decoder(), operation, path.encode() + b"\0", request=1)
    return None if answer.operation == Operation.ERROR else answer.payload
