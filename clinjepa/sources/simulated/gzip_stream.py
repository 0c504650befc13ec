"""One gzip stream from pieces that were deflated separately, like `pigz`: parallel compression, one member in the file.

Each piece is a run of complete deflate blocks. The stream combines their checksums without reading the content again.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import IO

LEVEL = 6
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_ZEROS = bytes(1 << 20)


@dataclass(frozen=True)
class Deflated:
    """Deflated bytes, and CRC-32, size in bytes and number of lines of their uncompressed content."""

    data: bytes
    crc: int
    size: int
    lines: int


def deflated(content: bytes) -> Deflated:
    """Compress `content` to a run of complete deflate blocks that does not end the stream."""
    squeeze = zlib.compressobj(LEVEL, wbits=-15)
    data = squeeze.compress(content) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return Deflated(data, zlib.crc32(content), len(content), content.count(b"\n"))


class GzipStream:
    """Writes one gzip member to `file`. Without `close` the file is recognisably incomplete."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._crc, self._size = file, 0, 0
        file.write(_HEADER)

    def append(self, piece: Deflated) -> None:
        self._file.write(piece.data)
        # CRC-32 is affine: crc(A + B) is crc(B) combined with crc(A) advanced over len(B) zero bytes.
        self._crc = _over_zeros(self._crc, piece.size) ^ _over_zeros(0, piece.size) ^ piece.crc
        self._size += piece.size

    def close(self) -> None:
        """End the stream; the file itself stays open."""
        self._file.write(zlib.compressobj(wbits=-15).flush())
        self._file.write(self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little"))


def _over_zeros(crc: int, size: int) -> int:
    for start in range(0, size, len(_ZEROS)):
        crc = zlib.crc32(_ZEROS[: min(len(_ZEROS), size - start)], crc)
    return crc
