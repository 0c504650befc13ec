"""Differences between methods beyond one task and one run, and in the errors of numbers; those in AUROC within a task are in
`clinjepa.evaluation.comparisons`.

| module | contents |
|---|---|
| `over_tasks` | the mean over tasks of a difference, with one draw of patients for all tasks |
| `between_runs` | paired differences between methods of several finished runs |
| `of_errors` | paired differences in the absolute error of predicted numbers |
"""
