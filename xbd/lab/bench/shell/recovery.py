"""The cost of crash recovery: hypercalls with and without a state directory, in turn.

Two daemons of the same settings run side by side, and one bare client calls both, a round each.
"""

from pathlib import Path

import numpy as np

from xbd.client.client import Client
from xbd.lab.bench.figures import Figure, summarize
from xbd.lab.bench.shell.wire import BareClient, connect, cores_set, time_pairs
from xbd.protocol.codec import VERSION
from xbd.testing.processes import running_host
from xbd.units import SUPER_PAGES

_ROUNDS, _WARM_UP = 40, 3
_HOST = """
[host]
memory = "4g"
{state}
"""


async def measure_recovery(directory: Path) -> dict[str, Figure]:
    """Measure a populate and a decrease of 512 order-0 extents on both."""
    places = []
    for name, state in (("bare", ""), ("saved", 'state_dir = "state"')):
        place = directory / name
        place.mkdir()
        places.append((place, _HOST.format(state=state)))
    (bare_place, bare_toml), (saved_place, saved_toml) = places
    async with (
        running_host(bare_toml, bare_place) as bare_client,
        running_host(saved_toml, saved_place) as saved_client,
        connect(await _domain(bare_client, bare_place)) as bare,
        connect(await _domain(saved_client, saved_place)) as saved,
    ):
        for domain in (bare, saved):
            await domain.call("hello", {"version": VERSION, "session": "bench", "last_seen": None})
        with cores_set(bare.server_pid, saved.server_pid):
            samples = [await _round(bare, saved) for _ in range(_WARM_UP + _ROUNDS)][_WARM_UP:]
    plain, kept = (np.array(column) for column in zip(*samples, strict=True))
    return {
        "recovery_overhead": summarize(
            (kept / plain).tolist(), "ratio", "the same hypercalls of a host that is not saved"
        )
    }


async def _domain(client: Client, place: Path) -> Path:
    """Make a domain; returns its socket."""
    pages = 16 * SUPER_PAGES
    domid = await client.create("bench", max_pages=pages, target_pages=pages, autostart=False)
    return place / "run" / "domains" / f"{domid}.sock"


async def _round(bare: BareClient, saved: BareClient) -> tuple[float, float]:
    block = np.arange(SUPER_PAGES, dtype=np.uint64)[::-1]
    return await time_pairs(bare, block), await time_pairs(saved, block)
