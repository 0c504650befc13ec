"""A public model shrunk to laptop size, to rehearse a large run: same class and structure, few and narrow layers, random weights.

Everything that decides how a model is read and trained is kept: grouped queries, normed queries and keys, a tied or separate output
layer, the vocabulary and its tokenizer, bf16 weights in several files. `python -m clinjepa.model.pretrained.shrink MODEL FOLDER`
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clinjepa.errors import ClinJepaError, ConfigError
from clinjepa.model.pretrained.base_model import quiet


def shrink_model(
    source: str, out: str | os.PathLike[str], revision: str | None = None, num_layers: int = 4, head_dim: int = 16, num_files: int = 3
) -> dict[str, int]:
    """Write the shrunk model and its tokenizer to `out` in transformers' layout.

    The ratios of query to key/value heads and of feed-forward to hidden size are kept.

    Args:
        source: a model folder or an id in the local cache; its configuration and tokenizer are read, its weights are not needed.
        out: a new or empty folder.
        revision: of the source.
        num_layers: largest number of layers.
        head_dim: width of an attention head.
        num_files: approximate number of safetensors files.

    Returns:
        The sizes, under their names in `config.json`.

    Raises:
        ConfigError: the source is not on this machine, or `out` is not empty.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; give a new folder")
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, local_files_only=True, use_fast=True)
    except (OSError, ValueError):
        raise ConfigError(f"{source}: no config.json and tokenizer.json there; give a model folder, or fetch these two first") from None
    values = config.to_dict()
    sizes = _shrunk(values, num_layers, head_dim)
    # transformers derives `layer_types` again for the remaining layers.
    smaller = type(config)(**{name: value for name, value in values.items() if name != "layer_types"} | sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(smaller, dtype=torch.bfloat16)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with quiet():
        model.save_pretrained(folder, max_shard_size=size // num_files + size // 50)
    tokenizer.save_pretrained(folder)
    return sizes


def _shrunk(values: Mapping[str, Any], num_layers: int, head_dim: int) -> dict[str, int]:
    """Sizes of the shrunk model. values: the source's `config.json`."""
    heads = int(values["num_attention_heads"])
    kv_heads = int(values.get("num_key_value_heads") or heads)
    hidden = int(values["hidden_size"])
    few_kv = min(2, kv_heads)
    few = few_kv * heads // kv_heads
    width = round(hidden / (heads * int(values.get("head_dim") or hidden // heads)) * few * head_dim)
    return {
        "num_hidden_layers": min(num_layers, int(values["num_hidden_layers"])),
        "num_attention_heads": few,
        "num_key_value_heads": few_kv,
        "head_dim": head_dim,
        "hidden_size": width,
        "intermediate_size": round(int(values["intermediate_size"]) / hidden * width),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a public model shrunk, with random weights, to rehearse a run with.")
    parser.add_argument("model", help="a model folder, or an id in the local Hugging Face cache")
    parser.add_argument("folder", help="where to write the shrunk one")
    parser.add_argument("--revision")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=16)
    given = parser.parse_args()
    try:
        sizes = shrink_model(given.model, given.folder, given.revision, given.layers, given.head_dim)
    except ClinJepaError as fault:
        print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
        return 1
    print(f"{given.folder}: " + ", ".join(f"{name} {value}" for name, value in sizes.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
