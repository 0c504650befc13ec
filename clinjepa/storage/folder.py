"""Files on a local disk or in an object store, by one address form (`folder`, `s3://bucket/prefix`, any fsspec URL).

Every package reads and writes through a `Folder`. Storage faults (missing bucket, refused connection, full disk) become one
`StorageError` or `StoreError` that names the address. Faults of S3 that may pass are retried by `s3.RetryPolicy`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from clinjepa.addresses import plain_address
from clinjepa.errors import ClinJepaError, StorageError, StoreError
from clinjepa.redaction import REMEDY, holds_credentials, redacted_values
from clinjepa.storage.faults import is_transient, translated
from clinjepa.storage.local import close_to_others, create_file, create_whole, make_folders, temporary_beside, write_whole
from clinjepa.storage.strays import is_stray

Result = TypeVar("Result")
MARK = ".clinjepa"
"""File that marks a storage folder as clinjepa's; written by `check_writable`."""
INSIDE = ("artifacts", "runs", "ray_train")
"""The folders directly inside a storage folder."""


class FileFacts(NamedTuple):
    """What a listing says of a file."""

    num_bytes: int
    changed: float
    """Time of the last change, in seconds since 1970, by the clock of the storage; 0 where it does not say."""


class Folder:
    """A folder at an address. Cheap, picklable (only the address is pickled), safe to use from many processes.

    On a local disk its files get the mode 600 and new folders 700, whatever the umask, since most of them hold or derive from patients;
    with `private=False` (an export that may be shared) the umask decides. An address with credentials raises StorageError: messages,
    manifests and reports name addresses.
    """

    def __init__(self, address: str | os.PathLike[str], private: bool = True) -> None:
        text = os.fspath(address)
        if holds_credentials(text):
            raise StorageError(f"an address holds credentials (user and password, a key or a token); {REMEDY}")
        text = plain_address(text)
        self.address = text.rstrip("/") if "://" in text else os.path.abspath(text)
        self.private = private
        self._fs: fsspec.AbstractFileSystem | None = None
        self._root = ""

    def __repr__(self) -> str:
        return f"Folder({self.address!r})"

    def __getstate__(self) -> tuple[str, bool]:
        return self.address, self.private

    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # mypy refuses a direct call; nothing inherits from Folder

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.address}/{name}", self.private)

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        if self._fs is None:
            if self.address.startswith(("s3://", "s3a://")):
                from clinjepa.storage.s3 import open_s3  # brings botocore

                self._fs, self._root = open_s3(self.address)
                return self._fs
            try:
                self._fs, self._root = fsspec.core.url_to_fs(self.address)
            except (ValueError, ImportError) as error:
                raise StorageError(
                    f"{self.address}: unknown kind of storage address ({error}); use a folder or s3://bucket/prefix"
                ) from None
            except Exception as error:  # what fsspec opens for an address or a chain of them may raise anything
                raise StorageError(
                    f"{self.address}: cannot be opened as a storage ({type(error).__name__}); use a folder or s3://bucket/prefix"
                ) from None
        return self._fs

    def path(self, name: str = "") -> str:
        """The path of `name` in the form that `self.fs` takes."""
        root = (self.fs, self._root)[1]
        return f"{root}/{name}" if name else root

    def check_writable(self) -> None:
        """Write the file `MARK`, at the start of a run; folders of an earlier version that other users can read are closed to them.

        Raises:
            StorageError: Within seconds, when the address cannot be reached, has no such bucket, or cannot be written to.
        """
        probe = self._contacted("create it or set storage=… to another")
        probe.write_bytes(MARK, b"storage of clinjepa: artifacts/ and runs/\n")
        if self.is_local and self.private:
            for name in INSIDE:
                close_to_others(Path(self.path(name)))

    def check_reachable(self) -> None:
        """StorageError, within seconds, when an object store cannot be reached; nothing is written, and a bucket may be missing."""
        self._contacted(None)

    def _contacted(self, remedy: str | None) -> Folder:
        """The same folder after a first contact with its object store. remedy: for a bucket that is missing; None accepts that."""
        probe = Folder(self.address, self.private)
        if self.address.startswith(("s3://", "s3a://")):
            from clinjepa.storage.s3 import FIRST_CONTACT_SECONDS, open_s3, patience

            probe._fs, probe._root = open_s3(self.address, unanswered=min(FIRST_CONTACT_SECONDS, patience()))
            bucket = probe.path().partition("/")[0]
            if not probe._try("", lambda: probe.fs.exists(bucket)) and remedy is not None:
                raise StorageError(f"{self.address}: there is no bucket {bucket}; {remedy}")
        return probe

    def make(self) -> None:
        """Make this folder on a local disk, for a library that writes into it itself; an object store has no folders."""
        if self.is_local:
            self._try("", lambda: make_folders(Path(self.path()), self.private), writes=True)

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder is there."""
        return self._try(name, lambda: bool(self.fs.exists(self.path(name))))

    def size(self, name: str) -> int:
        """Bytes of a file; StoreError when it is missing."""
        return int(self._try(name, lambda: self.fs.info(self.path(name))["size"]))

    def names(self, name: str = "") -> list[str]:
        """Sorted names of the entries directly inside, without strays (`strays`); empty when the folder does not exist."""

        def listing() -> list[str]:
            try:
                entries = self.fs.ls(self.path(name), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            inside = {entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry.rstrip("/") != self.path(name).rstrip("/")}
            return sorted(entry for entry in inside if not is_stray(entry))

        return self._try(name, listing)

    def files(self, name: str = "") -> dict[str, int]:
        """Path below `name` -> size in bytes, for every file but strays, sorted. Empty without the folder. Costs one listing call."""

        def listing() -> dict[str, int]:
            root = self.path(name).rstrip("/")
            found = self.fs.find(root, detail=True)
            sizes = {path[len(root) :].lstrip("/"): int(info["size"]) for path, info in sorted(found.items()) if len(path) > len(root)}
            return {path: size for path, size in sizes.items() if not is_stray(path)}

        return self._try(name, listing)

    def times(self, name: str = "") -> dict[str, FileFacts]:
        """As `files`, with the time of each file's last change. Costs one listing call."""

        def listing() -> dict[str, FileFacts]:
            root = self.path(name).rstrip("/")
            found = self.fs.find(root, detail=True)
            facts = {path[len(root) :].lstrip("/"): _facts(info) for path, info in sorted(found.items()) if len(path) > len(root)}
            return {path: fact for path, fact in facts.items() if not is_stray(path)}

        return self._try(name, listing)

    def read_bytes(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """The content of a file, or its bytes from `start` (inclusive) to `end` (exclusive)."""

        def read() -> bytes:
            self.check_regular(name)
            data: bytes = self.fs.cat_file(self.path(name), start=start, end=end)
            return data

        return self._try(name, read)

    def check_regular(self, name: str) -> None:
        """Raise StoreError where a local path is a pipe, a socket or a device: reading it could wait for ever."""
        path = Path(self.path(name)) if self.is_local else None
        if path is not None and path.exists() and not (path.is_file() or path.is_dir()):
            raise StoreError(f"{self.address}/{name} is no regular file (a pipe, a socket or a device); put a file there or take it away")

    def reading(self, name: str) -> IO[bytes]:
        """A file, to be read in pieces; StoreError or StorageError when it is missing, a folder, or no regular file."""

        def opened() -> IO[bytes]:
            self.check_regular(name)
            stream: IO[bytes] = self.fs.open(self.path(name), "rb")
            return stream

        return self._try(name, opened)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file atomically: a reader never sees a partial file."""

        def write() -> None:
            if self.is_local:
                write_whole(Path(self.path(name)), data, self.private)
            else:
                self.fs.pipe_file(self.path(name), data)

        self._try(name, write, writes=True)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A stream for content larger than memory. The file appears, complete, when the block ends without an error.

        For an object store the content is first written to a temporary file on the local disk.
        """
        scratch = None if self.is_local else Path(tempfile.mkdtemp(prefix="clinjepa-"))
        target = Path(self.path(name)) if scratch is None else scratch / "stream"
        self._try(name, lambda: make_folders(target.parent, self.private), writes=True)
        temporary = temporary_beside(target)
        try:
            with self._try(name, lambda: open(create_file(temporary, self.private), "wb"), writes=True) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            place = (lambda: os.replace(temporary, target)) if self.is_local else lambda: self.fs.put_file(str(temporary), self.path(name))
            self._try(name, place, writes=True)
        finally:
            temporary.unlink(missing_ok=True)
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)

    def create_bytes(self, name: str, data: bytes) -> bool:
        """Write `name` atomically if it does not exist yet; False when another writer created it first.

        `data` must be unique to the caller (contain an owner's id): existing content that equals it is taken for an earlier
        attempt of this caller whose response was lost.
        """

        def create() -> bool:
            for _ in range(50):
                if self._create(name, data):
                    return True
                self.check_regular(name)
                try:
                    return bool(self.fs.cat_file(self.path(name)) == data)
                except FileNotFoundError:
                    time.sleep(0.1)  # a concurrent create failed (409), or the file was removed in the meantime
            raise OSError("the file does not exist and cannot be created")

        return self._try(name, create, writes=True)

    def _create(self, name: str, data: bytes) -> bool:
        """One attempt at an atomic create; False when the file exists."""
        if self.is_local:
            return create_whole(Path(self.path(name)), data, self.private)
        try:
            self.fs.pipe_file(self.path(name), data, mode="create")
            return True
        except FileExistsError:
            return False
        except OSError as error:  # s3fs raises PreconditionFailed without a specific errno
            if _is_lost_race(error):
                return False
            raise

    def read_json(self, name: str) -> Any:
        """The parsed content of a JSON file; StoreError when it is missing or not JSON."""
        try:
            return json.loads(self.read_bytes(name))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise StoreError(f"{self.address}/{name} is not valid JSON: it was altered or cut; remove its folder and run again") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON value atomically; NaN and infinity are refused, credentials are left out (`redaction.redacted`)."""
        self.write_bytes(name, _json(value))

    def create_json(self, name: str, value: Any) -> bool:
        """`create_bytes` of a JSON value."""
        return self.create_bytes(name, _json(value))

    def parquet(self, name: str) -> pq.ParquetFile:
        """A Parquet file, for reading in pieces; read it with `use_threads=False`."""
        try:
            # Without Arrow's I/O threads: they hold Python buffers and can abort the interpreter during shutdown.
            return pq.ParquetFile(io.BytesIO(self.read_bytes(name)), pre_buffer=False)
        except pa.ArrowInvalid:
            raise self._torn(name) from None

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file as a table, or some of its columns; StoreError when it is missing or damaged."""
        try:
            return self.parquet(name).read(columns=columns, use_threads=False)
        except pa.ArrowInvalid:
            raise self._torn(name) from None

    def _torn(self, name: str) -> StoreError:
        return StoreError(f"{self.address}/{name} is not a readable Parquet file: it was altered or cut; remove its folder and run again")

    def read_row_group(self, name: str, group: int) -> pa.Table:
        """One row group of a Parquet file; the other row groups are not read."""

        def read() -> pa.Table:
            with self.reading(name) as file:
                return pq.ParquetFile(file, pre_buffer=False).read_row_group(group, use_threads=False)

        try:
            return self._try(name, read)
        except pa.ArrowException:
            raise self._torn(name) from None

    def write_table(self, name: str, table: pa.Table, **options: Any) -> None:
        """Write a table as Parquet (zstd), atomically. options: of `pyarrow.parquet.write_table`."""
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", **options)
        self.write_bytes(name, sink.getvalue())

    def remove(self, name: str = "") -> None:
        """Delete a file, or a folder with its content; does nothing when it does not exist."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm(self.path(name), recursive=True)

        self._try(name, remove, writes=True)

    def digest(self, name: str) -> str:
        """SHA-256 of a file's content, read in pieces."""

        def digest() -> str:
            sha = hashlib.sha256()
            with self.reading(name) as file:
                while chunk := file.read(1 << 22):
                    sha.update(chunk)
            return sha.hexdigest()

        return self._try(name, digest)

    @contextlib.contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """A local path with the content of a file or folder: the original on a local disk, otherwise a temporary download."""
        if self.is_local:
            self._try(name, lambda: self.check_regular(name))
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
        """Copy the files of a local folder under `name`, each one atomically."""
        base = Path(local)
        for path in sorted(base.rglob("*")):
            if path.is_file():
                relative = path.relative_to(base).as_posix()
                self.write_bytes(f"{name}/{relative}" if name else relative, path.read_bytes())

    def _try(self, name: str, action: Callable[[], Result], writes: bool = False) -> Result:
        """Run an action, retrying when a response broke off; a lasting fault becomes a StorageError or StoreError of one line."""
        where = f"{self.address}/{name}" if name else self.address
        began, wait = time.monotonic(), 0.2
        while True:
            try:
                return action()
            except StorageError as error:
                raise StorageError(str(error) if self.address in str(error) else f"{where}: {error}") from None
            except ClinJepaError:
                raise
            except Exception as error:
                if not self.is_local and is_transient(error) and time.monotonic() - began < _patience():
                    time.sleep(wait)
                    wait = min(5.0, 2 * wait)
                    continue
                fault = translated(where, error, self.is_local, writes)
                if fault is None:
                    raise
                raise fault from None


def _facts(info: Mapping[str, Any]) -> FileFacts:
    changed = info.get("mtime", info.get("LastModified", 0.0))
    return FileFacts(int(info["size"]), float(changed.timestamp() if hasattr(changed, "timestamp") else changed))


def _json(value: Any) -> bytes:
    return json.dumps(redacted_values(value), indent=1, allow_nan=False).encode()


def _patience() -> float:
    from clinjepa.storage.s3 import patience

    return patience()


def _is_lost_race(error: OSError) -> bool:
    """True when an `If-None-Match` write was refused because the object exists (412) or is being created right now (409)."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict") or "pre-conditions" in str(error)
