"""The decoder: a hypercall's number and five arguments in, the value that it returns out.

What Xen answers with an errno is answered with the same one; what this host has not got is ENOSYS, as on a Xen that
was built without it. A host that cannot be asked any more answers ENODEV: tools take it for a failed call.
"""

import errno
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from xbd.errors import HypercallError, NoSuchDomain, XbdError
from xbd.hypercalls import domctl, memory_op, sysctl, version
from xbd.hypercalls.caller import Memory
from xbd.hypercalls.context import Context
from xbd.hypercalls.faults import Faults
from xbd.hypercalls.host import HostView
from xbd.hypercalls.layout import Release

# More calls at once than any tool makes (the most is 2); each is answered before the next signal is taken.
MAX_MULTICALL: Final = 1024
# memory_op's number is in the low bits; above is where a preempted one goes on.
_MEMORY_OP_MASK: Final = 0x3F
_PREFIXES: Final = ("XEN_SYSCTL_", "XEN_DOMCTL_", "XENMEM_", "XENVER_")


@dataclass(frozen=True, slots=True)
class Hypercall:
    """A hypercall as a program makes it."""

    number: int
    arguments: Sequence[int]


# Which operation a call asks for, and what was read of the program's memory to know it.
_Asked = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Family:
    """A hypercall's operations by number: their names, how a call is read, and how it is then carried out by name."""

    names: Mapping[int, str]
    read: Callable[[Context, Sequence[int]], _Asked]
    carry_out: Callable[[Context, str, Sequence[int], Mapping[str, Any]], int]


def short_name(name: str) -> str:
    """Name an operation as people do: XEN_DOMCTL_max_mem is max_mem."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


OPERATION_NAMES: Final = frozenset(
    short_name(name) for part in (sysctl, domctl, memory_op, version) for name in part.OPERATIONS
)


class Decoder:
    """Answers the hypercalls of a release's tools for one host."""

    def __init__(self, host: HostView, release: Release, faults: Faults | None = None) -> None:
        self._host = host
        self._faults = faults or Faults()
        self._release = release
        constant = release.constants

        def named(operations: Mapping[str, object]) -> dict[int, str]:
            return {constant[name]: name for name in operations}

        self._families: Final = {
            constant["__HYPERVISOR_sysctl"]: _Family(named(sysctl.OPERATIONS), _read_sysctl, _sysctl),
            constant["__HYPERVISOR_domctl"]: _Family(named(domctl.OPERATIONS), _read_domctl, _domctl),
            constant["__HYPERVISOR_memory_op"]: _Family(named(memory_op.OPERATIONS), _read_memory_op, _memory_op),
            constant["__HYPERVISOR_xen_version"]: _Family(named(version.OPERATIONS), _read_version, _xen_version),
        }
        self._multicall: Final = constant["__HYPERVISOR_multicall"]

    def names_of(self, call: Hypercall, memory: Memory) -> list[str]:
        """Name the operations that a hypercall asks for; those that are not known, or cannot be read, are left out."""
        at = self._at(memory)
        try:
            calls = list(self._entries(at, call.arguments)) if call.number == self._multicall else [call]
            named = [(self._families[one.number], one) for one in calls if one.number in self._families]
            names = [family.names.get(family.read(at, one.arguments)[0]) for family, one in named]
        except HypercallError:
            return []
        return [short_name(name) for name in names if name is not None]

    def answer(self, call: Hypercall, memory: Memory) -> int:
        """Carry out a hypercall, and return what it returns: at least 0, or an errno below it; never raises."""
        at = self._at(memory)
        try:
            if call.number == self._multicall:
                return self._answer_all(at, call.arguments)
            return self._answer_one(at, call.number, call.arguments)
        except HypercallError as error:
            return -errno_of(error)
        except XbdError:
            return -errno.ENODEV
        except (KeyError, TypeError, ValueError, ArithmeticError, struct.error):
            # The host's daemon is of another version, and tells less, or something else.
            return -errno.EIO

    def _at(self, memory: Memory) -> Context:
        return Context(self._host, self._release, memory)

    def _answer_one(self, at: Context, number: int, words: Sequence[int]) -> int:
        family = self._families.get(number)
        if family is None:
            raise _unknown(f"hypercall {number}")
        operation, asked = family.read(at, words)
        name = family.names.get(operation)
        if name is None:
            raise _unknown(f"operation {operation} of hypercall {number}")
        failure = self._faults.failure(short_name(name))
        return -failure if failure else family.carry_out(at, name, words, asked)

    def _answer_all(self, at: Context, words: Sequence[int]) -> int:
        """Carry out a list of hypercalls, each with its own result; a list in it is refused."""
        layout = at.layout("multicall_entry")
        for number, call in enumerate(self._entries(at, words)):
            try:
                result = self._answer_one(at, call.number, call.arguments)
            except HypercallError as error:
                result = -errno_of(error)
            where = words[0] + number * layout.size + layout.offsets["result"]
            at.memory.write(where, result.to_bytes(8, "little", signed=True))
        return 0

    def _entries(self, at: Context, words: Sequence[int]) -> Iterator[Hypercall]:
        """Read the hypercalls of a list, each when it is its turn. Raises HypercallError: they are too many; BadAddress."""
        address, count = words[0], words[1]
        if count > MAX_MULTICALL:
            raise HypercallError(f"{count} hypercalls at once", f"at most {MAX_MULTICALL}")
        layout = at.layout("multicall_entry")
        for entry in range(address, address + count * layout.size, layout.size):
            asked = layout.unpack(at.memory.read(entry, layout.size))
            arguments = [int.from_bytes(asked["args"][word : word + 8], "little") for word in range(0, 40, 8)]
            yield Hypercall(asked["op"], arguments)


def errno_of(error: HypercallError) -> int:
    """Tell the number of an error's errno; Linux has those that Xen has. One without a number is EINVAL."""
    return int(getattr(errno, error.errno, errno.EINVAL))


def _unknown(what: str) -> HypercallError:
    return HypercallError(f"{what} is not known", "one that this host has", errno="ENOSYS")


def _read_struct(at: Context, kind: str, address: int) -> _Asked:
    """Read a sysctl or a domctl, once. Raises HypercallError: EACCES, it is of another version; BadAddress."""
    asked = at.layout(kind).unpack(at.read(kind, address))
    if asked["interface_version"] != at.constant(f"XEN_{kind.upper()}_INTERFACE_VERSION"):
        raise HypercallError(f"{kind} version {asked['interface_version']:#x}", "the release's", errno="EACCES")
    return asked["cmd"], asked


def _read_sysctl(at: Context, words: Sequence[int]) -> _Asked:
    return _read_struct(at, "sysctl", words[0])


def _read_domctl(at: Context, words: Sequence[int]) -> _Asked:
    return _read_struct(at, "domctl", words[0])


def _read_memory_op(_at: Context, words: Sequence[int]) -> _Asked:
    return words[0] & _MEMORY_OP_MASK, {}


def _read_version(_at: Context, words: Sequence[int]) -> _Asked:
    return words[0], {}


def _sysctl(at: Context, name: str, words: Sequence[int], asked: Mapping[str, Any]) -> int:
    told = sysctl.OPERATIONS[name](at, asked["u"])
    at.memory.write(words[0] + at.layout("sysctl").offsets["u"], told)
    return 0


def _domctl(at: Context, name: str, words: Sequence[int], asked: Mapping[str, Any]) -> int:
    domid = at.domid(asked["domain"])
    if domid >= at.constant("DOMID_FIRST_RESERVED"):
        raise NoSuchDomain(f"there is no domain {domid}", "a domain's number")
    about, told = domctl.OPERATIONS[name](at, domid, asked["u"])
    offsets = at.layout("domctl").offsets
    at.memory.write(words[0] + offsets["domain"], about.to_bytes(2, "little"))
    if told:
        at.memory.write(words[0] + offsets["u"], told)
    return 0


def _memory_op(at: Context, name: str, words: Sequence[int], _asked: Mapping[str, Any]) -> int:
    return memory_op.OPERATIONS[name](at, words[1])


def _xen_version(at: Context, name: str, words: Sequence[int], _asked: Mapping[str, Any]) -> int:
    return version.OPERATIONS[name](at, words[1])
