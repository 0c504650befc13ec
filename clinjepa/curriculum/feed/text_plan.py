"""The plan of SFT: the hour texts of every step, cut into micro-batches of near-equal tokens.

A function of (seed, step, micro-batch) and of the store, never of the number of workers.
"""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clinjepa.curriculum.feed.window_plan import ORDER_TAG, mix_seed
from clinjepa.curriculum.jobs import SftJob
from clinjepa.errors import ConfigError, StoreError
from clinjepa.storage import Folder

_BLOCK_STAYS, _GROUP_BLOCKS = 32, 8


class TextPlan:
    """The SFT stage's plan over hour texts: epochs of shuffled texts cut into steps of `tokens_per_step`, those into micro-batches.

    Texts are shuffled inside groups of `_GROUP_BLOCKS` storage blocks of `_BLOCK_STAYS` stays (blocks are shuffled too), so a
    step reads few parts of a large store. Text 0 of a stay is its static text, then states, then actions.
    """

    def __init__(self, stay_ids: np.ndarray, lengths: list[np.ndarray], job: SftJob) -> None:
        """stay_ids: int64 [S] in storage order; lengths[i]: tokens of stay i's 2T+1 texts (static, states, actions), without EOS."""
        settings = job.sft_settings
        self.stay_ids = np.asarray(stay_ids, dtype=np.int64)
        if not len(self.stay_ids):
            raise StoreError("the trajectory store has no training stays; its cohort or split left none")
        self._stay = np.repeat(np.arange(len(lengths)), [len(each) for each in lengths])
        self._text = np.concatenate([np.arange(len(each)) for each in lengths])
        self._tokens = np.concatenate(lengths).astype(np.int64)
        self._seed, self._num_micro = job.seed, job.num_micro_batches
        self._tokens_per_step = settings.tokens_per_step
        longest = int(self._tokens.max()) + 1
        if longest > self._tokens_per_step:
            raise ConfigError(f"sft.tokens_per_step={self._tokens_per_step} is less than the longest text ({longest} tokens); raise it")
        total = int((self._tokens + 1).sum())
        self._steps_per_epoch = -(-total // self._tokens_per_step)
        # An epoch's last start lies below `total`, and no text is longer than a step, so only the last step can be without a text.
        wanted = max(1, round(settings.num_epochs * self._steps_per_epoch))
        self.num_steps = min(wanted, settings.max_steps) if settings.max_steps else wanted
        self._epoch_cache: tuple[int, np.ndarray, np.ndarray] = (-1, np.empty(0), np.empty(0))

    def micro(self, step: int, micro: int) -> list[tuple[int, int]]:
        """(stay id, text number) of each text of a micro-batch; may be empty when the step has few, long texts."""
        order, owner = self._step(step)
        return [(int(self.stay_ids[self._stay[i]]), int(self._text[i])) for i in order[owner == micro]]

    def label_count(self, step: int) -> int:
        """Predicted tokens of the whole step: every text of n tokens and its EOS has n."""
        return max(1, int(self._tokens[self._step(step)[0]].sum()))

    def _step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, index = divmod(step, self._steps_per_epoch)
        if self._epoch_cache[0] != epoch:
            order = self._order(epoch)
            starts = np.concatenate([[0], np.cumsum(self._tokens[order] + 1)[:-1]])
            self._epoch_cache = (epoch, order, starts)
        _, order, starts = self._epoch_cache
        low, high = np.searchsorted(starts, [index * self._tokens_per_step, (index + 1) * self._tokens_per_step])
        chosen = order[low:high]
        sizes = self._tokens[chosen] + 1
        middles = np.cumsum(sizes) - sizes / 2
        return chosen, np.minimum((middles * self._num_micro / max(1, sizes.sum())).astype(np.int64), self._num_micro - 1)

    def _order(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng(mix_seed(ORDER_TAG, self._seed, epoch))
        block_of_text = self._stay // _BLOCK_STAYS
        group_of_block = generator.permutation(int(block_of_text[-1]) + 1) // _GROUP_BLOCKS
        return np.lexsort((generator.random(len(self._stay)), group_of_block[block_of_text]))


def open_text_plan(job: SftJob, split: str = "train") -> TextPlan:
    """The plan over all hour texts of one split of the job's trajectory store; reads the stored lengths, no tokens of hours."""
    folder = Folder(job.trajectories)
    stays = folder.read_table("stays.parquet", columns=["stay_id", "split", "shard", "row"])
    stays = stays.filter(pc.equal(stays["split"], split)).sort_by([("shard", "ascending"), ("row", "ascending")])
    lengths: list[np.ndarray] = []
    rows, shards = stays["row"].to_numpy(), np.asarray(stays["shard"].to_pylist())
    for shard in dict.fromkeys(shards.tolist()):
        with folder.reading(shard) as file:
            table = pq.read_table(file, columns=["static_tokens", "state_lengths", "action_lengths"])
        static = pc.list_value_length(table["static_tokens"]).to_pylist()
        state, action = table["state_lengths"].to_pylist(), table["action_lengths"].to_pylist()
        for row in rows[shards == shard].tolist():
            lengths.append(np.array([static[row], *state[row], *action[row]], dtype=np.int64))
    return TextPlan(stays["stay_id"].to_numpy(), lengths, job)
