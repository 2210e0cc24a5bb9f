"""The protocol as one value that JSON can hold, and as tables for people: both made from the table of methods.

`describe` has all that a client in another language needs. Where it describes a value it is a JSON Schema; what JSON
has no words for is said by `format` (see its key `encoding`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from xbd import abi
from xbd.domain import INFO_PARTS
from xbd.protocol import codec
from xbd.protocol.autoballoon_methods import AUTOBALLOON_METHODS
from xbd.protocol.events import EVENT_PARTS, EVENTS
from xbd.protocol.fields import ERROR, ERROR_KINDS
from xbd.protocol.guest_methods import DOMAIN_METHODS, DOMAIN_NOTIFICATIONS, GUEST_NOTIFICATIONS
from xbd.protocol.methods import (
    MAX_SESSION_CHARS,
    TOOLSTACK_METHODS,
    TOOLSTACK_NOTIFICATIONS,
    Method,
)
from xbd.protocol.session import WINDOW_ANSWERS
from xbd.shapes import MAX_MAP_ENTRIES, MAX_REPORT_BYTES, MAX_TEXT_CHARS, Part, Schema, record
from xbd.text import markdown_table

Table = Mapping[str, Method]

_SOCKETS: Final[Mapping[str, tuple[str, Table, Table, Table]]] = {
    "hypervisor.sock": ("toolstacks", TOOLSTACK_METHODS, TOOLSTACK_NOTIFICATIONS, {}),
    "autoballoon.sock": ("reservations, and what the policy thinks", AUTOBALLOON_METHODS, {}, {}),
    "domains/N.sock": ("the guest of domain N", DOMAIN_METHODS, DOMAIN_NOTIFICATIONS, GUEST_NOTIFICATIONS),
}
_LIMITS: Final[Mapping[str, tuple[int, str]]] = {
    "hello_bytes": (codec.MAX_HELLO_BYTES, "bytes of a message before hello was accepted"),
    "call_bytes": (codec.MAX_CALL_BYTES, "bytes of a call or notification"),
    "call_items": (codec.MAX_CALL_ITEMS, "entries of its arrays and maps, in all"),
    "answer_bytes": (codec.MAX_ANSWER_BYTES, "bytes of an answer"),
    "nesting": (codec.MAX_NESTING, "levels of arrays and maps in a message"),
    "msgids": (codec.MSGID_LIMIT, "message ids are below this, and go on with 0"),
    "in_flight": (abi.MAX_IN_FLIGHT, "calls of a guest that may be unanswered"),
    "kept_answers": (WINDOW_ANSWERS, "answers of a guest's session that are kept"),
    "session_chars": (MAX_SESSION_CHARS, "characters of a session's name"),
    "text_chars": (MAX_TEXT_CHARS, "characters of a text"),
    "map_entries": (MAX_MAP_ENTRIES, "entries of a map of settings or statistics"),
    "report_bytes": (MAX_REPORT_BYTES, "bytes of a report"),
    "extents": (abi.MAX_EXTENTS, "extents or references that a call may name"),
    "turn_extents": (abi.TURN_EXTENTS, "extents of a call that are done in one turn"),
    "multicall_calls": (abi.MULTICALL_CALLS, "operations that a multicall may carry"),
    "multicall_extents": (
        abi.MULTICALL_EXTENTS,
        "extents of a multicall's operations that are done in one turn, in all",
    ),
    "words": (abi.MAX_WORDS, "content words in a call"),
    "message_words": (abi.MAX_MESSAGE_WORDS, "words of a message"),
    "sender_words": (abi.SENDER_WORDS, "words of one sender that are unread in an inbox"),
    "grants": (abi.MAX_GRANTS, "grants of a domain"),
    "mappings": (abi.MAX_MAPPINGS, "pages of others that a domain maps"),
    "domains": (abi.MAX_DOMAINS, "domains of a host"),
    "domain_pages": (abi.MAX_DOMAIN_PAGES, "pages of a domain"),
}
_ENCODING: Final = {
    "messages": "MessagePack, one message after the other with nothing between; no extension types",
    "printable": "text of one line, without control characters",
    "bin": "MessagePack's bin: x-items says of what, x-maxItems how many of them at most",
    "pages": "of 4 KiB; a superpage is 512 of them, 2 MiB",
    "unknown keys": "clients ignore keys and notifications that they do not know; the daemon refuses unknown parameters",
}
_MSGID: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": codec.MSGID_LIMIT - 1}
_METHOD: Final[Schema] = {"type": "string", "maxLength": codec.MAX_METHOD_CHARS}
_PARAMS: Final[Schema] = {
    "anyOf": [{"type": "array", "items": {"type": "object"}, "maxItems": 1}, {"type": "object"}],
    "description": "an array that holds one map of the method's parameters; [] where there are none",
}


def _message(*items: Schema) -> Schema:
    return {"type": "array", "prefixItems": list(items), "minItems": len(items), "maxItems": len(items)}


def _told(methods: Table) -> dict[str, Any]:
    return {
        name: {"description": method.doc, "params": method.carried, "answer": method.answer}
        for name, method in methods.items()
    }


def _noticed(methods: Table) -> dict[str, Any]:
    return {name: {"description": method.doc, "params": method.carried} for name, method in methods.items()}


def _event(name: str, event: Method) -> Schema:
    parts: Mapping[str, Part | Schema] = {**EVENT_PARTS, "event": {"const": name}, **event.params}
    return {**record(parts), "description": event.doc}


def describe() -> dict[str, Any]:
    """Describe the protocol, for JSON."""
    return {
        "protocol": "xbd",
        "version": codec.VERSION,
        "transport": "Unix stream sockets in the run-time directory: $RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR/xbd, else"
        " /run/xbd",
        "encoding": _ENCODING,
        "messages": {
            "request": _message({"const": 0}, _MSGID, _METHOD, _PARAMS),
            "response": _message({"const": 1}, _MSGID, {"anyOf": [{"type": "null"}, ERROR]}, {}),
            "notification": _message({"const": 2}, _METHOD, _PARAMS),
        },
        "rules": [
            "the first call on a connection is hello",
            "msgids rise by one with each call of a session",
            "one of a response's error and result is nil; an error means that nothing was done",
            "what is not even a message ends the connection, after a notification dropped",
        ],
        "errors": {"schema": ERROR, "errnos": ERROR_KINDS},
        "limits": {name: {"value": value, "description": doc} for name, (value, doc) in _LIMITS.items()},
        "sockets": {
            name: {
                "description": doc,
                "methods": _told(methods),
                "notifications_to_client": _noticed(to_client),
                "notifications_to_daemon": _noticed(to_daemon),
            }
            for name, (doc, methods, to_client, to_daemon) in _SOCKETS.items()
        },
        "$defs": {
            "domain": record(INFO_PARTS),
            "event": {"anyOf": [_event(name, event) for name, event in EVENTS.items()]},
        },
    }


# -- for people

_ABOUT: Final = (
    "What each call takes and answers, each event tells and each limit is. Made by `xbd protocol`; how messages are framed"
    " is in [protocol](protocol.md)."
)


_TYPES: Final[Mapping[str, str]] = {
    "boolean": "true or false",
    "number": "float",
    "object": "map",
    "null": "nil",
    "string": "text",
}
# What a schema takes, in a few words: the first whose keys it has, all of them.
_WORDS: Final[Sequence[tuple[tuple[str, ...], Callable[[Mapping[str, Any]], str]]]] = (
    (("$ref",), lambda schema: str(schema["$ref"]).rpartition("/")[2]),
    (("const",), lambda schema: str(schema["const"])),
    (("enum",), lambda schema: " \\| ".join("nil" if one is None else str(one) for one in schema["enum"])),
    (("anyOf",), lambda schema: ", or ".join(map(_kind, schema["anyOf"]))),
    (("x-items",), lambda schema: f"bin of {schema['x-items']}"),
    (("minimum", "minLength"), lambda _: "number or name"),
    (("minimum", "maximum"), lambda schema: _range(schema["minimum"], schema["maximum"])),
    (("maxLength",), lambda schema: f"text of 1 to {schema['maxLength']}"),
    (("items",), lambda schema: f"[{_kind(schema['items'])}]"),
    (("prefixItems",), lambda schema: f"[{', '.join(item['title'] for item in schema['prefixItems'])}]"),
    (("properties",), lambda schema: "{" + ", ".join(schema["properties"]) + "}"),
    ((), lambda schema: _TYPES.get(schema["type"], schema["type"])),
)


def _kind(schema: Mapping[str, Any]) -> str:
    """Say in a few words what a schema takes."""
    return next(word(schema) for keys, word in _WORDS if schema.keys() >= set(keys))


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {_power(high)}"


def _power(number: int) -> str:
    """Write a large bound so that it can be read."""
    exponent = (number + 1).bit_length() - 1
    if number >= 1 << 20 and number + 1 == 1 << exponent:
        return f"2^{exponent} - 1"
    return f"2^{number.bit_length() - 1}" if number >= 1 << 20 and number.bit_count() == 1 else f"{number:,}"


def _parts(owner: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Draw the rows of a map's parts; the owner is named in the first."""
    for name, part in schema.get("properties", {}).items():
        default = f"; default {_plain(part['default'])}" if "default" in part else ""
        yield f"`{owner}`" if owner else "", f"`{name}`", _kind(part), f"{part.get('description', '')}{default}"
        owner = ""


def _plain(default: object) -> str:
    """Write a default as MessagePack and JSON name it."""
    if default is None or isinstance(default, bool | dict):
        return {"None": "nil", "True": "true", "False": "false"}.get(str(default), str(default))
    return str(default)


def _socket(name: str, described: Mapping[str, Any]) -> Iterator[str]:
    """Draw one socket: its methods, what these take and answer, and its notifications."""
    methods = described["methods"]
    yield from (f"## {name}", "", f"For {described['description']}.", "")
    rows = ((f"`{one}`", method["description"], f"`{_kind(method['answer'])}`") for one, method in methods.items())
    yield from markdown_table(("method", "what it does", "answer"), rows)
    taken = (row for one, method in methods.items() for row in _parts(one, method["params"]))
    yield from markdown_table(("method", "parameter", "takes", "meaning"), taken)
    answered = [row for one, method in methods.items() for row in _parts(one, method["answer"])]
    yield from markdown_table(("method", "in the answer", "is", "meaning"), answered)
    for key, sentence in (("notifications_to_client", "It sends"), ("notifications_to_daemon", "It is sent")):
        noticed = described[key]
        if noticed:
            yield from (f"{sentence} notifications:", "")
            rows = ((f"`{one}`", of["description"], f"`{_kind(of['params'])}`") for one, of in noticed.items())
            yield from markdown_table(("notification", "means", "carries"), rows)


def tables() -> str:
    """Draw the table of the protocol as a page of Markdown."""
    told = describe()
    events = told["$defs"]["event"]["anyOf"]
    kept = tuple(EVENT_PARTS)
    lines = [
        "# Methods",
        "",
        _ABOUT,
        "",
        *(line for name, described in told["sockets"].items() for line in _socket(name, described)),
        "## A domain",
        "",
        *markdown_table(("", "key", "is", "meaning"), _parts("domain", told["$defs"]["domain"])),
        "## Events",
        "",
        *markdown_table(("", "key", "is", "meaning"), _parts("each", record(EVENT_PARTS))),
        *markdown_table(
            ("event", "means", "tells"),
            (
                (
                    f"`{name}`",
                    event["description"],
                    " ".join(f"`{key}`" for key in event["properties"] if key not in kept),
                )
                for name, event in zip(EVENTS, events, strict=True)
            ),
        ),
        "## Errors",
        "",
        *markdown_table(("errno", "means"), ((f"`{errno}`", doc) for errno, doc in told["errors"]["errnos"].items())),
        "## Limits",
        "",
        *markdown_table(
            ("limit", "value", "of what"),
            ((name, _power(of["value"]), of["description"]) for name, of in told["limits"].items()),
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"
