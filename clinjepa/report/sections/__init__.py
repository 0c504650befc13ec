"""Rows, charts and words of single sections of the report page.

| module | contents |
|---|---|
| `claims` | the paper's three claims, judged by intervals |
| `forecasts` | tables, maps of intervals and reliability charts of the forecasts |
| `fans` | which windows are shown as forecast fans |
| `costs` | costs of recipes, times of stages |
| `task_map` | all risk tasks and methods in one picture |
| `geometry` | cohorts, spaces and pictures of the latent geometry |
| `added_value` | what the latent adds to hand-made features, by share of the training patients |
| `numbers` | tables of the tasks whose labels are numbers |
| `risk` | tables of calibration, alarms, groups and net benefit |
"""
