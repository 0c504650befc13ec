"""The latents of a base do not depend on settings that only its later training reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clinjepa.curriculum.steps.encoder_specs import encoder_spec, reading_spec
from clinjepa.model.encoding.encoder import build_encoder
from clinjepa.model.encoding.packing import encode_texts
from clinjepa.model.pretrained.base_model import make_base
from clinjepa.storage import Folder
from tests.support.models.model_encoders import random_texts
from tests.support.training.curriculum_jobs import encoder_settings
from tests.support.training.curriculum_store import make_trajectories


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_a_base_gives_the_latents_that_the_first_step_of_training_sees(tmp_path: Path, dtype: str, adaptation: str) -> None:
    """Fresh adapters add nothing, and an encoder to be trained whole is held in fp32."""
    trajectories = Folder(make_trajectories(tmp_path, num_stays=3, max_hours=4))
    settings = encoder_settings(dtype=dtype, adaptation=adaptation)
    make_base(encoder_spec(settings, trajectories), 0, Folder(tmp_path / "base"))
    texts = random_texts(12)
    base, trained = (
        build_encoder(spec, Folder(tmp_path / "base"), 0).eval()
        for spec in (reading_spec(settings.base, settings.reading(adapted=False), trajectories), encoder_spec(settings, trajectories))
    )
    assert not base.lora
    assert torch.equal(encode_texts(base, texts, 512), encode_texts(trained, texts, 512))
