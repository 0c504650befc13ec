"""Checkpoints of a job in the making: safetensors and JSON, complete when `manifest.json` with every file's digest is there.

`out/checkpoints/step-XXXXXXXX/` is named by the number of steps done over all phases. Each file is written under a
temporary name and the manifest last; a reader takes the newest whole checkpoint and refuses torn or altered ones. Whole
tensors are stored, so any number of workers can go on from it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from clinjepa.curriculum.dist import Dist
from clinjepa.errors import CheckpointError, StoreError, TornCheckpointError
from clinjepa.storage import Folder

SCHEMA_VERSION = 5
Digests = Mapping[str, str]
"""Of what a job's result follows from: of its settings and of each input's content (`inputs.agreed_digests`)."""
_STEP_NAME = re.compile(r"step-(\d{8,})$")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, the steps done over all phases, the expected digests of its files."""

    folder: Folder
    step: int
    files: dict[str, dict[str, Any]]

    def has(self, name: str) -> bool:
        """Whether tensors of that name were saved."""
        return f"{name}.safetensors" in self.files

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved as `name`; raises CheckpointError when the file is not what was written."""
        return load(self._checked(f"{name}.safetensors"))

    def state(self) -> dict[str, Any]:
        """The JSON state saved with it."""
        return json.loads(self._checked("state.json"))

    def verify(self) -> None:
        """Raise CheckpointError when a file is missing, cut or altered."""
        for name in self.files:
            self._checked(name)

    def _checked(self, name: str) -> bytes:
        try:
            data = self.folder.read_bytes(name)
        except StoreError:
            raise TornCheckpointError(f"{self.folder.address}/{name} is missing") from None
        if len(data) != self.files[name]["bytes"] or hashlib.sha256(data).hexdigest() != self.files[name]["sha256"]:
            raise TornCheckpointError(f"{self.folder.address}/{name} is not what the manifest says: it was altered or cut")
        return data


def save_checkpoint(
    folder: Folder, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any] | str, digests: Digests, keep: int
) -> str:
    """Write a checkpoint after `step` steps and drop the older ones beyond `keep`; returns its address.

    folder: `out/checkpoints`; tensors: by file name without suffix, whole tensors; state: JSON values or JSON; digests: of the job.
    One worker calls this. Raises StorageError (a full disk, an unreachable bucket); earlier checkpoints are left whole.
    """
    target = checkpoint_folder(folder, step)
    target.remove()
    files = {}

    def write(name: str, data: bytes) -> None:
        target.write_bytes(name, data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    for name, group in tensors.items():
        write(f"{name}.safetensors", tensor_bytes(group))
    write("state.json", (state if isinstance(state, str) else json.dumps(state, allow_nan=False)).encode())
    manifest = {"schema_version": SCHEMA_VERSION, "step": step, "job": dict(digests), "files": files}
    target.write_json("manifest.json", manifest | {"sha256": _manifest_digest(manifest)})
    _retain(folder, step, keep, digests)
    return target.address


class CheckpointWriter:
    """Writes a job's checkpoints from one worker, beside the training unless told otherwise; at most one is being written.

    What is given to `save` must not change afterwards (whole copies on the CPU). `blocked_seconds` and `num_saves` say what it cost
    the training.
    """

    def __init__(self, folder: Folder, digests: Digests, keep: int, asynchronous: bool) -> None:
        self._folder, self._digests, self._keep = folder, digests, keep
        self._asynchronous = asynchronous
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clinjepa-checkpoint")
        self._writing: Future[str] | None = None
        self.blocked_seconds, self.num_saves = 0.0, 0

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Start writing the checkpoint after `step` steps, when the one before is whole. Raises what that one raised."""
        began = time.perf_counter()
        self.wait()
        text = json.dumps(state, allow_nan=False)  # now: the training goes on adding to it
        self._writing = self._pool.submit(save_checkpoint, self._folder, step, tensors, text, self._digests, self._keep)
        if not self._asynchronous:
            self.wait()
        self.blocked_seconds += time.perf_counter() - began
        self.num_saves += 1

    def is_whole(self) -> bool:
        """Whether nothing is being written any more. Raises StorageError when writing failed; earlier checkpoints are left whole."""
        if self._writing is None:
            return True
        if not self._writing.done():
            return False
        self.wait()
        return True

    def wait(self) -> None:
        """Until the last checkpoint is whole; raises StorageError when writing it failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Let the thread end; what is being written is finished first."""
        self._pool.shutdown(wait=True)


def find_checkpoint(folder: Folder, digests: Digests) -> Checkpoint | None:
    """The newest whole checkpoint of the job, verified; None when there is none.

    A torn or altered one is passed over with a warning. Raises CheckpointError when one is whole but of another schema
    version or of a job with other settings or inputs.
    """
    for step in sorted(_steps(folder), reverse=True):
        place = checkpoint_folder(folder, step)
        try:
            checkpoint = open_checkpoint(place, digests)
            checkpoint.verify()
        except TornCheckpointError as fault:
            warnings.warn(f"{fault}; the checkpoint before it is taken", stacklevel=2)
        else:
            return checkpoint
    return None


def newest_for_all(folder: Folder, digests: Digests, dist: Dist) -> Checkpoint | None:
    """The newest whole checkpoint, chosen and verified by worker 0, opened by every worker; all workers call it.

    What worker 0 raises, all raise.
    """

    def newest() -> int | None:
        found = find_checkpoint(folder, digests)
        return found.step if found else None

    step = dist.from_main(newest)
    return None if step is None else open_checkpoint(checkpoint_folder(folder, step), digests)


def checkpoint_folder(folder: Folder, step: int) -> Folder:
    """Where the checkpoint after `step` steps lies in `out/checkpoints`."""
    return folder / _step_name(step)


def open_checkpoint(place: Folder, digests: Digests) -> Checkpoint:
    """The checkpoint in one folder; its manifest is checked here, its files when they are read."""
    try:
        manifest = place.read_json("manifest.json")
    except StoreError:
        raise TornCheckpointError(f"{place.address} has no readable manifest.json: it was cut short") from None
    if not isinstance(manifest, dict) or not {"schema_version", "step", "job", "files"} <= set(manifest):
        raise TornCheckpointError(f"{place.address}/manifest.json is not a checkpoint's manifest: it was altered")
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise CheckpointError(
            f"{place.address} has checkpoint schema {manifest['schema_version']}, this version reads {SCHEMA_VERSION}; "
            f"remove {place.address.rpartition('/')[0]} to start again"
        )
    if manifest.pop("sha256", None) != _manifest_digest(manifest) or not place.address.endswith(_step_name(manifest["step"])):
        raise TornCheckpointError(f"{place.address}/manifest.json is not what was written: it was altered, or another checkpoint's")
    made_of: Digests = manifest["job"]
    others = sorted(name for name in made_of.keys() | digests.keys() if made_of.get(name) != digests.get(name))
    if "settings" in others:
        raise CheckpointError(f"{place.address} was made by a job with other settings; remove its folder or choose another out")
    if others:
        raise CheckpointError(
            f"{place.address} was made from other inputs than the job has now ({', '.join(others)}); "
            f"put those back, or remove {place.address.rpartition('/')[0]} to train from the new ones"
        )
    return Checkpoint(place, int(manifest["step"]), manifest["files"])


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors bytes of whole tensors, the same bytes for the same values."""
    return save({name: tensors[name].detach().to("cpu", copy=False).contiguous() for name in sorted(tensors)})


def _step_name(step: int) -> str:
    return f"step-{step:08d}"


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Of all else that it says: a file struck off the list or another step would be as wrong as other tensors."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _steps(folder: Folder) -> list[int]:
    return [int(found.group(1)) for name in folder.names() if (found := _STEP_NAME.match(name))]


def _retain(folder: Folder, step: int, keep: int, digests: Digests) -> None:
    # What is newer than the checkpoint just written was refused when the job went on from before it; what was cut short would keep
    # the place of a whole one.
    steps = _steps(folder)
    whole = sorted(other for other in steps if other <= step and _opens(checkpoint_folder(folder, other), digests))
    for other in set(steps) - set(whole[-keep:]):
        checkpoint_folder(folder, other).remove()


def _opens(place: Folder, digests: Digests) -> bool:
    try:
        open_checkpoint(place, digests)
    except CheckpointError:
        return False
    return True
