"""What latents add to hand-made features in the risk tasks, and how many patients' labels each input needs.

| module | contents |
|---|---|
| `evaluate` | every task, share of patients, estimator and input, with paired differences |
| `patients` | nested subsets of the training patients |
| `inputs` | hand-made features and pooled latents of the history at prediction points |
| `fits` | gradient boosting and the linear probe on an input |
| `result` | the form of the result |
"""
