"""Setting the targets of many domains at once, and following them until they are there."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from xbd.cli.common import for_each
from xbd.cli.progress import Following, observe_all, still_moving
from xbd.cli.render import progress_lines
from xbd.client.blocking import BlockingClient
from xbd.client.calls import KnownDomains
from xbd.control.targets import Change
from xbd.domain import DomainInfo
from xbd.errors import HypercallError
from xbd.target_rules import REFUSED_AFTER_S, STUCK_AFTER_S
from xbd.text import WILDCARDS

# Ten looks a second make a display that moves smoothly.
LOOK_EVERY_S: Final = 0.1
# Of more domains that are named it takes less to list all.
_ASKED_EACH: Final = 16

Show = Callable[[Sequence[Following]], None]


def send_targets(client: BlockingClient, changes: Sequence[Change]) -> list[Following]:
    """Set all targets at once. What the hypervisor refuses is an outcome of that domain's, not an error.

    The limit becomes the target itself (xl: target + 1 MiB). A domain that grows gets its limit raised first,
    one that shrinks gets its target first: so no domain is over its limit before its target shrinks.
    """
    by_domid = {change.domain.domid: change for change in changes}
    now = time.monotonic()
    following = [
        Following(one.domain.domid, one.domain.name, one.domain.life, one.domain.tot_pages, one.target.pages, now)
        for one in changes
    ]

    def send(domain: DomainInfo) -> None:
        change = by_domid[domain.domid]
        if change.grows:
            client.set_max(domain.domid, change.target.pages)
            client.set_target(domain.domid, change.target.pages)
        else:
            client.set_target(domain.domid, change.target.pages)
            client.set_max(domain.domid, change.target.pages)

    refused = for_each([change.domain for change in changes], send)
    for one in following:
        if one.domid in refused:
            one.refuse(_reason(refused[one.domid]))
    return following


def _reason(error: HypercallError) -> str:
    return f"the hypervisor refused: {error}"


def listed(client: BlockingClient, names: Sequence[str]) -> Sequence[DomainInfo]:
    """List the domains among which `choose` finds those that *names* mean, as far as they may be changed."""
    if len(names) <= _ASKED_EACH and not any(WILDCARDS & set(name) for name in names):
        with suppress(HypercallError):
            return [client.info(name) for name in names]
    # Also where there is no such domain: who chooses says so.
    return client.list()


def follow(
    client: BlockingClient,
    following: Sequence[Following],
    show: Show,
    known: KnownDomains | None = None,
    *,
    stuck_after_s: float = STUCK_AFTER_S,
    deadline_s: float = REFUSED_AFTER_S,
) -> None:
    """Look at the domains until none is moving: each has reached its target, is stuck, or has refused.

    The daemon tells of each that it has settled; how far the others are is looked at every so often. *known*: how they
    were before their targets were set; None: they are asked for.
    """
    known = known or KnownDomains()
    while True:
        known.take(client.changes(known.since))
        now_s, host = time.monotonic(), client.host()
        observe_all(following, known.domains, now_s, host=host, stuck_after_s=stuck_after_s, deadline_s=deadline_s)
        show(following)
        if not (moving := still_moving(following)):
            break
        while moving and (event := client.next_event(now_s + LOOK_EVERY_S)) is not None:
            if event["event"] == "settled":
                moving.discard(event.get("uuid") or f"{event['domid']} {event['name']}")


class LiveView:
    """A live display of progress on stderr; it draws nothing if stderr is no terminal."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._drawn_lines = 0

    def show(self, following: Sequence[Following]) -> None:
        """Draw the present state over the last drawing."""
        if not self._on:
            return
        columns, rows = shutil.get_terminal_size()
        lines = progress_lines(following, width=columns - 1, height=rows - 1)
        self._write("".join(f"{line}\n" for line in lines))
        self._drawn_lines = len(lines)

    def clear(self) -> None:
        """Erase the last drawing."""
        if self._on:
            self._write("")
            self._drawn_lines = 0

    def _write(self, text: str) -> None:
        # Up to where the last drawing began, and clear from there to the end of the screen.
        up = f"\x1b[{self._drawn_lines}F" if self._drawn_lines else ""
        sys.stderr.write(f"{up}\x1b[J{text}")
        sys.stderr.flush()
