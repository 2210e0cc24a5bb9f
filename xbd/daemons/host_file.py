"""The host file of a running host: read again at a SIGHUP, applied as far as that can be, and the rest logged.

What is applied and what is not, `xbd.control.reload` decides.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd import log
from xbd.config.host import HostConfig
from xbd.control.controller import Controller
from xbd.control.reload import plan_reload
from xbd.daemons.config_files import load_host_config
from xbd.domain import DomainSpec
from xbd.errors import ConfigError, HypercallError

_log = structlog.get_logger(__name__)

DEFAULT_LOG_LEVEL: Final = "info"
# More names than a person reads say no more than their number does.
NAMED_AT_MOST: Final = 8


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
        self._remark(config)

    def begin(self, host: Controller) -> None:
        """Take as in force what a new host was made of, or what is saved of a host that was restored."""
        if not host.is_restored:
            host.remember_described([guest.name for guest in self._in_force.guests])
            return
        described = set(host.described)
        self._in_force = replace(
            self._in_force,
            memory_pages=host.machine.statistics().frames,
            settings=host.machine.settings,
            nodes=host.machine.host.nodes if host.machine.host.nodes.count > 1 else self._in_force.nodes,
            guests=tuple(guest for guest in self._in_force.guests if guest.name in described),
        )

    async def reload(self, host: Controller) -> None:
        """Read it again and apply what can be; all else is logged. A file that cannot be used changes nothing."""
        try:
            read = load_host_config(self._path)
            applied = self._apply_to_host(host, read)
        except ConfigError as error:
            _log.error("reload_failed", file=str(error.path), key=error.key, reason=error.reason, kept="all settings")
            return
        self._remark(read)
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

    def _remark(self, config: HostConfig) -> None:
        """Log what should be changed in the file, though it is used as it is."""
        for remark in config.remarks:
            _log.warning("host_file_remark", file=str(self._path), remark=remark)

    def _apply_to_host(self, host: Controller, read: HostConfig) -> list[str]:
        """Apply what [host] says of group, log and name; names what changed. Raises ConfigError: nothing has."""
        applied = []
        if read.group != self._in_force.group and self._may_decide("group"):
            if host.sockets is not None:
                host.sockets.permit_group(read.group)
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

    async def _create(self, host: Controller, guests: tuple[DomainSpec, ...]) -> list[DomainSpec]:
        """Create domains; those that cannot be are logged, and the next reload tries them again."""
        created = []
        for guest in guests:
            try:
                with host.step():
                    host.call("create", guest.as_params())
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
