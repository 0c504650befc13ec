"""What must run without some of the libraries: training without Ray and those of tables, an ingest without those of training."""

from __future__ import annotations

from tests.support.machines.cli import python_without


def test_training_needs_neither_ray_nor_pydantic_nor_polars() -> None:
    done = python_without(
        ("ray", "pydantic", "polars"), "import clinjepa.curriculum.phase, clinjepa.curriculum.worker, clinjepa.curriculum.embedding"
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_help_loads_no_library_of_training_or_tables() -> None:
    """Loading them takes seconds; commands import what they use when they run."""
    absent = ("ray", "torch", "transformers", "pydantic", "polars", "pyarrow", "pandas", "numpy", "yaml")
    done = python_without(absent, "from pipelines.cli import app\napp(['--help'])")
    assert done.returncode == 0 and "pretrain" in done.stdout, done.stderr[-2000:]


def test_an_ingest_loads_nothing_that_trains_or_evaluates() -> None:
    """Loading these took 7 CPU seconds and 300 MB of every ingest."""
    absent = ("torch", "transformers", "peft", "sklearn", "lightgbm", "umap", "matplotlib")
    modules = "import pipelines.ingest, pipelines.scheduling.opening, pipelines.scheduling.runner, pipelines.stages.data"
    done = python_without(absent, f"{modules}, pipelines.stages.data_card")
    assert done.returncode == 0, done.stderr[-2000:]
