"""Qwen3-8B with LoRA on one GPU, without Ray: speed and memory of every kind of step, against Hugging Face Trainer + PEFT.

Runs where torch, transformers, peft and accelerate are, without network. On a CPU (or with `--tiny`) the same code runs on the
same structure shrunk: a proof of the script, its figures mean nothing. Formulas: docs/scaling.md.
"""

from __future__ import annotations

import torch

from benchmarks.support.gpu_models import FULL, TINY
from benchmarks.support.gpu_sections import LEVELS, Bench
from benchmarks.support.harness import Report, arguments, publish
from clinjepa.capacity.model_sizes import known_gpus
from clinjepa.curriculum.workers.dist import chosen_device

GOALS = {
    "lora_tokens_per_second": ">= 10000 on an H100",
    "sft_tokens_per_second": ">= 10000 on an H100",
    "sft_over_padded_trainer": ">= 1.5",
    "sft_over_packed_trainer": ">= 1.0",
    "worst_memory_error": "<= 0.15",
}
UNITS = {
    "tokens_per_second": "tokens/s",
    "mfu": "of the GPU's bf16 peak",
    "seconds": "s",
    "over": "times",
    "error": "share",
    "windows": "1/s",
}
"""By a part of a figure's name."""


def main() -> int:
    given = arguments(__doc__ or "", tiny=False, compile=False, steps=0, peak_tflops=0.0)
    device = chosen_device(False if given.tiny else None)
    tiny = device.type == "cpu"
    name = torch.cuda.get_device_name() if not tiny else "CPU"
    known = [values["bf16_tflops"] for kind, values in known_gpus().items() if kind in name]
    num_steps = given.steps or (2 if tiny else 6 if given.quick else 12)
    bench = Bench(TINY if tiny else FULL, device, num_steps, 1 if given.quick or tiny else 3, given.peak_tflops or (known or [None])[0])

    for level in LEVELS:
        bench.chunks(level)
    fitting = [level for level in LEVELS if f"lora_{level}_tokens_per_second" in bench.measured]
    if fitting:
        bench.measured["lora_tokens_per_second"] = bench.measured[f"lora_{fitting[0]}_tokens_per_second"]
        bench.profile(fitting[0])
    if fitting and given.compile:
        bench.chunks(fitting[0], compiled=True)
    bench.embed()
    bench.predictor_only()
    # Joint refinement holds more than a chunk, so what just fitted alone may not fit with it.
    for level in fitting:
        bench.joint(level)
        if "joint" not in bench.faults:
            bench.measured["joint_recompute_level"] = LEVELS.index(level)
            break
        bench.faults[f"joint, {level}"] = bench.faults.pop("joint")
    bench.sft(fitting or [LEVELS[-1]])

    if bench.memory:
        bench.measured["worst_memory_error"] = max(abs(1 - each["planned_over_allocated"]) for each in bench.memory.values())
    report = Report(
        "gpu_qwen3_8b",
        bench.measured,
        {} if tiny else {goal: bound for goal, bound in GOALS.items() if goal in bench.measured},
        {figure: next((unit for part, unit in UNITS.items() if part in figure), "") for figure in bench.measured},
        {
            "device": name,
            "model": "Qwen3-8B, random weights" if not tiny else "Qwen3 shrunk: a proof of the script, no measurement",
            "mfu": "tokens/s * FLOPs a token / peak; with a graph 4 N + 6 N_lora, without 2 (N + N_lora); N = "
            f"{bench.latent_layers:,} weights of the layers' products for latents (of the last layer key and value), {bench.layers:,} "
            f"and the output layer ({bench.head:,}) in SFT; N_lora = {bench.lora:,}; "
            f"peak {bench.peak_tflops} TFLOP/s bf16; what is computed twice is not counted",
            "memory": bench.memory,
            "profile": bench.profiled,
            "trainer": bench.peers,
            "faults": bench.faults,
            "steps": num_steps,
        },
    )
    publish(report, given.quick or tiny)
    # A level of activation checkpointing that does not fit is a finding, not a failure.
    return 1 if any("OutOfMemory" not in fault for fault in bench.faults.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
