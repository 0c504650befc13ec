"""Latents of windows from a latent store; those of a store behind a network are requested many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import numpy as np

from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader

REQUESTS_AT_A_TIME = 16
"""Requests to a store behind a network; each mostly waits."""

StoredLatents = tuple[np.ndarray, np.ndarray, np.ndarray]
"""z_static [D], z_state [T, D], z_action [T, D] of a window, as they are stored (bfloat16 as the bits in uint16)."""


class Window(NamedTuple):
    """A slice of a stay."""

    stay_id: int
    start_hour: int
    num_hours: int


class LatentFetcher:
    """Reads windows of one latent store, which is opened at first use."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._pool: ThreadPoolExecutor | None = None

    @cached_property
    def reader(self) -> LatentReader:
        return LatentReader(Folder(self._address))

    def request(self, windows: Sequence[Window]) -> Iterator[StoredLatents]:
        """The windows' latents in order. From a store behind a network all are requested now, from a local one when they are read."""
        reader = self.reader
        if reader.folder.is_local:
            return (reader.stored(*window) for window in windows)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(REQUESTS_AT_A_TIME, thread_name_prefix="clinjepa-latents")
        return self._pool.map(lambda window: reader.stored(*window), windows)
