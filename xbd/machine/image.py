"""The machine's state as named arrays.

All that a machine knows of its frames lies in arrays that are made and found here by name, so that
the whole can be copied, compared, drawn, or backed by files, without asking each part.
"""

from typing import Any

from numpy.typing import NDArray

from xbd.frames import sparse_zeros


class Image:
    """Named arrays; each begins as zeros and costs memory only where it was touched."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}

    def make(self, name: str, count: int, dtype: Any) -> NDArray[Any]:  # noqa: ANN401 - as numpy's own
        """Add (count,) zeros of *dtype* under a *name* that is not taken."""
        assert name not in self.arrays, f"array {name} exists"
        array = self.arrays[name] = sparse_zeros(count, dtype)
        return array

    def drop(self, prefix: str) -> None:
        """Forget every array whose name begins with *prefix*."""
        for name in [name for name in self.arrays if name.startswith(prefix)]:
            del self.arrays[name]
