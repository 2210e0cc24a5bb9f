"""A virtual host that executes its guests' commands one at a time, in any order that the rules allow.

A domain's commands run in the order sent and are answered in that order; everything else is random: which guest
is next, how much of a step is answered at once, and when a guest is notified of messages or of free memory.
"""

from collections import deque

import numpy as np

from xbd.abi import Command
from xbd.guest import Answered, Event, MemoryFreed, MessagesWaiting, Tick
from xbd.testing.virtual_host import VirtualHost


class StepwiseHost(VirtualHost):
    """A host that does nothing until `turn` or `settle` is called.

    Attributes: *pending*: per domid the commands sent and not executed. *executed*: all that were, in order.
    *notes*: what the guests noted, by name.
    """

    def __init__(self, superframes: int, *, seed: int = 0) -> None:
        super().__init__(superframes, seed=seed)
        self.rng = np.random.default_rng(seed)
        self.pending: dict[int, deque[Command]] = {}
        self.executed: list[tuple[int, Command]] = []
        self.notes: list[tuple[int, str]] = []
        self._woken: list[tuple[int, Event]] = []

    def _run(self, events: deque[tuple[int, Event]]) -> None:
        for domid, event in events:
            step = self._agents[domid].guest.step(event, self.now)
            self._agents[domid].deadline = step.deadline
            self.notes += [(domid, note.name) for note in step.notes]
            self.pending.setdefault(domid, deque()).extend(step.commands)
        self._woken += [(domid, MessagesWaiting()) for domid in self.machine.take_woken()]
        self._woken += [(domid, MemoryFreed()) for domid in self.machine.take_relieved()]

    def reboot(self, domid: int) -> None:
        """Drop the pending commands of the old guest, and boot another one."""
        self.pending.pop(domid, None)
        super().reboot(domid)

    def destroy(self, domid: int) -> int:
        """Drop the pending commands of the guest, and destroy its domain."""
        self.pending.pop(domid, None)
        return super().destroy(domid)

    def next_command(self, domid: int) -> Command | None:
        """Return the next pending command of a guest; None: there is none."""
        return self.pending[domid][0] if self.pending.get(domid) else None

    def execute(self, domid: int, count: int = 1) -> None:
        """Execute the next *count* commands of one guest, and answer them."""
        commands = [self.pending[domid].popleft() for _ in range(count)]
        results = [self.machine.execute(domid, command) for command in commands]
        self.executed += [(domid, command) for command in commands]
        self._run(deque([(domid, Answered(results))]))

    def wake(self) -> None:
        """Deliver a random pending notice of messages or of free memory."""
        domid, event = self._woken.pop(int(self.rng.integers(len(self._woken))))
        if domid in self._agents:
            self._run(deque([(domid, event)]))

    def turn(self) -> bool:
        """Do one random pending thing; returns whether there was one."""
        busy = sorted(domid for domid, commands in self.pending.items() if commands)
        choice = int(self.rng.integers(len(busy) + len(self._woken))) if busy or self._woken else -1
        if choice < 0:
            return False
        if choice >= len(busy):
            self.wake()
        else:
            domid = busy[choice]
            self.execute(domid, int(self.rng.integers(1, len(self.pending[domid]) + 1)))
        return True

    def settle(self) -> None:
        """Do all that is pending."""
        while self.turn():
            assert len(self.executed) < 1_000_000, "it never comes to rest"

    def pass_time(self, seconds: float) -> None:
        """Advance time and step the guests whose deadlines are due; no command is executed."""
        self.now += seconds
        for domid in self.domids():
            deadline = self._agents[domid].deadline
            if deadline is not None and deadline <= self.now:
                self._run(deque([(domid, Tick())]))
