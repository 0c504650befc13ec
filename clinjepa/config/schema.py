"""What can be configured, with units, limits and the remedy when a value cannot work.

What marks a field that changes no result is in `section.py`; the section that has only such fields is in `execution.py`.
Defaults follow the method (arXiv 2605.10840) where it is public.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clinjepa.config.execution import ExecutionConfig
from clinjepa.config.section import Execution, Section


class SimulatorConfig(Section):
    """The physiological simulator (`clinjepa/sources/simulated/source.py`); used when `source.kind` is `simulator`."""

    num_patients: int = Field(300, ge=4)
    """Simulated patients; some have more than one stay."""

    seed: int = 0
    """Seed of all simulated patients; patient i is the same whatever the number of patients."""

    mean_stay_hours: float = Field(60.0, gt=6)
    """Mean length of stay in hours (log-normal)."""

    measurement_density: float = Field(1.0, gt=0)
    """Multiplies the charting frequency of every variable; 1 is ICU-like."""


class SourceConfig(Section):
    """Which data set, and where it lies."""

    kind: Literal["meds", "mimic_iv", "cinc2012", "cinc2019", "simulator"] = "simulator"
    """The data set's own format."""

    path: str | None = Execution(None)
    """Folder, zip or fsspec address of the data; its content digest, not its path, enters the stage keys."""

    name: str = Execution("simulator")
    """Name of the data set in reports."""

    access: Literal["auto", "open", "synthetic", "credentialed"] = Execution("auto")
    """Who may look at single patients (`clinjepa data show`). `auto`: synthetic for the simulator, open for CinC and for files with the
    checksums of a published open data set, else credentialed. Recorded in the artifact when it is made."""

    subsets: list[str] | None = None
    """For sources in several pieces (CinC 2012 and 2019: `a`, `b`): which to read; None is all that are there."""

    max_stays: int | None = Field(None, ge=1)
    """Read at most this many stays (the first by id); None is all."""

    num_partitions: int | None = Field(None, ge=1)
    """Patient-disjoint partitions the source is read in; one partition is the unit of parallel work, of memory and of resuming. None: one
    for every 200 stays, but at least 8, so that memory does not grow with the data."""

    event_time: Literal["measured", "stored"] = "measured"
    """When an event without a duration counts in texts and features: when it was measured (the paper's way), or when its value was
    stored, where the source says so and that was later: what was known at the bedside by then. Labels go by the time of measuring
    either way, and infusions and procedures by their own times."""

    simulator: SimulatorConfig = SimulatorConfig()


class CohortConfig(Section):
    """Which stays are kept; each rule is one row of the attrition table. Defaults: method, section 2."""

    preset: Literal["clin_jepa", "icarefm", "yaib", "custom"] = "clin_jepa"
    """`clin_jepa`: the rules below as they stand. `icarefm`, `yaib`: those of clinical/cohorts.yaml instead (docs/clinical.md)."""

    min_age_years: float | None = 18
    min_stay_hours: float = Field(6, ge=0)
    max_stay_hours: float | None = Field(None, gt=0)
    """Hours after this many are cut off (the stay is kept); None keeps whole stays."""

    first_stay_of_admission: bool = True
    min_vitals_records: int = Field(1, ge=0)
    """Hours with at least one vital sign that a stay must have."""

    max_gap_hours: float | None = None
    """Drop a stay whose longest time without any measurement exceeds this."""


class TextConfig(Section):
    """How an hour becomes text. Values are not normalised, binned or imputed: what is missing is absent."""

    max_decimals: int = Field(2, ge=0, le=6)
    include_medications: bool = True
    """Free-named medications of the source (beyond the variable dictionary) appear in action texts."""


class SplitConfig(Section):
    """Patient-disjoint split into train / tuning / held_out, stratified by in-hospital death (and sepsis where known)."""

    fractions: tuple[float, float, float] = (0.70, 0.15, 0.15)
    seed: int = 42
    use_source_split: bool = False
    """Take the split that the source ships (MEDS `subject_splits.parquet`) instead of drawing one."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitConfig:
        if abs(sum(self.fractions) - 1) > 1e-9 or min(self.fractions) <= 0:
            raise ValueError(f"fractions must be positive and sum to 1, got {list(self.fractions)}")
        return self


class WindowConfig(Section):
    """Slices of a stay that training sees. Starts 0, stride, 2*stride ... while a full window fits, plus one that ends with the stay."""

    max_hours: int = Field(72, ge=4)
    stride_hours: int = Field(12, ge=1)
    min_hours: int = Field(6, ge=4)


class TokenizerConfig(Section):
    """Where token ids come from."""

    init: Literal["train", "pretrained"] = "train"
    """`train`: byte-level BPE trained on the training split's texts. `pretrained`: the encoder's own."""

    vocab_size: int = Field(1024, ge=300)
    """Vocabulary of a trained tokenizer."""

    max_tokens: int = Field(4096, ge=8)
    """Longer texts are cut at the end, and counted."""


class LoraConfig(Section):
    """The adapters of `encoder.adaptation: lora`: an fp32 update B·A beside each adapted layer of the frozen base (B starts as zero)."""

    rank: int = Field(16, ge=1)
    """Rank of the update."""

    alpha: float = Field(32, gt=0)
    """The update is scaled by alpha / rank."""

    targets: list[str] = Field(["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1)
    """Names of the linear layers that get an adapter; one that matches no layer is refused."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """On the inputs of the online adapters while they train; the EMA target has none."""


class EncoderConfig(Section):
    """A Hugging Face causal language model that turns one text into one latent (hidden state of its last token)."""

    init: Literal["config", "pretrained"] = "config"
    """`config`: a small Qwen3 with random weights, made here. `pretrained`: `model` is loaded."""

    model: str | None = None
    """Model id or folder when `init` is `pretrained`."""

    revision: str | None = None
    allow_download: bool = Execution(False)
    """Let Hugging Face's hub be reached; otherwise the model must already be on the machine."""

    hidden_size: int = Field(96, ge=8)
    num_layers: int = Field(2, ge=1)
    num_heads: int = Field(4, ge=1)
    num_kv_heads: int = Field(2, ge=1)
    ffn_size: int = Field(288, ge=8)
    adaptation: Literal["lora", "full"] = "lora"
    """What joint refinement trains: LoRA adapters on a frozen base, or all weights with an fp32 copy as target."""

    lora: LoraConfig = LoraConfig()
    latent_from: Literal["post_norm", "pre_norm"] = "post_norm"
    """Read the latent after or before the model's final RMSNorm. After it, a fresh small model's norm is pinned near sqrt(D)."""

    append_eos: bool = False
    """Append the end-of-text token when encoding (SFT always does)."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the frozen base; adapters and predictor are always fp32."""

    token_budget: int = Field(16384, ge=256)
    """Tokens encoded in one chunk: sets peak memory. Cut by the plan, so it is part of the result."""

    activation_checkpointing: Literal["none", "selective", "full"] = Execution("none")
    """What a layer computes again in its backward pass instead of keeping it. `selective`: all but the large matrix products and
    attention, for about half the memory; `full`: everything but its input, for one more forward. `clinjepa plan` says what fits."""


class PredictorConfig(Section):
    """Block-causal transformer over [static, s1, a1, ..., sT, aT]; full size is 92,514,304 parameters."""

    hidden_size: int = Field(1024, ge=8)
    num_layers: int = Field(6, ge=1)
    num_heads: int = Field(8, ge=1)
    ffn_size: int = Field(4096, ge=8)
    dropout: float = Field(0.15, ge=0, lt=1)
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    max_hours: int = Field(72, ge=4)
    """Longest window; positions are learned, 2*(max_hours+2)+1 of them."""

    mode: Literal["absolute", "residual"] = "absolute"


class SftConfig(Section):
    """Next-token fine-tuning on the pooled hour texts. A small model made here is trained whole; a pretrained one by LoRA."""

    num_epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps even if epochs are left."""

    tokens_per_step: int = Field(8192, ge=128)
    micro_tokens: int = Field(2048, ge=64)
    """Tokens per forward/backward; the plan cuts `tokens_per_step` into these and workers share them. Sets peak memory.

    A pack may take an eighth more places, for texts that overhang and for gaps."""

    learning_rate: float = Field(1e-4, gt=0)
    warmup_fraction: float = Field(0.1, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)


class CurriculumConfig(Section):
    """The five phases' budget and optimisation. Which phases a recipe has is data: `clinjepa/curriculum/recipes.yaml`."""

    num_steps: int = Field(11776, ge=8)
    """Optimizer steps of all phases together; the same for every recipe (budget-matched)."""

    shares: dict[str, float] = {"warmup": 0.24, "joint": 0.35, "alignment": 0.17, "finalization": 0.24}
    """Share of `num_steps` per phase; a recipe without a phase gives its share to the phase named in recipes.yaml."""

    global_batch: int = Field(32, ge=1)
    """Windows per optimizer step, whatever the number of workers."""

    micro_batch: int = Field(8, ge=1)
    """Windows per forward/backward; the plan cuts the global batch into these and ranks share them."""

    predictor_lr: float = Field(5e-4, gt=0)
    """Highest learning rate of the predictor, reached after the warmup."""

    encoder_lr: float = Field(2e-5, gt=0)
    """The same of the encoder's online weights, which joint refinement alone trains; SFT has its own (`sft.learning_rate`)."""

    weight_decay: float = Field(0.04, ge=0)
    warmup_fraction: float = Field(0.1, ge=0, le=1)
    """Linear warmup, then cosine to 0, over all phases together."""

    encoder_warmup_steps: int = Field(0, ge=0)
    """Own linear warmup of the encoder's group when it joins in joint refinement."""

    clip_norm: float = Field(1.0, gt=0)
    """Gradient clip, per parameter group."""

    ema_momentum: float = Field(0.996, gt=0, lt=1)
    """After every step of joint refinement and alignment the target becomes ema_momentum * target + (1 - ema_momentum) * online. Steps of
    alignment * (1 - ema_momentum) should be at least 4, or the target does not arrive at online, which `clinjepa plan` warns of."""

    rollout_steps: int = Field(2, ge=1)
    """Hours of the rollout in the loss; a window shorter than rollout_steps + 2 hours has none."""

    rollout_weight: float = Field(1.0, ge=0)
    """The loss is the teacher-forced one plus this times the rollout's."""

    shared_k: bool = False
    """One rollout start shared by the batch (the paper's form) instead of one per window."""

    collapse_rankme: float = Field(1.5, ge=1)
    """Alarm when the effective rank of the state latents falls below this."""

    stop_on_collapse: bool = False
    """Stop the phase on that alarm instead of reporting it."""

    checkpoint_every_steps: int = Execution(50, ge=1)
    """Optimizer steps between two checkpoints, of SFT too; a lost worker costs the steps since the last whole one."""

    log_every_steps: int = Execution(10, ge=1)
    """Optimizer steps between two reports to progress and trackers, of SFT too; `metrics.json` has every step whatever this is."""

    keep_checkpoints: int = Execution(2, ge=1)
    """Newest whole checkpoints kept while a phase or SFT trains; a finished one keeps none."""

    asynchronous_checkpoints: bool = Execution(True)
    """Write checkpoints beside the training; otherwise it stands still until each is whole."""


class DriftConfig(Section):
    contexts: list[int] = [6, 12, 24, 48]
    """Hours of recorded history before the rollout starts."""

    headline_context: int = 24
    horizons: list[int] = [1, 6, 12, 24, 48]
    num_bootstrap: int = Field(1000, ge=10)


class GeometryConfig(Section):
    k_hours: list[int] = [6, 12, 24]
    """Displacement is measured over these many hours after t0."""

    headline_k: int = 12
    num_bootstrap: int = Field(1000, ge=10)
    umap: bool = True
    max_umap_points: int = 3000


class ProbeConfig(Section):
    """The frozen-feature classifiers of the downstream evaluation (method, section 8)."""

    kinds: list[Literal["linear", "mlp"]] = ["linear", "mlp"]
    hidden_size: int = 512
    dropout: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 4096
    max_epochs: int = 100
    patience: int = 10


class DownstreamConfig(Section):
    tasks: list[str] = ["in_hospital_death", "hypotension_8h", "hyperglycaemia_8h", "hypoxaemia_8h"]
    """Names of files in `clinjepa/clinical/tasks/`."""

    pooling: Literal["last", "mean", "last+mean", "context"] = "context"
    """How a history becomes the probe's input vector, the same for every method in a row."""

    stay_prediction_hour: int = Field(24, ge=1)
    """Stay-level tasks are predicted once, from the first this many hours."""

    hourly_stride: int = Field(4, ge=1)
    """Hourly tasks are evaluated every this many hours of a stay."""

    min_history_hours: int = Field(4, ge=1)
    rollout_hours: int = Field(24, ge=1)
    """Longest rollout that feeds the two rollout columns; never beyond the task's horizon for hourly tasks."""

    min_positives: int = Field(10, ge=2)
    """Fewer positive patients than this in training or held-out data: the figure is null with a reason."""

    num_bootstrap: int = Field(1000, ge=10)
    probe: ProbeConfig = ProbeConfig()


class LabelsConfig(Section):
    tasks: list[str] | None = None
    """Tasks that get labels, beside those of `evaluation.downstream.tasks`: names of files in `clinjepa/clinical/tasks/`; all when null."""


class EvaluationConfig(Section):
    split: Literal["train", "tuning", "held_out"] = "held_out"
    drift: DriftConfig = DriftConfig()
    geometry: GeometryConfig = GeometryConfig()
    downstream: DownstreamConfig = DownstreamConfig()
    num_roundtrip_hours: int = Field(20000, ge=100)
    """State texts used for the round-trip check (linear R2 of a text's values from its latent)."""


class GridConfig(Section):
    recipes: list[str] = Field(["clin_jepa", "no_alignment", "sft", "untrained"], min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    max_concurrent_trials: int | None = Execution(None)
    """Trials alive at once; None lets all live (waiting costs no CPU)."""


class Config(Section):
    """A whole experiment. Saved, complete, beside every run."""

    name: str = Execution("run", pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    """Name of the run: `<storage>/runs/<name>/`."""

    storage: str = Execution("output")
    """Folder or fsspec address (`s3://bucket/prefix`) of all artifacts and reports."""

    source: SourceConfig = SourceConfig()
    cohort: CohortConfig = CohortConfig()
    split: SplitConfig = SplitConfig()
    text: TextConfig = TextConfig()
    windows: WindowConfig = WindowConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    encoder: EncoderConfig = EncoderConfig()
    predictor: PredictorConfig = PredictorConfig()
    sft: SftConfig = SftConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    labels: LabelsConfig = LabelsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    grid: GridConfig = GridConfig()
    execution: ExecutionConfig = Execution(ExecutionConfig())

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.windows.max_hours > self.predictor.max_hours:
            raise ValueError(
                f"windows.max_hours={self.windows.max_hours} is longer than predictor.max_hours={self.predictor.max_hours}; "
                "raise predictor.max_hours or shorten the windows"
            )
        if self.windows.min_hours > self.windows.max_hours:
            raise ValueError(f"windows.min_hours={self.windows.min_hours} exceeds windows.max_hours")
        if self.source.kind != "simulator" and not self.source.path:
            raise ValueError(
                f"source.path is needed for source.kind={self.source.kind}; "
                "give source.path=FOLDER or get open data with `clinjepa data get`"
            )
        if self.encoder.init == "pretrained" and not self.encoder.model:
            raise ValueError("encoder.model is needed when encoder.init=pretrained")
        if self.tokenizer.init == "pretrained" and not self.encoder.model:
            raise ValueError("tokenizer.init=pretrained takes the tokenizer of encoder.model, which is not set")
        if self.encoder.hidden_size % self.encoder.num_heads or self.encoder.num_heads % self.encoder.num_kv_heads:
            raise ValueError("encoder.hidden_size must be a multiple of num_heads, and num_heads of num_kv_heads")
        if self.predictor.hidden_size % self.predictor.num_heads:
            raise ValueError("predictor.hidden_size must be a multiple of predictor.num_heads")
        longest = max(self.evaluation.drift.contexts, default=0)
        if longest + 1 > self.predictor.max_hours:
            raise ValueError(
                f"evaluation.drift.contexts has {longest} h, which leaves no horizon inside predictor.max_hours={self.predictor.max_hours}"
            )
        return self
