"""Keeps one daemon running, as a service manager does, and judges each of its ends."""

import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.rng import Rng
from xbd.lab.simulation.shell.damage import Damage, damage, fingerprint, set_apart
from xbd.lab.simulation.shell.log_pipe import LogPipe
from xbd.lab.simulation.shell.process import EXIT_CONFIG, End, Process
from xbd.testing.oracle import Violation

# How long a daemon that ended is down.
_DOWN_LEAST_S: Final = 0.05
_DOWN_MOST_S: Final = 2.0
_MIDWAY_MOST: Final = {"call": 60, "note": 30}
# A start that is refused takes no virtual time at all.
_REFUSED_WITHIN_S: Final = 30.0
_SECOND_WITHIN_S: Final = 1.0
_DAMAGES_MOST: Final = 3
# What each daemon's lock says.
_OTHER: Final = "another `xbd "

Main = Callable[[Process], Awaitable[int]]


class Keeper:
    """One daemon and its lives.

    Args:
        name, main: of the daemon.
        trace, rng: of the run.
        state: its directory; None: it has none.
        is_mapped: whether its files are mapped into memory, so that they are set apart when it is dropped.
        damages: damages its directory between lives.
        damage_share: in what share of the restarts that is done.

    Attributes: *process*: the present life, None: it is down. *up_since_s*: when that began. *start_drop_share*: in what
    share of its lives it is dropped at one of its first calls or notes.
    """

    def __init__(
        self,
        name: str,
        main: Main,
        trace: Trace,
        rng: Rng,
        *,
        state: Path | None = None,
        is_mapped: bool = False,
        damages: Callable[[Path, Path, Rng], Damage | None] = damage,
        damage_share: float = 0.0,
    ) -> None:
        self.name = name
        self.process: Process | None = None
        self.up_since_s = 0.0
        self.lives = 0
        self._main = main
        self._trace = trace
        self._rng = rng
        self._state = state
        self._is_mapped = is_mapped
        self._damages = damages
        self._damage_share = damage_share
        self.start_drop_share = 0.0
        self._outage_s = 0.0
        self._between: Callable[[], None] | None = None
        self._wanted = True
        self._ended = trio.Event()
        self._ended_in_order = False
        self._last: Process | None = None

    async def keep(self) -> None:
        """Start it whenever it is down, until it is retired. Raises Violation."""
        while self._wanted:
            if self._rng.bernoulli(self._damage_share):
                await self.start_damaged()
            process = self._new_process(self._main)
            if self._rng.bernoulli(self.start_drop_share):
                self._drop_soon(process)
            self._judge(await self._live(process))
            if self._between is not None:
                between, self._between = self._between, None
                between()
            if self._wanted:
                await trio.sleep(self._rng.uniform(_DOWN_LEAST_S, _DOWN_MOST_S) + self._outage_s)
                self._outage_s = 0.0
        self._ended.set()

    def _new_process(self, main: Main) -> Process:
        return Process(self.name, main, self._trace, LogPipe(), self._set_apart)

    async def _live(self, process: Process) -> End:
        self.lives += 1
        self.process, self.up_since_s = process, trio.current_time()
        self._trace.line(self.name, f"life {self.lives} begins")
        if self._ended_in_order and self.name == "hypervisor":
            self._trace.sometimes("the hypervisor was started on a state that ended in order")
        try:
            end = await process.run()
        finally:
            self.process = None
        if end.code is None:
            self._trace.line(self.name, "is gone")
        else:
            process.retry_log()
            process.pipe.check(self.name)
        self._ended_in_order = end.code == 0
        if self._ended_in_order:
            self._trace.sometimes(f"the {self.name} ended in order")
        self._last = process
        return end

    def _judge(self, end: End) -> None:
        """Hold an end against what a daemon may end for. Raises Violation."""
        last = self._last
        assert last is not None, "an end without a life"
        if end.code is None or (end.code == 0 and last.told):
            return
        if end.code == EXIT_CONFIG and end.sentence and last.struck and not last.is_ready:
            self._trace.sometimes("a start was refused with a sentence")
            if self.name == "xenstored":
                self._trace.sometimes("a start of xenstored was refused with a sentence")
            return
        raise Violation(f"{self.name} ended with {end.code} {end.sentence or 'and nothing said'}; nobody told it to")

    @property
    def serves(self) -> bool:
        """Whether it is up, and ready, and need not do anything else before."""
        return self._between is None and self.process is not None and self.process.is_ready

    async def restart(self, between: Callable[[], None]) -> None:
        """Tell it to stop, do something while it is down, and wait until it serves again."""
        self._between = between
        assert self.process is not None, "it is told to stop while it serves"
        self.process.signal(signal.SIGTERM)
        while not self.serves:  # noqa: ASYNC110 - seen from outside
            await trio.sleep(_DOWN_LEAST_S)

    def _set_apart(self) -> None:
        if self._state is not None and self._is_mapped:
            set_apart(self._state)

    async def start_damaged(self) -> None:
        """Start it on a damaged state, again and again; each time it must refuse that. Raises Violation."""
        for _ in range(1 + self._rng.below(_DAMAGES_MOST) if self._damage_share else 0):
            if self._state is not None and self._state.exists():
                await self._damaged_start(self._state)

    async def _damaged_start(self, state: Path) -> None:
        """Damage a file, see that a start refuses it and leaves all as it was, and put the file back. Raises Violation."""
        done = self._damages(state, state.with_name(f"{state.name}-kept"), self._rng)
        if done is None:
            return
        self._trace.fault(self.name, "damage", f"{done.name} {done.what}")
        before = fingerprint(state)
        process = self._new_process(self._main)
        process.immune = True
        ended = self._ended_in_order
        end = End(0, "nothing, and it is served")
        with trio.move_on_after(_REFUSED_WITHIN_S):
            end = await self._live(process)
        if (process.told or process.dropped) and not process.is_ready:
            done.put_back()
            return
        if end.code != EXIT_CONFIG or str(state) not in end.sentence:
            raise Violation(f"a state whose {done.name} is {done.what} was not refused: {end.code} {end.sentence}")
        if fingerprint(state) != before:
            raise Violation(f"a state whose {done.name} is {done.what} was refused, and changed")
        self._trace.sometimes(f"a damaged state of the {self.name} was refused")
        done.put_back()
        self._ended_in_order = ended

    def retry_log(self) -> None:
        """Let what is left of its log be written, if that can be."""
        if self.process is not None:
            self.process.retry_log()

    # -- what befalls it

    def drop(self, kind: str = "drop", outage_s: float = 0.0) -> None:
        """Drop its process, if it has one, which is then down for longer."""
        if self.process is not None and not self.process.immune:
            self._trace.fault(self.name, kind)
            self._outage_s = outage_s
            self.process.drop()

    def drop_midway(self) -> None:
        """Drop it at one of its next calls or notes."""
        if self.process is not None and not self.process.immune:
            self._drop_soon(self.process)

    def _drop_soon(self, process: Process) -> None:
        what = self._rng.choice(("call", "note"))
        process.drop_at(1 + self._rng.below(_MIDWAY_MOST[what]), what)

    def signal(self, number: int, kind: str) -> None:
        """Send its process a signal, if it has one."""
        if self.process is not None and not self.process.immune:
            self._trace.fault(self.name, kind)
            self.process.signal(number)

    async def retire(self, number: int) -> None:
        """Tell it to stop, and wait for that."""
        self._wanted = False
        if self.process is not None:
            self.process.signal(number)
        await self._ended.wait()

    async def second(self) -> None:
        """Start a second one where one runs: it must be refused, and the first go on. Raises Violation."""
        first = self.process
        if first is None or first.immune or not first.is_ready or first.told or first.dropped:
            return
        self._trace.fault(self.name, "second")
        process = Process(f"second {self.name}", self._main, self._trace, LogPipe())
        process.immune = True
        with trio.move_on_after(_SECOND_WITHIN_S):
            end = await process.run()
            # By its lock, before it has touched anything of the first one's.
            if end.code != EXIT_CONFIG or _OTHER not in end.sentence:
                raise Violation(f"a second {self.name} was not refused by its lock: {end.code} {end.sentence}")
            self._trace.sometimes(f"a second {self.name} was refused")
            return
        raise Violation(f"a second {self.name} runs beside the first")
