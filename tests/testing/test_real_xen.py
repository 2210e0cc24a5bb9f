"""Against what a real Xen 4.17 did: a 512 MiB guest, otherwise idle, to 256 MiB and back; the same steps, the same leaves.

The measured table (frames in the p2m, 2 MiB leaves, 4 KiB entries), with one block of 512 and 18
special pages in 4 KiB entries from the start:

    fresh              131,090   255      530
    mem-set 256m        65,554   125    1,554
    mem-set 512m       131,090   125   67,090

What differs here: the 18 special pages (console, XenStore, ...) are no gfns of the guest, so the
counts are smaller by them. On the way down the real driver broke 2 blocks beyond the 128 least
possible, the model one: of the first and the last that it took from a part only. Which block is
broken from the start is not known; it is the lowest, where a PC has its holes.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from xbd import abi
from xbd.config.strategies import STRATEGIES
from xbd.guest import GuestSettings, LimitSet, TargetSet
from xbd.guest.workload import Idle
from xbd.testing.virtual_host import VirtualHost
from xbd.units import MIB_PAGES, SUPER_PAGES

MIB = (512, 256, 512)
MEASURED = ((131_090, 255, 530), (65_554, 125, 1_554), (131_090, 125, 67_090))
SPECIAL_PAGES = 18
HOST_SUPERFRAMES = 600


@dataclass(frozen=True)
class Row:
    """One row of the table, and the share of the host's free memory in whole superframes."""

    frames: int
    leaves: int
    entries: int
    free_whole: float


def booted(strategy: str, seed: int, mib: int = MIB[0], superframes: int = HOST_SUPERFRAMES) -> tuple[VirtualHost, int]:
    """Boot a guest of 512 MiB that holds *mib*."""
    settings = STRATEGIES[strategy]
    host = VirtualHost(superframes, settings.host, seed=seed)
    host.limit_beyond_pages = settings.limit_beyond_pages
    domid = host.create(
        "hv1",
        max_pages=MIB[0] * MIB_PAGES,
        target_pages=mib * MIB_PAGES,
        settings=GuestSettings(settings.driver, verify=True),
        workload=Idle(),
    )
    return host, domid


def watched(host: VirtualHost, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, abi.Frames, int]]:
    """List the balloon's hypercalls as they are made: when, for what extents, how many were done."""
    calls: list[tuple[float, abi.Frames, int]] = []
    execute = host.machine.execute

    def note(domid: int, command: abi.Command) -> abi.Result:
        result = execute(domid, command)
        if isinstance(command, abi.Decrease | abi.Populate) and isinstance(result, abi.MemopResult):
            calls.append((host.now, command.gfns, result.done))
        return result

    monkeypatch.setattr(host.machine, "execute", note)
    return calls


def rows_of(strategy: str, seed: int, steps: tuple[int, ...] = MIB) -> list[Row]:
    """Boot a guest one of whose blocks is shattered, take it through *steps* of MiB; returns the table."""
    host, domid = booted(strategy, seed)
    # A page that goes and comes breaks its block, on today's Xen for good.
    page = np.array([0xA0], dtype=np.int64)
    host.machine.execute(domid, abi.Decrease(page))
    host.machine.execute(domid, abi.Populate(page))
    host.reboot(domid)
    rows = []
    for mib in steps:
        host.set_target(domid, mib * MIB_PAGES)
        host.advance(host.now + 60)
        info = host.machine.domain_info(domid)
        assert info.max_pages == mib * MIB_PAGES + STRATEGIES[strategy].limit_beyond_pages
        entries = info.tot_pages - info.leaves * SUPER_PAGES
        rows.append(Row(info.tot_pages, info.leaves, entries, host.machine.statistics().free_in_whole_superframes))
    assert host.check() == []
    assert host.guest(domid).statistics().content_errors == 0
    return rows


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_stock_does_as_the_real_one_did(seed: int) -> None:
    """The same frames, within a block of the same leaves, and none come back; a second trip breaks no more."""
    fresh, down, up, *again = rows_of("stock", seed, (*MIB, *MIB[1:]))

    for row, (frames, leaves, entries) in zip((fresh, down, up), MEASURED, strict=True):
        assert row.frames == frames - SPECIAL_PAGES
        assert abs(row.leaves - leaves) <= 1
        assert abs(row.entries - (entries - SPECIAL_PAGES)) <= SUPER_PAGES
    assert fresh.leaves == MEASURED[0][1]
    assert up.leaves == down.leaves
    assert all(abs(row.leaves - up.leaves) <= 1 for row in again)
    # On the real host 99.6 % or more of the free heap lay in chunks of 2 MiB and more at every step.
    assert min(row.free_whole for row in (fresh, down, up, *again)) > 0.99


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_improved_driver_ends_with_every_leaf(seed: int) -> None:
    """All 255 are there again, and the one that was broken from the start too: its page finds the frame that it misses."""
    fresh, down, up = rows_of("full", seed)

    assert fresh.leaves == up.leaves == MEASURED[0][1] + 1
    assert (down.leaves, down.entries, up.entries) == (MIB[1] // 2, 0, 0)
    assert up.frames == MEASURED[2][0] - SPECIAL_PAGES


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_batches_come_one_after_the_other(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 calls of 512 pages each way, all done; down they descend within, the next lies above; up the last given is the first got."""
    host, domid = booted("stock", seed)
    calls = watched(host, monkeypatch)
    for mib in MIB[1:]:
        host.set_target(domid, mib * MIB_PAGES)
        host.advance(host.now + 1)

    assert [done for _, _, done in calls] == [abi.BATCH_EXTENTS] * 256
    given, got = ([gfns for _, gfns, _ in trip] for trip in (calls[:128], calls[128:]))
    for batch in given:
        assert all(step == -1 for step in np.diff(batch) if step > -SUPER_PAGES)
    firsts = [int(batch[0]) for batch in given]
    assert firsts == sorted(firsts)
    assert np.array_equal(np.concatenate(got), np.concatenate(given)[::-1])


@pytest.mark.parametrize(("refused_by", "part"), [("host", 240), ("limit", MIB_PAGES)])
def test_a_part_comes_then_nothing_until_another_target(
    refused_by: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16 MiB comes what there is, nothing after 0, 2, 4 and 8 s; room, limit and the same target wake nobody."""
    host, domid = booted("stock", 0, MIB[1], superframes=128 + 8)
    machine, target = host.machine, (MIB[1] + 16) * MIB_PAGES
    hog = machine.create("hog", max_pages=8 * SUPER_PAGES, target_pages=8 * SUPER_PAGES)
    machine.execute(hog, abi.Decrease(np.arange(240, dtype=np.int64)))
    if refused_by == "limit":
        machine.destroy(hog)
    else:
        machine.set_max_pages(domid, target)
    calls = watched(host, monkeypatch)
    machine.set_target(domid, target)
    host.send(domid, TargetSet(target))
    host.advance(100)
    tried = [(at_s, gfns.size, done) for at_s, gfns, done in calls]
    assert tried == [(0, 512, part), (0, 512, 0), (2, 512, 0), (6, 512, 0), (14, 512, 0)]

    calls.clear()
    if refused_by == "host":
        machine.destroy(hog)
    machine.set_max_pages(domid, target)
    for event in (LimitSet(target), TargetSet(target)):
        host.send(domid, event)
        host.advance(host.now + 50)
    assert calls == []
    host.set_target(domid, target - 1)
    assert sum(done for _, _, done in calls) == 16 * MIB_PAGES - part - 1
    assert host.check() == []
