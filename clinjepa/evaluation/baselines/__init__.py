"""Baselines: what other methods predict from the hour grid at the probes' prediction points, tuned on the tuning split.

A baseline is one file of `tabular/` or `sequences/`, named like the baseline, with an entry `BASELINE` (docs/adding_a_baseline.md).

| module | contents |
|---|---|
| `protocol` | a baseline, the problem that it is fitted on, and the space of its settings |
| `names`, `registry` | which baselines there are; the table of their entries |
| `inputs`, `hour_sequences` | what baselines read: features of points, severity score, hours as sequences |
| `tuning` | which settings are tried, and which are kept |
| `linear_fits`, `sequence_training` | fits that several baselines share |
| `evaluate`, `ensemble` | the tables; the mean of several baselines |
| `tabular/`, `sequences/` | one file a baseline |
"""
