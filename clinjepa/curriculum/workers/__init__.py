"""The workers of one training.

| module | contents |
|---|---|
| `dist` | rank, process group, device; the same for one process, `torchrun` and Ray Train |
| `gathering` | which FSDP2 weights stay gathered between uses |
| `out_of_memory` | names the settings to change when a worker runs out of GPU memory |
"""
