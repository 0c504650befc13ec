"""Errors of file systems, translated to one line that names the address, the fault and the remedy.

Used by `Folder` for every access.
"""

from __future__ import annotations

import errno
import os

from clinjepa.errors import ClinJepaError, StorageError, StoreError, first_line

_ELSEWHERE = "give another folder or change its rights (storage=… of a run)"
_READABLE = "change its rights, or give another place (source.path of a data set, storage of a run)"
_REMOTE_MODULES = {"botocore", "aiobotocore", "aiohttp", "s3fs", "asyncio", "fsspec", "http"}


def translated(where: str, error: Exception, is_local: bool, writes: bool) -> ClinJepaError | None:
    """The error to show a user, or None for an error that does not concern storage.

    Args:
        where: Address of the file or folder.
        error: What the file system raised.
        is_local: Whether the file system is the local disk.
        writes: Whether the access was a write.
    """
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageError(f"{where}: the disk is full; free space or set storage=… to another place; finished stages are kept")
        return _local(where, error, writes) if is_local else _remote(where, error)
    return _remote(where, error) if type(error).__module__.partition(".")[0] in _REMOTE_MODULES else None


def is_transient(error: Exception) -> bool:
    """True for a response that broke off: reading again may succeed."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    module, name = type(error).__module__.partition(".")[0], type(error).__name__
    return module in {"aiohttp", "asyncio"} or name in {"HTTPClientError", "IncompleteRead", "IncompleteReadError", "ResponseParserError"}


def _local(where: str, error: OSError, writes: bool) -> ClinJepaError:
    if error.errno == errno.EROFS:
        return StorageError(f"{where}: the disk is mounted read-only; {_ELSEWHERE}")
    if isinstance(error, PermissionError):
        what = "write" if writes else "read"
        return StorageError(f"{where}: user {_user()} has no permission to {what} here; {_ELSEWHERE if writes else _READABLE}")
    if isinstance(error, NotADirectoryError | FileExistsError) and writes:
        return StorageError(f"{where}: a part of this path is a file, not a folder; {_ELSEWHERE}")
    if isinstance(error, IsADirectoryError):
        return StorageError(f"{where} is a folder, a file is needed there; move it away or give another folder")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if not writes:
            return StoreError(f"{where} is missing")
        return StorageError(f"{where}: no folder can be made there; {_ELSEWHERE}")
    return StorageError(f"{where}: {os.strerror(error.errno) if error.errno else first_line(error)}")


def _remote(where: str, error: Exception) -> ClinJepaError:
    if isinstance(error, FileNotFoundError):
        return StoreError(f"{where} is missing")
    if isinstance(error, PermissionError):
        return StorageError(f"{where}: access refused ({first_line(error)}); check the credentials and the rights on this address")
    if type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}:
        return StorageError(f"{where}: no usable credentials ({first_line(error)}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, OSError) and not is_transient(error):
        return StorageError(f"{where}: refused by the store ({first_line(error)})")
    return StorageError(f"{where} cannot be reached ({first_line(error)}); check AWS_ENDPOINT_URL, the network and the credentials")


def _user() -> str:
    return str(os.geteuid()) if hasattr(os, "geteuid") else "of this process"
