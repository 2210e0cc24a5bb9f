"""The options of a soak and the kinds of faults."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from shlex import quote
from typing import Final

from xbd.errors import BadArgument

# Kinds of faults, as `--without` names them, and what each does.
KINDS: Final[Mapping[str, str]] = {
    "kill-daemon": "SIGKILL of the hypervisor, which is started again at once",
    "kill-agents": "SIGKILL of an agent process, which is started again",
    "stop-daemon": "SIGSTOP of the hypervisor for a while",
    "stop-agents": "SIGSTOP of an agent process for a while",
    "cut": "connections of agents and of the checker guest are cut",
    "full-disk": "the disk of the state directory is full for a while",
    "slow-reader": "a client asks for much and reads nothing",
    "slow-agents": "agents' connections pass on little for a while",
    "flood": "a guest floods its socket",
    "kill-xenstored": "SIGKILL of the XenStore, which is started again at once",
    "storm": "a domain is created and destroyed again and again under one name, larger or smaller each time",
}
# In the last part of a soak the daemon is not killed, so that its memory can be observed for a while.
CALM_SHARE: Final = 1 / 3
SHORTEST_S: Final = 1.0
MOST_GUESTS: Final = 1000
_DURATION: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*(s|m|h)?")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one soak. *without*: kinds of faults left out; *autoballoon*: the autoballoon daemon runs too; *traces*: files that guests play."""

    guests: int
    duration_s: float
    seed: int
    without: tuple[str, ...] = ()
    autoballoon: bool = False
    traces: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of faults that happen."""
        return tuple(kind for kind in KINDS if kind not in self.without)

    @property
    def calm_from_s(self) -> float:
        """The time in seconds from which on the daemon is not killed."""
        return self.duration_s if "kill-daemon" in self.without else self.duration_s * (1 - CALM_SHARE)

    def command_line(self) -> str:
        """Format the command that repeats this soak."""
        parts = [f"xbd soak --guests {self.guests} --duration {self.duration_s:g}s --seed {self.seed}"]
        parts += [f"--without {kind}" for kind in self.without]
        parts += [f"--trace {quote(path)}" for path in self.traces]
        return " ".join([*parts, *(["--autoballoon"] if self.autoballoon else [])])

    def as_map(self) -> dict[str, object]:
        """Return it as a map for JSON."""
        return asdict(self) | {
            "without": list(self.without),
            "traces": list(self.traces),
            "command": self.command_line(),
        }


def parse_duration_s(text: str) -> float:
    """Parse a duration: `30s`, `10m`, `1.5h`; a bare number is seconds. Raises BadArgument."""
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
    if seconds < SHORTEST_S:
        raise BadArgument(f"duration {text!r}", f"at least {SHORTEST_S:g}s, such as 30s, 10m or 1h")
    return seconds
