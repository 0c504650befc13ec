"""Stays and events become an hourly grid, texts, tokens and windows; and the latent and label formats (docs/contracts.md, 3-5)."""
