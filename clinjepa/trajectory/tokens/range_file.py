"""A stored file, local or in an object store, as a seekable Python file for pyarrow: one range request per read, or per held range."""

from __future__ import annotations

import io

from clinjepa.storage import Folder


class RangeFile(io.RawIOBase):
    """A read-only file over `Folder`, whose range requests bring retries and error messages."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self._size = folder.size(name)
        self._position = 0
        self._held_start, self._held = 0, b""

    def hold(self, start: int, end: int) -> None:
        """Fetch bytes start to end - 1 in one request; reads inside this range make no further request."""
        self._held_start, self._held = start, self._folder.read_bytes(self._name, start, end)

    def release(self) -> None:
        """Drop the held bytes."""
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
