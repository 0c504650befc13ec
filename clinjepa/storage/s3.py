"""An S3 file system with one retry policy for every request, from a `Folder`, an open file or Ray Train alike.

botocore's own retries are off. Its `needs-retry` event calls `RetryPolicy`, which allows retries for `patience` seconds and then
raises one `SilentStoreError`; no layer above retries. Only the body of a response is read outside that event: s3fs reads it again.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict
from urllib.parse import urlsplit

from botocore.exceptions import ConnectionClosedError, HTTPClientError, ReadTimeoutError, SSLError
from botocore.exceptions import ConnectionError as NoConnectionError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from clinjepa.errors import SilentStoreError, StorageError
from clinjepa.redaction import REMEDY, endpoints_with_credentials

PATIENCE_VARIABLE = "CLINJEPA_STORAGE_PATIENCE"
PATIENCE_SECONDS = 120.0
"""Default time for which a request is retried after its first fault."""
FIRST_CONTACT_SECONDS = 6.0
"""The same at the start of a run, for an address that gives no response at all: the address is probably wrong."""

_BUSY_STATUS = {408, 429, 500, 502, 503, 504}
_BUSY_CODES = {
    "SlowDown",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "IncompleteBody",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
}
_LONGEST_WAIT = 5.0


def patience() -> float:
    """Seconds from `CLINJEPA_STORAGE_PATIENCE`, else the default; StorageError when the value is not a number above 0."""
    text = os.environ.get(PATIENCE_VARIABLE, "")
    if not text:
        return PATIENCE_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise StorageError(f"{PATIENCE_VARIABLE}={text} is not a number of seconds above 0; unset it for {PATIENCE_SECONDS:g} s")
    return seconds


class _Request(TypedDict):
    """The part of botocore's request that the policy uses. `context` is shared by all attempts of a request."""

    url: str
    context: MutableMapping[str, Any]


class _Response(Protocol):
    """The HTTP half of botocore's response."""

    status_code: int


@dataclass(frozen=True)
class RetryPolicy:
    """Handler of botocore's `needs-retry`: seconds to wait before the next attempt, or None when the response is final."""

    patience: float
    """Seconds after the first fault during which attempts are started, when the store responds that it is busy or broken."""

    unanswered: float
    """The same when there is no response: connection refused or reset, timeout."""

    def __call__(
        self,
        *,
        attempts: int,
        request_dict: _Request,
        response: tuple[_Response, Mapping[str, Mapping[str, str]]] | None = None,
        caught_exception: BaseException | None = None,
        **event: object,
    ) -> float | None:
        fault = _no_answer(caught_exception) if caught_exception is not None else _busy(response)
        if fault is None:
            return None
        now = time.monotonic()
        first: float = request_dict["context"].setdefault("clinjepa_first_fault", now)
        limit = self.patience if caught_exception is None else self.unanswered
        if now - first >= limit:
            place = urlsplit(request_dict["url"])
            raise SilentStoreError(
                f"{place.scheme}://{place.netloc} gave {fault} for {limit:g} s and {attempts} attempts; check AWS_ENDPOINT_URL, "
                "the network and the object store, then type the same command again: what is finished is kept"
            )
        # Exponential backoff with jitter, so that many clients do not retry at the same moment.
        return min(_LONGEST_WAIT, 0.2 * 2.0 ** min(attempts - 1, 10)) * random.uniform(0.5, 1.0)


class PatientS3(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """S3 under `RetryPolicy`. Listings are not cached: other writers change them."""

    def __init__(self, *args: Any, patience: float = PATIENCE_SECONDS, unanswered: float | None = None, **options: Any) -> None:
        unanswered = patience if unanswered is None else unanswered
        self._policy = RetryPolicy(patience, unanswered)
        silence = min(30.0, max(1.0, unanswered / 2))
        settings = {"connect_timeout": min(5.0, silence), "read_timeout": silence, "retries": {"total_max_attempts": 1, "mode": "standard"}}
        options["config_kwargs"] = settings | options.get("config_kwargs", {})
        super().__init__(*args, **({"use_listings_cache": False} | options))
        self.retries = _attempts_within(patience)  # used by s3fs for reading a response's body

    async def set_session(self, refresh: bool = False, kwargs: Any = None) -> Any:
        client = await super().set_session(refresh=refresh, kwargs=kwargs or {})
        client.meta.events.register("needs-retry.s3", self._policy, unique_id="clinjepa-patience")
        return client

    async def _call_s3(self, method: str, *arguments: Any, **kwargs: Any) -> Any:
        try:
            return await super()._call_s3(method, *arguments, **kwargs)
        except FileNotFoundError:
            # The response to an earlier attempt was lost: the upload no longer exists because it is complete.
            if method == "complete_multipart_upload" and await self._is_complete(
                kwargs["Bucket"], kwargs["Key"], [part["ETag"] for part in kwargs["MultipartUpload"]["Parts"]]
            ):
                return {}
            raise

    async def _is_complete(self, bucket: str, key: str, part_tags: list[str]) -> bool:
        """True when the object consists of these parts, by S3's digest of the parts' digests."""
        parts = [tag.strip('"') for tag in part_tags]
        try:
            expected = hashlib.md5(b"".join(map(bytes.fromhex, parts)), usedforsecurity=False).hexdigest() + f"-{len(parts)}"
            found = await self._call_s3("head_object", Bucket=bucket, Key=key)
        except (ValueError, FileNotFoundError):
            return False
        return str(found.get("ETag", "")).strip('"') == expected

    async def _exists(self, path: str) -> bool:
        bucket, key, _ = self.split_path(path)
        if key or not bucket:
            return bool(await super()._exists(path))
        try:  # s3fs itself reports any fault here as a missing bucket
            await self._call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError:
            return False
        return True

    exists = sync_wrapper(_exists)


def open_s3(address: str, unanswered: float | None = None) -> tuple[PatientS3, str]:
    """The file system of an `s3://` address and the path inside it. unanswered: seconds of retries when there is no response.

    Raises StorageError when an endpoint in the environment holds credentials: botocore's messages name the endpoint.
    """
    for name in endpoints_with_credentials():
        raise StorageError(f"{name} in the environment holds credentials (user and password, a key or a token); {REMEDY}")
    return PatientS3(patience=patience(), unanswered=unanswered), PatientS3._strip_protocol(address)


def _attempts_within(seconds: float) -> int:
    """Number of attempts for which s3fs's own waits (0.1 s · 1.7^i, at most 15 s) add up to `seconds`."""
    attempts, waited = 1, 0.0
    while waited < seconds:
        waited += min(1.7**attempts * 0.1, 15.0)
        attempts += 1
    return attempts


def _busy(response: tuple[_Response, Mapping[str, Mapping[str, str]]] | None) -> str | None:
    """Name of a fault that may pass (`HTTP 503 SlowDown`), or None for a final response."""
    if response is None:
        return None
    http, parsed = response
    code = (parsed.get("Error") or {}).get("Code", "")
    if http.status_code not in _BUSY_STATUS and code not in _BUSY_CODES:
        return None
    return " ".join(["HTTP", str(http.status_code), *([code] if code and code != str(http.status_code) else [])])


def _no_answer(error: BaseException) -> str | None:
    """What happened instead of a response, or None for a fault that a retry cannot mend."""
    if isinstance(error, SSLError) or not isinstance(error, HTTPClientError | NoConnectionError | OSError):
        return None
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return "no answer"
    return "a broken connection" if isinstance(error, ConnectionClosedError | ConnectionResetError) else "no connection"
