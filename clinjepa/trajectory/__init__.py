"""From a source's stays and events to what training and evaluation read; formats: docs/contracts.md, sections 3 to 5.

| room | contents |
|---|---|
| `hours/` | the ingest artifact: hourly texts, hourly grid, cohort, split, counts |
| `tokens/` | tokenizer, trajectory store (token ids, windows), latent store |
| `labels/` | labels of prediction tasks, and the derived clinical quantities behind them |
| `hour_grid`, `hour_values` | the hour grid as arrays; its measured numbers normalised for training |
| `settings` | the configuration that each data stage reads |
| `audit/` | the leak audit, and a view of a single window |
"""

FORMAT_VERSIONS = {"ingest": 10, "tokenizer": 1, "trajectories": 3, "labels": 7}
"""By kind of stage that this room's code makes; raised when the content of an artifact changes for the same settings."""

STORED_FORMAT = 2
"""Further version of ingest artifacts with `source.event_time: stored`, in the keys of these only."""
