"""docs/adding_a_baseline.md works: its file is a baseline by being there, and the table of baselines is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from clinjepa.clinical import load_task
from clinjepa.config.schema import BaselinesConfig, DownstreamConfig
from clinjepa.evaluation.baselines import tabular
from clinjepa.evaluation.baselines.evaluate import LabelledStays, score_baselines
from clinjepa.evaluation.baselines.names import COLUMN, baseline_names
from clinjepa.evaluation.baselines.registry import load_baseline
from tests.repository.test_docs import blocks
from tests.support.data.planted_grid import Ingest, label_table
from tests.support.machines.cli import ROOT

PAGE = ROOT / "docs" / "adding_a_baseline.md"


def test_the_example_is_a_baseline_by_being_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks(PAGE, "python")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "neighbours.py").write_text(code)
    monkeypatch.setattr(tabular, "__path__", [*tabular.__path__, str(tmp_path / "own")])
    ingest, task = Ingest(tmp_path / "ingest", 120), load_task("hypotension_8h")
    ingest.values["map"] = np.nan_to_num(ingest.values["map"], nan=80.0)
    labels = label_table([(stay, 11, float(ingest.values["map"][stay, 11] < 75)) for stay in range(120)], task.name)
    own = BaselinesConfig(names=["neighbours", "logistic"], num_trials=3)
    settings = DownstreamConfig(min_positives=5, num_bootstrap=50, baselines=own)
    found = score_baselines(LabelledStays(ingest.write(), ingest.stays, labels), [task], settings)
    assert list(found.tables[task.name]) == ["neighbours", "logistic", "ensemble"]
    assert found.tables[task.name]["neighbours"][COLUMN]["auroc"]["value"] > 0.6
    assert len(found.tuning["neighbours"][task.name]["tuning_losses"]) == 3


def test_the_table_has_every_baseline_with_what_it_reads() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    stated = {name: (reads, docs) for name, reads, docs in rows if name in baseline_names()}
    entries = {name: load_baseline(name) for name in baseline_names()}
    assert stated == {name: (", ".join(sorted(entry.reads)) or "–", entry.docs) for name, entry in entries.items()}
