"""Forecasts of measured values with probabilities, decoded from rolled-out latents.

| module | contents |
|---|---|
| `evaluate` | the evaluation: forecasts, their scores, distributions and events |
| `fitting` | fits a forecaster on training and tuning patients |
| `forecaster` | what is fitted, as one object in two files |
| `patients` | forecasts of patients whose future is not known |
| `windows` | the windows of a split, rolled out, and the point forecasts of each method |
| `events` | probability of a task's event by the task's own rule, without a probe |
| `result` | the records of the result |
| `tables` | the forecasts and probabilities behind the figures |
| `points/` | point forecasts: from latents, and by gradient boosting; which variables are measured next |
| `scoring/` | predictive distributions and every score, with one bootstrap over patients |
"""
