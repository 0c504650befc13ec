"""What can be configured, with units, limits and the remedy when a value cannot work.

What marks a field that changes no result is in `section.py`; the section that has only such fields is in `execution.py`.
Defaults follow the method (arXiv 2605.10840) where it is public.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from clinjepa.config.execution import ExecutionConfig
from clinjepa.config.grid import GridConfig
from clinjepa.config.section import IS_ADDRESS, IS_STORAGE, Added, Execution, Section


class SimulatorConfig(Section):
    """Simulated patients (`clinjepa/sources/simulated/source.py`); read only when `source.kind` is `simulator`."""

    num_patients: int = Field(300, ge=4)
    """Simulated patients; some have more than one stay."""

    seed: int = 0
    """Seed of all simulated patients. Patient i is the same for every `num_patients`."""

    mean_stay_hours: float = Field(60.0, gt=6)
    """Mean length of stay in hours; the distribution is log-normal."""

    measurement_density: float = Field(1.0, gt=0)
    """Factor on the charting frequency of every variable; 1 is that of an ICU."""


class SourceConfig(Section):
    """Which data set is read, and from where."""

    kind: Literal["meds", "mimic_iv", "cinc2012", "cinc2019", "clif", "simulator"] = "simulator"
    """Format of the data set."""

    path: Annotated[str | None, IS_ADDRESS] = Execution(None)
    """Folder (`~` is the home folder), zip or fsspec address of the data; its content digest, not its path, enters the stage keys."""

    name: str = Execution("simulator")
    """Name of the data set in reports."""

    access: Literal["auto", "open", "synthetic", "credentialed"] = Execution("auto")
    """Who may see single patients (`clinjepa data show`). `auto`: synthetic for the simulator; open for CinC and for files with the
    checksums of a published open data set; credentialed for everything else. The ingest artifact records it."""

    subsets: list[str] | None = None
    """Parts of the data set to read (CinC 2012 and 2019: `a`, `b`); null reads every part in `path`."""

    max_stays: int | None = Field(None, ge=1)
    """Read at most this many stays (the first by id); null is all."""

    num_partitions: int | None = Field(None, ge=1)
    """Number of patient-disjoint partitions. A partition is the unit of parallel work, of memory and of resuming. null: one for every 200
    stays and at least 8, so that memory does not grow with the data."""

    event_time: Literal["measured", "stored"] = "measured"
    """Time by which an event without a duration enters texts and features. `measured`: the time of measurement, as in the paper.
    `stored`: the time at which the value was stored, if the source gives one and it is later; so a text holds only values that were
    known by then. Labels always use the time of measurement; infusions and procedures always use their own times."""

    time_zone: str = Added("UTC", min_length=1)
    """Time zone of the hospital, such as `US/Eastern`, for data whose times are UTC (CLIF). Other kinds have local times."""

    map: Annotated[str, IS_ADDRESS] = Execution("mimic_iv", min_length=1)
    """What the codes of kind `meds` mean: `mimic_iv` (item ids of MIMIC-IV's conversion), `openicu` (data that OpenICU converts), or the
    path of your own YAML file (docs/openicu.md). The content of a map other than `mimic_iv`, not its path, enters the stage keys."""

    simulator: SimulatorConfig = SimulatorConfig()


class CohortConfig(Section):
    """Which stays are kept; each rule is one row of the attrition table. Defaults: arXiv 2605.10840, cohort."""

    preset: Literal["clin_jepa", "icarefm", "yaib", "custom"] = "clin_jepa"
    """`clin_jepa`: the rules below as they stand. `icarefm`, `yaib`: those of clinical/cohorts.yaml instead (docs/clinical.md)."""

    min_age_years: float | None = 18
    """Youngest age in years that is kept; null keeps every age and stays of unknown age."""

    min_stay_hours: float = Field(6, ge=0)
    """Shortest stay in hours that is kept."""

    max_stay_hours: float | None = Field(None, gt=0)
    """Hours after this many are cut off (the stay is kept); null keeps whole stays."""

    first_stay_of_admission: bool = True
    """Keep only the first ICU stay of each hospital admission."""

    min_vitals_records: int = Field(1, ge=0)
    """Hours with at least one vital sign that a stay must have."""

    max_gap_hours: float | None = None
    """Drop a stay whose longest time without any measurement, in hours, exceeds this; null keeps it."""


class TextConfig(Section):
    """How an hour becomes text. Values are not normalised, binned or imputed; a missing value is left out of the text."""

    max_decimals: int = Field(2, ge=0, le=6)
    """Decimal places of a number in a text; trailing zeros are left out. More are written where fewer significant digits than the
    variable's `digits` (default: 3) would remain, so that a small dose is not written as 0."""

    include_medications: bool = True
    """Write medications that are not in the variable dictionary into action texts, by the source's name."""

    exclusions: Literal["all", "all_but_scores"] = Added("all")
    """Fields that stay out of texts: `all` of clinical/exclusions.yaml, or all but the severity scores SOFA and KDIGO, which then stand
    at the head of state texts as in Clin-JEPA's released code. Labels of worsening, sepsis and kidney failure are made of these scores."""


class SplitConfig(Section):
    """Patient-disjoint split into train / tuning / held_out, stratified by in-hospital death (and sepsis where known)."""

    fractions: tuple[float, float, float] = (0.70, 0.15, 0.15)
    """Shares of the patients in train, tuning and held_out; positive, and their sum is 1."""

    seed: int = 42
    """Seed of the draw."""

    use_source_split: bool = False
    """Use the split that comes with the data (MEDS `subject_splits.parquet`) instead of drawing one."""

    everyone: Literal["held_out"] | None = Added(None)
    """`held_out`: every patient is in held_out and none trains; `clinjepa score` sets it for patients of another hospital. null: a draw."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitConfig:
        if abs(sum(self.fractions) - 1) > 1e-9 or min(self.fractions) <= 0:
            raise ValueError(f"fractions must be positive and sum to 1, got {list(self.fractions)}")
        return self


class WindowConfig(Section):
    """Slices of a stay that training sees. Starts 0, stride, 2*stride … while a full window fits; one that ends with the stay (`tail`)."""

    max_hours: int = Field(72, ge=4)
    """Length of a full window in hours; at most `predictor.max_hours`."""

    stride_hours: int = Field(12, ge=1)
    """Hours between the starts of two windows of a stay."""

    min_hours: int = Field(6, ge=4)
    """A stay of fewer hours has no window."""

    tail: bool = Added(True)
    """One more window that ends with the stay where the strides leave hours over; false is the rule of Clin-JEPA's released code, in which
    these hours are in no window."""


class TokenizerConfig(Section):
    """Where token ids come from."""

    init: Literal["train", "pretrained"] = "train"
    """`train`: byte-level BPE trained on the training split's texts. `pretrained`: the encoder's own."""

    vocab_size: int = Field(1024, ge=300)
    """Number of tokens of a trained tokenizer."""

    max_tokens: int = Field(4096, ge=8)
    """Longest text in tokens. Longer ones are cut at the end and counted."""


class LoraConfig(Section):
    """The adapters of `encoder.adaptation: lora`: an fp32 update B·A beside each adapted layer of the frozen base (B starts as zero)."""

    rank: int = Field(16, ge=1)
    """Rank of the update."""

    alpha: float = Field(32, gt=0)
    """The update is scaled by alpha / rank."""

    targets: list[str] = Field(["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1)
    """Names of the linear layers that get an adapter; a name that matches no layer is an error."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability on the inputs of the online adapters while training; the EMA target has none."""


class EncoderConfig(Section):
    """A Hugging Face causal language model that turns one text into one latent (hidden state of its last token)."""

    init: Literal["config", "pretrained"] = "config"
    """`config`: a small Qwen3 with random weights is made. `pretrained`: `model` is loaded."""

    model: Annotated[str | None, IS_ADDRESS] = None
    """Model id or folder when `init` is `pretrained`."""

    revision: str | None = None
    """Branch, tag or commit of `model` on the Hugging Face hub; null is its default branch. A commit makes a run repeatable."""

    allow_download: bool = Execution(False)
    """Allow downloads from the Hugging Face hub; otherwise the model must already be on the machine."""

    hidden_size: int = Field(96, ge=8)
    """Width D of the hidden state and so of a latent. This size and the four below are read only when `init` is `config`."""

    num_layers: int = Field(2, ge=1)
    """Transformer layers."""

    num_heads: int = Field(4, ge=1)
    """Query heads of a layer's attention; divides `hidden_size`."""

    num_kv_heads: int = Field(2, ge=1)
    """Key and value heads (grouped-query attention); divides `num_heads`."""

    ffn_size: int = Field(288, ge=8)
    """Width of a layer's feed-forward network."""

    adaptation: Literal["lora", "full"] = "lora"
    """What joint refinement trains: LoRA adapters on a frozen base, or all weights with an fp32 copy as target."""

    lora: LoraConfig = LoraConfig()
    latent_from: Literal["post_norm", "pre_norm"] = "post_norm"
    """Whether the latent is read after or before the model's final RMSNorm. After it, the norm of a new small model's latents is close
    to sqrt(D)."""

    append_eos: bool = False
    """Append the end-of-text token when encoding (SFT always does)."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the frozen base; adapters and predictor are always fp32."""

    token_budget: int = Field(16384, ge=256)
    """Tokens encoded in one chunk; sets peak memory. It decides which texts share a chunk, so it enters the stage key."""

    activation_checkpointing: Literal["none", "selective", "full"] = Execution("none")
    """What a layer recomputes in its backward pass instead of storing. `selective`: everything but large matrix products and attention,
    at about half the memory; `full`: everything but its input, at the cost of one more forward pass. `clinjepa plan` shows what fits."""


class PredictorConfig(Section):
    """Block-causal transformer over [static, s1, a1, ..., sT, aT]; full size is 92,514,304 parameters."""

    hidden_size: int = Field(1024, ge=8)
    """Width of the predictor's hidden state; latents of width D are projected to it and back."""

    num_layers: int = Field(6, ge=1)
    """Transformer layers."""

    num_heads: int = Field(8, ge=1)
    """Attention heads of a layer; divides `hidden_size`."""

    ffn_size: int = Field(4096, ge=8)
    """Width of a layer's feed-forward network."""

    dropout: float = Field(0.15, ge=0, lt=1)
    """Dropout probability while training: behind attention and feed-forward network, and inside the latter."""

    attention_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout probability on attention weights while training."""

    max_hours: int = Field(72, ge=4)
    """Longest window; positions are learned, 2*(max_hours+2)+1 of them. Those beyond the longest training window are never trained, and
    evaluation never reads them."""

    mode: Literal["absolute", "residual"] = "absolute"
    """What the last layer gives: `absolute`, the next hour's latent; `residual`, its difference from this hour's latent."""


class SftConfig(Section):
    """Next-token fine-tuning on the pooled hour texts. A small model made here is trained whole; a pretrained one by LoRA."""

    num_epochs: float = Field(1.0, gt=0)
    """Passes over the training split's texts; may be a fraction."""

    max_steps: int | None = Field(None, ge=1)
    """Most optimizer steps, even if epochs are left; null sets no limit."""

    tokens_per_step: int = Field(8192, ge=128)
    """Tokens per optimizer step, whatever the number of workers; at least the longest text."""

    micro_tokens: int = Field(2048, ge=64)
    """Tokens per forward and backward pass. The plan cuts a step into such micro-batches and deals them to the workers. Sets peak memory;
    a pack may take an eighth more places for padding."""

    learning_rate: float = Field(1e-4, gt=0)
    """Highest learning rate, reached after the warmup."""

    warmup_fraction: float = Field(0.1, ge=0, le=1)
    """Share of the steps with a linear warmup; then cosine to 0."""

    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""

    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient; a larger one is scaled down to it."""


class CurriculumConfig(Section):
    """Budget and optimisation of the phases. The phases of each recipe are in its file (`clinjepa/curriculum/recipes/`)."""

    num_steps: int = Field(11776, ge=8)
    """Optimizer steps of all phases together; equal for every recipe, so that recipes are compared at one budget (`budget`)."""

    shares: dict[str, float] = {"warmup": 0.24, "joint": 0.35, "alignment": 0.17, "finalization": 0.24}
    """Parts of `num_steps` by name; they add up to 1. The phases of every recipe name them all, so that its whole budget is spent.
    Give all of them: what is given replaces the default as a whole."""

    budget: Literal["steps", "encoder_tokens"] = Added("steps")
    """What is equal for all recipes. `steps`: `num_steps`. `encoder_tokens`: the tokens that the phases put through the encoder; a recipe
    gets more or fewer steps than `num_steps`, which is that of clin_jepa. A recipe whose encoder is frozen throughout keeps `num_steps`."""

    state_token_share: float = Added(0.75, gt=0, lt=1)
    """Share of the states in the tokens of states and actions, with which `budget: encoder_tokens` computes; `clinjepa plan` prints that of
    the data. An EMA target encodes states only."""

    global_batch: int = Field(32, ge=1)
    """Windows per optimizer step, whatever the number of workers."""

    micro_batch: int = Field(8, ge=1)
    """Windows per forward and backward pass. The plan cuts the global batch into such micro-batches and deals them to the workers."""

    predictor_lr: float = Field(5e-4, gt=0)
    """Highest learning rate of the predictor, reached after the warmup."""

    encoder_lr: float = Field(2e-5, gt=0)
    """Highest learning rate of the encoder's online weights, which only joint refinement trains; SFT uses `sft.learning_rate`."""

    weight_decay: float = Field(0.04, ge=0)
    """AdamW's weight decay, of the predictor and of the encoder's online weights."""

    warmup_fraction: float = Field(0.1, ge=0, le=1)
    """Share of the steps with a linear warmup; then cosine to 0. Counted over all phases together."""

    encoder_warmup_steps: int = Field(0, ge=0)
    """Steps of a further linear warmup of the encoder's learning rate at the start of joint refinement."""

    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient of each parameter group (predictor, encoder); a larger one is scaled down to it."""

    ema_momentum: float = Field(0.996, gt=0, lt=1)
    """After every step of joint refinement and alignment the target becomes ema_momentum * target + (1 - ema_momentum) * online. Steps of
    alignment * (1 - ema_momentum) should be at least 4, or the target does not reach the online weights; `clinjepa plan` warns of it."""

    rollout_steps: int = Field(2, ge=1)
    """Hours of the rollout in the loss. A window shorter than rollout_steps + 2 hours has no rollout loss."""

    rollout_weight: float = Field(1.0, ge=0)
    """Weight of the rollout loss; the loss is the teacher-forced loss plus this times the rollout loss."""

    term_weights: dict[str, float] = {}
    """Weights of loss terms by name, in place of those in the recipes' files: `{sigreg: 0.3}`. Every name is a term of a recipe of the
    grid."""

    shared_k: bool = False
    """Draw one rollout start hour for the whole batch (as in the paper) instead of one per window."""

    collapse_rankme: float = Field(1.5, ge=1)
    """Effective rank (RankMe) of the centred state latents below which an alarm is raised. A direction with over 99 % of their variance
    raises it too."""

    stop_on_collapse: bool = False
    """Stop the phase on that alarm instead of only reporting it."""

    checkpoint_every_steps: int = Execution(50, ge=1)
    """Optimizer steps between two checkpoints, also of SFT. A lost worker costs the steps since the last complete one."""

    log_every_steps: int = Execution(10, ge=1)
    """Optimizer steps between two reports to progress and trackers, also of SFT. `metrics.json` always holds every step."""

    keep_checkpoints: int = Execution(2, ge=1)
    """Complete checkpoints kept while a phase or SFT trains, the newest ones; a finished stage keeps none."""

    asynchronous_checkpoints: bool = Execution(True)
    """Write checkpoints in the background; otherwise training waits until each is written."""


class DriftConfig(Section):
    """Rollout drift: how far predicted latents move away from those of the hours that were recorded."""

    contexts: list[int] = [6, 12, 24, 48]
    """Hours of recorded history before the rollout starts."""

    starts: list[int] = Field([0, 12, 24], min_length=1)
    """Hours of a stay at which the recorded history begins; each starts a separate window where the stay lasts long enough."""

    headline_context: int = 24
    """The one of `contexts`, in hours, that the report's first screen shows."""

    horizons: list[int] = [1, 6, 12, 24, 48]
    """Hours after the context at which the error is measured; 1 is the first predicted hour."""

    num_bootstrap: int = Field(1000, ge=10)
    """Bootstrap resamples of patients behind every 95 % interval."""

    dose_factor: float | None = Added(None, gt=0, le=1e6)
    """Also roll out with the recorded actions after the context whose doses are multiplied by this, above 0 and not 1: drug rates, fluids
    and doses of medications. Their texts are encoded again, of the stays of `evaluation.split` only. null: not measured."""

    @field_validator("dose_factor")
    @classmethod
    def _changes_doses(cls, value: float | None) -> float | None:
        if value == 1:
            raise ValueError("dose_factor=1 leaves every dose as it is; give another factor, or null to measure nothing")
        return value


class GeometryConfig(Section):
    """Latent geometry: how much further the latents of deteriorating patients move than those of stable ones."""

    k_hours: list[int] = [6, 12, 24]
    """Displacement is measured over these many hours after t0."""

    headline_k: int = 12
    """The displacement time, in hours, that the report's first screen shows."""

    num_bootstrap: int = Field(1000, ge=10)
    """Bootstrap resamples of patients for the 95 % interval of the mean displacement ratio."""

    umap: bool = True
    """Compute the UMAP picture of the latents."""

    max_umap_points: int = 3000
    """Most latents in that picture; more are sampled."""


class ProbeConfig(Section):
    """The probes on frozen features of the downstream evaluation. Defaults: Clin-JEPA (arXiv 2605.10840), downstream probe."""

    kinds: list[Literal["linear", "mlp"]] = ["linear", "mlp"]
    """`linear`: logistic regression, or ridge regression where the label is a number; its strength is chosen on tuning. `mlp`: one hidden
    layer. The settings below are the mlp's."""

    hidden_size: int = 512
    """Width of the hidden layer."""

    dropout: float = 0.1
    """Dropout probability behind the hidden layer."""

    learning_rate: float = 1e-3
    """AdamW's learning rate, constant."""

    weight_decay: float = 1e-4
    """AdamW's weight decay."""

    batch_size: int = 4096
    """Prediction points per optimizer step."""

    max_epochs: int = 100
    """Most passes over the training points."""

    patience: int = 10
    """Epochs without a better log-loss, or squared error of numbers, on tuning before training stops."""


class BaselinesConfig(Section):
    """Methods that read the hour grid instead of latents, and how much each may be tuned (docs/adding_a_baseline.md lists them)."""

    names: list[str] = ["logistic", "lightgbm", "hours_in_icu"]
    """Names of files in `clinjepa/evaluation/baselines/tabular/` and `…/sequences/`."""

    num_trials: int = Field(8, ge=1)
    """Settings that a baseline tries on each task: its defaults, then draws from its space. 1: its defaults alone."""

    num_sequence_trials: int = Field(3, ge=1)
    """The same for a baseline that learns all tasks at once."""

    max_trial_points: int = Field(10_000, ge=100)
    """Most training points of a trial on one task, of random patients. The chosen settings are fitted on all points."""

    num_averaged: int = Field(3, ge=1)
    """Of a task with at most `max_trial_points` training points, the models of so many best settings are averaged: with few points the
    best one alone is a matter of luck."""

    max_seconds: float | None = Field(None, gt=0)
    """A baseline starts no trial on a task later than this after its first. With it the result depends on the machine's speed."""

    ensemble: bool = True
    """Also the mean of all baselines that are tuned, with weights chosen on the tuning split."""


class DownstreamConfig(Section):
    """Risk tasks: probes on frozen features, beside baselines that use no latents."""

    tasks: list[str] = ["in_hospital_death", "hypotension_8h", "hyperglycaemia_8h", "hypoxaemia_8h"]
    """Names of files in `clinjepa/clinical/tasks/`."""

    pooling: Literal["last", "mean", "last+mean", "context"] = "context"
    """How the latents of a history become the probe's input vector; the same for every method."""

    stay_prediction_hour: int = Field(24, ge=1)
    """Hours of a stay from which its one prediction of a stay-level task is made."""

    hourly_stride: int = Field(4, ge=1)
    """Hours between two predictions of an hourly task in a stay."""

    min_history_hours: int = Field(4, ge=1)
    """Hours of a stay before the first prediction of an hourly task."""

    rollout_hours: int = Field(24, ge=1)
    """Longest rollout, in hours, behind the report's two rollout columns; an hourly task's rollout ends at its horizon."""

    min_positives: int = Field(10, ge=2)
    """Fewest patients with a positive label, and with a negative one, in training and in scored data; where the label is a number, fewest
    patients with a label. Below it the figure is null with a reason."""

    num_bootstrap: int = Field(1000, ge=10)
    """Bootstrap resamples of patients behind every 95 % interval."""

    probe: ProbeConfig = ProbeConfig()
    baselines: BaselinesConfig = Added(BaselinesConfig())


class RiskConfig(Section):
    """Calibration, subgroups, alarms and net benefit of the risk tasks. Only the report reads it: no stage depends on a field."""

    num_bins: int = Execution(10, ge=2)
    """Bins, with equally many predictions, of the calibration error and the reliability curve."""

    alarm_rates: list[Annotated[float, Field(gt=0)]] = Execution([0.5, 1.0, 2.0], min_length=1)
    """False alarms per patient-day at which the share of events caught is given."""

    silence_hours: int = Execution(8, ge=0)
    """Hours after an alarm in which the same stay raises no other."""

    thresholds: list[Annotated[float, Field(gt=0, lt=1)]] = Execution([0.05, 0.1, 0.2, 0.5])
    """Probabilities at which the net benefit is given."""

    min_group_patients: int = Execution(10, ge=2)
    """Fewest patients with a positive label, and with a negative one, of a group of age, sex or unit that has figures."""


class AddedValueConfig(Section):
    """What latents add to hand-made features in the risk tasks, and how many patients' labels each input needs."""

    enabled: bool = True
    """Whether it is evaluated."""

    shares: list[Annotated[float, Field(gt=0, le=1)]] = Field([0.01, 0.1, 1.0], min_length=1)
    """Shares of the training patients that models are fitted on. A smaller share is a part of every larger one."""

    estimators: list[Literal["lightgbm", "linear"]] = Field(["lightgbm", "linear"], min_length=1)
    """`lightgbm`: gradient boosting on features, on latents and on both. `linear`: logistic regression on features and on latents."""

    max_train_patients: int = Field(5000, ge=10)
    """Most training patients; more are sampled, and the shares are of these."""


class ForecastConfig(Section):
    """Forecasts of measured values with probabilities, decoded from rolled-out latents, beside forecasts that use no latents."""

    enabled: bool = True
    """Whether forecasts are evaluated."""

    context: int = Field(24, ge=1)
    """Hours of recorded history before the prediction time."""

    starts: list[int] = Field([0, 12, 24], min_length=1)
    """Hours of a stay at which the recorded history begins; each starts a separate window where the stay lasts long enough."""

    horizons: list[Annotated[int, Field(ge=1)]] = Field([1, 6, 12, 24, 48], min_length=1)
    """Hours after the history that are forecast; 1 is the first hour after it."""

    num_variables: int = Field(27, ge=1)
    """Variables that are forecast: those measured in most hours of the training stays. Variables of event tasks are added."""

    max_stays: int = Field(1000, ge=10)
    """Most stays of a split whose windows are rolled out; more are sampled."""

    max_train_stays: int = Field(5000, ge=10)
    """Most training stays that gradient boosting learns from; more are sampled."""

    num_decoder_hours: int = Field(20000, ge=100)
    """Training hours that the decoder from latents to values is fitted on."""

    num_trees: int = Field(100, ge=1)
    """Most trees of a gradient-boosting forecast; tuning patients choose how many."""

    num_bootstrap: int = Field(200, ge=10)
    """Bootstrap resamples of patients behind every 95 % interval."""


LabelColumn = Literal["boolean_value", "integer_value", "float_value"]
"""Columns of MEDS's LabelSchema that can be labels."""


class LabelFileConfig(Section):
    """Labels of one task that were made elsewhere, by ACES for example: rows of MEDS's LabelSchema (docs/community.md)."""

    path: Annotated[str, IS_ADDRESS] = Execution(...)
    """A Parquet file, or a folder of them, with subject_id, prediction_time and `column`. The content, not the path, is in stage keys."""

    column: LabelColumn = "boolean_value"
    """The column of the labels: `boolean_value` for a risk task, `integer_value` or `float_value` for a number."""


class LabelsConfig(Section):
    """Labels: 0, 1 or a number per task and prediction time, computed once from the hourly grid."""

    tasks: list[str] | None = None
    """Tasks that get labels besides those of `evaluation.downstream.tasks`: names of files in `clinjepa/clinical/tasks/`. null: all."""

    files: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], LabelFileConfig] = {}
    """Tasks whose labels are read from files: name of the task -> `path`, and `column` (default: boolean_value). A prediction time becomes
    the last whole hour of a stay before it. The name may stand in `evaluation.downstream.tasks`."""

    @property
    def given(self) -> dict[str, LabelColumn]:
        """Column of the labels by task, of the tasks that are read from files."""
        return {name: file.column for name, file in self.files.items()}


class EvaluationConfig(Section):
    """What is measured on a trained encoder and predictor."""

    split: Literal["train", "tuning", "held_out"] = "held_out"
    """The patients that every figure is computed on."""

    drift: DriftConfig = DriftConfig()
    geometry: GeometryConfig = GeometryConfig()
    downstream: DownstreamConfig = DownstreamConfig()
    risk: RiskConfig = Execution(RiskConfig())
    added_value: AddedValueConfig = Added(AddedValueConfig())
    forecasts: ForecastConfig = ForecastConfig()
    num_roundtrip_hours: int = Field(20000, ge=100)
    """State texts used for the round trip (R² of a linear decoder from a latent to its text's values)."""


class InitFromConfig(Section):
    """A finished run whose encoder and predictor recipes with `encoder_start: run` continue. All recipes then use the run's tokenizer.
    What the run made enters the keys of stages by its own keys."""

    run: Annotated[str | None, IS_ADDRESS] = Execution(None)
    """Folder of the run, `<storage>/runs/<name>`, in the `storage` of this experiment; null continues nothing."""

    recipe: str | None = Execution(None)
    """Recipe of that run; null is its first."""

    seed: int | None = Execution(None)
    """Seed of that run; null is its first."""


class Config(Section):
    """A whole experiment. Every run saves its complete configuration."""

    name: str = Execution("run", pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    """Name of the run: `<storage>/runs/<name>/`."""

    storage: Annotated[str, IS_STORAGE] = Execution("output")
    """Folder (`~` is the home folder) or fsspec address (`s3://bucket/prefix`) of all artifacts and reports."""

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
    init_from: InitFromConfig = Execution(InitFromConfig())
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
        if min(self.evaluation.drift.starts) < 0:
            raise ValueError("evaluation.drift.starts has a negative hour; a stay begins at hour 0")
        if min(self.evaluation.forecasts.starts) < 0:
            raise ValueError("evaluation.forecasts.starts has a negative hour; a stay begins at hour 0")
        longest = max(self.evaluation.drift.contexts, default=0)
        if longest + 1 > self.predictor.max_hours:
            raise ValueError(
                f"evaluation.drift.contexts has {longest} h, which leaves no horizon inside predictor.max_hours={self.predictor.max_hours}"
            )
        return self
