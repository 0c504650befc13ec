"""Which experiments begin with an extraction, and what its key depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinjepa.config import load_config
from pipelines.graph.experiment import build_experiment
from pipelines.graph.stage import Stage
from pipelines.stages.executors import EXECUTORS

CONFIGS = Path(__file__).parents[2] / "configs"


def extract_stage(*overrides: str, digest: str = "content") -> Stage:
    return build_experiment(load_config(CONFIGS / "mimic_iv_demo.yaml", list(overrides)), digest).ingest.inputs["extract"]


def test_raw_tables_are_extracted_before_anything_else():
    experiment = build_experiment(load_config(CONFIGS / "mimic_iv_demo.yaml"), "content")
    assert [stage.kind for stage in experiment.data_stages][:2] == ["extract", "ingest"]
    assert "extract" in EXECUTORS


def test_a_source_that_is_read_by_patient_has_no_extraction():
    experiment = build_experiment(load_config(CONFIGS / "demo_simulator.yaml"), "content")
    assert [stage.kind for stage in experiment.data_stages][0] == "ingest"


@pytest.mark.parametrize(
    "override",
    ["execution.memory_mb=8192", "cohort.min_age_years=21", "source.path=elsewhere", "source.event_time=stored", "text.max_decimals=1"],
)
def test_budget_cohort_place_and_wording_leave_an_extraction_as_it_is(override):
    assert extract_stage(override).key == extract_stage().key


@pytest.mark.parametrize("override", ["source.num_partitions=3", "source.max_stays=5"])
def test_the_number_of_buckets_and_stays_make_another_extraction(override):
    assert extract_stage(override).key != extract_stage().key


def test_other_content_makes_another_extraction():
    assert extract_stage(digest="other").key != extract_stage().key
