"""Point forecasts, and what they are made from.

| module | contents |
|---|---|
| `measurements` | values of the hour grid at the hours of a window |
| `rollouts` | latents of the hours after a window's history |
| `decoder` | values of an hour from its latent |
| `readouts` | fitted read-outs of a latent, as they are applied |
| `direct` | gradient-boosting forecasts from hand-made features, the comparison |
| `measured` | which variables are measured next |
"""
