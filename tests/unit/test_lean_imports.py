"""What must run on a machine that has torch, transformers and peft, but neither Ray nor the libraries of tables and configuration."""

from __future__ import annotations

from tests.cli import python_without


def test_training_needs_neither_ray_nor_pydantic_nor_polars() -> None:
    done = python_without(
        ("ray", "pydantic", "polars"), "import clinjepa.curriculum.phase, clinjepa.curriculum.worker, clinjepa.curriculum.embedding"
    )
    assert done.returncode == 0, done.stderr[-2000:]
