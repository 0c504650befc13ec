"""A worker of the pool that encodes action texts with other doses: only the stays of one split, only the texts that change.

The texts come from the ingest artifact, whole. They are changed by `clinjepa/trajectory/hours/doses.py`, cut into tokens by the trajectory
store's tokenizer as its own texts were, and encoded by the encoder of the latent store.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from clinjepa.curriculum.embedding import Embedder
from clinjepa.curriculum.shifted_job import ShiftedActionsJob
from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.doses import DoseShifter
from clinjepa.trajectory.tokens.changed_actions import ChangedStay, Origin, ShiftCounts, is_finished, sum_counts, write_changed_part

_Texts = list[np.ndarray]


class ShiftedActionEmbedder(Embedder):
    """Encodes the changed action texts of one trajectory store; several workers may share the shards, in any order."""

    def __init__(self, job: ShiftedActionsJob) -> None:
        super().__init__(job)
        self._shift, self._ingest = job.shift, Folder(job.ingest)
        self._shifter = DoseShifter(job.shift.factor, job.shift.max_decimals)

    def embed_shard(self, shard: str) -> dict[str, int]:
        """Write `actions/<shard>.safetensors`; equal texts of the shard are encoded once.

        A shard that this encoder has finished is skipped; a shard of another encoder is replaced. The encoder is built when the first text
        needs it.

        Returns:
            {"num_texts": texts encoded, "num_tokens": their tokens}.

        Raises:
            StoreError: the ingest is not that of the trajectory store.
            ResourceError: memory ran out.
        """
        origin = Origin(self.writer.encoder_digest, float(self._shift.factor))
        if is_finished(self.out, shard, origin):
            return {"num_texts": 0, "num_tokens": 0}
        changed, counts = self._changed_stays(shard)
        texts = [text for _, _, own in changed for text in own]
        z_ND = self._encoded(texts)
        ends = np.cumsum([0, *(len(own) for _, _, own in changed)])
        stays = [
            ChangedStay(stay_id, hours_N, z_ND[first:last])
            for (stay_id, hours_N, _), first, last in zip(changed, ends[:-1], ends[1:], strict=True)
        ]
        write_changed_part(self.out, shard, origin, self.writer.dtype, stays, counts)
        return {"num_texts": counts["num_changed"], "num_tokens": counts["num_tokens"]}

    def _changed_stays(self, shard: str) -> tuple[list[tuple[int, np.ndarray, _Texts]], ShiftCounts]:
        """((stay_id, hours whose tokens change, these tokens) of every stay of the split, counts)."""
        table = self.reader.stays
        where = zip(*(table[name].to_pylist() for name in ("stay_id", "shard", "split")), strict=True)
        chosen = {stay_id for stay_id, file, split in where if file == f"shards/{shard}.parquet" and split == self._shift.split}
        hours = self._ingest.read_table(f"hours/{shard}.parquet", columns=["stay_id", "action_texts"]) if chosen else None
        rows = zip(hours["stay_id"].to_pylist(), hours["action_texts"], strict=True) if hours is not None else ()
        found, parts = [], [sum_counts([])]
        for stay_id, texts in rows:
            if stay_id in chosen:
                hours_N, tokens, counts = self._changed_hours(stay_id, texts.as_py())
                found.append((stay_id, hours_N, tokens))
                parts.append(counts)
        if len(found) != len(chosen):
            raise self._foreign()
        return found, sum_counts(parts)

    def _changed_hours(self, stay_id: int, texts: list[str]) -> tuple[np.ndarray, _Texts, ShiftCounts]:
        """(hours whose tokens change, these tokens, counts) of one stay. A change behind the cut of a long text changes no token."""
        recorded = self.reader.stay(stay_id).actions
        if len(recorded) != len(texts):
            raise self._foreign()
        shifted = [self._shifter.shift(text) for text in texts]
        other = [hour for hour, (text, new) in enumerate(zip(texts, shifted, strict=True)) if new.text != text]
        written = pa.array([shifted[hour].text for hour in other], pa.string())
        flat, lengths, _ = self.reader.tokenizer.encode_array(written, self._shift.max_tokens)
        tokens = np.split(flat, np.cumsum(lengths)[:-1]) if other else []
        kept = [place for place, hour in enumerate(other) if not np.array_equal(tokens[place], recorded[hour])]
        counts: ShiftCounts = {
            "num_stays": 1,
            "num_hours": len(texts),
            "num_changed": len(kept),
            "num_doses": sum(new.num_doses for new in shifted),
            "num_unread": sum(new.num_unread for new in shifted),
            "num_tokens": int(sum(len(tokens[place]) for place in kept)),
        }
        return np.array([other[place] for place in kept], np.int64), [tokens[place] for place in kept], counts

    def _encoded(self, texts: _Texts) -> np.ndarray:
        """Latents of the texts [N, D] float32; [0, 0] without a text, for which no encoder is built."""
        if not texts:
            return np.zeros((0, 0), np.float32)
        return self.encoded(texts, "actions with other doses")

    def _foreign(self) -> StoreError:
        return StoreError(
            f"{self._ingest.address} is not the ingest of {self.reader.folder.address}: its stays or hours differ; "
            f"remove {self.out.address} and run again"
        )
