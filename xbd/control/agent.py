"""An agent without its connection: a guest kernel and its session with the hypervisor.

Bytes and the time go in, bytes to send come out. An agent outlives its connections: when one is
lost, the guest's commands stay in flight, and `connected` on the next one resumes the session. If
the hypervisor does not know the session any more, the guest is discarded whole and boots anew.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, cast

from xbd.abi import (
    MULTICALL_CALLS,
    MULTICALL_EXTENTS,
    BootInfo,
    Command,
    Decrease,
    Deflate,
    Exchange,
    Inflate,
    Populate,
    PopulateDepopulate,
    Result,
)
from xbd.control.guest_settings import guest_from_map
from xbd.errors import BadArgument, RemoteProtocolError
from xbd.guest import (
    Event,
    Guest,
    LimitSet,
    MemoryFreed,
    MessagesWaiting,
    ModeSet,
    Note,
    ShutdownAsked,
    Standing,
    TargetSet,
    Tick,
    parse_mode,
)
from xbd.guest import events as guest_events
from xbd.protocol import fields
from xbd.protocol.client_session import Answered, Greeted
from xbd.protocol.codec import Notification, encode_notification
from xbd.protocol.commands import boot_from_wire, extents_of
from xbd.protocol.guest_methods import DOMAIN_NOTIFICATIONS
from xbd.protocol.guest_session import GuestSession
from xbd.replaceable import replaceable
from xbd.shapes import SETTINGS

# A guest on its way to its target reports this often, so that a display of it is smooth.
MOVING_REPORT_S: Final = 0.25
# A settled one reports this often what others act on; thousands of them share a core with their daemon.
SETTLED_REPORT_S: Final = 2.0
# It reports the rest, or that it is there, at least so often: an agent that is stopped shows within half a minute. More
# often would cost: a thousand idle guests send a hundred of these a second.
REPORT_EVERY_S: Final = 10
# No command is sent while so much is unanswered: less than a socket holds, so that both ends never wait to send.
UNANSWERED_BYTES: Final = 64 * 1024

# What goes together in a multicall: what the driver asks for, and goes on with where a turn ends.
_TOGETHER: Final = (Populate, Decrease, Exchange, PopulateDepopulate, Inflate, Deflate)

MakeGuest = Callable[[BootInfo, Mapping[str, object]], Guest]
NewSession = Callable[[], str]


class Agent:
    """One domain's guest and its session.

    Args:
        new_session: makes session names that were never used before.
        make_guest: builds the guest from the boot map and its settings.
        uuid: of its domain; it plays no other one. Empty: the daemon is of an earlier version, and does not take it.

    Attributes:
        guest: None until the hypervisor has answered hello.
        cpu_s: processor time of the guest so far, which its shell measures around what it calls; None: it does not.
        finished: the guest has shut down; after the bytes returned last, nothing more is sent.
        deadline: when to call `tick` at the latest; None: only bytes that come in need handling.
    """

    def __init__(self, new_session: NewSession, make_guest: MakeGuest = guest_from_map, *, uuid: str = "") -> None:
        self._new_session = new_session
        self._make_guest = make_guest
        self._uuid = uuid
        self._session = self._begin_session()
        self._waiting: deque[Command] = deque()
        # How many operations the hypervisor takes in one message; one of an earlier version takes no multicall.
        self._multicall = 1
        self._paused = False
        # What happened to the guest while it was paused, in order.
        self._held: list[Event] = []
        self._step_deadline: float | None = None
        self._notice_number = 0
        self._reported: Mapping[str, int | str] = {}
        self._reported_standing: Standing | None = None
        # Whether anything has happened to the guest since it reported.
        self._has_stepped = False
        self._report_due: float | None = None
        self._last_report = -SETTLED_REPORT_S
        self._notes: list[Note] = []
        self.cpu_s: float | None = None
        self.guest: Guest | None = None
        self.finished = False

    @property
    def deadline(self) -> float | None:
        """Tell when to call `tick` at the latest; until hello is answered, nothing can be sent anyway."""
        if not self._session.is_greeted:
            return None
        step_deadline = None if self._paused else self._step_deadline
        return min((due for due in (step_deadline, self._report_due) if due is not None), default=None)

    def connected(self) -> bytes:
        """Start on a new connection; returns the hello to send."""
        if self.guest is None:
            # An earlier hello may have opened the session although its answer never came; its map would be missing.
            self._session = self._begin_session()
        return self._session.connected()

    def _begin_session(self) -> GuestSession:
        more = {"uuid": self._uuid, "report_every_s": REPORT_EVERY_S} if self._uuid else {}
        return GuestSession(self._new_session(), more)

    def forget(self) -> None:
        """Discard the guest: its session cannot be resumed, and the next hello boots a new one."""
        self.guest = None
        self._waiting.clear()
        self._held.clear()
        self._step_deadline = self._report_due = None

    def leaving(self) -> bytes:
        """Return the notification that the agent stops although its guest has not crashed; nothing before hello was answered."""
        return encode_notification("leaving", {}) if self._session.is_greeted else b""

    def take_notes(self) -> list[Note]:
        """Return the guest's notes since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def receive(self, received: bytes, now: float) -> bytes:
        """Take bytes from the hypervisor; returns what to send.

        Raises:
            RemoteProtocolError: it broke the protocol; close the connection.
            HypercallError: it refused hello.
        """
        outgoing: list[bytes] = []
        results: list[Result] = []
        try:
            for message in self._session.receive(received):
                if type(message) is Answered:
                    results += message.result
                    continue
                if results:
                    # Answers and events are applied in the order in which they came.
                    self._step(guest_events.Answered(results), now)
                    results = []
                if type(message) is Greeted:
                    outgoing.append(self._greeted(message, now))
                elif type(message) is Notification:
                    self._notified(message, now)
        finally:
            # Answers that came before the error are applied all the same: they will not come again.
            if results:
                self._step(guest_events.Answered(results), now)
        return b"".join(outgoing) + self._send(now)

    def tick(self, now: float) -> bytes:
        """Note that the deadline is reached; returns what to send, nothing before hello is answered."""
        if not self._session.is_greeted:
            return b""
        if not self._paused and self._step_deadline is not None and now >= self._step_deadline:
            self._step(Tick(), now)
        return self._send(now)

    # -- what came in

    def _greeted(self, greeting: Greeted, now: float) -> bytes:
        untrusted, resumed = greeting
        boot = boot_from_wire(untrusted)
        self._notice_number = 0
        self.report_anew()
        self._paused = untrusted.get("paused") is True
        self._multicall = _multicall_of(untrusted.get("multicall"))
        if resumed:
            resent = self._session.resend()
            self._step(TargetSet(boot.target_pages), now)
            self._step(LimitSet(boot.max_pages), now)
            # Messages may have come in while no connection could notify of them.
            self._step(MessagesWaiting(), now)
        else:
            resent = b""
            self.forget()
            settings = SETTINGS.check("guest", untrusted.get("guest"))
            self.guest = self._make_guest(boot, settings)
            self._step(Tick(), now)
        mode = untrusted.get("mode")
        if isinstance(mode, str) and (resumed or mode != "normal"):
            self._step(ModeSet(parse_mode(mode)), now)
        if untrusted.get("shutdown") is True:
            self._step(ShutdownAsked(), now)
        self._go_on(now)
        return resent

    def _notified(self, notification: Notification, now: float) -> None:
        known = DOMAIN_NOTIFICATIONS.get(notification.method)
        if known is None:
            return  # a newer hypervisor may send notifications that this agent does not know
        try:
            params = fields.check_params(notification.method, known.params, notification.untrusted_params)
            event = None if notification.method == "paused" else _event(notification.method, params)
        except BadArgument as error:
            raise RemoteProtocolError(error.message, error.expected) from error
        if self.is_overtaken(params["number"]):
            return
        self._notice_number = params["number"]
        if event is not None:
            self._step(event, now)
            return
        self._paused = params["paused"]
        self._go_on(now)

    @replaceable
    def report_anew(self) -> None:
        """Have the next report sent whole: who answers may have forgotten the last, for a daemon keeps none when it restarts."""
        self._reported, self._reported_standing = {}, None

    @replaceable
    def is_overtaken(self, number: int) -> bool:
        """Whether a notice of a higher number has come before this one, so that this one is not heeded."""
        return number <= self._notice_number

    # -- what goes out

    def _step(self, event: Event, now: float) -> None:
        guest = self.guest
        assert guest is not None, "an event for a guest that has not booted"
        if self._paused:
            self._hold(event)
            return
        step = guest.step(event, now)
        self._has_stepped = True
        self._waiting.extend(step.commands)
        self._notes.extend(step.notes)
        self._step_deadline = step.deadline
        matters = guest.standing().matters_after(self._reported_standing)
        due = max(now, self._last_report + (SETTLED_REPORT_S if matters else REPORT_EVERY_S))
        self._report_due = due if self._report_due is None else min(due, self._report_due)
        if type(event) in (TargetSet, ModeSet):
            self._report_due = now

    def _hold(self, event: Event) -> None:
        """Keep an event until the guest is unpaused: all answers, which are as many as calls in flight, of notices the last of a kind."""
        if type(event) is not guest_events.Answered:
            self._held = [other for other in self._held if type(other) is not type(event)]
        self._held.append(event)

    def _go_on(self, now: float) -> None:
        """Apply what happened while the guest was paused, unless it still is."""
        if not self._paused:
            held, self._held = self._held, []
            for event in held:
                self._step(event, now)

    def _send(self, now: float) -> bytes:
        """Pack commands as far as the window allows, and a report when one is due."""
        outgoing: list[bytes] = []
        session = self._session
        # What is sent before a resumed hello is answered would be sent twice: `resend` covers it.
        while (
            session.is_greeted
            and not self._paused
            and self._waiting
            and (not session.in_flight or session.in_flight_bytes < UNANSWERED_BYTES)
        ):
            outgoing.append(session.call(*self._next_call()))
        guest = self.guest
        if guest is not None and session.is_greeted:
            if self._report_due is not None and (now >= self._report_due or guest.shut_down):
                outgoing.append(self._report(guest, now))
            if guest.shut_down and not self.finished:
                self.finished = True
                outgoing.append(encode_notification("stopped", {}))
        return b"".join(outgoing)

    def _next_call(self) -> list[Command]:
        """Take the command that is next, and those behind it that have place in the same turn."""
        waiting = self._waiting
        together = [waiting.popleft()]
        if not waiting or not isinstance(together[0], _TOGETHER):
            return together
        extents = extents_of(together[0])
        while waiting and len(together) < self._multicall and isinstance(waiting[0], _TOGETHER):
            extents += extents_of(waiting[0])
            if extents > MULTICALL_EXTENTS:
                break
            together.append(waiting.popleft())
        return together

    def _report(self, guest: Guest, now: float) -> bytes:
        """Pack the guest's statistics, or, where it is due, that they are those that were reported last."""
        report = guest.report() if self._has_stepped or not self._reported else self._reported
        if self.cpu_s is not None:
            # Coarse, so that an idle guest's report stays the same for long.
            report = {**report, "cpu_ms": int(self.cpu_s * 10) * 100}
        self._has_stepped = False
        self._reported_standing = guest.standing()
        self._last_report = now
        moving = report["current_pages"] != report["target_pages"]
        changed = report != self._reported
        # While it moves, the next report is due soon; once settled, the next step sets when, or who expects one.
        is_expected = bool(self._uuid)
        self._report_due = (
            now + MOVING_REPORT_S if moving and changed else now + REPORT_EVERY_S if is_expected else None
        )
        if not changed:
            return encode_notification("unchanged", {}) if is_expected else b""
        self._reported = report
        return encode_notification("report", cast(dict[str, object], report))


def _multicall_of(untrusted: object) -> int:
    """Read how many operations the hypervisor takes in a multicall; 1: it takes none."""
    return min(untrusted, MULTICALL_CALLS) if type(untrusted) is int and untrusted > 0 else 1


def _event(method: str, params: Mapping[str, object]) -> Event:
    """Turn a notification into the event that it is for the guest."""
    match method, params:
        case "target", {"pages": int(pages)}:
            return TargetSet(pages)
        case "limit", {"pages": int(pages)}:
            return LimitSet(pages)
        case "mode", {"mode": str(mode)}:
            return ModeSet(parse_mode(mode))
        case "messages", _:
            return MessagesWaiting()
        case "memory", _:
            return MemoryFreed()
        case _:
            return ShutdownAsked()
