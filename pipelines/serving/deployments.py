"""The two deployments: a front, which holds token, limits and metrics, and scorers, each with a whole model.

A scorer that dies is replaced by Serve, and the front gives its requests to another one: an answer depends on the request alone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from clinjepa.redaction import redact_logs
from clinjepa.serving.service import Busy, Limits, Scored, Service, score_bodies

MOST_TOGETHER = 16
"""Requests of one batch."""
BATCH_WAIT_SECONDS = 0.01
TRIES = 4
"""Scorers that are tried for a request whose scorer died."""
_PAUSE_SECONDS = 0.5
_GONE = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OwnerDiedError)


class Scorer:
    """A replica: one model, one thread that computes."""

    def __init__(self, folder: str, base: str | None, device: str, threads: int, caches_mb: tuple[int, int]) -> None:
        import torch

        from clinjepa.serving.scoring import Caches, ScoringModel

        redact_logs()
        torch.set_num_threads(threads)
        self._model = ScoringModel.load(folder, device, base=base, caches=Caches(*caches_mb), verify=False)

    @serve.batch(max_batch_size=MOST_TOGETHER, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
    async def score(self, bodies: list[bytes]) -> list[Scored]:
        """Answers to bodies that wait at the same time."""
        return await asyncio.to_thread(score_bodies, self._model, bodies)

    async def describe(self) -> dict[str, Any]:
        """What `GET /v1/model` says."""
        return self._model.description()


class Front:
    """What listens: checks each request and hands its body to a scorer."""

    def __init__(self, scorer: DeploymentHandle[Any], digest: bytes, limits: Limits) -> None:
        redact_logs()
        self._scorer = scorer
        self._service = Service(digest, self._score, self._describe, limits)

    async def __call__(self, request: Request) -> Response:
        """The answer to a request of Serve's proxy."""
        found = await self._service.answer(request.method, request.url.path, request.headers, request.stream())
        return Response(found.body, found.status, dict(found.headers))

    async def _score(self, body: bytes) -> Scored:
        return await self._asked("score", body)  # type: ignore[no-any-return]

    async def _describe(self) -> dict[str, Any]:
        return await self._asked("describe")  # type: ignore[no-any-return]

    async def _asked(self, method: str, *arguments: Any) -> Any:
        """A scorer's answer. Raises Busy where none is free or none lives."""
        for _ in range(TRIES):
            try:
                return await getattr(self._scorer, method).remote(*arguments)
            except BackPressureError:
                raise Busy from None
            except _GONE:
                logging.getLogger("clinjepa.serving").error("a scorer died; its request goes to another")
                await asyncio.sleep(_PAUSE_SECONDS)
        raise Busy
