"""The structs of a Xen release as values: packed from fields, and unpacked into them."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Self

# By name: size, and by field offset and size, in bytes.
Structs = Mapping[str, tuple[int, Mapping[str, tuple[int, int]]]]
_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Layout:
    """How a struct lies in memory, little-endian; fields of other sizes than 1, 2, 4 and 8 bytes are bytes."""

    def __init__(self, size: int, fields: Mapping[str, tuple[int, int]]) -> None:
        self.size: Final = size
        self.offsets: Final = {name: offset for name, (offset, _) in fields.items()}
        self._empty: Final[dict[str, Any]] = {}
        words, at = ["<"], 0
        for name, (offset, field_size) in sorted(fields.items(), key=lambda row: row[1]):
            words += [f"{offset - at}x", _CODES.get(field_size, f"{field_size}s")]
            self._empty[name] = 0 if field_size in _CODES else b""
            at = offset + field_size
        self._struct: Final = struct.Struct("".join([*words, f"{size - at}x"]))

    def pack(self, **values: int | bytes) -> bytes:
        """Write a struct; fields that are not given are zero."""
        return self._struct.pack(*(self._empty | values).values())

    def unpack(self, written: bytes) -> dict[str, Any]:
        """Read a struct that lies at the beginning of *written*."""
        return dict(zip(self._empty, self._struct.unpack_from(written), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """A Xen release: its number, its structs and its constants."""

    major: int
    minor: int
    extra: str
    layouts: Mapping[str, Layout]
    constants: Mapping[str, int]

    @classmethod
    def of(cls, major: int, minor: int, extra: str, tables: ModuleType) -> Self:
        """Make a release from its module of tables."""
        layouts = {name: Layout(*row) for name, row in tables.STRUCTS.items()}
        return cls(major, minor, extra, layouts, tables.CONSTANTS)
