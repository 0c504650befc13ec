"""What Ray Tune hands to the processes of trials.

Tune copies the driver's AWS credentials into the runtime environment of every trial, and Ray writes runtime environments into its logs.
Processes of a cluster that a command starts have the driver's environment anyway. On a cluster that was joined, the environment of the
nodes or of the job gives credentials to all processes alike.
"""

from __future__ import annotations

from ray.tune.execution import class_cache

CREDENTIALS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"})


def keep_credentials_out() -> None:
    """Take the credentials out of what Tune copies; call it before a `Tuner` runs."""
    class_cache.ENV_VARS_TO_PROPAGATE = class_cache.ENV_VARS_TO_PROPAGATE - CREDENTIALS
