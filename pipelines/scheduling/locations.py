"""Local addresses are made absolute when a command starts, since Tune's trials and Ray's workers run in other folders."""

from __future__ import annotations

import os

from clinjepa.config import Config
from clinjepa.errors import ConfigError

_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the driver of `ray job submit`


def inside_job() -> bool:
    """True in a driver that `ray job submit` started."""
    return _JOB_VARIABLE in os.environ


def on_a_cluster() -> bool:
    """Whether there is a cluster to join: that of the job or of `RAY_ADDRESS` (whose value `local` asks Ray for a new one)."""
    return inside_job() or os.environ.get("RAY_ADDRESS", "").strip() not in ("", "local")


def vanishes_with_a_job(address: str) -> bool:
    """Whether an address is a relative path, which in a job means the job's own folder."""
    return "://" not in address and not os.path.isabs(address)


def absolute(config: Config) -> Config:
    """`config` with absolute addresses of storage, source, label files, a local model, recipes' files and a tracker's folder.

    Raises ConfigError inside a job whose storage is relative, since the job's folder is deleted at its end.
    """
    if inside_job() and vanishes_with_a_job(config.storage):
        raise ConfigError(
            f"storage={config.storage} is relative to the job's own folder, which vanishes with the job; "
            "give an absolute folder that every node sees, or s3://bucket/prefix"
        )
    model, tracker = config.encoder.model, config.execution.tracker_uri
    return config.model_copy(
        update={
            "storage": _absolute(config.storage),
            "source": config.source.model_copy(update={"path": config.source.path and _absolute(config.source.path)}),
            "labels": config.labels.model_copy(
                update={"files": {name: one.model_copy(update={"path": _absolute(one.path)}) for name, one in config.labels.files.items()}}
            ),
            "grid": config.grid.model_copy(
                update={"recipes": [_absolute(each) if each.endswith((".yaml", ".yml")) else each for each in config.grid.recipes]}
            ),
            "init_from": config.init_from.model_copy(update={"run": config.init_from.run and _absolute(config.init_from.run)}),
            "encoder": config.encoder.model_copy(update={"model": _absolute(model) if model and os.path.isdir(model) else model}),
            "execution": config.execution.model_copy(
                update={"tracker_uri": _absolute(tracker) if tracker and _is_folder(tracker) else tracker}
            ),
        }
    )


def _is_folder(tracker: str) -> bool:
    """Whether a tracker's address is a plain path; `databricks` and everything with a colon mean a server or database to MLflow."""
    return ":" not in tracker and tracker not in ("databricks", "databricks-uc", "uc")


def _absolute(address: str) -> str:
    if "://" in address:
        return address
    try:
        return os.path.abspath(address)
    except FileNotFoundError:
        raise ConfigError("the working folder was removed or replaced; change to another folder and run again") from None
