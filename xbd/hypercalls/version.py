"""xen_version: what Xen says of itself. It is xbd that answers, and says so where a builder is named."""

from collections.abc import Callable, Mapping
from typing import Final

from xbd import __version__
from xbd.domain import DOM0, DomainInfo
from xbd.errors import HypercallError, NoSuchDomain
from xbd.hypercalls.caller import write_array
from xbd.hypercalls.context import Context
from xbd.hypercalls.host import handle_of
from xbd.units import PAGE_BYTES, PAGE_KIB

CAPABILITIES: Final = b"xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 "
# Where Xen's own half of the address space begins.
_VIRT_START: Final = 0xFFFF800000000000
# dom0: 1 << 11; and what a translated guest is offered does not matter to tools.
_FEATURES: Final = (1 << 11,)
_BUILD_ID: Final = __version__.encode()


def _text(at: Context, address: int, length: str, text: bytes) -> int:
    size = at.constant(length)
    write_array(at.memory, address, text[: size - 1].ljust(size, b"\0"))
    return 0


def _version(at: Context, _address: int) -> int:
    return at.release.major << 16 | at.release.minor


def _compile_info(at: Context, address: int) -> int:
    told = at.layout("compile_info").pack(
        compiler=f"xbd {__version__}".encode(), compile_by=b"xbd", compile_domain=b"(none)", compile_date=b"(none)"
    )
    at.memory.write(address, told)
    return 0


def _platform_parameters(at: Context, address: int) -> int:
    at.memory.write(address, at.layout("platform_parameters").pack(virt_start=_VIRT_START))
    return 0


def _features(at: Context, address: int) -> int:
    layout = at.layout("feature_info")
    index = layout.unpack(at.read("feature_info", address))["submap_idx"]
    if index >= len(_FEATURES):
        raise HypercallError(f"features {index}", f"at most {len(_FEATURES) - 1}")
    at.memory.write(address, layout.pack(submap_idx=index, submap=_FEATURES[index]))
    return 0


def _handle(at: Context, address: int) -> int:
    try:
        handle = handle_of(at.domain(DOM0))
    except NoSuchDomain:
        handle = bytes(16)
    at.memory.write(address, handle)
    return 0


def _command_line(at: Context, address: int) -> int:
    """Tell the part of a command line that is known: what memory dom0 has."""
    try:
        text = _dom0_option(at.domain(DOM0))
    except NoSuchDomain:
        text = ""
    size = 1024
    write_array(at.memory, address, text.encode().ljust(size, b"\0"))
    return 0


def _dom0_option(dom0: DomainInfo) -> str:
    mib = 1024 // PAGE_KIB
    return f"dom0_mem={dom0.target_pages // mib}M,max:{dom0.static_max_pages // mib}M"


def _build_id(at: Context, address: int) -> int:
    if not address:
        return len(_BUILD_ID)
    room = int.from_bytes(at.memory.read(address, 4), "little")
    if not room:
        raise HypercallError("no room for a build id", f"{len(_BUILD_ID)} bytes")
    if room < len(_BUILD_ID):
        raise HypercallError(f"{room} bytes of room", f"{len(_BUILD_ID)} bytes", errno="ENOBUFS")
    at.memory.write(address + 4, _BUILD_ID)
    return len(_BUILD_ID)


OPERATIONS: Final[Mapping[str, Callable[[Context, int], int]]] = {
    "XENVER_version": _version,
    "XENVER_extraversion": lambda at, to: _text(at, to, "XEN_EXTRAVERSION_LEN", at.release.extra.encode()),
    "XENVER_compile_info": _compile_info,
    "XENVER_capabilities": lambda at, to: _text(at, to, "XEN_CAPABILITIES_INFO_LEN", CAPABILITIES),
    "XENVER_changeset": lambda at, to: _text(at, to, "XEN_CHANGESET_INFO_LEN", b""),
    "XENVER_platform_parameters": _platform_parameters,
    "XENVER_get_features": _features,
    "XENVER_pagesize": lambda _at, _to: PAGE_BYTES,
    "XENVER_guest_handle": _handle,
    "XENVER_commandline": _command_line,
    "XENVER_build_id": _build_id,
}
