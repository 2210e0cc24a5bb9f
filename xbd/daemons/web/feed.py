"""Following a hypervisor for all open pages: one client, one look a second, one message for everybody.

A look asks for what has changed (`list` since the last look), so it costs the hypervisor the same for twenty pages as for
one. While nobody has a page open it is looked at now and then alone, so that there is an hour to look back at.
"""

import base64
import json
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import trio
from numpy.typing import NDArray

from xbd.client.calls import KnownDomains
from xbd.client.client import Client, open_client
from xbd.client.discovery import NotRunning
from xbd.client.runtime_dir import autoballoon_socket
from xbd.control.frames import SHATTERED, Frames, frames_of
from xbd.control.moments import Moment, Moments
from xbd.control.page_rows import Row, depends_on_host, domain_details, domain_row, host_row
from xbd.control.policy_status import PolicyStatus, read_status
from xbd.control.series import header, host_cells, lines_of
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.peers import Alarm
from xbd.daemons.runtime.reconnect import Follower
from xbd.errors import PeerLost, XbdError

LOOK_EVERY_S: Final = 1.0
# While no page is open.
UNWATCHED_EVERY_S: Final = 5.0
# A look costs the hypervisor some 75 us for each domain that has changed, and the map some 10 us for each shattered
# superframe and 15 ns for any other. So long a pause for each of them keeps looks below 2 % of a core, and the map below 1 %.
PAUSE_PER_CHANGE_S: Final = 4e-3
PAUSE_PER_SHATTERED_S: Final = 1e-3
PAUSE_PER_SUPERFRAME_S: Final = 1.5e-6
# A page that is further behind gets everything anew.
_MESSAGES_KEPT: Final = 16
_EVENTS_KEPT: Final = 200
# Changes of more superframes than this are more than all of them, in base64.
_CHANGES_MOST: Final = 1 << 18
# How often the autoballoon daemon is asked, while somebody looks at a domain; it answers in milliseconds.
POLICY_EVERY_S: Final = 2.0
POLICY_WITHIN_S: Final = 2.0
# How many looks the lines of a domain go back, and what of it they show; the page has the same.
SPARK_LOOKS: Final = 60
SPARK_FIGURES: Final = ("held", "target", "demand", "coverage")
# Numbers of domains, and of each its figures.
SparkPoints = tuple[NDArray[np.uint32], NDArray[np.float32]]
_NOT_LOOKED_AT: Final = (
    "nobody looks at the superframes now; a page that shows the host's map makes it look (/stream?frames=1)"
)
_LOST: Final = "the hypervisor cannot be reached; this goes on by itself when it is there again"


class Message(NamedTuple):
    """What pages are told: for all, or for those alone that look at the *frames*."""

    event: str
    body: bytes

    def encoded(self) -> bytes:
        """Write it as an event of a stream (HTML, server-sent events)."""
        return b"event: " + self.event.encode() + b"\ndata: " + self.body + b"\n\n"


def as_json(found: object) -> bytes:
    """Write JSON on one line, in ASCII."""
    return json.dumps(found, separators=(",", ":")).encode()


def packed_frames(frames: Frames) -> bytes:
    """Write superframes in one piece: all kinds (uint8), owners, uses (uint16, little-endian)."""
    return frames.kind.tobytes() + frames.owner.astype("<u2").tobytes() + frames.used.astype("<u2").tobytes()


def _spark_points(rows: Mapping[int, Row]) -> SparkPoints:
    figures = [[row[figure] for figure in SPARK_FIGURES] for row in rows.values()]
    # What a guest does not say is no number: None becomes NaN.
    return np.array(list(rows), dtype="<u4"), np.array(figures, dtype="<f4").reshape(-1, len(SPARK_FIGURES))


def _changes_between(before: Frames | None, now: Frames) -> dict[str, object] | None:
    """Pack the superframes that are otherwise *now*: numbers (uint32), then as `packed_frames`; empty: ask for all; None: there are none."""
    if before is None or before.kind.size != now.kind.size:
        return {}
    differs = (before.kind != now.kind) | (before.owner != now.owner) | (before.used != now.used)
    at = np.flatnonzero(differs)
    if not at.size:
        return None
    if at.size > _CHANGES_MOST:
        return {}
    changed = Frames(now.kind[at], now.owner[at], now.used[at])
    packed = at.astype("<u4").tobytes() + packed_frames(changed)
    return {"count": int(at.size), "packed": base64.b64encode(packed).decode()}


class Feed:
    """What is known of the host of the hypervisor at *path*, and who is told of its changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._follower = Follower("hypervisor", changed=self._found_or_lost, socket=str(path))
        self._client: Client | None = None
        self._known = KnownDomains()
        self._host: Mapping[str, Any] = {}
        self._rows: dict[int, Row] = {}
        # Of the last looks, of each domain what its lines on the page show.
        self._recent: deque[SparkPoints] = deque(maxlen=SPARK_LOOKS)
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS_KEPT)
        self._new_events: list[dict[str, Any]] = []
        self._is_whole = True
        self.moments = Moments()
        self.frames: Frames | None = None
        self.frames_version = 0
        self._frames_due_s = 0.0
        self._frames_are_old = True
        self._packed_frames: bytes | None = None
        self._frames_there = trio.Event()
        self._policy = PolicyStatus()
        self._policy_due_s = 0.0
        self._watchers = 0
        self._frame_watchers = 0
        self._watched = Alarm()
        # Messages are numbered; the first that is kept has number `_number - len(_messages)`.
        self._messages: deque[Message] = deque(maxlen=_MESSAGES_KEPT)
        self._number = 0
        self._told = trio.Event()

    async def follow(self) -> None:
        """Follow the hypervisor for ever, through its restarts."""
        await self._follower.follow_hypervisor(self._path, self._session)

    # -- looking

    async def _session(self, client: Client) -> None:
        self._client, self._known, self._is_whole = client, KnownDomains(), True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, client)
                while True:
                    began_s = trio.current_time()
                    changed = await self._look(client)
                    self._follower.check_in.here()
                    due_s = began_s + max(LOOK_EVERY_S, PAUSE_PER_CHANGE_S * changed)
                    await trio.sleep_until(due_s)
                    if not self._watchers:
                        with trio.move_on_at(due_s + UNWATCHED_EVERY_S - LOOK_EVERY_S):
                            await self._watched.wait()
        finally:
            self._client = None

    async def _hear(self, client: Client) -> None:
        """Collect events until the next look."""
        async with aclosing(client.events()) as events:
            async for event in events:
                self._new_events.append(event)
                del self._new_events[:-_EVENTS_KEPT]

    async def _look(self, client: Client) -> int:
        """Ask what has changed, tell the pages, and keep the moment; returns how many domains have changed."""
        self._host = await client.host()
        changes = await client.changes(self._known.since)
        self._known.take(changes)
        t_s = calls.wall_clock()
        changed = self._changed_rows({one.domid for one in changes.domains}, is_whole=changes.is_whole)
        self._frames_are_old |= bool(changes.is_whole or changes.domains or changes.gone)
        whole, self._is_whole = self._is_whole or changes.is_whole, False
        events, self._new_events = self._new_events, []
        self._events.extend(events)
        told = {"t_s": t_s, "whole": whole, "host": host_row(self._host), "gone": list(changes.gone), "events": events}
        self._tell(Message("look", as_json({**told, "rows": list(self._rows.values()) if whole else changed})))
        if self._frame_watchers:
            await self._look_at_frames(client)
        # As they are still, where nothing has changed since; unknown where nobody looks.
        is_known = self._frame_watchers and not self._frames_are_old
        self._keep(t_s, self._packed_frames if is_known else None)
        self._recent.append(_spark_points(self._rows))
        return len(changes.domains)

    def _changed_rows(self, changed: set[int], *, is_whole: bool) -> list[Row]:
        """Make the rows of what has *changed* anew; returns those that are otherwise than before."""
        known = self._known.by_domid
        for domid in self._rows.keys() - known.keys():
            del self._rows[domid]
        rows = []
        for domid, domain in known.items():
            if not (is_whole or domid in changed or depends_on_host(domain)):
                continue
            row = domain_row(domain, self._host)
            if self._rows.get(domid) != row:
                self._rows[domid] = row
                rows.append(row)
        return rows

    async def _look_at_frames(self, client: Client) -> None:
        """Ask for all superframes, if something has changed and it is time for that, and tell which are otherwise now."""
        began_s = trio.current_time()
        if began_s < self._frames_due_s or not self._frames_are_old:
            return
        self._frames_are_old = False
        frames = frames_of(await client.call("frames"))
        shattered, superframes = frames.count(SHATTERED), frames.kind.size
        self._frames_due_s = began_s + PAUSE_PER_SHATTERED_S * shattered + PAUSE_PER_SUPERFRAME_S * superframes
        told = _changes_between(self.frames, frames)
        if told is not None:
            self.frames_version += 1
            self._tell(Message("frames", as_json({"version": self.frames_version, **told})))
        self.frames, self._packed_frames = frames, zlib.compress(packed_frames(frames), 1)
        self._frames_there.set()

    def _keep(self, t_s: float, packed: bytes | None) -> None:
        """Keep the moment, to be looked back at."""
        domains = self._known.domains
        lines = header() + lines_of(str(self._host["name"]), t_s, self._host, domains)
        host = host_cells(self._host, domains)
        self.moments.add(Moment(t_s, host, zlib.compress(lines.encode(), 1), packed))

    def _found_or_lost(self) -> None:
        if not self._follower.is_found:
            self._tell(Message("lost", as_json({"why": _LOST})))

    # -- telling

    def _tell(self, message: Message) -> None:
        self._messages.append(message)
        self._number += 1
        self._told.set()
        self._told = trio.Event()

    def _everything(self) -> bytes:
        """Write what a page is told that knows nothing, or too little."""
        if not self._follower.is_found or not self._host:
            return Message("lost", as_json({"why": _LOST})).encoded()
        t_s = latest.t_s if (latest := self.moments.latest) is not None else 0.0
        told = {"t_s": t_s, "whole": True, "host": host_row(self._host), "gone": [], "events": list(self._events)}
        return Message("look", as_json({**told, "rows": list(self._rows.values())})).encoded()

    @contextmanager
    def watching(self, *, frames: bool) -> Iterator[Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]]:
        """Count a page that is open, for the length of a block; yields what sends it everything, and then what changes."""
        self._watchers += 1
        self._frame_watchers += frames
        self._watched.ring()
        try:
            yield lambda send: self._send(send, frames=frames)
        finally:
            self._watchers -= 1
            self._frame_watchers -= frames

    async def _send(self, send: Callable[[bytes], Awaitable[None]], *, frames: bool) -> None:
        """Send a page everything, and then each message; one that takes them too slowly misses some, and gets everything again."""
        seen = -1
        while True:
            missed = self._number - seen
            if seen < 0 or missed > len(self._messages):
                seen, output = self._number, self._everything()
                if frames:
                    output += Message("frames", as_json({"version": self.frames_version})).encoded()
            else:
                new = list(self._messages)[len(self._messages) - missed :] if missed else []
                seen = self._number
                output = b"".join(one.encoded() for one in new if frames or one.event != "frames")
            if output:
                await send(output)
            if seen == self._number:
                await self._told.wait()

    def statistics(self) -> tuple[int, int]:
        """Count the pages that are open, and those of them that look at superframes."""
        return self._watchers, self._frame_watchers

    # -- answering

    def recent(self) -> bytes:
        """Write what the last looks found of each domain: its number (uint32), then of each look its figures (float32)."""
        domids = np.array(sorted(self._rows), dtype="<u4")
        points = np.full((domids.size, SPARK_LOOKS, len(SPARK_FIGURES)), np.nan, dtype="<f4")
        for at, (known, figures) in enumerate(reversed(self._recent)):
            _, here, there = np.intersect1d(domids, known, assume_unique=True, return_indices=True)
            points[here, SPARK_LOOKS - 1 - at] = figures[there]
        return b"".join(domid.tobytes() + one.tobytes() for domid, one in zip(domids, points, strict=True))

    async def all_frames(self) -> tuple[int, bytes]:
        """Return the superframes as they were looked at last, and which version of them that is. Raises XbdError."""
        if self.frames is None:
            with trio.move_on_after(LOOK_EVERY_S * 3):
                await self._frames_there.wait()
        if self.frames is None:
            self.connected()
            raise PeerLost(_NOT_LOOKED_AT)
        return self.frames_version, packed_frames(self.frames)

    def connected(self) -> Client:
        """Return the client of a hypervisor that is there. Raises PeerLost: none is."""
        if self._client is None:
            raise PeerLost(_LOST)
        return self._client

    async def _policy_status(self) -> PolicyStatus:
        """Ask the autoballoon daemon beside the hypervisor, unless that was done just before; what hinders that is told."""
        if trio.current_time() >= self._policy_due_s:
            self._policy_due_s = trio.current_time() + POLICY_EVERY_S
            try:
                with trio.fail_after(POLICY_WITHIN_S):
                    async with open_client(autoballoon_socket(self._path.parent)) as client:
                        self._policy = read_status(await client.call("status"))
            except NotRunning:
                self._policy = PolicyStatus()
            except trio.TooSlowError:
                self._policy = PolicyStatus(trouble=f"it has not answered within {POLICY_WITHIN_S:g} s")
            except XbdError as error:
                self._policy = PolicyStatus(trouble=str(error))
        return self._policy

    async def superframe(self, index: int) -> bytes:
        """Ask whose the frames of a superframe are. Raises XbdError."""
        answer = await self.connected().call("superframe", {"index": index})
        return as_json({"owner": base64.b64encode(answer["owner"]).decode()})

    async def domain(self, domid: int) -> bytes:
        """Ask for all that is shown of a domain. Raises XbdError: also, there is none any more."""
        client = self.connected()
        blocks = await client.call("blocks", {"domain": domid})
        details = domain_details(await client.info(domid), self._host, await self._policy_status())
        packed = {key: base64.b64encode(blocks[key]).decode() for key in ("kind", "populated", "slots")}
        return as_json({**details, "blocks": packed})
