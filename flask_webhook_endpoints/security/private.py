"""Values in memory that only the tenant may know, in objects that show nothing of them.

Error trackers send the local variables of every frame. They walk mappings and sequences, and ask everything else for
its `repr`. So these objects are neither mappings nor sequences, and are opened only where a value is written or sent.
"""

import re
import traceback
from collections.abc import ItemsView, Iterator
from typing import Any, Generic, TypeVar

V = TypeVar("V")

_ORIGIN = re.compile(r"[^/?]*(?://[^/?]*)?")


class Private(Generic[V]):
    """Names and their values, as `dict` takes them; `repr` shows only the names. `dict(…)` opens it."""

    __slots__ = ("_values",)

    def __init__(self, *values: Any, **named: V) -> None:
        self._values: dict[str, V] = dict(*values, **named)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._values)})"

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, Private) else other)

    # No hash, as of a dict.
    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> V:
        return self._values[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a name, or the default."""
        return self._values.get(name, default)

    def keys(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._values)

    def items(self) -> ItemsView[str, V]:
        """Return the names with their values in clear."""
        return self._values.items()


class PrivateURL:
    """A receiver's URL. Its path and query may contain credentials, so `repr` shows only where it leads."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        origin = _ORIGIN.match(self._value)
        return f"PrivateURL({origin[0] if origin else ''}/…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrivateURL) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def reveal(self) -> str:
        """Return the URL in clear."""
        return self._value


def forget_locals(error: BaseException) -> None:
    """Delete the local variables of all frames of an error that have ended: those of SQLAlchemy and aiohttp, too."""
    seen: set[int] = set()
    chained: BaseException | None = error
    while chained is not None and id(chained) not in seen:
        seen.add(id(chained))
        traceback.clear_frames(chained.__traceback__)
        chained = chained.__cause__ or chained.__context__
