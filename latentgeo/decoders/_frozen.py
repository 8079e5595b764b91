"""A small base for frozen plain classes.

Decoders and models are shared, never edited: they copy to themselves, so that `clone`, `GridSearchCV` and
`deepcopy` hand back the same object, and they pickle by value, so that workers get one of their own.
"""

from __future__ import annotations

from typing import Any


class Frozen:
    """An object whose attributes are set once, by its own `__init__` through `_set`."""

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be set; make a new one instead.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be deleted.")

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set(**state)
