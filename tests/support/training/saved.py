"""Which checkpoints a job in the making has left so far."""

from __future__ import annotations

import os

from clinjepa.storage import Folder


def checkpoints_in(out: Folder | str | os.PathLike[str]) -> dict[int, bool]:
    """By the steps after which it was begun: whether a checkpoint of the job that writes to `out` is whole."""
    folder = (out if isinstance(out, Folder) else Folder(out)) / "checkpoints"
    steps = [name for name in folder.names() if name.startswith("step-")]
    return {int(name.removeprefix("step-")): folder.exists(f"{name}/manifest.json") for name in steps}


def newest_whole(checkpoints: dict[int, bool]) -> int:
    """Steps after which the newest whole one was made, 0 when there is none."""
    return max((step for step, whole in checkpoints.items() if whole), default=0)
