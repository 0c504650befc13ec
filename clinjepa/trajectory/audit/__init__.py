"""The leak audit of finished data stages, and a view of one window. Neither shows identifiers or calendar times.

| module | contents |
|---|---|
| `leaks` | `audit`: all checks over texts, grid, splits, tokens and labels |
| `checks` | the result of a check; what is audited |
| `texts` | names in texts against what texts may name |
| `truncation` | stays cut at an hour, built again and compared |
| `label_checks` | labels computed again, whole and from cut stays |
| `show` | one window of a trajectory store as text and hourly grid |
"""
