"""Setting the targets of many domains at once, and polling until they are there."""

import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from xbd.cli.common import for_each
from xbd.cli.progress import Following, anything_to_wait_for, observe_all
from xbd.cli.render import progress_lines
from xbd.client.blocking import BlockingClient
from xbd.control.targets import Change
from xbd.domain import DomainInfo
from xbd.errors import HypercallError
from xbd.target_rules import REFUSED_AFTER_S, STUCK_AFTER_S

# Ten polls a second make a display that moves smoothly ...
POLL_EVERY_S: Final = 0.1
# ... but listing a thousand domains takes the daemon a while; at most this share of its time is spent on it.
_POLLING_SHARE: Final = 0.1

Show = Callable[[Sequence[Following]], None]


def pause_before_next_poll(began_s: float, deadline_s: float = math.inf) -> None:
    """Wait until the next poll is due, but for *deadline_s*; *began_s* is when the last one started (time.monotonic)."""
    now_s = time.monotonic()
    pause_s = min(max(POLL_EVERY_S, (now_s - began_s) / _POLLING_SHARE), deadline_s - now_s)
    time.sleep(max(pause_s, 0.0))  # noqa: TID251 - a command has nothing else to do


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


def follow(
    client: BlockingClient,
    following: Sequence[Following],
    show: Show,
    *,
    stuck_after_s: float = STUCK_AFTER_S,
    deadline_s: float = REFUSED_AFTER_S,
) -> None:
    """Poll the domains until none is moving: each has reached its target, is stuck, or has refused."""
    while True:
        began_s = time.monotonic()
        domains, host = client.list(), client.host()
        observe_all(following, domains, time.monotonic(), host=host, stuck_after_s=stuck_after_s, deadline_s=deadline_s)
        show(following)
        if not anything_to_wait_for(following):
            break
        pause_before_next_poll(began_s)


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
