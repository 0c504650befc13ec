"""Evaluation of frozen models: rollout drift, latent geometry, risk tasks, baselines, round trip.

An evaluation is a plain function of artifacts. Its result is a TypedDict of figures, which is written as JSON without conversion.

| module | contents |
|---|---|
| `drift`, `drift_windows` | error of autoregressive rollouts by horizon, with two controls and wrong actions; their windows and rollouts |
| `drift_doses` | rollouts with the recorded actions and other doses |
| `geometry/` | displacement of deteriorating over stable stays; its estimator; the cohorts |
| `downstream/` | risk tasks: probes on latents and rollouts, kept for other patients |
| `baselines/` | what other methods predict at the same points |
| `added_value/` | what latents add to hand-made features, by share of the training patients |
| `forecasts/` | measured values of the coming hours with probabilities, and gradient boosting beside them |
| `roundtrip` | values of an hour read back from its latent |
| `scores` | probabilities and forecasts of new patients, by a run that is finished |
| `shift` | how far new patients are from those of the training split |
| `space` | stays of a split, the training mean latent, diagnostics of collapse |
| `fitted_files` | files of what an evaluation fitted, read again without training data |
| `figures`, `metrics`, `seeds` | a figure with its interval; AUROC, AUPRC and the bootstrap; several seeds as one result |
| `finite` | the check that scores are finite |
| `resampling`, `comparisons` | one bootstrap over patients for many figures; paired differences, Holm, equivalence |
| `risk/` | calibration, subgroups, alarms and net benefit, from the kept predictions when a report is written |
| `differences/` | the mean of a difference over tasks; differences between runs |
| `predictions` | the scores behind the risk tables, kept as a table; comparisons on them |
| `settings` | settings of the evaluation stages |
"""

FORMAT_VERSIONS = {
    "roundtrip": 2,
    "drift": 3,
    "forecasts": 3,
    "direct_forecasts": 1,
    "geometry": 4,
    "downstream": 5,
    "baselines": 5,
    "added_value": 1,
    "shift": 1,
    "scores": 2,
}
"""By kind of stage that this room's code makes; raised when the result changes for the same settings."""
