"""Reading the host file again while the host runs: what is applied, and what cannot be and why.

Applied are the host's name, the group of the toolstack's socket, the level of the log, and guests that
are described newly: their domains are created. Nothing else is. The target of a running domain was
last set by an operator or a policy, and an old file must not undo that; what a host is made of (memory,
settings, sockets, dom0) is fixed when it starts. Each such difference is reported with what to do about it,
at every reload until it is resolved.

`plan_reload` compares; `xbd.daemons.host_file` reads the file, applies the plan and logs the rest.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

from xbd.config.host import HostConfig
from xbd.domain import DomainSpec
from xbd.units import format_pages

_RESTART: Final = "begin a new host: restart the daemon, with an empty state directory if it has one"
_ANEW: Final = "it is settled when a domain is created: destroy it and `xbd create` it, or restart the daemon"


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between file and host that is not applied: *key*, why, and for which guests."""

    key: str
    reason: str
    guests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """What a reload does: guests to *create*, and differences that are *left* as they are."""

    create: tuple[DomainSpec, ...]
    left: tuple[Difference, ...]


def plan_reload(in_force: HostConfig, read: HostConfig, living: Collection[str]) -> ReloadPlan:
    """Compare a running host with its file, and plan what to apply.

    Args:
        in_force: what the file said when each part of it was applied.
        read: what the file says now.
        living: the names of all domains that exist, also those created by a toolstack.
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
    if read.nodes != in_force.nodes:
        yield Difference("node", f"the host's nodes stay as they are; {_RESTART}")
    if read.runtime_dir != in_force.runtime_dir:
        yield Difference("host.runtime_dir", f"the sockets stay where they are; {_RESTART}")
    if read.dom0 != in_force.dom0:
        yield Difference("dom0", f"is described differently; it is made before all other domains: {_RESTART}")


def _of_guests(known: Mapping[str, DomainSpec], read: HostConfig, living: Collection[str]) -> Iterator[Difference]:
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


def _of_guest(before: DomainSpec, now: DomainSpec) -> Iterator[Difference]:
    """List what differs of a guest that runs."""
    if now.target_pages != before.target_pages:
        reason = f"{format_pages(now.target_pages)} now; targets of running domains are moved with `xbd mem-set`"
        yield Difference("guest.target", reason, (now.name,))
    if now.max_pages != before.max_pages:
        yield Difference("guest.maximum", f"{format_pages(now.max_pages)} now; {_ANEW}", (now.name,))
    if now.min_pages != before.min_pages:
        yield Difference("guest.minimum", f"{format_pages(now.min_pages)} now; {_ANEW}", (now.name,))
    if replace(now, **{key: getattr(before, key) for key in ("target_pages", "max_pages", "min_pages")}) != before:
        yield Difference("guest", f"is described differently; {_ANEW}", (now.name,))
