"""Where a run is computed and with which resources: the one section of which no field changes a result."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import field_validator

from clinjepa.config.section import IS_TRACKER, Execution, Section


class ExecutionConfig(Section):
    """Where a run is computed and with which resources. No field here changes a result."""

    num_workers: int | tuple[int, int] = Execution(2)
    """FSDP workers per training stage: a number, or `[min, max]` to grow and shrink with the cluster's nodes. The global batch and
    the plan stay the same; losses agree to 1e-5 at first and diverge as rounding errors grow (docs/scaling.md)."""

    resize_interval_seconds: float = Execution(60.0, gt=0)
    """Seconds between two checks whether the cluster has room for more workers, with `num_workers: [min, max]`. A resize restarts the
    workers from the last checkpoint."""

    start_timeout_seconds: float = Execution(60.0, gt=0)
    """Seconds to wait until all workers have started. After that (a node was lost) as many are started as there is room for."""

    cpus_per_worker: float = Execution(0.5, gt=0)
    """Logical CPUs that each training worker reserves."""

    threads_per_worker: int = Execution(1, ge=1)
    """Threads of torch in each training and encoder worker."""

    use_gpu: bool = Execution(False)
    """Give every training and encoder worker a GPU. If false they compute on the CPU, also on a machine with GPUs."""

    memory_mb: int = Execution(4096, ge=512)
    """RAM in MB for the extraction of raw tables, all tables together; other stages do not read it."""

    gpu_kind: Literal["H100", "H200", "A100", "A100-40GB"] = Execution("H100")
    """The GPU that `clinjepa plan` computes with."""

    gpu_memory_gb: float | None = Execution(None, gt=1)
    """Memory of a GPU in GiB for that plan; null is that of `gpu_kind`."""

    gpu_tflops: float | None = Execution(None, gt=0)
    """Peak of a GPU in TFLOP/s (bf16, dense) for that plan; null is that of `gpu_kind`."""

    gpu_utilisation: float = Execution(0.35, gt=0, le=1)
    """Share of the peak that the plan assumes; 0.33 to 0.39 were measured with Qwen3-8B on an H100."""

    data_cpus: float = Execution(0.25, gt=0)
    """Logical CPUs of each Ray Data reader that feeds a training worker."""

    embed_workers: int = Execution(2, ge=1)
    """Encoder workers in the pool that computes a latent store."""

    evaluation_cpus: float = Execution(1.0, gt=0)
    """Logical CPUs of each evaluation task, and of the tokenizer, labels, the untrained base and the hard sync. Rounded down, and at least
    1, it is the task's number of torch threads."""

    tune_baselines: bool = Execution(False)
    """The trials of baselines run side by side on Ray Tune; false: one after another in the stage's task. The result is the same. Each
    trial starts a process, so it pays for trials of more than some seconds."""

    max_worker_failures: int = Execution(3, ge=-1)
    """Worker failures that a training stage survives; -1: any number. Nodes removed after a notice do not count."""

    preemption_grace_seconds: float = Execution(60.0, ge=0)
    """Seconds that the other workers keep running after the deadline of a node that is taken away with notice, so that the checkpoint made
    for it is written to its end. They restart at once when it is."""

    validate_checkpoints: bool = Execution(False)
    """Measure the drift of the rollout on tuning patients for every checkpoint of a phase with a frozen encoder, in a task beside the
    training, with `evaluation_cpus`. The figures go to the trackers and into `runs/<name>/validation`; no result depends on them."""

    profile_steps: int = Execution(0, ge=0)
    """Steps of every training stage that torch's profiler records, after two others, in every worker. The traces go to
    `runs/<name>/profiles`; 0: none."""

    local_num_cpus: int | None = Execution(None, ge=1)
    """Logical CPUs of a local cluster that this run starts; null: those of the machine."""

    concurrent_cpus: float | None = Execution(None, gt=0)
    """Logical CPUs that stages may use together; null: those of the cluster. A larger number lets an autoscaling cluster grow."""

    concurrent_gpus: float | None = Execution(None, gt=0)
    """GPUs that stages may use together; null: those of the cluster. A larger number lets an autoscaling cluster grow."""

    wait_for_resources_minutes: float = Execution(30.0, ge=0)
    """Minutes that a stage waits for GPUs, and a run for a first CPU, that a joined cluster lacks and may get: from an autoscaler, or from
    nodes that are started by hand. What no node group of the cluster can have is refused at once; 0 refuses everything that is missing."""

    object_store_mb: int | None = Execution(None, ge=80)
    """Size of Ray's object store in MB (2**20 bytes) in a local cluster that this run starts; null: Ray's default."""

    lease_seconds: float = Execution(20.0, gt=1)
    """Seconds without renewal after which the owner of a stage's lease is considered dead and another process takes over."""

    progress: bool = Execution(True)
    """Print each stage as it starts, advances and ends."""

    trackers: list[Literal["tensorboard", "mlflow"]] = Execution([])
    """Trackers that training stages also report to while they run; they need `pip install clinjepa[trackers]`."""

    tracker_uri: Annotated[str | None, IS_TRACKER] = Execution(None)
    """Address of an MLflow server (`http://…`) or folder (`file:///…`)."""

    @field_validator("num_workers")
    @classmethod
    def _workers_in_order(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        least, most = (value, value) if isinstance(value, int) else value
        if least < 1:
            raise ValueError(f"execution.num_workers={value} starts below 1 worker; give a number or [min, max] with 1 <= min <= max")
        if least > most:
            raise ValueError(f"execution.num_workers=[{least}, {most}] has its minimum above its maximum; give [min, max] with min <= max")
        return value

    @property
    def min_workers(self) -> int:
        """Smallest number of training workers."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        """Largest number of training workers."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def budget(self) -> dict[str, float]:
        """Resources that stages may use together, by Ray's names (`CPU`, `GPU`); without those that are left to the cluster."""
        amounts = {"CPU": self.concurrent_cpus, "GPU": self.concurrent_gpus}
        return {name: amount for name, amount in amounts.items() if amount is not None}

    @property
    def workers_in_words(self) -> str:
        """`8`, or `2 to 8`."""
        return str(self.max_workers) if self.min_workers == self.max_workers else f"{self.min_workers} to {self.max_workers}"
