"""Scores of forecasts and of probabilities.

| module | contents |
|---|---|
| `distributions` | predictive distributions from errors on tuning patients; CRPS, intervals, PIT |
| `scores` | MAE, RMSE, MASE, Spearman with one bootstrap over patients |
| `calibration` | Brier score, ECE, calibration slope and intercept, reliability curve |
| `horizon_scores` | the figures of all variables at one horizon |
| `event_scores` | the figures of event probabilities |
"""
