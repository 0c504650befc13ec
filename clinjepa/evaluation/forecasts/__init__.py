"""Forecasts of measured values with probabilities, decoded from rolled-out latents.

| module | contents |
|---|---|
| `evaluate` | the evaluation: forecasts, their scores, distributions and events |
| `events` | probability of a task's event by the task's own rule, without a probe |
| `result` | the records of the result |
| `tables` | the forecasts and probabilities behind the figures |
| `points/` | point forecasts: from latents, and by gradient boosting; which variables are measured next |
| `scoring/` | predictive distributions and every score, with one bootstrap over patients |
"""
