"""Latent geometry: how far deteriorating stays move, compared with stable ones.

| module | contents |
|---|---|
| `evaluate` | the figures and the picture of a space |
| `centroid_ratio` | displacement of deteriorating over stable stays, with its interval |
| `cohorts` | which stays are deteriorating or stable, and from which hour |
"""
