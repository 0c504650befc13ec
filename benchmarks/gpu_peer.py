"""The peer of the GPU benchmark: Hugging Face Trainer with PEFT, next-token training of the same LoRA on the same texts.

`padded`: whole texts, a batch as wide as its longest. `packed`: rows of 1,024 tokens (TRL's default length), filled best-fit,
kept apart by their positions, which transformers reads only where no cache is made (`use_cache=False`).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.support.gpu_models import Memory, Size, causal_model, encoder_spec, wait

ROW_TOKENS = 1024
_IGNORED = -100
_WARM_UP = 2


def train(size: Size, texts: list[np.ndarray], device: torch.device, kind: str, places: int, num_steps: int) -> dict[str, Any]:
    """Train `num_steps` steps of at most `places` token places each; kind: `padded` or `packed`.

    Returns real tokens per second (median step), memory in bytes, and what part of the places held tokens.
    """
    import transformers
    from peft import get_peft_model
    from transformers import Trainer, TrainerCallback

    from clinjepa.model.pretrained.adapters import lora_config

    transformers.logging.disable_progress_bar()
    real: list[int] = []
    shown: list[int] = []
    if kind == "padded":
        data, per_batch, collate = padded(texts, places)
    else:
        data, per_batch, collate = packed(texts, min(ROW_TOKENS, places), places)

    def counted(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = collate(rows)
        real.append(sum(row["num_tokens"] for row in rows))
        shown.append(batch["input_ids"].numel())
        return batch

    class Clock(TrainerCallback):
        times: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(device)
            self.times.append(time.perf_counter())

    spec, clock = encoder_spec(size), Clock()
    clock.times = []
    with Memory(device) as memory, tempfile.TemporaryDirectory() as scratch:
        model = get_peft_model(causal_model(size, device), lora_config(spec, spec.lora_dropout))
        memory.begin()
        options = _training_arguments(scratch, num_steps + _WARM_UP, per_batch, device)
        with _torchs_own_attention():
            Trainer(model=model, args=options, train_dataset=_Rows(data), data_collator=counted, callbacks=[clock]).train()
        seconds = np.diff(clock.times)[_WARM_UP - 1 :]
        del model
    # Step i ended at times[i]; the loader may have collated one batch more than was trained on.
    rates = [real[_WARM_UP + i] / value for i, value in enumerate(seconds)]
    return {
        "tokens_per_second": statistics.median(rates),
        "allocated_bytes": memory.allocated,
        "used_bytes": memory.used,
        "filled": sum(real) / sum(shown),
        "places": places,
        "texts_or_rows_per_batch": per_batch,
        "seconds_per_step": statistics.median(seconds),
    }


def _training_arguments(scratch: str, num_steps: int, per_batch: int, device: torch.device) -> Any:
    """Settings of the Trainer: bf16, AdamW, constant rate, no logs and no checkpoints."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=scratch,
        max_steps=num_steps,
        per_device_train_batch_size=per_batch,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        bf16=True,
        optim="adamw_torch",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        dataloader_drop_last=True,
    )


def padded(texts: list[np.ndarray], places: int) -> tuple[list[dict[str, Any]], int, Callable[[list[dict[str, Any]]], dict[str, Tensor]]]:
    """Rows of one text each, texts per batch so that even the longest fit into `places`, and the collator."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, _IGNORED)
        for i, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[i, :length] = labels[i, :length] = row["input_ids"]
            mask[i, :length] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    longest = max(len(text) for text in texts)
    rows = [{"input_ids": torch.from_numpy(text), "num_tokens": len(text)} for text in texts]
    return rows, max(1, places // longest), collate


def packed(
    texts: list[np.ndarray], row_tokens: int, places: int
) -> tuple[list[dict[str, Any]], int, Callable[[list[dict[str, Any]]], dict[str, Tensor]]]:
    """Rows of `row_tokens` places, texts laid best-fit, longest first (a longer text is cut), rows per batch, and the collator."""
    bins: list[list[np.ndarray]] = []
    rooms: list[int] = []
    for text in sorted((text[:row_tokens] for text in texts), key=len, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= len(text)]
        if fitting:
            best = min(fitting, key=lambda i: rooms[i])
        else:
            best = len(bins)
            bins.append([])
            rooms.append(row_tokens)
        bins[best].append(text)
        rooms[best] -= len(text)
    order = np.random.default_rng(0).permutation(len(bins))
    rows = [_packed_row([torch.from_numpy(text) for text in bins[i]], row_tokens) for i in order]

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "position_ids", "labels")}

    return rows, max(1, places // row_tokens), collate


def _packed_row(texts: list[Tensor], row_tokens: int) -> dict[str, Any]:
    ids, positions = torch.zeros(row_tokens, dtype=torch.long), torch.zeros(row_tokens, dtype=torch.long)
    labels, place = torch.full((row_tokens,), _IGNORED), 0
    for text in texts:
        part = slice(place, place + len(text))
        ids[part], positions[part], labels[part] = text, torch.arange(len(text)), text
        labels[place] = _IGNORED  # the model shifts labels itself: a text's first token is not predicted from the text before
        place += len(text)
    return {"input_ids": ids, "position_ids": positions, "labels": labels, "num_tokens": place}


@contextmanager
def _torchs_own_attention() -> Iterator[None]:
    """Attention kernels as torch chooses them, cuDNN's included, which `set_up_gpu` leaves out: the fastest where rows are of one shape."""
    chosen = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(chosen)


class _Rows(torch.utils.data.Dataset):
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]
