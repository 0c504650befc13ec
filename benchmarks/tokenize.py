"""Texts to token ids: the project's way (words put together) beside the `tokenizers` library's own batch encoding.

Texts are those of simulated stays. Two tokenizers: the byte-level BPE that the project trains on them, and one with the pattern of
pre-tokens of Qwen 3, also trained here. Each figure is a ratio of tokens per CPU second; a new encoder is made for every round, so that
filling its cache of words counts. Ids are compared before anything is timed.
"""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads of the library would add to its CPU time

import numpy as np
import polars as pl
import pyarrow as pa
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from benchmarks.support.harness import Report, all_rounds, arguments, interleaved, median, publish
from clinjepa.clinical import load_variables
from clinjepa.config.schema import CohortConfig, SourceConfig
from clinjepa.sources import open_source
from clinjepa.trajectory.hours.cohort import apply_stay_rules, cohort_rules
from clinjepa.trajectory.hours.grid import place_events
from clinjepa.trajectory.hours.text import hour_texts
from clinjepa.trajectory.tokens.piece_tokens import QWEN_PIECES, PieceEncoder, whole_text_ids
from clinjepa.trajectory.tokens.tokenizer import train_tokenizer

VOCAB_SIZE = 4096


def simulated_texts(num_patients: int) -> pa.StringArray:
    """State and action texts of all stays of that many simulated patients."""
    source = open_source(SourceConfig(kind="simulator", simulator={"num_patients": num_patients}, num_partitions=1))
    tables = source.read(source.partitions()[0])
    stays = apply_stay_rules(pl.from_arrow(tables.stays), cohort_rules(CohortConfig())).stays
    placed, _ = place_events(tables.events, stays, load_variables())
    texts = hour_texts(placed, stays, load_variables(), 2, True)
    columns = [texts[name].explode().to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string()) for name in texts.columns[1:]]
    return pa.concat_arrays(columns)


def qwen_like(texts: list[str]) -> Tokenizer:
    """A byte-level BPE with the normaliser and pre-tokens of Qwen 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_PIECES), behavior="isolated"), bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCAB_SIZE, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def main() -> None:
    options = arguments(__doc__ or "", patients=300)
    patients, rounds = (60, 3) if options.quick else (options.patients, 5)
    texts = simulated_texts(patients)
    as_list = texts.to_pylist()
    sample = sorted(set(as_list))[::5]
    tokenizers = {"trained": train_tokenizer(sample, VOCAB_SIZE).tokenizer, "qwen_like": qwen_like(sample)}
    measured, details = {}, {"num_texts": len(texts), "num_patients": patients}
    for name, tokenizer in tokenizers.items():
        flat, lengths = PieceEncoder(tokenizer).encode(texts)
        ids = [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])]
        if ids != whole_text_ids(tokenizer, as_list):
            raise SystemExit(f"{name}: the ids differ from the library's")
        contenders = {
            "project": lambda tokenizer=tokenizer: PieceEncoder(tokenizer).encode(texts),
            "library": lambda tokenizer=tokenizer: whole_text_ids(tokenizer, as_list),
        }
        costs = interleaved(contenders, rounds)
        rates = {contender: len(flat) / median(of_one) for contender, of_one in costs.items()}
        measured[f"ratio_{name}"] = rates["project"] / rates["library"]
        measured |= {f"{contender}_{name}": rate for contender, rate in rates.items()}
        details[name] = {"num_tokens": len(flat), "rounds": all_rounds(costs)}
    goal = {f"ratio_{name}": ">= 5" for name in tokenizers}
    unit = {name: "times" if name.startswith("ratio_") else "tokens per CPU second" for name in measured}
    publish(Report("tokenize", measured, goal, unit, details), options.quick)


if __name__ == "__main__":
    main()
