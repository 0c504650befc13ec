"""Risk tasks: what frozen latents and hand-made features say about what happens next.

| module | contents |
|---|---|
| `evaluate` | the downstream table: probes on features of the history and of rollouts |
| `frozen` | the same table of other stays by probes that were fitted before |
| `prediction` | probabilities for patients without labels |
| `task_cells` | the cells of all tasks while they are evaluated |
| `prediction_points` | where a task is predicted, and the cells of its table |
| `unlabelled_points` | where tasks are predicted when no label is known |
| `point_features` | features of a prediction point from latents and rollouts |
| `tabular_features` | features of a prediction point from the hour grid |
| `probes` | linear and MLP probes of several tasks |
| `linear_probe`, `mlp_probe` | their fits, all tasks of a set of points in step |
| `ridge_probe` | the linear fit of a task whose labels are numbers |
| `fitted_probe`, `fitted` | a fitted probe; all of an evaluation as `probes.json` and `probes.safetensors` |
| `probe_rows` | the rows of a task, and their standardisation |
| `regression_cells` | figures of predicted numbers, for probes and baselines |
"""
