"""Faults on demand: which operations fail, how often, with which errno, and which are answered late."""

import errno
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from xbd.errors import BadArgument, unknown_name

# Longer than any tool waits.
MAX_DELAY_S: Final = 3600.0
_MAX_TIMES: Final = 1 << 31
_UNITS_S: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(slots=True)
class Failure:
    """An operation fails with an errno so many *times*, None: always; *done* of them are over."""

    name: str
    error: str
    times: int | None
    done: int = 0


def parse_failure(text: str, known: Mapping[str, Collection[str]]) -> Failure:
    """Read OPERATION=ERRNO or OPERATION=ERRNO:TIMES; *known*: by operation, the errors that it can have, none: all. Raises BadArgument."""
    name, _, rest = text.partition("=")
    error, colon, times_text = rest.partition(":")
    _check_name(name, known)
    if not isinstance(getattr(errno, error, None), int):
        raise BadArgument(f"{text!r}: {error!r} is no errno", "OPERATION=ERRNO:TIMES, such as max_mem=ENOMEM:3")
    if known[name] and error not in known[name]:
        raise BadArgument(f"{text!r}: {name} never fails with {error}", f"one of {', '.join(sorted(known[name]))}")
    if not colon:
        return Failure(name, error, None)
    if not (times_text.isdecimal() and 0 < int(times_text) < _MAX_TIMES):
        raise BadArgument(f"{text!r}: {times_text!r} is no number of times", "a whole number from 1 on")
    return Failure(name, error, int(times_text))


def parse_delay(text: str, known: Iterable[str]) -> tuple[str, float]:
    """Read OPERATION=TIME, the time in us, ms or s; returns the name and seconds. Raises BadArgument."""
    name, _, time_text = text.partition("=")
    _check_name(name, known)
    unit = next((unit for unit in _UNITS_S if time_text.endswith(unit)), "")
    number = time_text.removesuffix(unit)
    if not unit or not number.replace(".", "", 1).isdecimal() or not 0 < float(number) * _UNITS_S[unit] <= MAX_DELAY_S:
        raise BadArgument(f"{text!r}: {time_text!r} is no time", "OPERATION=TIME, such as physinfo=200ms or max_mem=2s")
    return name, float(number) * _UNITS_S[unit]


def _check_name(name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise unknown_name("operation", name, sorted(known))


@dataclass(slots=True)
class Faults:
    """The faults that were asked for, counted as they happen; operations by name, None where one has none."""

    failures: Sequence[Failure] = ()
    delays_s: dict[str, float] = field(default_factory=dict)
    _calls: Counter[str] = field(default_factory=Counter)
    _delayed: Counter[str] = field(default_factory=Counter)

    @property
    def are_asked_for(self) -> bool:
        """Whether there is any."""
        return bool(self.failures or self.delays_s)

    @property
    def names(self) -> frozenset[str]:
        """The operations that fail or are late."""
        return frozenset({one.name for one in self.failures} | self.delays_s.keys())

    @property
    def has_delays(self) -> bool:
        """Whether any operation is answered late."""
        return bool(self.delays_s)

    def failure(self, name: str) -> int:
        """Count a call, and tell the errno that it fails with; 0: it does not."""
        self._calls[name] += 1
        for one in self.failures:
            if one.name == name and (one.times is None or one.done < one.times):
                one.done += 1
                return int(getattr(errno, one.error))
        return 0

    def delay_s(self, names: Iterable[str]) -> float:
        """Count calls of operations that are made at once, and tell how long they wait for their answer."""
        late = [name for name in names if name in self.delays_s]
        self._delayed.update(late)
        return sum(self.delays_s[name] for name in late)

    def report(self) -> list[str]:
        """Say of each fault how often it happened."""
        lines = []
        for one in self.failures:
            of_times = "" if one.times is None else f" of {one.times}"
            lines.append(f"{one.name}: {one.done}{of_times} failed with {one.error}, in {self._calls[one.name]} calls")
        lines += [f"{name}: {self._delayed[name]} delayed by {delay_s:g} s" for name, delay_s in self.delays_s.items()]
        return lines
