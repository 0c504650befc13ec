"""Ray Tune gives trials no credentials: a runtime environment is written into Ray's logs."""

from __future__ import annotations

import pytest
from ray.tune import Trainable
from ray.tune.execution import class_cache

from pipelines.scheduling.tune_environment import CREDENTIALS, keep_credentials_out


def copied() -> set[str]:
    """Names in the runtime environment of a trial's process."""
    made = class_cache._ActorClassCache().get(type("Nothing", (Trainable,), {}))
    return set(made._default_options["runtime_env"]["env_vars"])


def test_credentials_of_the_environment_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", class_cache.ENV_VARS_TO_PROPAGATE | CREDENTIALS)
    for name in (*CREDENTIALS, "RAY_CHDIR_TO_TRIAL_DIR"):
        monkeypatch.setenv(name, "0")
    assert copied() >= CREDENTIALS  # what Tune does by itself
    keep_credentials_out()
    assert not copied() & CREDENTIALS and "RAY_CHDIR_TO_TRIAL_DIR" in copied()
