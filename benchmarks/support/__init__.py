"""Modules that the benchmarks import; none of them is a command.

| module | contents |
|---|---|
| `harness` | arguments, interleaved rounds, costs of processes, the JSON result |
| `demo_stores` | stores of a demo configuration and phase jobs on them |
| `launchers` | one phase job under Ray Train and under `torchrun` |
| `gpu_models`, `gpu_sections` | models, texts and sections of `gpu_qwen3_8b` |
| `baseline_pool` | fits of baselines in several processes, for `baselines` |
| `mimic_copies` | enlarged copies of the MIMIC-IV demo, for `ingest` |
| `simulated_tasks`, `single_probes`, `demo_evaluations` | risk tasks, probes task by task, and the demo under Ray, for `evaluation` |
"""
