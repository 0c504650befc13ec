"""Addresses as people write them (`~/results`, `file:/data`, `S3://bucket`) -> one plain form: a local path, or a URL of an object store.

A shell expands `~` at the start of a word only, so `storage=~/results`, a YAML file and a program's argument list contain it as it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from clinjepa.errors import ConfigError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?!:)")  # one letter is no scheme; `zip::s3://…` is a chain of fsspec
_REMOTE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hdfs", "http", "https", "ftp", "sftp", "memory"}
_LOCAL = {"file", "local"}
_KIND_WITHOUT_COLON = re.compile(rf"({'|'.join(sorted(_REMOTE))})//", re.IGNORECASE)
_UNKNOWN_KIND = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:{1,2}/(?!/)")
_WINDOWS = re.compile(r"[A-Za-z]:[/\\]|\\\\")
_VARIABLE = re.compile(r"(^|/)\$(\{|[A-Za-z_])")


def plain_address(text: str) -> str:
    """The address without `~`, without `file:` and with its scheme in lower case. A relative path stays relative.

    Raises:
        ConfigError: The address is empty, has a control character, begins as an option of a command line does, is a Windows path, names
            another user's home that does not exist, or is a URL with a missing slash, colon or bucket, of a kind that is no storage, or
            with a host where a local file is meant.
    """
    address = text.strip()
    if not address:
        raise ConfigError("an address is empty; give a folder or s3://bucket/prefix")
    if any(ord(character) < 32 for character in address):
        raise ConfigError("an address has a line break or another control character; give a folder or s3://bucket/prefix")
    found = _SCHEME.match(address)
    scheme = found[1].lower() if found else ""
    if scheme in _LOCAL:
        return _home_expanded(_local_path(address[len(scheme) + 1 :]))
    if scheme in _REMOTE:
        if not address[len(scheme) :].startswith("://"):
            raise ConfigError(f"an address that begins with {scheme}: needs two slashes after the colon, {scheme}://…")
        if scheme != "memory" and not address[len(scheme) + 3 :].strip("/"):
            raise ConfigError(f"an address ends after {scheme}://; a bucket or a host must follow, {scheme}://bucket/prefix")
        return scheme + address[len(scheme) :]
    return _home_expanded(_plausible_path(address))


def _plausible_path(address: str) -> str:
    """The address, unless it is a slip of an address that would become a folder below the working folder."""
    if address.startswith("--"):
        raise ConfigError("an address begins with --, as an option does; give a folder or s3://bucket/prefix")
    if _WINDOWS.match(address):
        raise ConfigError("an address is a Windows path; give a folder of this machine as it is mounted here, or s3://bucket/prefix")
    kind = _KIND_WITHOUT_COLON.match(address)
    if kind:
        raise ConfigError(f"an address begins with {kind[1]}//; a colon is missing, {kind[1].lower()}://…")
    if _UNKNOWN_KIND.match(address):
        raise ConfigError("an address begins with a word and a colon that is no kind of storage; write ./ before a folder of this name")
    return address


def tracker_address(text: str) -> str:
    """`written_out` of a tracking server's address; a `file:` address stays one, since MLflow tells folders from servers by it."""
    address = written_out(text)
    return Path(address).as_uri() if text.strip().lower().startswith("file:") else address


def written_out(text: str) -> str:
    """`plain_address` of a setting. Variables of a shell are refused, since nothing replaces them in a configuration.

    Raises:
        ConfigError: As `plain_address`, or the address has a part such as `$HOME` or `${DATA}`.
    """
    address = plain_address(text)
    if _VARIABLE.search(address):
        raise ConfigError(
            "a part of an address begins with $, and a configuration replaces no environment variables; write the folder itself"
        )
    return address


def storage_address(text: str) -> str:
    """`written_out` of the address that a run writes to; ConfigError for a web address, which can only be read."""
    address = written_out(text)
    if address.startswith(("http://", "https://")):
        raise ConfigError("a web address (http) cannot be written to; give a folder or s3://bucket/prefix (its server: AWS_ENDPOINT_URL)")
    return address


def _local_path(rest: str) -> str:
    """The path of a `file:` address; rest: what follows the colon. Messages do not repeat it: a host may stand beside a password."""
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost") and not host.startswith("~"):
            raise ConfigError("a file: address with two slashes names a host; a folder of this machine has three, file:///folder")
        rest = f"{host}{slash}{path}" if host.startswith("~") else f"/{path}"
    if not rest.startswith(("/", "~")):
        raise ConfigError("a file: address needs an absolute folder; write the folder without file:")
    return unquote(rest)


def _home_expanded(path: str) -> str:
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded.startswith("~"):
        raise ConfigError(f"{path}: this machine knows no such home folder; give the whole path, or ./{path} for a folder of this name")
    return expanded
