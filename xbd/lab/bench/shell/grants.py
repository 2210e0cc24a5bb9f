"""The time of mapping granted pages over the socket, against that of populating as many pages.

One domain has granted 10,000 pages to another, which maps them all into slots, and populates as many
gfns of its own: by the same bare client, in batches of 512, one call at a time, in turn.
"""

import time
from pathlib import Path

import numpy as np

from xbd.abi import BATCH_EXTENTS
from xbd.client.client import Client
from xbd.lab.bench.figures import Figure, summarize
from xbd.lab.bench.shell.wire import BareClient, connect, cores_set
from xbd.protocol.codec import VERSION
from xbd.units import SUPER_PAGES

_PAGES = 10_000
_ROUNDS, _WARM_UP = 20, 2
_OWNER_PAGES = 20 * SUPER_PAGES
_MAPPER_PAGES = 40 * SUPER_PAGES


async def measure_grants(client: Client, runtime_dir: Path, rounds: int = _ROUNDS) -> dict[str, Figure]:
    """Measure on a running host; the two domains are made for it, and destroyed after it."""
    owner = await client.create("bench-owner", max_pages=_OWNER_PAGES, target_pages=_OWNER_PAGES, autostart=False)
    mapper = await client.create("bench-mapper", max_pages=_MAPPER_PAGES, target_pages=SUPER_PAGES, autostart=False)
    async with (
        connect(runtime_dir / "domains" / f"{owner}.sock") as granting,
        connect(runtime_dir / "domains" / f"{mapper}.sock") as mapping,
    ):
        for domain in (granting, mapping):
            await domain.call("hello", {"version": VERSION, "session": "bench", "last_seen": None})
        refs = [await _grant(granting, batch, mapper) for batch in _batches(0)]
        slots = _batches(_MAPPER_PAGES - _OWNER_PAGES)
        with cores_set(mapping.server_pid):
            samples = [await _round(mapping, owner, refs, slots) for _ in range(_WARM_UP + rounds)][_WARM_UP:]
    for domid in (mapper, owner):
        await client.destroy(domid)
    populates, maps = (np.array(column) for column in zip(*samples, strict=True))
    return {
        "populate_10000": summarize((populates * 1e3).tolist(), "ms"),
        "grant_map_10000": summarize((maps * 1e3).tolist(), "ms"),
        "grant_map_vs_populate": summarize((maps / populates).tolist(), "ratio", "populating as many pages"),
    }


def _batches(first: int) -> list[bytes]:
    gfns = np.arange(first, first + _PAGES, dtype=np.uint64)
    return [gfns[at : at + BATCH_EXTENTS].tobytes() for at in range(0, _PAGES, BATCH_EXTENTS)]


async def _grant(domain: BareClient, gfns: bytes, to: int) -> bytes:
    match await domain.call("grant", {"gfns": gfns, "to": to}):
        case [int(), None, bytes(refs)]:
            return refs
        case unexpected:
            raise AssertionError(f"a grant was answered {unexpected!r}")


async def _do_all(domain: BareClient, method: str, calls: list[dict[str, object]]) -> float:
    """Make calls one at a time, each of which must do all that it names; returns seconds."""
    start = time.perf_counter()
    for params in calls:
        answer = await domain.call(method, params)
        assert isinstance(answer, list), f"{method} was answered {answer!r}"
        assert answer[1] is None, f"{method} stopped with {answer[1]} after {answer[0]}"
    return time.perf_counter() - start


async def _round(domain: BareClient, owner: int, refs: list[bytes], slots: list[bytes]) -> tuple[float, float]:
    """Time populating and mapping all, in seconds; what undoes them is not timed."""
    pages: list[dict[str, object]] = [{"gfns": gfns} for gfns in slots]
    pairs: list[dict[str, object]] = [
        {"owner": owner, "refs": batch, "gfns": gfns} for batch, gfns in zip(refs, slots, strict=True)
    ]
    populating_s = await _do_all(domain, "populate", pages)
    await _do_all(domain, "decrease", pages)
    mapping_s = await _do_all(domain, "map_grant", pairs)
    await _do_all(domain, "unmap_grant", pages)
    return populating_s, mapping_s
