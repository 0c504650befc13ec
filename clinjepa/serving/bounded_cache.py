"""A cache in memory that is bounded in bytes; the entry that was used longest ago goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class BoundedCache(Generic[Entry]):
    """Entries by digest. Counts hits and misses. For one thread at a time."""

    def __init__(self, most_bytes: int, size: Callable[[Entry], int]) -> None:
        self.most_bytes, self.num_bytes, self.hits, self.misses = most_bytes, 0, 0, 0
        self._size = size
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Entry | None:
        """The entry, which is now the one used last; None where there is none. Counts a hit or a miss."""
        found = self._entries.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return found

    def holds(self, key: bytes) -> bool:
        """Whether there is an entry; counts nothing."""
        return key in self._entries

    def put(self, key: bytes, entry: Entry) -> None:
        """Add an entry; one that is larger than the whole cache is not kept."""
        size = self._size(entry)
        if key in self._entries or size > self.most_bytes:
            return
        self._entries[key] = entry
        self.num_bytes += size
        while self.num_bytes > self.most_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.num_bytes -= self._size(oldest)

    def clear(self) -> None:
        """Drop all entries; the counts stay."""
        self._entries.clear()
        self.num_bytes = 0
