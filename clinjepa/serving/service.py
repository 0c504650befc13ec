"""The HTTP service without a server: paths, token, limits, faults and metrics. A server hands it requests (`pipelines/serving`).

Nothing of a request is logged or repeated in an answer but the names of its fields and of the dictionary's variables.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clinjepa.serving.metrics import CONTENT_TYPE, Metrics
from clinjepa.serving.openapi import openapi
from clinjepa.serving.requests import RequestError, read_request
from clinjepa.serving.scoring import ScoringModel

JSON = "application/json"
LEAST_TOKEN = 16
"""Fewest characters of a token."""
_DISCARDED = 4
"""Of a body that is too large, as many limits are read before the answer."""
_PATHS = {"/v1/score": "POST", "/v1/model": "GET", "/metrics": "GET", "/openapi.json": "GET", "/health": "GET"}
_log = logging.getLogger("clinjepa.serving")


class Busy(Exception):
    """No scorer can take the request now."""


@dataclass(frozen=True)
class Scored:
    """What a scorer made of one body: status, JSON body, and the work it did (`ScoringModel.counts`)."""

    status: int
    body: bytes
    work: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """Bounds of the service."""

    body_bytes: int = 8 << 20
    waiting: int = 64
    """Scoring requests at once, those that wait included; the next ones get 503."""
    retry_seconds: int = 1
    """`Retry-After` of a 503."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def token_digest(token: str) -> bytes:
    """What the service keeps of its token: SHA-256 of it."""
    return hashlib.sha256(token.encode()).digest()


def score_bodies(model: ScoringModel, bodies: list[bytes]) -> list[Scored]:
    """Answers to several bodies of `POST /v1/score`, computed together.

    A body that cannot be used gets an error answer, and the others are scored. After an unexpected error the log names its class only,
    since its message may quote a patient.
    """
    requests, answers = {}, {}
    for place, body in enumerate(bodies):
        try:
            requests[place] = read_request(body)
        except RequestError as error:
            answers[place] = _told(error)
    before = model.counts()
    try:
        found = model.score(list(requests.values()))
    except Exception as error:
        _log.error("scoring failed: %s", type(error).__name__)
        return [answers.get(place) or Scored(500, _fault("the request could not be scored")) for place in range(len(bodies))]
    work = {name: number - before[name] for name, number in model.counts().items()}
    for place, one in zip(requests, found, strict=True):
        answers[place] = _told(one) if isinstance(one, RequestError) else Scored(200, one.model_dump_json().encode())
    first = Scored(answers[0].status, answers[0].body, work)  # the work of the whole batch is counted once
    return [first, *(answers[place] for place in range(1, len(bodies)))]


class Service:
    """Answers requests of one application.

    Args:
        digest: `token_digest` of the bearer token.
        score: Scores one body; raises Busy where no scorer is free.
        describe: The answer of `GET /v1/model`.
        limits: Bounds.
    """

    def __init__(
        self,
        digest: bytes,
        score: Callable[[bytes], Awaitable[Scored]],
        describe: Callable[[], Awaitable[dict[str, Any]]],
        limits: Limits | None = None,
    ) -> None:
        self._digest, self._score, self._describe, self.limits = digest, score, describe, limits or Limits()
        self.metrics, self.num_waiting = Metrics(), 0
        self._openapi = json.dumps(openapi()).encode()

    async def answer(self, method: str, path: str, headers: Mapping[str, str], body: AsyncIterable[bytes]) -> Answer:
        """The answer to one request. headers: names in lower case; body: read only where the token is right."""
        began = time.monotonic()
        found = await self._answer(method, path, headers, body)
        self.metrics.answered(path if path in _PATHS else "other", found.status)
        if path == "/v1/score" and found.status == 200:
            self.metrics.took(time.monotonic() - began)
        return found

    async def _answer(self, method: str, path: str, headers: Mapping[str, str], body: AsyncIterable[bytes]) -> Answer:
        wanted = _PATHS.get(path)
        if path != "/health" and not self._is_allowed(headers.get("authorization", "")):
            return _answer(401, _fault("give the service's token as `Authorization: Bearer TOKEN`"), {"WWW-Authenticate": "Bearer"})
        if wanted is None:
            return _answer(404, _fault(f"no such path; there are {', '.join(_PATHS)}"))
        if method != wanted and not (wanted == "GET" and method == "HEAD"):
            return _answer(405, _fault(f"{path} takes {wanted}"), {"Allow": wanted})
        if path == "/v1/score":
            return await self._scored(headers, body)
        if path == "/v1/model":
            return await self._described()
        if path == "/metrics":
            return Answer(200, self.metrics.text().encode(), {"Content-Type": CONTENT_TYPE})
        return _answer(200, self._openapi if path == "/openapi.json" else b'{"status": "ok"}')

    def _is_allowed(self, header: str) -> bool:
        scheme, _, token = header.partition(" ")
        return hmac.compare_digest(token_digest(token.strip()), self._digest) and scheme.lower() == "bearer"

    async def _scored(self, headers: Mapping[str, str], body: AsyncIterable[bytes]) -> Answer:
        kind, coding = headers.get("content-type", "").partition(";")[0].strip().lower(), headers.get("content-encoding", "identity")
        if kind != JSON or coding.lower() != "identity":
            return _answer(415, _fault(f"send the body as {JSON}, not compressed"))
        if self.num_waiting >= self.limits.waiting:
            return self._busy()
        self.num_waiting += 1
        try:
            data = await self._whole(headers, body)
            if data is None:
                return _answer(413, _fault(f"the body is larger than {self.limits.body_bytes} bytes"))
            scored = await self._score(data)
        except Busy:
            return self._busy()
        except Exception as error:
            _log.error("a request failed: %s", type(error).__name__)
            return _answer(500, _fault("the request could not be scored"))
        finally:
            self.num_waiting -= 1
        self.metrics.worked(scored.work)
        return _answer(scored.status, scored.body)

    async def _described(self) -> Answer:
        try:
            return _answer(200, json.dumps(await self._describe()).encode())
        except Busy:
            return self._busy()

    def _busy(self) -> Answer:
        seconds = self.limits.retry_seconds
        return _answer(503, _fault(f"too many requests wait; try again in {seconds} s"), {"Retry-After": str(seconds)})

    async def _whole(self, headers: Mapping[str, str], body: AsyncIterable[bytes]) -> bytes | None:
        """The body; None where it is too large. Of that no more than the limit is kept, and `_DISCARDED` limits are read and thrown away:
        a client that is still sending would lose the answer with the connection."""
        length = headers.get("content-length", "0")
        fits = not length.isdecimal() or int(length) <= self.limits.body_bytes
        size = 0
        parts: list[bytes] | None = [] if fits else None
        async for part in body:
            size += len(part)
            if size > self.limits.body_bytes:
                parts = None
            if size > _DISCARDED * self.limits.body_bytes:
                break
            if parts is not None:
                parts.append(part)
        return None if parts is None else b"".join(parts)


def _told(error: RequestError) -> Scored:
    return Scored(error.status, _fault(str(error)))


def _fault(words: str) -> bytes:
    return json.dumps({"error": words}).encode()


def _answer(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, body, {"Content-Type": JSON, "Cache-Control": "no-store", **(headers or {})})
