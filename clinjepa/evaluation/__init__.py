"""Evaluation of frozen models: drift, geometry, downstream tasks, baselines, round trip. Plain functions with JSON-able results."""

FORMAT_VERSIONS = {"roundtrip": 1, "drift": 1, "geometry": 2, "downstream": 1, "baselines": 2}
"""By kind of stage that this room's code makes; raised when the result changes for the same settings."""
