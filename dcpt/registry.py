"""Named things: register them once, look them up by name, hear the nearest names on a typo."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from dcpt.errors import UnknownName

T = TypeVar("T")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """Return the error for a name that is not among `known`, with the nearest ones in it.

    Args:
        kind: What the name should have named, for example "backbone".
        name: What was asked for.
        known: Every name that would have been right.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return UnknownName(f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, close))}?")
    return UnknownName(f"unknown {kind} {name!r}; known are {', '.join(names)}")


class Registry(Generic[T]):
    """A mapping from names to objects of one kind, in order of registration."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that stores what it decorates under `name`.

        Raises:
            ValueError: If the name is taken; two things of one name would shadow each other.
        """

        def store(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is already registered")
            self._entries[name] = entry
            return entry

        return store

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def values(self) -> Iterable[T]:
        """Return the objects, in order of registration."""
        return self._entries.values()

    def __len__(self) -> int:
        return len(self._entries)
