"""dom0 and guests as real processes: daemon and agents apart, sockets between them."""

from pathlib import Path

import trio

from xbd.client.client import Client
from xbd.domain import DomainInfo
from xbd.testing.processes import running_host

_HOST = """
[host]
memory = "512m"
[dom0]
maximum = "64m"
minimum = "16m"
[[guest]]
name = "io{n}"
count = 4
maximum = "64m"
verify = true
workload = { profile = "steady", io_pages_s = 128 }
"""
_PATIENCE_S = 60.0


async def _until_served(client: Client, pages: int) -> DomainInfo:
    """Wait until dom0 has read and written so many pages."""
    with trio.fail_after(_PATIENCE_S):
        while True:
            dom0 = await client.info("dom0")
            if min(dom0.reported.get("io_pages_written", 0), dom0.reported.get("io_pages_read", 0)) >= pages:
                return dom0
            await trio.sleep(0.1)


async def test_dom0_serves_guests_whose_targets_change(tmp_path: Path) -> None:
    """No word is wrong while all targets move, and when the guests are gone no slot, grant or reference is left."""
    async with running_host(_HOST, tmp_path) as client:
        for mib in (48, 60, 40):
            served = await _until_served(client, 1)
            for domain in await client.list():
                await client.set_target(domain.domid, mib * 256)
            await _until_served(client, served.reported["io_pages_written"] + 64)
        guests = [domain for domain in await client.list() if domain.domid]
        for guest in guests:
            await client.destroy(guest.domid)
        with trio.fail_after(_PATIENCE_S):
            while [domain.name for domain in await client.list()] != ["dom0"]:  # noqa: ASYNC110 - other processes
                await trio.sleep(0.1)
        dom0 = await client.info("dom0")
        assert (dom0.mapped_grants, dom0.reported["io_mismatches"]) == (0, 0)
        assert (
            sum(guest.reported.get("io_mismatches", 0) + guest.reported.get("content_errors", 0) for guest in guests)
            == 0
        )
        assert list(await client.audit()) == []
