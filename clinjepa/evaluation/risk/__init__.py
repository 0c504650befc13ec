"""What a risk score is worth in use: calibration, subgroups, alarms, net benefit; computed from kept predictions when a report is written.

| module | contents |
|---|---|
| `evaluate` | all of it, for every task and method of a run |
| `points` | prediction points of a task, with the draws of patients that all its figures share |
| `calibration`, `recalibration` | Brier score, calibration error, reliability curve; slope and intercept |
| `subgroups` | AUROC and mean calibration by age, sex and unit |
| `events`, `alarms` | the first event of a stay; event recall and lead time at a rate of false alarms |
| `decisions` | net benefit over thresholds |
| `result` | the forms of the results |
"""
