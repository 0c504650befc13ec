"""Where and with how much a run is computed: the one section of which no field changes a result."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from clinjepa.config.section import Execution, Section


class ExecutionConfig(Section):
    """Where and with how much it runs. Nothing here changes a result."""

    num_workers: int | tuple[int, int] = Execution(2)
    """FSDP workers per training stage: a number, or `[min, max]` to grow and shrink with the cluster's nodes. The global batch and
    the plan stay the same; losses agree to 1e-5 at first and part as rounding grows (docs/scaling.md)."""

    resize_interval_seconds: float = Execution(60.0, gt=0)
    """With `[min, max]`: how often to look whether the cluster has room for more workers. A resize restarts them from the last
    checkpoint."""

    start_timeout_seconds: float = Execution(60.0, gt=0)
    """Workers that could not all be started for this long (a node has just gone) are asked for again, in the number there is room for."""

    cpus_per_worker: float = Execution(0.5, gt=0)
    """Logical CPUs each training worker reserves."""

    threads_per_worker: int = Execution(1, ge=1)
    """Threads that torch computes with in each training and encoder worker."""

    use_gpu: bool = Execution(False)
    """A GPU for every training and encoder worker. Without it they compute on the CPU, whatever GPUs the machine has."""

    memory_mb: int = Execution(4096, ge=512)
    """RAM in MB that the extraction of raw tables may use, all tables worked on at a time together; other stages do not read it."""

    gpu_kind: Literal["H100", "H200", "A100", "A100-40GB"] = Execution("H100")
    """The GPU that `clinjepa plan` reckons with."""

    gpu_memory_gb: float | None = Execution(None, gt=1)
    """Memory of a GPU in GiB for that plan; None is what `gpu_kind` has."""

    gpu_tflops: float | None = Execution(None, gt=0)
    """Its bf16 peak (dense) in TFLOP/s; None is what `gpu_kind` has."""

    gpu_utilisation: float = Execution(0.35, gt=0, le=1)
    """Share of the peak that the plan assumes: 0.33 to 0.39 were measured with Qwen3-8B on an H100."""

    data_cpus: float = Execution(0.25, gt=0)
    """Logical CPUs of each Ray Data reader that feeds a training worker."""

    embed_workers: int = Execution(2, ge=1)
    """Encoder workers of the pool that computes a latent store."""

    evaluation_cpus: float = Execution(1.0, gt=0)
    """Logical CPUs of each task of evaluation (rounded down, its torch threads, at least one), and of the tokenizer, labels, the untrained
    base and the hard sync."""

    max_worker_failures: int = Execution(3, ge=-1)
    """Worker failures that a training stage survives; -1: any number. Nodes that are taken away after a notice do not count."""

    local_num_cpus: int | None = Execution(None, ge=1)
    """Logical CPUs of a local cluster started by this run; None is the machine's."""

    concurrent_cpus: float | None = Execution(None, gt=0)
    """Logical CPUs that stages may use together; None is what the cluster has. Set it above that to let a cluster grow."""

    concurrent_gpus: float | None = Execution(None, gt=0)
    """GPUs, likewise."""

    object_store_mb: int | None = Execution(None, ge=80)
    """Ray's object store in MB (2**20 bytes) of a local cluster started by this run; None is what Ray takes."""

    lease_seconds: float = Execution(20.0, gt=1)
    """A stage owner that stops renewing its lease for this long is taken for dead."""

    progress: bool = Execution(True)
    trackers: list[Literal["tensorboard", "mlflow"]] = Execution([])
    """Where training stages also send their numbers while they run (extra `trackers`). Nothing by default."""

    tracker_uri: str | None = Execution(None)
    """Address of your own MLflow server (`http://…`) or folder (`file:///…`)."""

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
        """Training workers at the least."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        """Training workers at the most."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @property
    def budget(self) -> dict[str, float]:
        """What stages may use together, by Ray's names of resources, where it is not what the cluster has."""
        amounts = {"CPU": self.concurrent_cpus, "GPU": self.concurrent_gpus}
        return {name: amount for name, amount in amounts.items() if amount is not None}

    @property
    def workers_in_words(self) -> str:
        """`8`, or `2 to 8`."""
        return str(self.max_workers) if self.min_workers == self.max_workers else f"{self.min_workers} to {self.max_workers}"
