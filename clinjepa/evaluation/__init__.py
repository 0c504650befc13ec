"""Evaluation of frozen models: drift, geometry, downstream tasks, baselines, round trip. Plain functions with JSON-able results."""
