"""Checkpoints of a job in training: safetensors and JSON, complete when `manifest.json` with every file's digest is there.

`out/checkpoints/step-XXXXXXXX/` is named by the number of steps done over all phases. Each file is written under a temporary name and
the manifest last; a reader takes the newest whole checkpoint and refuses torn or altered ones. Whole tensors are stored, so any number of
workers can resume from it.
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
from typing import Any, TypedDict

from safetensors.torch import load, save
from torch import Tensor

from clinjepa.curriculum.checkpoints.history import SavedHistory
from clinjepa.curriculum.steps.optimizer import OptimizerState
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.errors import CheckpointError, StoreError, TornCheckpointError
from clinjepa.storage import Folder

SCHEMA_VERSION = 5
Digests = Mapping[str, str]
"""Digests of a job's settings and of the content of each input (`input_digests.agreed_digests`)."""
_STEP_NAME = re.compile(r"step-(\d{8,})$")


class FileRecord(TypedDict):
    """Size and SHA-256 of a checkpoint's file."""

    bytes: int
    sha256: str


class TrainingState(TypedDict):
    """The JSON state saved with the tensors."""

    optimizer: OptimizerState
    history: SavedHistory


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, the steps done over all phases, the expected sizes and digests of its files."""

    folder: Folder
    step: int
    files: Mapping[str, FileRecord]

    def has(self, name: str) -> bool:
        """Whether tensors of that name were saved."""
        return f"{name}.safetensors" in self.files

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved as `name`; raises CheckpointError when the file was altered or cut."""
        return load(self._checked(f"{name}.safetensors"))

    def state(self) -> TrainingState:
        """The JSON state; raises CheckpointError as `tensors`."""
        state: TrainingState = json.loads(self._checked("state.json"))
        return state

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


def save_checkpoint(folder: Folder, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: str, digests: Digests, keep: int) -> str:
    """Write a checkpoint after `step` steps and remove the older ones beyond `keep`; one worker calls it.

    Args:
        folder: `out/checkpoints`.
        step: steps done over all phases.
        tensors: whole tensors by file name without suffix.
        state: JSON text of the state.
        digests: of the job's settings and inputs.
        keep: newest whole checkpoints to keep.

    Returns:
        The checkpoint's address.

    Raises:
        StorageError: a full disk or an unreachable bucket; earlier checkpoints are left whole.
    """
    target = checkpoint_folder(folder, step)
    target.remove()
    files: dict[str, FileRecord] = {}

    def write(name: str, data: bytes) -> None:
        target.write_bytes(name, data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    for name, group in tensors.items():
        write(f"{name}.safetensors", tensor_bytes(group))
    write("state.json", state.encode())
    manifest = {"schema_version": SCHEMA_VERSION, "step": step, "job": dict(digests), "files": files}
    target.write_json("manifest.json", manifest | {"sha256": _manifest_digest(manifest)})
    _retain(folder, step, keep, digests)
    return target.address


class CheckpointWriter:
    """Writes a job's checkpoints from one worker, one at a time; while training continues if `asynchronous`.

    The tensors given to `save` must not change afterwards (whole copies on the CPU). `blocked_seconds` is the time that training waited,
    for `num_saves` checkpoints.
    """

    def __init__(self, folder: Folder, digests: Digests, keep: int, asynchronous: bool) -> None:
        self._folder, self._digests, self._keep = folder, digests, keep
        self._asynchronous = asynchronous
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clinjepa-checkpoint")
        self._writing: Future[str] | None = None
        self.blocked_seconds, self.num_saves = 0.0, 0

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: TrainingState) -> None:
        """Start writing the checkpoint after `step` steps, once the one before is whole. Raises the error of that one, if it failed."""
        began = time.perf_counter()
        self.wait()
        text = json.dumps(state, allow_nan=False)  # now, because training goes on to change the history
        self._writing = self._pool.submit(save_checkpoint, self._folder, step, tensors, text, self._digests, self._keep)
        if not self._asynchronous:
            self.wait()
        self.blocked_seconds += time.perf_counter() - began
        self.num_saves += 1

    def is_whole(self) -> bool:
        """Whether no write is in progress. Raises StorageError when writing failed; earlier checkpoints are left whole."""
        if self._writing is None:
            return True
        if not self._writing.done():
            return False
        self.wait()
        return True

    def wait(self) -> None:
        """Wait until the last checkpoint is whole; raises StorageError when writing it failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Finish the write in progress and end the thread."""
        self._pool.shutdown(wait=True)


def find_checkpoint(folder: Folder, digests: Digests) -> Checkpoint | None:
    """The newest whole checkpoint of the job, verified; None when there is none.

    A torn or altered checkpoint is skipped with a warning. Raises CheckpointError when one is whole but of another schema version or of a
    job with other settings or inputs.
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

    All workers raise the error that worker 0 raises.
    """

    def newest() -> int | None:
        found = find_checkpoint(folder, digests)
        return found.step if found else None

    step = dist.from_main(newest)
    return None if step is None else open_checkpoint(checkpoint_folder(folder, step), digests)


def checkpoint_folder(folder: Folder, step: int) -> Folder:
    """The folder in `out/checkpoints` of the checkpoint after `step` steps."""
    return folder / _step_name(step)


def open_checkpoint(place: Folder, digests: Digests) -> Checkpoint:
    """The checkpoint in a folder. The manifest is checked here, the files when they are read.

    Raises TornCheckpointError for a manifest that is missing, cut or altered, CheckpointError for one of another job or schema version.
    """
    checkpoint, made_of = _read(place)
    others = sorted(name for name in made_of.keys() | digests.keys() if made_of.get(name) != digests.get(name))
    if "settings" in others:
        raise CheckpointError(f"{place.address} was made by a job with other settings; remove its folder or choose another out")
    if others:
        raise CheckpointError(
            f"{place.address} was made from other inputs than the job has now ({', '.join(others)}); "
            f"put those back, or remove {place.address.rpartition('/')[0]} to train from the new ones"
        )
    return checkpoint


def read_checkpoint(place: Folder) -> Checkpoint:
    """The checkpoint in a folder, whatever job made it; raises as `open_checkpoint`."""
    return _read(place)[0]


def _read(place: Folder) -> tuple[Checkpoint, Digests]:
    """The checkpoint in a folder, and the digests of the job that made it."""
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
    return Checkpoint(place, int(manifest["step"]), manifest["files"]), manifest["job"]


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors bytes of whole tensors, the same bytes for the same values."""
    return save({name: tensors[name].detach().to("cpu", copy=False).contiguous() for name in sorted(tensors)})


def _step_name(step: int) -> str:
    return f"step-{step:08d}"


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the other fields: an altered list of files or step number would be as wrong as altered tensors."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _steps(folder: Folder) -> list[int]:
    return [int(found.group(1)) for name in folder.names() if (found := _STEP_NAME.match(name))]


def _retain(folder: Folder, step: int, keep: int, digests: Digests) -> None:
    # A checkpoint newer than the one just written was refused when the job resumed from an older one. A torn one is removed, since it
    # would count as one of those to keep.
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
