"""All domains as `list` tells them: packed once for each change, and, of each, when it changed last.

Whatever may change what is told of a domain notes its domid in *touched*, which costs next to nothing: its record, of
whatever is set there; an event, of whom it is about; the machine, of whose memory or grants it touches. Only when
somebody asks is a touched domain described again, and one of which nothing else is told than before has not changed.
So it is here alone that a change is found, and numbered. What a step touched that is undone is looked at all the same.
"""

import heapq
import math
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Reversible
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import msgpack  # type: ignore[import-untyped]  # it has no annotations

from xbd.control.domain_record import DomainRecord
from xbd.control.event_log import EventLog
from xbd.machine import Machine

# Of so many domains that are gone it is still told; who has not asked for longer gets the whole list.
KEPT_GONE: Final = 4096
# The age of a report changes all the time: it is told last, behind what is packed once.
_AGE: Final = struct.Struct(">Bd")
_AGE_IS_FLOAT: Final = 0xCB
_NIL: Final = b"\xc0"
_PACKER: Final = msgpack.Packer()

_T = TypeVar("_T")


class When(NamedTuple):
    """When something changed: which *event* came next, and which *change* it was of those that were found."""

    event: int
    change: int


@dataclass(frozen=True, slots=True)
class _Told:
    """A domain as it is told, but for the age of its report; *when* it became so; its *record*, which a zombie has not."""

    when: When
    packed: bytes
    record: DomainRecord | None


class Listing:
    """The domains of one host, as they are told.

    Args:
        machine: the domains' memory; what it touches is looked at again.
        records: what else is known of them, by domid.
        events: those that changes are numbered by.
        describe: says what is told of a domain, the age of its report last.
        now_s: tells the time by which agents fall silent, and reports age.
        life: names the life of this daemon; no other one has it.
    """

    def __init__(
        self,
        machine: Machine,
        records: Mapping[int, DomainRecord],
        events: EventLog,
        describe: Callable[[int], dict[str, Any]],
        *,
        now_s: Callable[[], float],
        life: str,
    ) -> None:
        self._machine = machine
        self._records = records
        self._events = events
        self._describe = describe
        self._now_s = now_s
        self._life = life
        self.touched = machine.host.touched
        self.touched.update(machine.domains())
        # By domid, the one that changed last at the end; and those that are gone, the last one at the end.
        self._told: dict[int, _Told] = {}
        self._gone: deque[tuple[When, int]] = deque()
        self._changes = 0
        # What changed up to then is not told apart: all that was before this daemon, or is kept no more.
        self._horizon = When(events.next_number, 0)
        # When an agent falls silent if it says nothing more, and whose that is; each domain once.
        self._silent_at: list[tuple[float, int]] = []
        self._watched: set[int] = set()

    def answer(self, since: int | str | None) -> bytes:
        """Pack the answer to `list`: all domains, or those that have changed *since* and what else there is to know.

        *since*: an event's number, or what an earlier answer said to ask with next; None: all, and nothing else.
        """
        self._look()
        now_s = self._now_s()
        if since is None:
            return b"\x81" + _packed("domains") + self._pack(self._told.items(), now_s)
        is_known = self._knower_of(since)
        if is_known is None:
            changed, gone = list(self._told.items()), set[int]()
        else:
            changed = list(_newest(self._told.items(), lambda one: is_known(one[1].when)))
            later = _newest(self._gone, lambda one: is_known(one[0]))
            gone = {domid for _, domid in later if domid not in self._told}
        rest = {"gone": sorted(gone), "next": f"{self._life}.{self._changes}", "is_whole": is_known is None}
        # The map's head and the rest are packed as one map, from whose head it is known that it has one entry more.
        return b"\x84" + _packed("domains") + self._pack(changed, now_s) + _packed(rest)[1:]

    def _pack(self, told: Iterable[tuple[int, _Told]], now_s: float) -> bytes:
        """Pack domains by number, each with the age of its report."""
        pieces: list[bytes] = []
        for _, one in sorted(told):
            record = one.record
            if record is None or record.report is None:
                pieces += (one.packed, _NIL)
            else:
                pieces += (one.packed, _AGE.pack(_AGE_IS_FLOAT, now_s - record.reported_at_s))
        return b"".join((_PACKER.pack_array_header(len(pieces) // 2), *pieces))

    def _knower_of(self, since: int | str) -> Callable[[When], bool] | None:
        """Make what tells which changes are known to one who asks; None: that is not known here."""
        if isinstance(since, int):
            is_ours = self._horizon.event < since <= self._events.next_number
            return (lambda when: when.event < since) if is_ours else None
        life, _, written = since.partition(".")
        change = int(written) if life == self._life and written.isdecimal() else -1
        return (lambda when: when.change <= change) if self._horizon.change <= change <= self._changes else None

    # -- finding what has changed

    def _look(self) -> None:
        """Describe what was touched, and who has fallen silent, again; and number what is told otherwise now."""
        now_s = self._now_s()
        while self._silent_at and self._silent_at[0][0] <= now_s:
            _, domid = heapq.heappop(self._silent_at)
            self._watched.discard(domid)
            self.touched.add(domid)
        domains = self._machine.domain_table.domains
        for domid in sorted(self.touched):
            before = self._told.get(domid)
            if domid in domains:
                self._look_at(domid, before, now_s)
            elif before is not None:
                self._forget(domid)
            # One by one: where there is no memory for the next one, these were looked at.
            self.touched.discard(domid)

    def _look_at(self, domid: int, before: _Told | None, now_s: float) -> None:
        """Describe a domain again, and note when its agent falls silent."""
        record = self._records.get(domid)
        packed = _packed(self._describe(domid) | {"report_age_s": None})[: -len(_NIL)]
        if before is None or before.packed != packed or before.record is not record:
            told = _Told(self._next_change(), packed, record)
            # At the end, behind those that changed before.
            self._told.pop(domid, None)
            self._told[domid] = told
        if record is not None and domid not in self._watched and now_s < record.silent_at_s < math.inf:
            heapq.heappush(self._silent_at, (record.silent_at_s, domid))
            self._watched.add(domid)

    def _forget(self, domid: int) -> None:
        """Note that a domain is gone; of the one that has been for the longest it may be told no more."""
        self._gone.append((self._next_change(), domid))
        del self._told[domid]
        if len(self._gone) > KEPT_GONE:
            self._horizon, _ = self._gone.popleft()

    def _next_change(self) -> When:
        self._changes += 1
        return When(self._events.next_number, self._changes)


def _newest(changes: Reversible[_T], is_known: Callable[[_T], bool]) -> Iterator[_T]:
    """List those of *changes*, the oldest first, that are not known; the newest first."""
    for one in reversed(changes):
        if is_known(one):
            return
        yield one


def _packed(value: object) -> bytes:
    packed: bytes = _PACKER.pack(value)
    return packed
