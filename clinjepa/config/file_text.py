"""The text of a configuration file: of a bounded size, from a regular file or from a pipe such as `<(...)` of a shell."""

from __future__ import annotations

import os
import select
import stat
import tarfile
import time
from pathlib import Path

from clinjepa.errors import ConfigError

MOST_BYTES = 1_000_000
_COMPRESSED = (
    *(b"\x1f\x8b", b"\x1f\x9d", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"\x04\x22\x4d\x18"),
    *(b"\x02\x21\x4c\x18", b"Rar!\x1a\x07", b"LZIP", b"\x5d\x00\x00", b"\xff\x06\x00\x00sNaPpY"),
)
"""How compressed files begin: gzip, compress, zip, bzip2, xz, zstd, 7z, lz4 (two forms), rar, lzip, lzma, snappy."""

PIPE_SECONDS = 30.0
"""How long a pipe may stay silent."""


def read_text(path: Path) -> str:
    """The text of a configuration file; ConfigError with the file and the remedy for one that cannot be a configuration."""
    try:
        content = _read(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; those of the project are in configs/") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or type(error).__name__}); check its path and its rights") from None
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path} is larger than {MOST_BYTES // 1_000_000} MB, which no configuration is; check its path")
    if content.startswith(_COMPRESSED):
        raise ConfigError(f"{path} is a compressed file; unpack it and give the YAML file inside")
    if _is_tar(content):
        raise ConfigError(f"{path} is a tar archive; unpack it and give the YAML file inside")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or _has_wide_letters(content[:200]):
        raise ConfigError(f"{path} is not UTF-8 text (it looks like UTF-16); save it as UTF-8")
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line} has a zero byte, so this is no text or it was damaged; get the file again")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8 text; save the file as UTF-8") from None


def _is_tar(content: bytes) -> bool:
    """Whether the first block is the header of a member of a tar archive, of any age: its checksum is right."""
    try:
        return bool(tarfile.TarInfo.frombuf(content[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape").name)
    except tarfile.HeaderError:
        return False


def _has_wide_letters(content: bytes) -> bool:
    """Whether nearly every second byte is zero, and few of the others: ASCII letters in UTF-16 without a mark."""
    even, odd = content[::2], content[1::2]
    zeros = sorted((even.count(0) / max(1, len(even)), odd.count(0) / max(1, len(odd))))
    return zeros[0] < 0.1 and zeros[1] > 0.6


def real_path(path: Path) -> Path:
    """The path behind all links, also where these go round in a circle; ConfigError for a name that no file can have."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # letters that the file system cannot write
        raise ConfigError(f"{str(path)!r} cannot be the name of a file; check its letters") from None


def _read(path: Path) -> bytes:
    """At most one byte more than MOST_BYTES."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{path} is a folder; give one YAML file of it")
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise ConfigError(f"{path} is no regular file (a socket or a device); give a YAML file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return _piped(path, descriptor) if stat.S_ISFIFO(mode) else _limited(descriptor)
    finally:
        os.close(descriptor)


def _limited(descriptor: int) -> bytes:
    content = b""
    while len(content) <= MOST_BYTES and (piece := os.read(descriptor, MOST_BYTES + 1 - len(content))):
        content += piece
    return content


def _piped(path: Path, descriptor: int) -> bytes:
    """What comes through a pipe until its writer ends; a pipe without a writer is empty at once."""
    content, last = b"", time.monotonic()
    while len(content) <= MOST_BYTES:
        waited = time.monotonic() - last
        if waited > PIPE_SECONDS:
            raise ConfigError(f"{path} is a pipe, and nothing came through it for {PIPE_SECONDS:.0f} s; give a YAML file")
        try:
            piece = os.read(descriptor, MOST_BYTES + 1 - len(content))
        except BlockingIOError:
            select.select([descriptor], [], [], max(0.0, PIPE_SECONDS - waited) + 0.01)
            continue
        if not piece:
            return content
        content, last = content + piece, time.monotonic()
    return content
