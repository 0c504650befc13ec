"""S3 with one retry policy for every request, whoever makes it: a `Folder`, an open file, Ray Train.

botocore's own retries are off. Its `needs-retry` event asks `RetryPolicy`, which goes on for `patience` seconds and then says so in
one `SilentStoreError`; nothing above it tries again. Only the body of an answer is read outside that event: s3fs reads it again.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ConnectionClosedError, HTTPClientError, ReadTimeoutError, SSLError
from botocore.exceptions import ConnectionError as NoConnectionError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from clinjepa.errors import SilentStoreError, StorageError

PATIENCE_VARIABLE = "CLINJEPA_STORAGE_PATIENCE"
PATIENCE_SECONDS = 120.0
"""How long a request is tried again after its first fault, unless the environment says otherwise."""
FIRST_CONTACT_SECONDS = 6.0
"""The same at the start of a run, for an address that does not answer at all: it is more likely wrong than down."""

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
    """Seconds of `CLINJEPA_STORAGE_PATIENCE`, else the default; StorageError when it is no number above 0."""
    text = os.environ.get(PATIENCE_VARIABLE, "")
    if not text:
        return PATIENCE_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise StorageError(f"{PATIENCE_VARIABLE}={text} is no number of seconds above 0; unset it for {PATIENCE_SECONDS:g} s")
    return seconds


@dataclass(frozen=True)
class RetryPolicy:
    """Handler of botocore's `needs-retry`: seconds to wait before the next attempt, or None when the answer stands."""

    patience: float
    """Seconds after the first fault in which attempts are begun, when the store answers that it is busy or broken."""

    unanswered: float
    """The same when there is no answer: connection refused or reset, silence."""

    def __call__(
        self, *, attempts: int, request_dict: dict[str, Any], response: Any = None, caught_exception: Any = None, **event: Any
    ) -> float | None:
        fault = _no_answer(caught_exception) if caught_exception is not None else _busy(response)
        if fault is None:
            return None
        now = time.monotonic()
        first = request_dict["context"].setdefault("clinjepa_first_fault", now)
        limit = self.patience if caught_exception is None else self.unanswered
        if now - first >= limit:
            place = urlsplit(request_dict["url"])
            raise SilentStoreError(
                f"{place.scheme}://{place.netloc} gave {fault} for {limit:g} s and {attempts} attempts; check AWS_ENDPOINT_URL, "
                "the network and the object store, then type the same command again: what is finished is kept"
            )
        # Between half and all of a doubling wait, so that many clients do not come back at once.
        return min(_LONGEST_WAIT, 0.2 * 2 ** min(attempts - 1, 10)) * random.uniform(0.5, 1.0)


class PatientS3(S3FileSystem):
    """S3 under `RetryPolicy`. Listings are never remembered: other writers change them."""

    def __init__(self, *args: Any, patience: float = PATIENCE_SECONDS, unanswered: float | None = None, **options: Any) -> None:
        unanswered = patience if unanswered is None else unanswered
        self._policy = RetryPolicy(patience, unanswered)
        silence = min(30.0, max(1.0, unanswered / 2))
        settings = {"connect_timeout": min(5.0, silence), "read_timeout": silence, "retries": {"total_max_attempts": 1, "mode": "standard"}}
        options["config_kwargs"] = settings | options.get("config_kwargs", {})
        super().__init__(*args, **({"use_listings_cache": False} | options))
        self.retries = _attempts_within(patience)  # s3fs: of reading an answer's body

    async def set_session(self, refresh: bool = False, kwargs: Any = None) -> Any:
        client = await super().set_session(refresh=refresh, kwargs=kwargs or {})
        client.meta.events.register("needs-retry.s3", self._policy, unique_id="clinjepa-patience")
        return client

    async def _call_s3(self, method: str, *arguments: Any, **kwargs: Any) -> Any:
        try:
            return await super()._call_s3(method, *arguments, **kwargs)
        except FileNotFoundError:
            # The answer to an earlier attempt was lost: the upload is gone because it is complete.
            if method == "complete_multipart_upload" and await self._is_complete(kwargs):
                return {}
            raise

    async def _is_complete(self, upload: dict[str, Any]) -> bool:
        """True when the object is the one that these parts make, by S3's digest of digests."""
        parts = [part["ETag"].strip('"') for part in upload["MultipartUpload"]["Parts"]]
        try:
            expected = hashlib.md5(b"".join(map(bytes.fromhex, parts)), usedforsecurity=False).hexdigest() + f"-{len(parts)}"
            found = await self._call_s3("head_object", Bucket=upload["Bucket"], Key=upload["Key"])
        except (ValueError, FileNotFoundError):
            return False
        return str(found.get("ETag", "")).strip('"') == expected

    async def _exists(self, path: str) -> bool:
        bucket, key, _ = self.split_path(path)
        if key or not bucket:
            return await super()._exists(path)
        try:  # s3fs takes any fault here for a bucket that is not there
            await self._call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError:
            return False
        return True

    exists = sync_wrapper(_exists)


def open_s3(address: str, unanswered: float | None = None) -> tuple[PatientS3, str]:
    """The file system of an `s3://` address and the path inside it. unanswered: seconds of patience with no answer at all."""
    return PatientS3(patience=patience(), unanswered=unanswered), PatientS3._strip_protocol(address)


def _attempts_within(seconds: float) -> int:
    """As many attempts as s3fs's own waits (0.1 s · 1.7^i, at most 15 s) spread over `seconds`."""
    attempts, waited = 1, 0.0
    while waited < seconds:
        waited += min(1.7**attempts * 0.1, 15.0)
        attempts += 1
    return attempts


def _busy(response: Any) -> str | None:
    """`HTTP 503 SlowDown`, or None for an answer that stands."""
    if response is None:
        return None
    http, parsed = response
    code = (parsed.get("Error") or {}).get("Code", "")
    if http.status_code not in _BUSY_STATUS and code not in _BUSY_CODES:
        return None
    return " ".join(["HTTP", str(http.status_code), *([code] if code and code != str(http.status_code) else [])])


def _no_answer(error: BaseException) -> str | None:
    """What came instead of an answer, or None for a fault that another attempt would not change."""
    if isinstance(error, SSLError) or not isinstance(error, HTTPClientError | NoConnectionError | OSError):
        return None
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return "no answer"
    return "a broken connection" if isinstance(error, ConnectionClosedError | ConnectionResetError) else "no connection"
