"""Phases and recipes as data, the seeded plan, the step loop of all training, checkpoints. Runs under Ray, `torchrun` or alone.

| module or folder | contents |
|---|---|
| `recipes/` | recipes as YAML files, phases as typed values; optimizer steps of each phase |
| `terms/` | the terms of a phase's loss, and the table of them |
| `settings`, `jobs` | typed settings of a training; what one job trains, from which folders |
| `training_loop` | the step loop that SFT and the phases share |
| `phase`, `sft`, `hard_sync` | the two kinds of training behind the loop; phase 4, which copies online to target |
| `schedule` | learning rate by step |
| `embedding` | a worker of the pool that fills a latent store |
| `shifted_job`, `shifted_embedding` | what encodes action texts with other doses, for the drift evaluation |
| `dispatch`, `worker` | from a job's JSON to its training; the entry point for a plain process and `torchrun` |
| `steps/` | what a step is made of: modules, encoding of texts, losses of a micro-batch, optimizer, diagnostics |
| `feed/` | the seeded plan of windows and texts, and the micro-batches that carry it out |
| `checkpoints/` | checkpoints, the training history, digests of a job's inputs |
| `workers/` | process group, gathered weights, memory faults |
"""

FORMAT_VERSIONS = {"base": 2, "sft": 5, "phase": 5, "sync": 1, "embed": 4, "shifted_actions": 2}
"""By kind of stage that this room and `clinjepa.model` make; raised when the content of an artifact changes for the same settings. The
number of `base` is here because `clinjepa.model` imports torch, which reading a number must not load."""
