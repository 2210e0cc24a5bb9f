"""All errors that xbd raises, by whose fault they are.

A `HypercallError` is the caller's: it travels as an errno name with a sentence, and nothing has
changed. A `ProtocolError` is the peer's (remote) or ours (local). `PeerLost` is the world's.
`ConfigError` and `BadSize` are the user's, `DamagedState` means that saved state
was damaged. Broken invariants are none of these: they are `assert`.

Partial success ("did 40 of 512, then the host was out of memory") is a value, never an exception:
see `abi.MemopResult`.
"""

import errno as _errno
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

# What has run out by the system's error: the name that a caller is told, a sentence, and what helps.
_FILES: Final = (
    "ENFILE",
    "no open file is left to the daemon",
    "a higher limit of open files (ulimit -Hn, LimitNOFILE=)",
)
_DISK: Final = ("ENOSPC", "the disk of the state directory is full", "free space there")
_MEMORY: Final = (
    "ENOMEM",
    "no memory is left to the daemon",
    "a higher limit of its address space (ulimit -v), or less",
)
_LACKING: Final = {
    _errno.EMFILE: _FILES,
    _errno.ENFILE: _FILES,
    _errno.ENOSPC: _DISK,
    _errno.EDQUOT: _DISK,
    _errno.EFBIG: ("ENOSPC", "a file of the state directory would be too large", "a file system of larger files"),
    _errno.ENOMEM: _MEMORY,
    _errno.EAGAIN: _MEMORY,
}


class XbdError(Exception):
    """The root of all that xbd raises on purpose."""


class HypercallError(XbdError):
    """A request of which nothing was tried; the caller's fault.

    Attributes: *errno* a Xen errno name, *message* a sentence (what, where, expected, got),
    *expected* what would have been accepted.
    """

    errno = "EINVAL"

    def __init__(self, message: str, expected: str = "", *, errno: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        if errno is not None:
            self.errno = errno

    def __str__(self) -> str:
        tail = f" (expected {self.expected})" if self.expected else ""
        return f"{self.errno}: {self.message}{tail}"


class BadArgument(HypercallError):
    """EINVAL: the request makes no sense, whatever the state."""


class BadSetting(BadArgument):
    """EINVAL: something that was written for a setting cannot be; *key* is the path of it, *reason* a sentence without it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}" if key else reason)
        self.key = key
        self.reason = reason


class NoSuchDomain(HypercallError):
    """ESRCH: no domain has this domid or name."""

    errno = "ESRCH"


class NotPermitted(HypercallError):
    """EPERM: the caller may not do this."""

    errno = "EPERM"


class OutOfFrames(HypercallError):
    """ENOMEM: the host has not got the frames that a whole request needs."""

    errno = "ENOMEM"


class NotSupported(HypercallError):
    """EOPNOTSUPP: this host has the operation switched off, or has not got it."""

    errno = "EOPNOTSUPP"


class AlreadyExists(HypercallError):
    """EEXIST: the name or number is taken."""

    errno = "EEXIST"


class Busy(HypercallError):
    """EBUSY: another connection or domain holds it."""

    errno = "EBUSY"


class OutOfResources(HypercallError):
    """ENFILE, ENOSPC, ENOMEM: what the daemon itself needs of its system has run out; nothing has changed."""

    errno = "ENOMEM"

    @classmethod
    def because(cls, what: str, error: OSError | MemoryError) -> Self:
        """Make the error that says why *what* cannot be done, and what helps, from the system's error."""
        number = error.errno if isinstance(error, OSError) else _errno.ENOMEM
        name, lacking, expected = _LACKING.get(number or 0, ("EIO", str(error), "a system that lets the daemon do it"))
        return cls(f"{what}: {lacking}", expected, errno=name)


class ProtocolError(XbdError):
    """The two ends of a connection do not agree; abstract, see the two below."""


class LocalProtocolError(ProtocolError):
    """This side tried to send what the protocol forbids: a bug here."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids; it may be dropped. *hint* is what to tell it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class PeerLost(XbdError):
    """A connection ended while an answer was awaited."""


class ConfigError(XbdError):
    """A setting cannot be used; exit 78. Names file, key and reason."""

    def __init__(self, path: Path | str, key: str, reason: str) -> None:
        super().__init__(f"{path}: {key}: {reason}" if key else f"{path}: {reason}")
        self.path = path
        self.key = key
        self.reason = reason


class DamagedState(XbdError):
    """What was saved of a host cannot be used; nothing of it was loaded."""


class TraceError(XbdError):
    """A trace file cannot be used. Names file, line and reason."""


class BadSize(XbdError):
    """A size that a person wrote cannot be read."""

    def __init__(self, written: object, expected: str) -> None:
        super().__init__(f"invalid memory size: {written!r:.80} (expected {expected})")


def unknown_name(kind: str, name: object, known: Iterable[str]) -> BadArgument:
    """Make the error for a name that is not one of *known*: it quotes the name, a close one if any, and all known."""
    import difflib  # noqa: PLC0415 - only where somebody has mistyped

    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return BadArgument(f"no {kind} {name!r:.80}{hint}", f"one of {', '.join(names)}")
