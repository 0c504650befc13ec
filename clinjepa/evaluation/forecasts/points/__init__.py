"""Point forecasts, and what they are made from.

| module | contents |
|---|---|
| `measurements` | values of the hour grid at the hours of a window |
| `rollouts` | latents of the hours after a window's history |
| `decoder` | values of an hour from its latent |
| `direct` | gradient-boosting forecasts from hand-made features, the comparison |
| `measured` | which variables are measured next |
"""
