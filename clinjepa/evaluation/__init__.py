"""Frozen-model evaluation: rollout drift, latent geometry, downstream tasks, baselines, round trip; plain functions that return JSON-able results."""
