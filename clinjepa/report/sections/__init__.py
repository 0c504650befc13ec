"""Rows, charts and words of single sections of the report page.

| module | contents |
|---|---|
| `claims` | the paper's three claims, judged by intervals |
| `forecasts` | tables and reliability charts of the forecasts |
| `geometry` | cohorts, spaces and pictures of the latent geometry |
| `risk` | tables of calibration, alarms, groups and net benefit |
"""
