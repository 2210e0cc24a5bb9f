"""What a hostile peer may send: values, messages that are none, nearly right calls, and spoilt streams."""

from collections.abc import Mapping
from typing import Any

import msgpack  # type: ignore[import-untyped]
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from xbd.errors import HypercallError, RemoteProtocolError
from xbd.protocol.methods import Method

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.sampled_from([-1, 0, 1, 511, 512, 513, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
    | st.floats(width=64)
    | st.text(max_size=20)
    | st.binary(max_size=40)
)
# Any value that MessagePack has a form for, but extensions.
VALUES: SearchStrategy[object] = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.binary(max_size=3), inner),
    max_leaves=12,
)
# Headers that promise more than comes, extensions, and the one byte that means nothing.
_HEADERS = [
    b"\xc1",
    b"\x94\x00",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\x00\x01",
    b"\xc6\xff\xff\xff\xff",
    b"\xc7\x05\x01abcde",
]
_HEADERS += [b"\xdb\x00\x00\x00\x05", b"\xd4\x01\x00", b"\x91" * 70, b"\xa2\xff\xfe", b"\x81\x90\x01", b"\x94\x01\x00"]
GARBAGE = st.binary(max_size=60) | st.sampled_from(_HEADERS)


def pack(value: object) -> bytes:
    """Pack a value, whatever it is."""
    packed: bytes = msgpack.packb(value)
    return packed


def check_refusal(error: HypercallError | RemoteProtocolError) -> None:
    """Whoever is refused is told why, and what would have been accepted."""
    assert str(error)
    assert error.expected if isinstance(error, HypercallError) else error.hint


# Values that are no message, and some that are nearly one.
NO_MESSAGES = st.builds(pack, VALUES | st.lists(st.integers(-1, 4) | VALUES, min_size=2, max_size=5))


@st.composite
def spoilt(draw: st.DrawFn, streams: SearchStrategy[bytes]) -> bytes:
    """Change, drop, repeat or add some bytes of a stream."""
    stream = bytearray(draw(streams))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(stream)))
        match draw(st.sampled_from(["change", "drop", "repeat", "add", "cut"])):
            case "change":
                stream[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "drop":
                del stream[at : at + draw(st.integers(1, 8))]
            case "repeat":
                stream[at:at] = stream[at : at + draw(st.integers(1, 8))]
            case "add":
                stream[at:at] = draw(st.binary(min_size=1, max_size=4))
            case _:
                del stream[at:]
    return bytes(stream)


def _numbers(low: int, high: int) -> SearchStrategy[bytes]:
    """Lists of little-endian uint64, now and then with a byte too few."""
    numbers = st.lists(st.integers(low, high), max_size=6)
    runs = st.builds(
        lambda first, count: list(range(first, first + count)), st.integers(low, high), st.integers(0, 600)
    )
    packed = (numbers | runs).map(lambda listed: b"".join(number.to_bytes(8, "little") for number in listed))
    return packed | packed.map(lambda whole: whole[1:])


def right_values(domids: list[int], names: list[str], gfns: int) -> dict[str, SearchStrategy[Any]]:
    """Say, by a parameter's name, what is nearly right for it on a host with these domains of so many *gfns*."""
    pages = st.sampled_from([0, 1, 511, 512, 1024, 2048, gfns, gfns + 512, 1 << 29, 1 << 40])
    bases = _numbers(0, gfns + 8) | st.lists(st.integers(0, gfns >> 9), max_size=4).map(
        lambda blocks: b"".join((block << 9).to_bytes(8, "little") for block in blocks)
    )
    domid = st.sampled_from(domids)
    orders = st.sampled_from([0, 0, 9, 9, 3])
    return {
        "version": st.sampled_from([1, 1, 1, 2]),
        "session": st.sampled_from(["a", "b", ""]),
        "last_seen": st.none() | st.integers(0, 12),
        **dict.fromkeys(["gfns", "gives", "gets", "populate", "depopulate"], bases),
        **dict.fromkeys(["order", "gives_order", "gets_order"], orders),
        "refs": _numbers(0, 12),
        "words": _numbers(0, 1 << 64 - 1),
        "most": st.integers(512, 1000) | st.just(1 << 16),
        **dict.fromkeys(["to", "owner"], domid),
        "domain": domid | st.sampled_from(names),
        "domid": domid,
        **dict.fromkeys(["pages", "max_pages", "target_pages", "min_pages"], pages),
        **dict.fromkeys(["readonly", "autostart"], st.booleans()),
        "name": st.sampled_from([*names, "new", "newer", "12", "", "\n"]),
        "type": st.sampled_from(["pvh", "pv", "virtio", "qubes"]),
        "guest": st.sampled_from(
            [{}, {"seed": 3}, {"workload": "steady"}, {"workload": {"profile": "no"}}, {"x": [1]}]
        ),
        "on_crash": st.sampled_from(["restart", "destroy", "preserve", "explode"]),
        "mode": st.sampled_from(["normal", "stuck", "lies", "slow 10MiB/s", "floor 1G", "floor", "ceiling x"]),
        "since": st.integers(0, 20) | st.just(1 << 53),
        "number": st.integers(0, 20),
    }


@st.composite
def nearly_right(
    draw: st.DrawFn, methods: Mapping[str, Method], right: Mapping[str, SearchStrategy[Any]]
) -> tuple[str, object]:
    """Draw a method and parameters that are mostly what it wants: often all, else one is wrong, missing or unknown."""
    method = draw(st.sampled_from(sorted(methods)))
    params: dict[str, object] = {name: draw(right.get(name, VALUES)) for name in methods[method].params}
    match draw(st.sampled_from(["right"] * 6 + ["wrong", "missing", "unknown", "no map"])):
        case "wrong" if params:
            params[draw(st.sampled_from(sorted(params)))] = draw(VALUES)
        case "missing" if params:
            del params[draw(st.sampled_from(sorted(params)))]
        case "unknown":
            params[draw(st.text(max_size=5))] = draw(VALUES)
        case "no map":
            return method, draw(VALUES)
    return method, [params]
