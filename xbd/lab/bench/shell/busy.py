"""How many busy guests a machine carries: as many as keep 99 % of their ticks less than 100 ms late.

Half of them are steady, half bursty (with periods of 25 to 34 ticks), all of 256 MiB with a tick a second, on a host that
is a quarter too small for them, with daemon, agents on all cores, autoballoon, and a client that lists them once a second: this one. How late
ticks are is what the guests report. Each number of guests is tried on a host of its own.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from xbd.client.client import Client
from xbd.client.runtime_dir import hypervisor_socket
from xbd.errors import XbdError
from xbd.lab.bench.figures import Figure
from xbd.lab.bench.search import largest_carried
from xbd.lab.bench.shell.fleet import host_memory_kib
from xbd.testing.processes import XBD, running, running_host

_GUEST_MIB: Final = 256
_HOST_SHARE: Final = 0.75
# Beside its guests: what autoballoon leaves free.
_HOST_SPARE_MIB: Final = 1024
_LATE_SHARE: Final = 0.01
_FIRST, _MOST = 256, 16384
_LIST_EVERY_S: Final = 1.0
_HOST: Final = """
[host]
memory = "{memory_mib}m"
"""
_GUESTS: Final = """
[[guest]]
name = "{name}-{{n}}"
count = {count}
maximum = "{guest_mib}m"
target = "{target_mib}m"
workload = {workload}
"""
# The periods of bursty guests, in ticks: guests of a host that booted together do not burst in step for ever.
_PERIODS_TICKS: Final = tuple(range(25, 35))

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BusyScale:
    """How long each number of guests is tried, and which; *most* is reached from *first* by doubling."""

    warm_up_s: float = 15.0
    measured_s: float = 60.0
    first: int = _FIRST
    most: int = _MOST


@dataclass(frozen=True, slots=True)
class Tried:
    """How late the ticks of some time were, and what memory daemon and agents took in the end."""

    ticks: int
    late: int
    worst_ms: int
    memory_kib: int

    @property
    def late_share(self) -> float:
        """The share of them that was late; of none, all."""
        return self.late / self.ticks if self.ticks else 1.0


async def measure_busy(directory: Path, say: Say, scale: BusyScale) -> dict[str, Figure]:
    """Search for the number of guests; *directory*: for their hosts' files; *say*: told each step."""
    kept: dict[int, Tried] = {}

    async def carries(guests: int) -> bool:
        place = directory / str(guests)
        place.mkdir()
        try:
            found = await _try(place, guests, scale)
        except (XbdError, trio.TooSlowError) as error:
            say(f"{guests} guests: not carried: {error or 'they did not boot in time'}")
            return False
        said = f"{found.ticks:,} ticks, {found.late_share:.2%} late, the worst by {found.worst_ms:,} ms"
        is_kept = found.late_share < _LATE_SHARE
        say(f"{guests} guests: {'carried' if is_kept else 'not carried'}: {said}")
        if is_kept:
            kept[guests] = found
        return is_kept

    carried, too_many = await largest_carried(carries, scale.first, scale.most)
    figures = {"busy_guests": Figure(carried, "guests", carried, too_many)}
    if carried:
        late = round(100 * kept[carried].late_share, 4)
        figures["busy_guests_ticks_late"] = Figure(late, "%", late, late)
    if len(kept) > 1:
        (few, least), (many, most) = min(kept.items()), max(kept.items())
        each_kib = round((most.memory_kib - least.memory_kib) / (many - few), 1)
        figures["memory_per_busy_guest"] = Figure(each_kib, "KiB", each_kib, each_kib)
    return figures


async def _try(place: Path, guests: int, scale: BusyScale) -> Tried:
    """Run a host with so many guests. Raises XbdError, trio.TooSlowError: it does not come about, or an agent is lost."""
    policy, path = place / "autoballoon.toml", hypervisor_socket(place / "run")
    policy.write_text("[autoballoon]\n", encoding="utf-8")
    autoballoon = (*XBD, "autoballoon", "--config", str(policy), "--socket", str(path))
    async with running_host(_host_toml(guests), place) as client, running(autoballoon):
        await _list_for(client, guests, scale.warm_up_s)
        before, _ = await _ticks(client, guests)
        await _list_for(client, guests, scale.measured_s)
        after, worst_ms = await _ticks(client, guests)
        memory_kib = host_memory_kib(path.parent)
    ticks, late = (after[name] - before[name] for name in ("ticks", "ticks_late"))
    return Tried(ticks, late, worst_ms, memory_kib)


def _host_toml(guests: int) -> str:
    target_mib = int(_GUEST_MIB * _HOST_SHARE)
    groups = [("steady", '"steady"', guests - guests // 2)]
    for place, ticks in enumerate(_PERIODS_TICKS):
        count = (guests // 2 + place) // len(_PERIODS_TICKS)
        groups.append((f"bursty{ticks}", f'{{ profile = "bursty", period_ticks = {ticks} }}', count))
    return _HOST.format(memory_mib=guests * target_mib + _HOST_SPARE_MIB) + "".join(
        _GUESTS.format(name=name, workload=workload, count=count, guest_mib=_GUEST_MIB, target_mib=target_mib)
        for name, workload, count in groups
        if count
    )


async def _list_for(client: Client, guests: int, seconds: float) -> None:
    """List all once a second, for so long."""
    until_s = trio.current_time() + seconds
    while trio.current_time() < until_s:
        next_s = trio.current_time() + _LIST_EVERY_S
        await _ticks(client, guests)
        await trio.sleep_until(next_s)


async def _ticks(client: Client, guests: int) -> tuple[Counter[str], int]:
    """Add up what all guests report of their ticks, and find the worst since they booted. Raises XbdError: one has no agent."""
    domains = await client.list()
    running = sum(domain.agent for domain in domains)
    if running != guests:
        raise XbdError(f"only {running} of {guests} guests have an agent")
    total: Counter[str] = Counter()
    for domain in domains:
        for name in ("ticks", "ticks_late"):
            total[name] += domain.reported.get(name, 0)
    return total, max(domain.reported.get("tick_worst_ms", 0) for domain in domains)
