"""Labels of prediction tasks, from the hourly grid, the history before admission and the table of stays.

| module | contents |
|---|---|
| `artifact` | the labels artifact: written part by part, joined, read by task |
| `rules` | one function per kind of task: hour rows -> labels |
| `hour_rows` | (stay, hour) rows as arrays, and windows over them |
| `states` | three-valued conditions |
| `derived/` | derived clinical quantities per hour: SOFA, KDIGO, Sepsis-3 and others |
"""
