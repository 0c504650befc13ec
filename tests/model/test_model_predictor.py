"""The predictor's size, mask, positions and initialisation are those of the method."""

from __future__ import annotations

import pytest
import torch

from clinjepa.errors import CheckpointError
from clinjepa.model.predictor import Predictor, build_predictor, load_predictor, predictor_state, save_predictor
from clinjepa.model.specs import PredictorSpec
from clinjepa.storage import Folder

SMALL = PredictorSpec(latent_dim=12, hidden_size=32, num_layers=3, num_heads=4, ffn_size=48, max_hours=10)


def window(batch: int = 2, num_hours: int = 6, dim: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(*shape, dim, generator=generator) for shape in ((batch,), (batch, num_hours), (batch, num_hours))]


def test_full_size_predictor_has_exactly_the_papers_parameters() -> None:
    with torch.device("meta"):
        predictor = Predictor(PredictorSpec())
    assert sum(parameter.numel() for parameter in predictor.parameters()) == 92_514_304


def test_full_size_predictor_has_149_positions() -> None:
    assert PredictorSpec().num_positions == 149


@pytest.mark.parametrize("stream", [1, 2])
@pytest.mark.parametrize("hour", [0, 3, 5])
def test_outputs_before_a_perturbed_hour_are_bit_identical(stream: int, hour: int) -> None:
    predictor, inputs = build_predictor(SMALL, 0).eval(), window()
    changed = [each.clone() for each in inputs]
    changed[stream][:, hour] += 3.0
    before, after = predictor(*inputs)[0], predictor(*changed)[0]
    assert torch.equal(before[:, :hour], after[:, :hour])
    assert (before[:, hour:] != after[:, hour:]).any(dim=-1).all()


def test_an_action_sees_the_state_of_its_own_hour() -> None:
    predictor, inputs = build_predictor(SMALL, 0).eval(), window()
    changed = [each.clone() for each in inputs]
    changed[1][:, 2] += 3.0
    keys = [predictor(*each, keep_cache=True)[2].keys[1] for each in (inputs, changed)]
    action_of_hour_2 = 1 + 2 * 2 + 1
    assert (keys[0][:, :, action_of_hour_2] != keys[1][:, :, action_of_hour_2]).any()


def test_the_static_token_sees_only_itself() -> None:
    predictor, inputs = build_predictor(SMALL, 0).eval(), window()
    other = [inputs[0], inputs[1] + 1, inputs[2] - 1]
    keys = [predictor(*each, keep_cache=True)[2].keys for each in (inputs, other)]
    assert all(torch.equal(a[:, :, 0], b[:, :, 0]) for a, b in zip(*keys, strict=True))


def test_every_hour_sees_the_static_token() -> None:
    predictor, inputs = build_predictor(SMALL, 0).eval(), window()
    other = predictor(inputs[0] + 3, *inputs[1:])[0]
    assert (predictor(*inputs)[0] != other).any(dim=-1).all()


def test_not_even_nan_in_padding_reaches_a_valid_hour() -> None:
    predictor, inputs = build_predictor(SMALL, 0).eval(), window()
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[0, 4:] = False
    poisoned = [each.clone() for each in inputs]
    poisoned[1][0, 4:] = poisoned[2][0, 4:] = float("nan")
    assert torch.equal(predictor(*inputs, valid)[0][valid], predictor(*poisoned, valid)[0][valid])


def test_residual_mode_adds_the_current_state() -> None:
    absolute = build_predictor(SMALL, 0).eval()
    residual = build_predictor(PredictorSpec(**SMALL.to_dict() | {"mode": "residual"}), 0).eval()
    inputs = window()
    torch.testing.assert_close(residual(*inputs)[0], absolute(*inputs)[0] + inputs[1])


def test_initialisation_is_the_methods() -> None:
    predictor = build_predictor(PredictorSpec(latent_dim=512, hidden_size=256, num_layers=1, ffn_size=1024), 0)
    assert predictor.positions.std().item() == pytest.approx(0.02, rel=0.05)
    assert predictor.out.weight.std().item() == pytest.approx(0.02, rel=0.05)
    query_bound = (6 / (256 + 256)) ** 0.5
    assert predictor.layers[0].qkv.weight.abs().max().item() == pytest.approx(query_bound, rel=0.01)
    assert all(not parameter.any() for name, parameter in predictor.named_parameters() if name.endswith("bias") and "norm" not in name)


def test_dropout_depends_on_the_global_generators_seed_alone() -> None:
    predictor, inputs = build_predictor(SMALL, 0).train(), window()
    outputs = []
    for _ in range(2):
        torch.manual_seed(5)
        outputs.append(predictor(*inputs)[0])
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], predictor(*inputs)[0])


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build_predictor(SMALL, 9)
    assert torch.equal(torch.rand(3), expected)


def test_a_window_beyond_the_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="max_hours=10"):
        build_predictor(SMALL, 0)(*window(num_hours=13))


def test_saved_predictor_comes_back_bit_for_bit(tmp_path) -> None:
    predictor = build_predictor(SMALL, 3)
    save_predictor(predictor_state(predictor), SMALL, Folder(tmp_path))
    again = load_predictor(Folder(tmp_path))
    assert again.spec == SMALL
    assert all(torch.equal(a, b) for a, b in zip(predictor.parameters(), again.parameters(), strict=True))


def test_a_cut_predictor_file_is_a_checkpoint_error(tmp_path) -> None:
    save_predictor(predictor_state(build_predictor(SMALL, 3)), SMALL, Folder(tmp_path))
    path = tmp_path / "predictor.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"predictor\.safetensors"):
        load_predictor(Folder(tmp_path))


def test_a_predictor_of_other_sizes_is_a_checkpoint_error(tmp_path) -> None:
    save_predictor(predictor_state(build_predictor(SMALL, 3)), PredictorSpec(**SMALL.to_dict() | {"ffn_size": 64}), Folder(tmp_path))
    with pytest.raises(CheckpointError, match="ffn_in"):
        load_predictor(Folder(tmp_path))
