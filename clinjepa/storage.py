"""Files on a local disk or in an object store, by one address form (`folder`, `s3://bucket/prefix`, any fsspec URL).

Every room reads and writes through a `Folder`; what can go wrong there (no such bucket, refused connection, full disk)
becomes one `StorageError` or `StoreError` that names the address.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from clinjepa.errors import ClinJepaError, StorageError, StoreError

Result = TypeVar("Result")
_RETRIES = 6


class Folder:
    """A folder at an address. Cheap, picklable (only the address travels), safe to use from many processes."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        text = os.fspath(address)
        self.address = text.rstrip("/") if "://" in text else os.path.abspath(text)
        self._fs: fsspec.AbstractFileSystem | None = None
        self._root = ""

    def __repr__(self) -> str:
        return f"Folder({self.address!r})"

    def __getstate__(self) -> dict[str, str]:
        return {"address": self.address}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["address"])  # type: ignore[misc]

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.address}/{name}")

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        if self._fs is None:
            options: dict[str, Any] = {}
            if self.address.startswith("s3://"):
                # Listings change under us (other writers), and a dead endpoint must be told apart within seconds.
                options = {
                    "use_listings_cache": False,
                    "config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 4, "mode": "standard"}},
                }
            try:
                self._fs, self._root = fsspec.core.url_to_fs(self.address, **options)
            except (ValueError, ImportError) as error:
                raise StorageError(
                    f"{self.address}: unknown kind of storage address ({error}); use a folder or s3://bucket/prefix"
                ) from None
        return self._fs

    def path(self, name: str = "") -> str:
        """The path of `name` as `self.fs` wants it."""
        root = (self.fs, self._root)[1]
        return f"{root}/{name}" if name else root

    def exists(self, name: str = "") -> bool:
        return self._try(name, lambda: self.fs.exists(self.path(name)))

    def size(self, name: str) -> int:
        return int(self._try(name, lambda: self.fs.info(self.path(name))["size"]))

    def names(self, name: str = "") -> list[str]:
        """Sorted names of the entries directly inside; empty when the folder is not there."""

        def listing() -> list[str]:
            try:
                entries = self.fs.ls(self.path(name), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted({entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry.rstrip("/") != self.path(name).rstrip("/")})

        return self._try(name, listing)

    def read_bytes(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        return self._try(name, lambda: self.fs.cat_file(self.path(name), start=start, end=end))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write whole or not at all: a reader never sees a torn file."""

        def write() -> None:
            if self.is_local:
                target = Path(self.path(name))
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
                try:
                    with open(temporary, "wb") as file:
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                    os.replace(temporary, target)
                finally:
                    temporary.unlink(missing_ok=True)
            else:
                self.fs.pipe_file(self.path(name), data)

        self._try(name, write)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A stream, for what is too large for memory, into a file that appears whole when the block ends without an error.

        An object store gets it from a temporary file on the local disk.
        """
        target = Path(self.path(name)) if self.is_local else Path(tempfile.gettempdir()) / "clinjepa-stream"
        self._try(name, lambda: target.parent.mkdir(parents=True, exist_ok=True))
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with self._try(name, lambda: open(temporary, "wb")) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            place = (lambda: os.replace(temporary, target)) if self.is_local else lambda: self.fs.put_file(str(temporary), self.path(name))
            self._try(name, place)
        finally:
            temporary.unlink(missing_ok=True)

    def create_bytes(self, name: str, data: bytes) -> bool:
        """Write only if `name` is not there yet, atomically; False when somebody else was first."""

        def create() -> bool:
            if self.is_local:
                target = Path(self.path(name))
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
                try:
                    temporary.write_bytes(data)
                    os.link(temporary, target)
                    return True
                except FileExistsError:
                    return False
                finally:
                    temporary.unlink(missing_ok=True)
            try:
                self.fs.pipe_file(self.path(name), data, mode="create")
                return True
            except FileExistsError:
                return False
            except OSError as error:  # s3fs: PreconditionFailed has no errno of its own
                if _is_lost_race(error):
                    return False
                raise

        return self._try(name, create)

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read_bytes(name))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise StoreError(f"{self.address}/{name} is not valid JSON: it was altered or cut; remove its folder and run again") from None

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, json.dumps(value, indent=1, allow_nan=False).encode())

    def parquet(self, name: str) -> pq.ParquetFile:
        """A Parquet file to read in pieces; read it with `use_threads=False`."""
        try:
            # Without Arrow's I/O threads: they hold Python buffers and can abort an interpreter that is shutting down.
            return pq.ParquetFile(io.BytesIO(self.read_bytes(name)), pre_buffer=False)
        except pa.ArrowInvalid:
            raise self._torn(name) from None

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return self.parquet(name).read(columns=columns, use_threads=False)
        except pa.ArrowInvalid:
            raise self._torn(name) from None

    def _torn(self, name: str) -> StoreError:
        return StoreError(f"{self.address}/{name} is not a readable Parquet file: it was altered or cut; remove its folder and run again")

    def read_row_group(self, name: str, group: int) -> pa.Table:
        """One row group of a Parquet file, read without the others."""

        def read() -> pa.Table:
            with self.fs.open(self.path(name), "rb") as file:
                return pq.ParquetFile(file, pre_buffer=False).read_row_group(group, use_threads=False)

        try:
            return self._try(name, read)
        except pa.ArrowException:
            raise StoreError(
                f"{self.address}/{name} is not a readable Parquet file: it was altered or cut; remove its folder and run again"
            ) from None

    def write_table(self, name: str, table: pa.Table, **options: Any) -> None:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", **options)
        self.write_bytes(name, sink.getvalue())

    def remove(self, name: str = "") -> None:
        """Delete a file or a folder with all it holds; nothing happens when it is not there."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm(self.path(name), recursive=True)

        self._try(name, remove)

    def digest(self, name: str) -> str:
        """SHA-256 of a file's content, read in pieces."""

        def digest() -> str:
            sha = hashlib.sha256()
            with self.fs.open(self.path(name), "rb") as file:
                while chunk := file.read(1 << 22):
                    sha.update(chunk)
            return sha.hexdigest()

        return self._try(name, digest)

    @contextlib.contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """A local path with the content of a file or folder: the thing itself on a local disk, else a temporary download."""
        if self.is_local:
            path = Path(self.path(name))
            if not path.exists():
                raise StoreError(f"{self.address}/{name} is missing")
            yield path
            return
        scratch = Path(tempfile.mkdtemp(prefix="clinjepa-"))
        try:
            target = scratch / (name.rstrip("/").rsplit("/", 1)[-1] or "copy")
            self._try(name, lambda: self.fs.get(self.path(name), str(target), recursive=self.fs.isdir(self.path(name))))
            yield target
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def upload(self, local: str | os.PathLike[str], name: str = "") -> None:
        """Copy a local folder's files under `name`, each whole or not at all."""
        base = Path(local)
        for path in sorted(base.rglob("*")):
            if path.is_file():
                relative = path.relative_to(base).as_posix()
                self.write_bytes(f"{name}/{relative}" if name else relative, path.read_bytes())

    def _try(self, name: str, action: Callable[[], Result]) -> Result:
        """Run an action, retrying what passes (a busy or unreachable object store), translating what does not."""
        where = f"{self.address}/{name}" if name else self.address
        for attempt in range(_RETRIES):
            try:
                return action()
            except ClinJepaError:
                raise
            except FileNotFoundError:
                raise StoreError(f"{where} is missing") from None
            except PermissionError as error:
                raise StorageError(
                    f"{where}: access refused ({_first_line(error)}); check the credentials and the rights on this address"
                ) from None
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise StorageError(
                        f"{where}: the disk is full; free space or set storage=… to another place; finished stages are kept"
                    ) from None
                if self.is_local or attempt == _RETRIES - 1:
                    raise StorageError(f"{where}: {_first_line(error)}") from None
            except Exception as error:
                if not _is_remote_fault(error) or attempt == _RETRIES - 1:
                    if _is_remote_fault(error):
                        raise StorageError(
                            f"{where} cannot be reached ({_first_line(error)}); check AWS_ENDPOINT_URL, the network and the credentials"
                        ) from None
                    raise
            time.sleep(min(8.0, 0.5 * 2**attempt))
        raise AssertionError("unreachable")


def _is_lost_race(error: OSError) -> bool:
    """True when an `If-None-Match` write was refused because the object is there (412) or is being made right now (409)."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict") or "pre-conditions" in str(error)


def _is_remote_fault(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in {"botocore", "aiobotocore", "aiohttp", "s3fs", "asyncio", "fsspec"}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
