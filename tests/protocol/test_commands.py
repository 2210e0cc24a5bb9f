"""Commands and results to and from the wire."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbd.abi import (
    MAX_EXTENTS,
    BootInfo,
    Command,
    Decrease,
    Deflate,
    DomainType,
    EndGrant,
    Exchange,
    Features,
    Frames,
    Grant,
    GrantResult,
    Inflate,
    Load,
    LoadResult,
    MapGrant,
    MemopResult,
    Populate,
    PopulateDepopulate,
    Receive,
    Refused,
    Result,
    Send,
    Stop,
    Store,
    UnmapGrant,
)
from xbd.errors import BadArgument, HypercallError, NoSuchDomain, RemoteProtocolError
from xbd.protocol import codec, fields, guest_methods, methods
from xbd.protocol.commands import (
    boot_from_wire,
    boot_to_wire,
    calls_to_wire,
    command_from_params,
    command_to_wire,
    commands_from_multicall,
    encode_result,
    encode_results,
    extents_of,
    not_begun,
    result_from_response,
    results_from_response,
)
from xbd.shapes import SETTINGS, STATISTICS


def gfns(*values: int) -> Frames:
    """Make a list of gfns."""
    return np.array(values, dtype=np.int64)


COMMANDS: list[Command] = [
    Populate(gfns(0, 5, (1 << 63) - 1)),
    Populate(gfns(), 9),
    Decrease(gfns(512), 9),
    Exchange(gfns(0, 1), gfns(512), 0, 9),
    PopulateDepopulate(gfns(1, 2), gfns(3, 4), 0),
    Load(gfns(7)),
    Store(gfns(7, 8), np.array([0, (1 << 64) - 1], dtype=np.uint64)),
    Deflate(gfns(0, 512), 9),
    Inflate(gfns(4, 3)),
    Grant(gfns(1, 2, 3), 0, readonly=True),
    EndGrant(gfns(32_767)),
    MapGrant(7, gfns(5, 5), gfns(10, 11)),
    UnmapGrant(gfns(11, 10)),
    Send(0, np.array([1, (1 << 64) - 1, 0], dtype=np.uint64)),
    Receive(600),
]


def over_the_wire(command: Command) -> Command:
    """Send a command through encoding and decoding."""
    decoder = codec.Decoder()
    decoder.feed(codec.encode_request(1, *command_to_wire(command)))
    message = decoder.next_message()
    assert isinstance(message, codec.Request)
    return command_from_params(message.method, message.untrusted_params)


def same(left: object, right: object) -> bool:
    """Compare commands or results that hold arrays."""
    if type(left) is not type(right):
        return False
    names = type(left).__dataclass_fields__  # type: ignore[attr-defined]
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in names)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_commands_survive_the_wire(command: Command) -> None:
    """What was sent is what is executed."""
    assert same(over_the_wire(command), command)


def test_gfns_are_read_in_place() -> None:
    """A list of gfns is a view of the received bytes: int64, read only."""
    command = over_the_wire(Populate(gfns(1, 2)))

    assert isinstance(command, Populate)
    assert command.gfns.dtype == np.int64
    assert not command.gfns.flags.owndata
    assert not command.gfns.flags.writeable


@pytest.mark.parametrize(
    ("method", "params", "named"),
    [
        ("populat", {}, "populat"),
        ("hello", {}, "hello"),
        ("populate", {}, "gfns"),
        ("populate", 5, "int"),
        ("populate", [{}, {}], "list"),
        ("populate", {"gfns": [1, 2]}, "gfns"),
        ("populate", {"gfns": "12345678"}, "gfns"),
        ("populate", {"gfns": b"1234567"}, "7 bytes"),
        ("populate", {"gfns": bytes(8 * MAX_EXTENTS + 8)}, "bytes"),
        ("populate", {"gfns": bytes(8) + b"\0\0\0\0\0\0\0\x80"}, "0x8000000000000000 at index 1"),
        ("populate", {"gfns": b"\xff" * 8}, "0xffffffffffffffff"),
        ("populate", {"gfns": b"", "order": -1}, "order"),
        ("populate", {"gfns": b"", "order": 10}, "order"),
        ("populate", {"gfns": b"", "order": True}, "order"),
        ("populate", {"gfns": b"", "order": 0.0}, "order"),
        ("populate", {"gfns": b"", "domid": 3}, "domid"),
        ("populate", {"gfns": b"", 3: 3}, "3"),
        ("populate_depopulate", {"populate": bytes(8), "depopulate": b""}, "1 gfns to populate, 0"),
        ("store", {"gfns": bytes(8), "words": b""}, "1 gfns, 0 words"),
        ("store", {"gfns": b"", "words": None}, "words"),
        ("load", {"gfns": None}, "gfns"),
        ("exchange", {"gives": b""}, "gets"),
        ("grant", {"gfns": b"", "to": -1}, "to"),
        ("grant", {"gfns": b"", "to": 32_752}, "to"),
        ("grant", {"gfns": b"", "to": 1, "readonly": 1}, "readonly"),
        ("end_grant", {"refs": b"\xff" * 8}, "0xffffffffffffffff"),
        ("end_grant", {}, "refs"),
        ("map_grant", {"owner": 1, "refs": b""}, "gfns"),
        ("map_grant", {"owner": "web1", "refs": b"", "gfns": b""}, "owner"),
        ("unmap_grant", {"gfns": 5}, "gfns"),
        ("send", {"to": 0, "words": "hello"}, "words"),
        ("send", {"to": 0, "words": bytes(7)}, "7 bytes"),
        ("receive", {"most": 0}, "most"),
        ("receive", {"most": 65_537}, "most"),
        ("inflate", {"gfns": b"", "order": 11}, "order"),
        ("deflate", {}, "gfns"),
        ("multicall", {}, "calls"),
        ("multicall", {"calls": []}, "calls is []"),
        ("multicall", {"calls": {}}, "calls is {}"),
        ("multicall", {"calls": [["load", {}]] * 9}, "calls is"),
        ("multicall", {"calls": [["load", {}], ["load"]]}, "calls[1] is ['load']"),
        ("multicall", {"calls": [["load", {}, 1]]}, "calls[0]"),
        ("multicall", {"calls": [[7, {}]]}, "calls[0]"),
        ("multicall", {"calls": ["load"]}, "calls[0] is 'load'"),
        ("multicall", {"calls": [["load", {}]], "order": 0}, "order"),
    ],
)
def test_malformed_commands_are_refused_by_name(method: str, params: object, named: str) -> None:
    """Each mistake gets an error that names it and says what was expected."""
    with pytest.raises(BadArgument) as caught:
        read_call(method, params)
    assert named in caught.value.message
    assert caught.value.expected


RESULTS: list[tuple[Command, Result]] = [
    (COMMANDS[0], MemopResult(3)),
    (COMMANDS[0], MemopResult(1, Stop.ENOMEM)),
    (COMMANDS[0], MemopResult(0, Stop.BUDGET)),
    (COMMANDS[5], LoadResult(1, None, np.array([9], dtype=np.uint64))),
    (COMMANDS[5], LoadResult(0, Stop.EFAULT, np.array([], dtype=np.uint64))),
    (COMMANDS[9], GrantResult(2, Stop.ENOSPC, gfns(0, 32_767))),
    (COMMANDS[9], GrantResult(0, Stop.ENOENT, gfns())),
    (COMMANDS[11], MemopResult(1, Stop.EACCES)),
    (COMMANDS[12], MemopResult(0, Stop.EBADF)),
    (COMMANDS[13], MemopResult(0, Stop.EAGAIN)),
    (COMMANDS[14], LoadResult(2, Stop.BUDGET, np.array([1, 2], dtype=np.uint64))),
    (COMMANDS[3], Refused("EOPNOTSUPP", "exchange is off", "decrease, then populate")),
]


def response(packed: bytes) -> codec.Response:
    """Decode one answer."""
    decoder = codec.Decoder(codec.ANSWER_LIMITS)
    decoder.feed(packed)
    message = decoder.next_message()
    assert isinstance(message, codec.Response)
    return message


@pytest.mark.parametrize(("command", "result"), RESULTS)
def test_results_survive_the_wire(command: Command, result: Result) -> None:
    """What was answered is what the guest gets."""
    assert same(result_from_response(command, response(encode_result(1, result))), result)


def read_call(method: str, params: object) -> object:
    """Read a call of any method, as the daemon does."""
    return commands_from_multicall(params) if method == "multicall" else command_from_params(method, params)


def untrusted_calls(packed: bytes) -> object:
    """Decode a multicall; returns its parameters."""
    decoder = codec.Decoder()
    decoder.feed(packed)
    message = decoder.next_message()
    assert isinstance(message, codec.Request)
    assert message.method == "multicall"
    return message.untrusted_params


def test_a_multicall_survives_the_wire() -> None:
    """Eight operations and their results, also refusals, come out in the order in which they went in."""
    commands = [command for command, _ in RESULTS[2:10]]
    read = commands_from_multicall(untrusted_calls(codec.encode_request(1, *calls_to_wire(commands))))
    results = [result for _, result in RESULTS[2:10]]
    results[3] = RESULTS[-1][1]
    answered = results_from_response(commands, response(encode_results(1, results)))

    assert all(same(*pair) for pair in zip(read, commands, strict=True))
    assert all(same(*pair) for pair in zip(answered, results, strict=True))


def test_a_multicall_that_is_refused_is_refused_for_all() -> None:
    """Nothing of it was done: each of its operations is answered the one refusal."""
    refused = response(codec.encode_error(1, {"errno": "EINVAL", "message": "no", "expected": "yes"}))

    assert results_from_response(COMMANDS[:2], refused) == [Refused("EINVAL", "no", "yes")] * 2


def test_one_wrong_call_of_a_multicall_is_its_own_refusal() -> None:
    """The others are read; a multicall within one is refused, as Xen does."""
    _, params = calls_to_wire(COMMANDS[:3])
    calls = params["calls"]
    assert isinstance(calls, list)
    calls[1:2] = [("multicall", {"calls": []}), ("populate", {"gfns": 3}), ("hello", {})]
    read = commands_from_multicall(untrusted_calls(codec.encode_request(1, "multicall", params)))

    assert [type(command) for command in read] == [Populate, Refused, Refused, Refused, Decrease]
    refusals = [command for command in read if isinstance(command, Refused)]
    assert all(refusal.errno == "EINVAL" and refusal.expected for refusal in refusals)
    assert refusals[0].message == "a multicall in a multicall"


@pytest.mark.parametrize(
    "untrusted", [None, 5, [], [[None, [3, None]]], [[None, [3, None]], [None]], [[None, [4, None]]] * 2]
)
def test_answers_that_are_none_to_a_multicall_are_refused(untrusted: object) -> None:
    """There are as many as calls, each a pair, and none says that more is done than was asked."""
    with pytest.raises(RemoteProtocolError):
        results_from_response([COMMANDS[0], COMMANDS[0]], codec.Response(1, None, untrusted))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_what_is_put_off_can_be_read(command: Command) -> None:
    """Whatever is asked, a guest can be answered that its turn has no place for it."""
    result = not_begun(command)

    assert same(result_from_response(command, response(encode_result(1, result))), result)
    assert (getattr(result, "done", None), getattr(result, "stop", None)) == (0, Stop.BUDGET)


@pytest.mark.parametrize(
    "untrusted",
    [
        None,
        [],
        [4, None],
        [2, None, bytes(16)],
        [-1, None],
        [1, "EWHAT"],
        [1, 5],
        ["1", None],
        [1, None, b""],
        [True],
        {"done": 1},
    ],
)
def test_answers_that_are_none_are_refused(untrusted: object) -> None:
    """A guest does not believe that more is done than it asked for, nor reasons that there are not."""
    with pytest.raises(RemoteProtocolError):
        result_from_response(COMMANDS[0], codec.Response(1, None, untrusted))


def test_extents_are_counted_once() -> None:
    """What a command may cost is what it names: extents, of pairs one side, references, words."""
    assert [extents_of(command) for command in COMMANDS] == [3, 0, 1, 2, 2, 1, 2, 2, 2, 3, 1, 2, 2, 3, 600]


def test_errors_survive_the_wire() -> None:
    """A refusal comes out as the exception that it was; an unknown errno as a plain HypercallError."""
    error = fields.error_from_map(fields.error_map(NoSuchDomain("no domain 9", "one of `xbd list`")))
    unknown = fields.error_from_map({"errno": "EWHAT", "message": "a\x1b[2Jb", "expected": ""})

    assert isinstance(error, NoSuchDomain)
    assert (error.errno, error.message, error.expected) == ("ESRCH", "no domain 9", "one of `xbd list`")
    assert type(unknown) is HypercallError
    assert unknown.message == "a?[2Jb"
    with pytest.raises(RemoteProtocolError):
        fields.error_from_map("ESRCH")


def test_boot_maps_survive_the_wire() -> None:
    """A guest is told exactly what it has."""
    boot = BootInfo(
        3,
        "web",
        1024,
        np.array([[0, 512], [600, 601]], dtype=np.int64),
        512,
        1024,
        Features(exchange=False, grants=False),
        DomainType.VIRTIO,
    )

    assert same(boot_from_wire(boot_to_wire(boot)), boot)
    with pytest.raises(RemoteProtocolError):
        boot_from_wire({**boot_to_wire(boot), "runs": bytes(8)})
    with pytest.raises(RemoteProtocolError):
        boot_from_wire({**boot_to_wire(boot), "type": "vax"})
    with pytest.raises(RemoteProtocolError):
        boot_from_wire({})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
def test_settings_and_statistics_are_plain_or_refused(untrusted: object) -> None:
    """Whatever comes as a map of settings is plain and packable, or refused."""
    for shape in (SETTINGS, STATISTICS):
        try:
            checked = shape.check("guest", {"key": untrusted})
        except BadArgument:
            continue
        codec.encode_response(1, checked) if _fits(checked) else None


def _fits(checked: object) -> bool:
    match checked:
        case dict():
            return all(_fits(value) for value in checked.values())
        case list():
            return all(_fits(value) for value in checked)
        case int():
            return -(1 << 63) <= checked < 1 << 64
        case _:
            return True


def _sensible(method: str) -> dict[str, object]:
    """Find parameters that a method takes."""
    if method == "multicall":
        return {"calls": [list(command_to_wire(command)) for command in COMMANDS[:2]]}
    return next(params for name, params in map(command_to_wire, COMMANDS) if name == method)


def test_every_method_is_described_and_dispatched() -> None:
    """The tables that other implementers read are the ones that calls are held against."""
    for name in set(guest_methods.DOMAIN_METHODS) - {"hello"}:
        with pytest.raises(BadArgument, match="nonsense"):
            read_call(name, [{**_sensible(name), "nonsense": 1}])
        assert read_call(name, [_sensible(name)])
    for method in (*guest_methods.DOMAIN_METHODS.values(), *methods.TOOLSTACK_METHODS.values()):
        assert method.doc.endswith(".")
        assert all(param.doc for param in method.params.values())
