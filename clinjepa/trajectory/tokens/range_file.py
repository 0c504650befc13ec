"""A stored file, local or in an object store, as a seekable file that costs as few requests as its reader allows."""

from __future__ import annotations

import io

from clinjepa.storage import Folder


class RangeFile(io.RawIOBase):
    """A stored file as pyarrow wants to read it: by range requests through `Folder`, with its retries and messages."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self._size = folder.size(name)
        self._position = 0
        self._held_start, self._held = 0, b""

    def hold(self, start: int, end: int) -> None:
        """Fetch bytes start ... end - 1 in one request; reads inside them make none of their own."""
        self._held_start, self._held = start, self._folder.read_bytes(self._name, start, end)

    def release(self) -> None:
        """Forget what is held."""
        self._held = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence] + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = self._position
        end = self._size if size < 0 else min(self._size, start + size)
        if end <= start:
            return b""
        if self._held_start <= start and end <= self._held_start + len(self._held):
            data = self._held[start - self._held_start : end - self._held_start]
        else:
            data = self._folder.read_bytes(self._name, start, end)
        self._position += len(data)
        return data
