"""Reading the host file again while the host runs: what is applied, and what cannot be and why.

Applied are the host's name, the group of the toolstack's socket, the level of the log, and guests that
are described newly: their domains are created. Nothing else is. What a running domain holds is the
affair of whoever moved it there last, and an old file must not undo that; what a host is made of
(memory, settings, sockets, dom0) is fixed when it starts. Each such difference is told with what to do
about it, again at every reload for as long as it is there.

`plan_reload` compares, and is pure; `HostFile` reads, applies and tells.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd import log
from xbd.config.host import GuestConfig, HostConfig, load_host_config
from xbd.control.controller import Host
from xbd.errors import ConfigError, HypercallError
from xbd.units import format_pages

_log = structlog.get_logger(__name__)

DEFAULT_LOG_LEVEL: Final = "info"
# More names than a person reads say no more than their number does.
NAMED_AT_MOST: Final = 8
_RESTART: Final = "begin a new host: restart the daemon, with an empty state directory if it has one"
_ANEW: Final = "it is settled when a domain is created: destroy it and `xbd create` it, or restart the daemon"


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in the file that is not so, and is left as it is: *key*, why, and for which guests."""

    key: str
    reason: str
    guests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """What a reload comes to: guests to *create*, and what is *left* as it is."""

    create: tuple[GuestConfig, ...]
    left: tuple[Difference, ...]


def plan_reload(in_force: HostConfig, read: HostConfig, living: Collection[str]) -> ReloadPlan:
    """Compare what a host runs with to what its file says now.

    Args:
        in_force: what the file said when each part of it was applied.
        read: what it says now.
        living: the names of the domains that there are, whoever created them.
    """
    known = {guest.name: guest for guest in in_force.guests}
    new = [guest for guest in read.guests if guest.name not in known]
    differences = [*_of_host(in_force, read), *_of_guests(known, read, living)]
    merged: dict[tuple[str, str], list[str]] = {}
    for difference in differences:
        merged.setdefault((difference.key, difference.reason), []).extend(difference.guests)
    return ReloadPlan(
        create=tuple(guest for guest in new if guest.name not in living),
        left=tuple(Difference(key, reason, tuple(guests)) for (key, reason), guests in merged.items()),
    )


def _of_host(in_force: HostConfig, read: HostConfig) -> Iterator[Difference]:
    """List what differs of the host itself."""
    if read.memory_pages != in_force.memory_pages:
        yield Difference(
            "host.memory",
            f"{format_pages(read.memory_pages)} now, the host has {format_pages(in_force.memory_pages)}; {_RESTART}",
        )
    for setting in fields(in_force.settings):
        before, now = getattr(in_force.settings, setting.name), getattr(read.settings, setting.name)
        if before != now:
            yield Difference(f"host.{setting.name}", f"{now!r} now, {before!r} in force; {_RESTART}")
    if read.runtime_dir != in_force.runtime_dir:
        yield Difference("host.runtime_dir", f"the sockets stay where they are; {_RESTART}")
    if read.dom0 != in_force.dom0:
        yield Difference("dom0", f"is described differently; it is made before all other domains: {_RESTART}")


def _of_guests(known: Mapping[str, GuestConfig], read: HostConfig, living: Collection[str]) -> Iterator[Difference]:
    """List what differs of the guests, each difference by itself."""
    for guest in read.guests:
        before = known.get(guest.name)
        if before is None:
            if guest.name in living:
                reason = "a domain of that name exists already and stays as it is; `xbd list` shows it"
                yield Difference("guest.name", reason, (guest.name,))
        elif guest.name not in living:
            reason = "was destroyed, and only what is described newly is created; `xbd create` makes it"
            yield Difference("guest", reason, (guest.name,))
        elif guest != before:
            yield from _of_guest(before, guest)
    gone = known.keys() - {guest.name for guest in read.guests}
    for name in sorted(gone & set(living)):
        yield Difference("guest", "is not described any more, and runs on; `xbd destroy` ends it", (name,))


def _of_guest(before: GuestConfig, now: GuestConfig) -> Iterator[Difference]:
    """List what differs of a guest that runs."""
    if now.target_pages != before.target_pages:
        reason = f"{format_pages(now.target_pages)} now; targets of running domains are moved with `xbd mem-set`"
        yield Difference("guest.target", reason, (now.name,))
    if now.max_pages != before.max_pages:
        yield Difference("guest.memory", f"{format_pages(now.max_pages)} now; {_ANEW}", (now.name,))
    if now.min_pages != before.min_pages:
        yield Difference("guest.minimum", f"{format_pages(now.min_pages)} now; {_ANEW}", (now.name,))
    if replace(now, **{key: getattr(before, key) for key in ("target_pages", "max_pages", "min_pages")}) != before:
        yield Difference("guest", f"is described differently; {_ANEW}", (now.name,))


class HostFile:
    """The host file of a running host.

    Args:
        path: where it is.
        config: what it said when the host was started.
        decided: the keys of [host] that the command line decides: "group", "log_level".
    """

    def __init__(self, path: Path, config: HostConfig, decided: Collection[str] = ()) -> None:
        self._path = path
        self._in_force = config
        self._decided = frozenset(decided)

    def begin(self, host: Host) -> None:
        """Take as in force what a new host was made of, or what is saved of a host that was restored."""
        if not host.is_restored:
            host.remember_described([guest.name for guest in self._in_force.guests])
            return
        described = set(host.described)
        self._in_force = replace(
            self._in_force,
            memory_pages=host.machine.statistics().frames,
            settings=host.machine.settings,
            guests=tuple(guest for guest in self._in_force.guests if guest.name in described),
        )

    async def reload(self, host: Host) -> None:
        """Read it again and apply what can be; all else is logged. A file that cannot be used changes nothing."""
        try:
            read = load_host_config(self._path)
            applied = self._apply_to_host(host, read)
        except ConfigError as error:
            _log.error("reload_failed", file=str(error.path), key=error.key, reason=error.reason, kept="all settings")
            return
        living = {host.record(domid).name for domid in host.machine.living_domains()}
        plan = plan_reload(self._in_force, read, living)
        created = await self._create(host, plan.create)
        for difference in plan.left:
            named = _named(difference.guests)
            _log.warning("not_reloaded", key=difference.key, reason=difference.reason, **named)
        # Who is neither described nor there any more is new when it is described again.
        known_on = living | {guest.name for guest in read.guests}
        guests = (*(guest for guest in self._in_force.guests if guest.name in known_on), *created)
        self._in_force = replace(
            self._in_force, name=read.name, group=read.group, log_level=read.log_level, guests=guests
        )
        host.remember_described([guest.name for guest in guests])
        names = [guest.name for guest in created]
        _log.info("reloaded", file=str(self._path), applied=applied, created=len(names), **_named(names))

    def _apply_to_host(self, host: Host, read: HostConfig) -> list[str]:
        """Apply what [host] says of group, log and name; names what changed. Raises ConfigError: nothing has."""
        applied = []
        if read.group != self._in_force.group and self._may_decide("group"):
            host.doors.permit_group(read.group)
            applied.append("host.group")
        if read.log_level != self._in_force.log_level and self._may_decide("log_level"):
            log.configure(read.log_level or DEFAULT_LOG_LEVEL)
            applied.append("host.log_level")
        if read.name != self._in_force.name:
            host.name = read.name
            applied.append("host.name")
        return applied

    def _may_decide(self, key: str) -> bool:
        """Tell whether the file decides a key; if it does not, say so."""
        if key in self._decided:
            option = "--" + key.replace("_", "-")
            _log.warning("not_reloaded", key=f"host.{key}", reason=f"{option} on the command line decides it")
        return key not in self._decided

    async def _create(self, host: Host, guests: tuple[GuestConfig, ...]) -> list[GuestConfig]:
        """Create domains; those that cannot be are logged, and the next reload tries them again."""
        created = []
        for guest in guests:
            try:
                host.call("create", guest.as_create())
                host.commit()
            except HypercallError as error:
                _log.error("guest_not_created", guest=guest.name, reason=str(error))
            else:
                created.append(guest)
            await trio.lowlevel.checkpoint()  # others have their turns in between
        return created


def _named(guests: Collection[str]) -> dict[str, object]:
    """Name guests for the log: a few by name, the rest by number."""
    if not guests:
        return {}
    few = list(guests)[:NAMED_AT_MOST]
    more = len(guests) - len(few)
    return {"guests": [*few, f"and {more} more"] if more else few}
