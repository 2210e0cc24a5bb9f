"""The protocol's JSON, as a client in another language reads it: what is wrong with a message by it.

Of JSON Schema just what `xbd protocol --json` uses. A map may have no key that is not described: what the daemon says is
to be documented.
"""

from collections.abc import Iterator
from typing import Any, Final

from xbd.protocol.description import describe

DESCRIBED: Final = describe()
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list, tuple),
    "object": (dict,),
}
_KEYWORDS: Final = frozenset(
    {"type", "minimum", "maximum", "minLength", "maxLength", "format", "enum", "const", "anyOf", "items", "prefixItems"}
    | {"minItems", "maxItems", "properties", "required", "additionalProperties", "maxProperties", "description"}
    | {"default", "title", "x-items", "x-maxItems"}
)


def wrong_in(schema: dict[str, Any], found: object, where: str = "") -> Iterator[str]:
    """Say what of *found* is not as *schema* says."""
    if "$ref" in schema:
        schema = DESCRIBED["$defs"][schema["$ref"].rpartition("/")[2]]
    assert schema.keys() <= _KEYWORDS, f"{where}: {set(schema) - _KEYWORDS} is not known here"
    if "anyOf" in schema and all(list(wrong_in(one, found, where)) for one in schema["anyOf"]):
        yield f"{where}: {found!r:.200} is none of {len(schema['anyOf'])}"
    if "enum" in schema and found not in schema["enum"]:
        yield f"{where}: {found!r:.80} is none of {schema['enum']}"
    if "const" in schema and found != schema["const"]:
        yield f"{where}: {found!r:.80}, not {schema['const']!r}"
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    if kinds and not any(_is_of(kind, found) for kind in kinds):
        yield f"{where}: {found!r:.80} is not of type {kinds}"
    elif schema.get("format") == "bin" and not isinstance(found, bytes):
        yield f"{where}: {found!r:.80} is no bin"
    else:
        yield from _bounds(schema, found, where)


def _is_of(kind: str, found: object) -> bool:
    return isinstance(found, _TYPES[kind]) and (kind == "boolean" or not isinstance(found, bool))


def _bounds(schema: dict[str, Any], found: object, where: str) -> Iterator[str]:
    match found:
        case bool():
            return
        case int() | float():
            if not schema.get("minimum", found) <= found <= schema.get("maximum", found):
                yield f"{where}: {found} is out of bounds"
        case str():
            yield from _in_text(schema, found, where)
        case list() | tuple():
            if not schema.get("minItems", 0) <= len(found) <= schema.get("maxItems", len(found)):
                yield f"{where}: {len(found)} items"
            items = schema.get("prefixItems", [schema.get("items", {})] * len(found))
            for at, (of, item) in enumerate(zip(items, found, strict=False)):
                yield from wrong_in(of, item, f"{where}[{at}]")
        case dict() if "anyOf" not in schema:
            yield from _in_map(schema, found, where)


def _in_text(schema: dict[str, Any], found: str, where: str) -> Iterator[str]:
    if not schema.get("minLength", 0) <= len(found) <= schema.get("maxLength", len(found)):
        yield f"{where}: {len(found)} characters"
    if schema.get("format") == "printable" and not found.isprintable():
        yield f"{where}: {found!r:.80} is not printable"


def _in_map(schema: dict[str, Any], found: dict[str, Any], where: str) -> Iterator[str]:
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", False)
    if len(found) > schema.get("maxProperties", len(found)):
        yield f"{where}: {len(found)} keys"
    for name in schema.get("required", ()):
        if name not in found:
            yield f"{where}: {name} is missing"
    for name, part in found.items():
        if name in properties or isinstance(more, dict):
            yield from wrong_in(properties.get(name, more), part, f"{where}.{name}")
        else:
            yield f"{where}: {name!r} is not described"


def check_answer(socket: str, method: str, answer: object) -> None:
    """Hold an answer of a daemon against the description; so one that the daemon refused is an error as described."""
    described = DESCRIBED["sockets"][socket]["methods"].get(method)
    if isinstance(answer, dict) and "errno" in answer:
        assert not list(wrong_in(DESCRIBED["errors"]["schema"], answer, f"error of {method}"))
        assert answer["errno"] in DESCRIBED["errors"]["errnos"], answer
    else:
        assert described is not None, f"{socket} answered {method}, which is not described"
        assert not (wrong := list(wrong_in(described["answer"], answer, method))), wrong


def check_notification(socket: str, method: str, params: object) -> None:
    """Hold what a daemon sends unasked against the description."""
    described = DESCRIBED["sockets"][socket]["notifications_to_client"]
    assert method in described, f"{socket} sent {method}, which is not described"
    carried = params[0] if isinstance(params, list | tuple) and params else params
    assert not (wrong := list(wrong_in(described[method]["params"], carried or {}, method))), wrong
