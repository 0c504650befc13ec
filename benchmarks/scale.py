"""Arithmetic for large runs: the Qwen3-8B grid on full MIMIC-IV and on a federation 100 times larger, with 8, 64 and 512 GPUs.

Nothing is run. Tokens, seconds and bytes are those of `clinjepa plan` (docs/scaling.md has its formulas and what was measured), for data
of MIMIC-IV's size and 100 times that. `python -m benchmarks.scale` prints JSON; `--page` writes the tables of docs/scale.md, which a test
compares with this module.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from clinjepa.config import load_config
from pipelines.graph.estimates import GpuEstimate, LatentEstimate, PhaseEstimate
from pipelines.results.plan_record import plan_record

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"
CONFIG = ROOT / "configs" / "mimic_iv_qwen3_8b.yaml"
NUM_GPUS = (8, 64, 512)
SIZES = {"MIMIC-IV": 1, "federation": 100}
"""Data sizes as multiples of MIMIC-IV's."""

SEEDS = 3
PER_TRAINING = (8, 32)
"""GPUs of one training; with 32 a step is cut into micro-batches of one window."""

PARTS = 512
"""`source.num_partitions` for MIMIC-IV; as many parts for each MIMIC-IV in a larger one."""

USD_GPU_HOUR, USD_GB_MONTH = 7.0, 0.023
"""Assumed prices: an H100 hour on demand, object storage."""

CHECKPOINT_STEPS = 50
LORA_WEIGHTS, PREDICTOR_WEIGHTS, BASE_WEIGHTS = 15_335_424, 92_514_304, 7_568_405_504
"""Of Qwen3-8B without its output layer, and of the default predictor (tests/model counts them)."""

FILES_PER_PART = {"ingest": 5, "trajectories": 2, "labels": 1, "embed": 1}
FILES_BESIDE = {"ingest": 5, "trajectories": 7, "labels": 66, "embed": 3, "sft": 6, "phase": 11, "sync": 4, "evaluation": 6}
"""Objects of an artifact by kind, counted in a finished run of the simulator demo: for each part, and beside the parts."""

_REQUESTS_PER_LIST = 1000


@dataclass(frozen=True)
class Plan:
    """What `clinjepa plan --without-data` says with a number of GPUs for each training."""

    gpu: GpuEstimate
    latents: LatentEstimate

    def phase(self, name: str) -> PhaseEstimate:
        """A phase of `clin_jepa`, or a pass of the encoder, by its name."""
        return next(each for each in self.gpu.phases if each.name == name)


@cache
def plan(num_gpus: int) -> Plan:
    """The plan of one training on so many GPUs."""
    settings = ["execution.use_gpu=true", f"execution.num_workers={num_gpus}", f"execution.embed_workers={num_gpus}"]
    record = plan_record(load_config(CONFIG, [*settings, f"curriculum.micro_batch={max(1, 32 // num_gpus)}"]), without_data=True)
    assert record.gpu is not None
    return Plan(record.gpu, record.latents)


@dataclass(frozen=True)
class Trainings:
    """Seconds of the recipes' stages on one group of GPUs, for data of one size."""

    shared: float
    """SFT and the latents after it, which all recipes but `untrained` share."""
    clin_jepa: float
    """Its phases and the latents of joint refinement."""
    no_alignment: float
    """What it adds: all of its phases after the last that it shares with `clin_jepa`."""
    sft: float
    untrained: float

    @property
    def chain(self) -> float:
        """The longest chain of stages that wait for each other."""
        return self.shared + self.clin_jepa

    @property
    def total(self) -> float:
        """All stages of a seed, one after another."""
        return self.shared + self.clin_jepa + self.no_alignment + self.sft + self.untrained


def trainings(num_gpus: int, size: int) -> Trainings:
    """SFT and latent stores take `size` times as long; the phases have as many steps, whatever the data (`curriculum.num_steps`)."""
    found = plan(num_gpus)
    store = found.phase("embed (sft)").seconds * size
    shared = found.phase("sft").seconds * size + store
    phases = {name: found.phase(name).seconds for name in ("warmup", "joint", "alignment", "finalization")}
    others = {each.recipe: each.seconds for each in found.gpu.other_recipes}
    one_store = found.phase("embed (sft)").seconds
    frozen = others["untrained"] - one_store
    return Trainings(
        shared=shared,
        clin_jepa=sum(phases.values()) + store,
        no_alignment=frozen,  # predictor-only steps after joint refinement, whose latents are there
        sft=frozen,
        untrained=store + frozen,
    )


@dataclass(frozen=True)
class Campaign:
    """The grid of four recipes and three seeds: time, money, traffic."""

    size: str
    num_gpus: int
    gpus_per_training: int
    trainings_at_once: int
    gpu_hours: float
    hours: float
    """Lower bound: the longest chain, or all work over all GPUs."""

    usd: float
    busy: float
    """GPU hours over GPUs times hours."""


def campaigns() -> list[Campaign]:
    """For every size and number of GPUs the group of GPUs with which the grid ends first; the smaller group where they end together."""
    found = []
    for size, times in SIZES.items():
        for num_gpus in NUM_GPUS:
            tried = [_campaign(size, times, num_gpus, group) for group in PER_TRAINING if group <= num_gpus]
            found.append(min(tried, key=lambda each: (round(each.hours, 1), each.gpus_per_training)))
    return found


def _campaign(size: str, times: int, num_gpus: int, group: int) -> Campaign:
    one = trainings(group, times)
    gpu_hours = SEEDS * one.total * group / 3600
    hours = max(one.chain / 3600, gpu_hours / num_gpus)
    return Campaign(
        size=size,
        num_gpus=num_gpus,
        gpus_per_training=group,
        trainings_at_once=num_gpus // group,
        gpu_hours=gpu_hours,
        hours=hours,
        usd=gpu_hours * USD_GPU_HOUR,
        busy=gpu_hours / (num_gpus * hours),
    )


@dataclass(frozen=True)
class Data:
    """What lies in storage for the grid of three seeds."""

    size: str
    stays: float
    hours: float
    text_tokens: float
    sft_tokens: float
    latent_store_bytes: float
    latent_stores: int
    latents_bytes: float
    usd_a_month: float
    objects: int
    listings: int
    """Requests to list all of them once, 1,000 names a request."""


def data(size: str) -> Data:
    """Tokens, bytes and objects of one size."""
    times, found = SIZES[size], plan(8)
    stores = 1 + 2 * SEEDS  # `untrained` has the same encoder for every seed of a public model
    parts, phases = PARTS * times, SEEDS * (4 + 1 + 1 + 1)
    objects = sum(FILES_PER_PART[kind] * parts + FILES_BESIDE[kind] for kind in ("ingest", "trajectories", "labels"))
    objects += stores * (FILES_PER_PART["embed"] * parts + FILES_BESIDE["embed"])
    objects += SEEDS * FILES_BESIDE["sft"] + phases * FILES_BESIDE["phase"] + 2 * SEEDS * FILES_BESIDE["sync"]
    objects += 4 * SEEDS * 6 * FILES_BESIDE["evaluation"]
    hours = found.gpu.texts.num_hours * times
    return Data(
        size=size,
        stays=found.latents.num_vectors * times - 2 * hours,
        hours=hours,
        text_tokens=found.phase("embed (sft)").encoder_tokens * times,
        sft_tokens=found.phase("sft").encoder_tokens * times,
        latent_store_bytes=found.latents.bytes_each * times,
        latent_stores=stores,
        latents_bytes=stores * found.latents.bytes_each * times,
        usd_a_month=stores * found.latents.bytes_each * times / 1e9 * USD_GB_MONTH,
        objects=objects,
        listings=-(-objects // _REQUESTS_PER_LIST),
    )


@dataclass(frozen=True)
class Traffic:
    """Bytes that move for one training of `clin_jepa` on so many GPUs."""

    num_gpus: int
    gathered_bytes_a_pass: float
    """Weights of the base that a GPU receives for one pass through a chunk of texts."""
    gather_gb_a_second: float
    """Into every GPU, when nothing waits."""
    feed_gb_a_second: float
    """Latents from storage into all workers together in warmup and finalization, when nothing waits."""
    checkpoint_bytes: float
    """Of joint refinement: adapters, EMA target, predictor, and two moments of what is trained."""
    checkpoint_mb_a_second: float
    """Mean over joint refinement."""


def traffic(num_gpus: int) -> Traffic:
    """FSDP gathers the frozen base for every pass through a chunk of texts, and a window's latents are read once a step.

    Joint refinement passes all texts of a window three times (forward without a graph, then forward and backward), and its states once more
    with the target encoder.
    """
    config, found = load_config(CONFIG, []), plan(num_gpus)
    joint, warmup, texts = found.phase("joint"), found.phase("warmup"), found.gpu.texts
    gathered = BASE_WEIGHTS * 2 * (num_gpus - 1) / num_gpus
    states = texts.hours_per_window * texts.tokens_per_state
    tokens = texts.tokens_per_static + states + texts.hours_per_window * texts.tokens_per_action
    num_windows = joint.steps * config.curriculum.global_batch
    passes = num_windows * (3 * tokens + states) / config.encoder.token_budget / num_gpus
    window = (2 * found.gpu.texts.hours_per_window + 1) * found.latents.width * found.latents.value_bytes
    checkpoint = 4 * (4 * LORA_WEIGHTS + 3 * PREDICTOR_WEIGHTS)
    seconds_a_step = joint.seconds / joint.steps
    return Traffic(
        num_gpus=num_gpus,
        gathered_bytes_a_pass=gathered,
        gather_gb_a_second=gathered * passes / joint.seconds / 1e9,
        feed_gb_a_second=config.curriculum.global_batch * window * warmup.steps / warmup.seconds / 1e9,
        checkpoint_bytes=checkpoint,
        checkpoint_mb_a_second=checkpoint / (CHECKPOINT_STEPS * seconds_a_step) / 1e6,
    )


def tables() -> dict[str, str]:
    """The tables of the page by name."""
    campaign_rows = [
        [
            *(one.size, one.num_gpus, f"{one.trainings_at_once} of {one.gpus_per_training}", f"{one.gpu_hours:,.0f}"),
            *(f"{one.hours:,.1f}", f"{one.busy:.0%}", f"{one.usd:,.0f}"),
        ]
        for one in campaigns()
    ]
    sizes = [data(size) for size in SIZES]
    data_rows: list[list[object]] = [
        ["stays; hours", *(f"{each.stays:,.0f}; {each.hours / 1e6:,.1f} M" for each in sizes)],
        ["tokens of all texts", *(f"{each.text_tokens / 1e9:,.1f} G" for each in sizes)],
        ["of them in SFT (training split)", *(f"{each.sft_tokens / 1e9:,.2f} G" for each in sizes)],
        ["a latent store", *(f"{each.latent_store_bytes / 1e9:,.0f} GB" for each in sizes)],
        ["all latent stores of the grid", *(f"{each.latent_stores}: {each.latents_bytes / 1e12:,.1f} TB" for each in sizes)],
        ["their storage a month", *(f"{each.usd_a_month:,.0f} USD" for each in sizes)],
        ["objects; requests to list them once", *(f"{each.objects:,}; {each.listings:,}" for each in sizes)],
    ]
    moved = [traffic(num_gpus) for num_gpus in PER_TRAINING]
    traffic_rows: list[list[object]] = [
        ["weights gathered into a GPU for a pass through 8,192 tokens", *(f"{each.gathered_bytes_a_pass / 1e9:.1f} GB" for each in moved)],
        ["that as a rate, into every GPU", *(f"{each.gather_gb_a_second:.0f} GB/s" for each in moved)],
        ["latents read in warmup and finalization, all workers", *(f"{each.feed_gb_a_second:.1f} GB/s" for each in moved)],
        ["a checkpoint of joint refinement", *(f"{each.checkpoint_bytes / 1e9:.2f} GB" for each in moved)],
        [f"that every {CHECKPOINT_STEPS} steps", *(f"{each.checkpoint_mb_a_second:.0f} MB/s" for each in moved)],
    ]
    heads = ["data", "GPUs", "trainings at once, of GPUs", "GPU hours", "hours at least", "busy", "USD"]
    return {
        "campaigns": _table(heads, campaign_rows),
        "data": _table(["", *SIZES], data_rows),
        "traffic": _table(["one training", *(f"{num_gpus} GPUs" for num_gpus in PER_TRAINING)], traffic_rows),
    }


def _table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def written_page(page: str, made: Mapping[str, str]) -> str:
    """The page with its tables replaced."""
    for name, table in made.items():
        begin, end = f"<!-- {name}: made by benchmarks.scale -->", f"<!-- end of {name} -->"
        page = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, text=f"{begin}\n{table}\n{end}": text, page, flags=re.DOTALL)
    return page


def main() -> None:
    if sys.argv[1:] == ["--page"]:
        PAGE.write_text(written_page(PAGE.read_text(encoding="utf-8"), tables()), encoding="utf-8")
        return
    found = {
        "campaigns": [asdict(one) for one in campaigns()],
        "data": [asdict(data(size)) for size in SIZES],
        "traffic": [asdict(traffic(num_gpus)) for num_gpus in PER_TRAINING],
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
