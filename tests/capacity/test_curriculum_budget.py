"""The plan's memory and time: parameter counts of really built models, bytes of measured ones, hand-worked numbers of the full size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clinjepa.capacity.memory as budget
import clinjepa.curriculum.workers.gathering as gathering
import clinjepa.model.encoding.next_token as next_token_module
from clinjepa.capacity.advice import advice, fits
from clinjepa.capacity.duration import ASSUMED, TextFigures, forward_flops, run_times, text_figures
from clinjepa.capacity.memory import RunSizes, phase_memory, run_memory, sft_memory
from clinjepa.capacity.model_sizes import Architecture, known_gpus, known_model, predictor_kept_bytes, predictor_parameters
from clinjepa.config import Config, load_config
from clinjepa.config.schema import EvaluationConfig
from clinjepa.curriculum.recipes import load_recipe
from clinjepa.curriculum.settings import EncoderSettings
from clinjepa.model.encoding.encoder import build_encoder
from clinjepa.model.encoding.packing import pack_texts
from clinjepa.model.losses import RolloutForm, TeacherForced, rollout_loss, teacher_forcing_loss
from clinjepa.model.predictor import build_predictor
from clinjepa.model.pretrained.base_model import random_model
from clinjepa.model.specs import PredictorSpec
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from pipelines.graph.artifacts import Artifact, WorkRecord
from pipelines.graph.changed_action_sizes import changed_action_estimate
from pipelines.graph.estimates import gpu_estimate, latent_estimate
from pipelines.graph.planning import plan_experiment
from pipelines.graph.stage import Stage
from pipelines.results.plan_tables import changed_action_line, gpu_lines, gpu_table, latent_lines
from tests.support.models.live_bytes import LiveBytes
from tests.support.models.model_encoders import SETTINGS, encoder_spec
from tests.support.training.curriculum_store import make_base_and_latents, make_trajectories
from tests.support.training.finished_training import small_config

FULL_SIZE = Path(__file__).parents[2] / "configs" / "mimic_iv_qwen3_8b.yaml"
CONFIG = load_config(FULL_SIZE)
SECTIONS = CONFIG.model_dump(mode="json")
QWEN = known_model("Qwen/Qwen3-8B")
RECIPE = load_recipe("clin_jepa")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
SMALL = {"hidden_size": 128, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 384}
SMALL_SIZES = Architecture(hidden=128, layers=4, heads=4, kv_heads=2, head_dim=32, ffn=384, vocab=200, tied=True)
(PACK,) = pack_texts([np.random.default_rng(i).integers(0, 200, 64) for i in range(8)], 4096)


def run_sizes(memory: float = 79, **changes: Any) -> RunSizes:
    return replace(RunSizes.from_settings(QWEN, SECTIONS, memory), **changes)


def phase(name: str):
    return next(each for each in RECIPE.phases if each.name == name)


def test_qwen3_8b_has_its_published_parameters() -> None:
    assert QWEN.layer_parameters == 192_946_432
    assert QWEN.parameters == 8_190_735_360
    assert QWEN.lora_parameters(16, TARGETS) == 15_335_424


def test_the_predictor_has_the_papers_parameters() -> None:
    assert predictor_parameters(4096, SECTIONS["predictor"]) == 92_514_304


def test_counts_are_those_of_built_models() -> None:
    encoder = build_encoder(encoder_spec(**SMALL), None, seed=0)
    assert SMALL_SIZES.parameters == sum(p.numel() for p in random_model(encoder_spec(**SMALL), 0).parameters())
    assert SMALL_SIZES.lora_parameters(4, TARGETS) == sum(p.numel() for _, p in encoder.online_parameters())
    spec = PredictorSpec(latent_dim=20, hidden_size=32, num_layers=2, num_heads=4, ffn_size=48, max_hours=10)
    assert predictor_parameters(20, spec.to_dict()) == sum(p.numel() for p in build_predictor(spec, 0).parameters())


def test_a_norm_on_a_gpu_keeps_its_input_as_it_came() -> None:
    plain, fused = (QWEN.kept_bytes(2, "none", trained_whole=False, fused_norms=each) for each in (False, True))
    # Two norms of the stream, of queries and of keys: fp32 copies, or bf16 values and a factor for each of 2 + 32 + 8 rows.
    assert (plain, fused) == (176_256, 176_256 - 2 * (2 * 4096 + 4096 + 1024) + 4 * (2 + 32 + 8))
    # Trained whole, fp32 weights meet bf16 values, and the norm stays transformers' own.
    assert QWEN.kept_bytes(2, "none", True) == QWEN.kept_bytes(2, "none", True, fused_norms=False)


def test_an_sft_pack_is_planned_with_its_room_for_overhang() -> None:
    assert (run_sizes(micro_tokens=8192).pack_tokens, run_sizes(micro_tokens=1024).pack_tokens) == (9216, CONFIG.tokenizer.max_tokens)
    least = run_sizes().least_micro_tokens
    assert run_sizes(micro_tokens=least).pack_tokens == 4096 < run_sizes(micro_tokens=least + 2).pack_tokens


def test_limits_of_the_plan_are_those_of_the_code() -> None:
    assert budget.LOGITS_AT_ONCE == next_token_module._LOGITS_AT_ONCE
    assert budget.KEPT_GATHERED_BYTES == gathering.KEPT_GATHERED_BYTES


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("what", ["none", "selective", "full"])
def test_activations_of_a_chunk_are_those_measured(dtype: str, what: str) -> None:
    encoder = build_encoder(encoder_spec(dtype=dtype, **SMALL), None, seed=0)
    encoder.recompute(what)
    with LiveBytes(*encoder.parameters(), *encoder.buffers()) as live:
        encoder(PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N).float().sum().backward()
    assert 0.9 < budget._chunk(run_sizes(model=SMALL_SIZES, dtype=dtype, fused_norms=False), PACK.num_tokens, what) / live.peak < 1.2


def test_a_wholly_trained_chunk_keeps_what_was_measured() -> None:
    encoder = build_encoder(encoder_spec(**SMALL), None, seed=0, whole_model_trainable=True)
    with LiveBytes(*encoder.parameters(), *encoder.buffers()) as live:
        # At every place, as next-token training does.
        output = encoder.model.model(input_ids=PACK.input_ids_L, position_ids=PACK.position_ids_L, use_cache=False)
    assert output.last_hidden_state.requires_grad
    assert 0.9 < PACK.num_tokens * 4 * SMALL_SIZES.kept_bytes(4, "none", trained_whole=True, fused_norms=False) / live.now < 1.2


def test_a_chunk_without_a_graph_takes_what_was_measured() -> None:
    encoder = build_encoder(encoder_spec(dtype="bfloat16", **SMALL), None, seed=0)
    with LiveBytes(*encoder.parameters(), *encoder.buffers()) as live, torch.no_grad():
        encoder(PACK.input_ids_L, PACK.position_ids_L, PACK.last_index_N)
    assert 0.9 < budget._chunk(run_sizes(model=SMALL_SIZES), PACK.num_tokens, "nothing") / live.peak < 1.3


def test_the_predictors_graph_takes_what_was_measured() -> None:
    spec = PredictorSpec(latent_dim=96, hidden_size=64, num_layers=3, num_heads=4, ffn_size=256, max_hours=72)
    predictor = build_predictor(spec, 0).train()
    static, state, action = torch.randn(3, 96), torch.randn(3, 48, 96), torch.randn(3, 48, 96)
    valid = torch.ones(3, 48, dtype=torch.bool)
    with LiveBytes(*predictor.parameters(), static, state, action, valid) as live:
        pred, _, cache = predictor(static, state, action, valid, keep_cache=True)
        loss = teacher_forcing_loss(pred, state, valid)[0]
        loss = loss + rollout_loss(predictor, TeacherForced(pred, cache), action, state, torch.full((3,), 5), RolloutForm(2, "native"))[0]
    assert loss.requires_grad
    assert 0.85 < predictor_kept_bytes(96, spec.to_dict(), 3, 48, 2) / live.now < 1.2


def test_joint_refinement_of_qwen3_8b_on_8_gpus_by_hand() -> None:
    memory = phase_memory(run_sizes(num_workers=8), phase("joint"))
    # A shard of 2 B a weight, the output layer left out; gathered: embeddings, last norm, and three layers.
    assert memory.encoder == 7_568_405_504 * 2 // 8 + (151_936 * 4096 + 4096) * 2 + 3 * 192_946_432 * 2
    # fp32: whole gradients while they accumulate; shards of online, target, gradients and two moments.
    assert memory.trained == 15_335_424 * 4 + 5 * 15_335_424 * 4 // 8
    # fp32: gathered whole, whole gradients, and shards of weights, gradients and two moments.
    assert memory.predictor == 2 * 92_514_304 * 4 + 4 * 92_514_304 * 4 // 8
    # 8,192 tokens, 35 layers of 149,800 B, the last one apart; 65,536 B come and go at most, and both ends of the stack.
    assert memory.encoding == 8192 * (35 * 149_800 + 2 * (2 * 12_288) + 8 * 4096 + 8 * 4096)


def test_full_checkpointing_keeps_a_layers_input_and_one_layer() -> None:
    memory = phase_memory(run_sizes(activation_checkpointing="full"), phase("joint"))
    assert memory.encoding == 8192 * (35 * 8192 + 149_800 + 49_152 + 2 * 32_768)


def test_a_phase_on_stored_latents_has_no_encoder() -> None:
    memory = phase_memory(run_sizes(), phase("warmup"))
    assert (memory.encoder, memory.trained, memory.encoding) == (0, 0, 0)


def test_one_gpu_gathers_nothing_and_keeps_one_set_of_gradients() -> None:
    memory = phase_memory(run_sizes(num_workers=1), phase("joint"))
    assert memory.encoder == 7_568_405_504 * 2
    assert memory.predictor == 4 * 92_514_304 * 4


def test_only_next_token_training_holds_an_output_layer() -> None:
    with_head, without = sft_memory(run_sizes(num_workers=1)), budget.embed_memory(run_sizes(num_workers=1))
    assert with_head.encoder - without.encoder == 151_936 * 4096 * 2


def test_sft_logits_are_bounded_whatever_the_tokens() -> None:
    small, large = (sft_memory(run_sizes(micro_tokens=tokens)).encoding for tokens in (8192, 16384))
    assert large - small == small - 16 * budget.LOGITS_AT_ONCE


def test_the_order_is_that_of_the_run() -> None:
    names = ["sft", "embed (sft)", "warmup", "joint", "embed (joint)", "alignment", "finalization"]
    assert [each.name for each in run_memory(run_sizes(), RECIPE)] == names
    assert [each.name for each in run_times(run_sizes(), RECIPE, ASSUMED, SECTIONS, 1000.0, 50.0)] == names


def test_what_fits_needs_no_advice() -> None:
    assert fits(run_sizes(num_workers=8), [RECIPE])
    assert advice(run_sizes(num_workers=8), [RECIPE]) == []


def test_advice_names_the_smallest_changes_that_suffice() -> None:
    run = run_sizes(memory=50, num_workers=8)
    assert advice(run, [RECIPE]) == ["encoder.activation_checkpointing=selective (same result)"]
    assert fits(replace(run, activation_checkpointing="selective"), [RECIPE])
    assert not fits(run, [RECIPE])


def test_advice_says_when_no_single_setting_suffices() -> None:
    run = run_sizes(memory=24, num_workers=1)
    (line,) = advice(run, [RECIPE])
    assert line.startswith("no single setting") and "execution.num_workers=8" in line
    together = {"activation_checkpointing": "full", "num_workers": 8}
    assert "encoder.activation_checkpointing=full" in line
    assert fits(replace(run, **together), [RECIPE])


def test_a_budget_below_the_longest_text_saves_no_memory_and_is_not_advised() -> None:
    smaller = [phase_memory(run_sizes(token_budget=tokens), phase("joint")).encoding for tokens in (8192, 4096, 1000)]
    assert smaller[0] > smaller[1] == smaller[2]
    assert all("token_budget=2048" not in line for line in advice(run_sizes(memory=40, num_workers=8), [RECIPE]))


def test_advice_says_when_nothing_suffices() -> None:
    (line,) = advice(run_sizes(memory=12), [RECIPE])
    assert "smaller encoder.model" in line and "(embed (sft) needs" in line


def test_more_workers_than_sft_has_micro_batches_are_not_advised() -> None:
    run = run_sizes(memory=68, num_workers=1)
    assert any(line.startswith("execution.num_workers=2 ") for line in advice(run, [load_recipe("sft")]))
    few = replace(run, tokens_per_step=run.micro_tokens)
    assert not any("num_workers" in line for line in advice(few, [load_recipe("sft")]))


def test_what_fits_only_just_names_what_gives_room() -> None:
    table, lines = planned(1)
    assert "tight" in list(table.columns[8].cells)
    assert any(line.startswith("with room") and "activation_checkpointing=selective (same result)" in line for line in lines)


def test_a_recipe_that_does_not_fit_is_told_wherever_it_stands_in_the_grid() -> None:
    small = CONFIG.execution.model_copy(update={"gpu_memory_gb": 24.0})
    said = []
    for recipes in (["clin_jepa", "untrained"], ["untrained", "clin_jepa"]):
        grid = CONFIG.grid.model_copy(update={"recipes": recipes})
        estimate = gpu_estimate(CONFIG.model_copy(update={"execution": small, "grid": grid}), None)
        table, lines = gpu_table(estimate), list(gpu_lines(estimate))
        assert "TOO LARGE" in list(table.columns[8].cells) and "recipe clin_jepa" in str(table.title)
        assert any(line.startswith("other recipes, each alone: untrained ") for line in lines)
        said.append([line for line in lines if line.startswith("change: ")])
    assert said[0] == said[1] != []


def planned(workers: int | tuple[int, int]):
    config = CONFIG.model_copy(update={"execution": CONFIG.execution.model_copy(update={"num_workers": workers})})
    estimate = gpu_estimate(config, None)
    return gpu_table(estimate), list(gpu_lines(estimate))


def test_time_of_joint_refinement_by_hand() -> None:
    texts = TextFigures(10, 20, 60, 30, 1000, 20, 0.5, measured=True)
    run = run_sizes(num_workers=4)
    joint = next(each for each in run_times(run, RECIPE, texts, SECTIONS, 1000.0, 50.0) if each.name == "joint")
    steps = joint.steps
    windows = steps * 32
    assert steps == round(0.59 * 11776) - round(0.24 * 11776)
    # Without a graph 2 N a token, with one 4 N and 6 for an adapter's weight; the target reads states only.
    # Of the last layer only key and value are products of every token.
    products, lora = 35 * (2 * 4096 * (4096 + 1024) + 3 * 4096 * 12_288) + 2 * 4096 * 1024, 15_335_424
    forward, trained = 2 * (products + lora), 4 * products + 6 * lora
    encoder = windows * (920 * (forward + trained) + 600 * forward)
    predictor = windows * 21 * 6 * 92_514_304
    assert joint.encoder_tokens == windows * (2 * 920 + 600)
    assert joint.seconds == pytest.approx((encoder / 3.5e14 + predictor / 1.75e13) / 4)


def test_idle_workers_make_nothing_faster() -> None:
    texts = TextFigures(10, 20, 60, 30, 1000, 20, 0.5, measured=True)
    eight, more = (run_times(run_sizes(num_workers=n), RECIPE, texts, SECTIONS, 1000.0, 50.0)[-1].seconds for n in (8, 32))
    assert eight == more


def test_text_figures_are_those_of_the_store(tmp_path: Path) -> None:
    reader = TrajectoryReader(Folder(make_trajectories(tmp_path / "store")))
    stays = [reader.stay(row["stay_id"]) for row in reader.stays.to_pylist() if row["split"] == "train"]
    figures = text_figures(reader)
    assert figures.tokens_per_state == np.mean([len(text) for stay in stays for text in stay.states])
    assert figures.num_hours == sum(reader.stays["num_hours"].to_pylist())
    assert figures.num_latents == sum(2 * hours + 1 for hours in reader.stays["num_hours"].to_pylist())


@pytest.mark.parametrize("workers", [1, 4, 8])
def test_the_full_size_is_planned_for_h100s(workers: int) -> None:
    table, lines = planned(workers)
    assert f"{workers} x H100" in str(table.title)
    assert any("assumed" in line for line in lines)
    assert table.row_count == 8


@pytest.mark.parametrize(("recipe", "passes"), [("clin_jepa", 2), ("no_alignment", 2), ("sft", 1), ("untrained", 1)])
def test_every_encoder_whose_latents_are_read_costs_a_pass_over_all_texts(recipe: str, passes: int) -> None:
    times = run_times(run_sizes(num_workers=8), load_recipe(recipe), ASSUMED, SECTIONS, 1000.0, 50.0)
    seconds = sum(each.seconds for each in times if each.name.startswith("embed"))
    assert seconds == pytest.approx(passes * ASSUMED.tokens * forward_flops(run_sizes()) / 3.5e14 / 8)


def test_the_figures_of_the_documentation_are_those_of_the_plan() -> None:
    def hours(*overrides: str) -> float:
        sections = load_config(FULL_SIZE, list(overrides)).model_dump(mode="json")
        gpu = known_gpus()["H100"]
        run = RunSizes.from_settings(QWEN, sections, gpu["memory_gib"])
        return sum(each.seconds for each in run_times(run, RECIPE, ASSUMED, sections, gpu["bf16_tflops"], gpu["fp32_tflops"])) / 3600

    one, four, eight = (hours(f"execution.num_workers={workers}") for workers in (1, 4, 8))
    many = hours("execution.num_workers=32", "execution.embed_workers=32", "curriculum.micro_batch=1")
    page = " ".join((FULL_SIZE.parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8").split())
    assert f"({many * 60:.0f} minutes; {one:.1f} h with one GPU, {four:.1f} h with four, {eight:.1f} h with eight, as it is)" in page
    assert f"{eight:.1f} h (one GPU {one:.1f} h, four {four:.1f} h; docs/scaling.md)" in FULL_SIZE.read_text(encoding="utf-8")


def test_latent_stores_are_sized_before_the_data_are_there() -> None:
    first, *stores, together = latent_lines(latent_estimate(CONFIG, None))
    assert "754,700 to 15,094,000 vectors (assumed" in first and first.endswith("x 4,096 x 2 B = 6.18 to 124 GB each")
    assert [line.split("encoder of ")[1].split(":")[0] for line in stores] == ["base model", "SFT", "joint"]
    assert together == "  together: 18.5 to 371 GB"


def test_latent_stores_are_sized_by_the_trajectory_store_and_then_by_their_own_files(tmp_path: Path) -> None:
    config = small_config(tmp_path / "storage", "grid.recipes=[clin_jepa]")
    experiment = plan_experiment(config)
    made = Folder(make_trajectories(tmp_path / "made"))
    publish(config, experiment.trajectories, made, {})
    vectors = sum(2 * hours + 1 for hours in TrajectoryReader(made).stays["num_hours"].to_pylist())
    expected = vectors * config.encoder.hidden_size * 4
    first, *stores, together = latent_lines(latent_estimate(config, experiment))
    assert first.startswith(f"latent stores: {vectors:,} vectors (counted in the trajectory store)")
    assert len(stores) == 2 and all(f": {expected:,} B" in line and line.endswith("to write") for line in stores)
    assert f"{2 * expected:,} B" in together

    written = Folder(make_base_and_latents(tmp_path, made.address, EncoderSettings.from_json(SETTINGS)))
    size = sum(file.stat().st_size for file in (tmp_path / "base_latents" / "latents").iterdir())
    publish(config, experiment.trials[0].embed, written, {"bytes": size})
    _, *stores, together = latent_lines(latent_estimate(config, experiment))
    assert sorted(line.endswith("to write") for line in stores) == [False, True]
    assert any(f": {size:,} B" in line for line in stores) and f"{expected + size:,} B" in together


def test_actions_with_other_doses_are_bounded_before_the_data_are_there() -> None:
    assert changed_action_estimate(CONFIG.model_copy(update={"evaluation": EvaluationConfig()}), None) is None
    found = changed_action_estimate(CONFIG, None)
    assert found is not None and found.unknown is None and found.num_done == 0
    assert found.num_stores == 3  # of the untrained encoder, and after SFT and joint refinement
    assert found.most_texts == 0.15 * 7_500_000 and "15% of the hours, by split.fractions" in found.basis
    assert found.most_tokens == found.most_texts * ASSUMED.tokens_per_action
    assert found.most_bytes == found.most_texts * 4096 * 2 and found.most_total_bytes == 3 * found.most_bytes
    sections, gpu = CONFIG.model_dump(mode="json"), known_gpus()["H100"]
    embed = next(
        each for each in run_times(run_sizes(), RECIPE, ASSUMED, sections, gpu["bf16_tflops"], gpu["fp32_tflops"]) if not each.steps
    )
    assert found.most_seconds == pytest.approx(embed.seconds * found.most_tokens / embed.encoder_tokens)
    line = changed_action_line(found)
    assert "each of at most 1,125,000 texts" in line and "so a store is smaller" in line


def test_actions_with_other_doses_are_counted_by_the_trajectory_store_and_then_by_their_own(tmp_path: Path) -> None:
    config = small_config(tmp_path / "storage", "grid.recipes=[clin_jepa]", "evaluation.drift.dose_factor=4", "evaluation.split=train")
    experiment = plan_experiment(config)
    made = Folder(make_trajectories(tmp_path / "made"))
    publish(config, experiment.trajectories, made, {})
    hours = sum(row["num_hours"] for row in TrajectoryReader(made).stays.to_pylist() if row["split"] == config.evaluation.split)
    found = changed_action_estimate(config, experiment)
    assert found is not None and found.most_texts == hours > 0 and "counted in the trajectory store" in found.basis
    assert (found.num_stores, found.most_seconds) == (1, None)
    assert found.most_total_bytes == found.most_bytes == hours * config.encoder.hidden_size * 4

    stage = next(stage for stage in experiment.stages if stage.kind == "shifted_actions")
    publish(config, stage, made, {"num_changed": 3})
    found = changed_action_estimate(config, experiment)
    assert found is not None and (found.num_done, found.most_total_bytes) == (1, 3 * config.encoder.hidden_size * 4)


def publish(config: Config, stage: Stage, content: Folder, metrics: dict[str, int]) -> None:
    artifact = Artifact.at(Folder(config.storage), stage.kind, stage.key)
    artifact.folder.upload(content.address)
    artifact.publish(WorkRecord(label=stage.label, inputs={}, settings={}, metrics=metrics, seconds=0.0))
