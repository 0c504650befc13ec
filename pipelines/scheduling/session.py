"""Joining a Ray cluster, or starting one on this machine when there is none."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Set before Ray is imported, and inherited by workers: no usage reports, no look-ups on the model hub.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# A thread that asks Ray for something after an interruption ended the session must not start another Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
# Ray adds 15 to the niceness of its workers, which hold all the work here: beside other users' processes a run would starve.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray  # noqa: E402
import ray.data  # noqa: E402

import clinjepa  # noqa: E402
from clinjepa.config import Config  # noqa: E402
from clinjepa.errors import DEBUG_VARIABLE, ResourceError, StorageError  # noqa: E402
from clinjepa.redaction import redact_logs, redacted  # noqa: E402
from clinjepa.storage.s3 import PATIENCE_VARIABLE  # noqa: E402
from pipelines.graph.context import RunContext
from pipelines.scheduling.coordinator import coordinator  # noqa: E402
from pipelines.scheduling.interruptions import cleaning_up, handle_again  # noqa: E402
from pipelines.scheduling.local_ray import end_leftover_workers, local_start, metrics_address_known, session_folder  # noqa: E402
from pipelines.scheduling.locations import inside_job, on_a_cluster  # noqa: E402
from pipelines.scheduling.ray_folder import private_ray_folder, private_token  # noqa: E402

# Also in trials and workers, which import this module.
redact_logs()
# Ray Data's own exception names neither the kind nor the place of the error.
ray.data.DataContext.get_current().raise_original_map_exception = True

WATCHER_VARIABLE = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Whether Ray Train watches for notices that nodes will be removed, in this process and those it starts."""

_NO_FAULTS = ("worker processes have been started", "ServeController.graceful_shutdown failed")

ANSWER_SECONDS = 20.0
"""Longest time to wait for a port of `RAY_ADDRESS`: a head that has just been started may not listen yet."""


def quieten_ray() -> None:
    """Log errors only, and none of Ray Data: it logs whole exceptions of tasks, and a library's message can quote a patient's value."""
    for name in ("ray", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _filter_rays_output() -> None:
    """Redact what Ray prints of its workers, and suppress what is no fault: its warning about many worker processes, since trials wait
    without a CPU on purpose, and the end of Ray Serve's controller.

    Ray prints the raylet's output regardless of log levels and has no setting for it.
    """
    show = getattr(ray._private.worker, "print_to_stdstream", None)
    if show is None or hasattr(show, "quiet"):
        return

    def print_to_stdstream(data: Mapping[str, Any], *arguments: Any, **options: Any) -> None:
        if not any(words in str(line) for line in data.get("lines", ()) for words in _NO_FAULTS):
            show({**data, "lines": [redacted(str(line)) for line in data.get("lines", ())]}, *arguments, **options)

    print_to_stdstream.quiet = True  # type: ignore[attr-defined]
    ray._private.worker.print_to_stdstream = print_to_stdstream


@contextlib.contextmanager
def _files_closed_to_others() -> Iterator[None]:
    """A umask under which Ray's processes, which inherit it, make files that only this user can read."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _notices_ignored() -> Iterator[None]:
    """Turn the watcher off on this machine, which is not removed with a notice: it would be one more process per training.

    The setting is restored afterwards, since a later session of this process may join a cluster whose nodes are removed with a notice.
    """
    set_by_user = WATCHER_VARIABLE in os.environ
    os.environ.setdefault(WATCHER_VARIABLE, "0")
    try:
        yield
    finally:
        if not set_by_user:
            os.environ.pop(WATCHER_VARIABLE, None)


def _cluster() -> str:
    """Name of the joined cluster in error messages."""
    address = os.environ.get("RAY_ADDRESS")
    return f"the Ray cluster at RAY_ADDRESS={address}" if address else "the Ray cluster of this job"


@contextlib.contextmanager
def ray_session(config: Config, debug: bool = False) -> Iterator[RunContext]:
    """Connect to the cluster of `RAY_ADDRESS` or of the job, else start one on this machine; disconnect when the block ends.

    Args:
        config: The configuration.
        debug: Show Ray's logs.

    Raises:
        StorageError: The cluster cannot be reached.
        ResourceError: Ray refuses to join or to start.
    """
    execution = config.execution
    local: dict[str, object] = {"num_cpus": execution.local_num_cpus}
    if execution.object_store_mb:
        local["object_store_memory"] = execution.object_store_mb * 1024 * 1024
    with ray_connection(local, debug, allow_download=config.encoder.allow_download):
        yield RunContext(config, uuid.uuid4().hex[:12], coordinator(), debug)


@contextlib.contextmanager
def ray_connection(local: Mapping[str, object], debug: bool = False, allow_download: bool = False) -> Iterator[None]:
    """Be connected to Ray inside this block, as `ray_session` describes, without what a run needs.

    Args:
        local: Options of `ray.init` for a cluster that is started on this machine.
        debug: Show Ray's logs.
        allow_download: Let Hugging Face's hub be reached.

    Raises:
        StorageError: The cluster cannot be reached.
        ResourceError: Ray refuses to join or to start.
    """
    if not allow_download:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    joined = on_a_cluster()
    options: dict[str, object] = {"logging_level": logging.INFO if debug else logging.ERROR, "log_to_driver": debug}
    if joined:
        if not inside_job():
            root = Path(clinjepa.__file__).parent
            kept = {name: os.environ[name] for name in (PATIENCE_VARIABLE, DEBUG_VARIABLE) if name in os.environ}
            options["runtime_env"] = {"py_modules": [str(root), str(root.parent / "pipelines")], "env_vars": kept}
    else:
        options |= {"address": "local", "include_dashboard": debug, "_temp_dir": private_ray_folder(), **local}
    _filter_rays_output()
    begun_before = ray.is_initialized()
    with contextlib.ExitStack() as settings:
        if not joined:
            settings.enter_context(_notices_ignored())
            settings.enter_context(_files_closed_to_others())
            if not begun_before:
                settings.enter_context(private_token(str(options["_temp_dir"])))
        try:
            _begin(options, joined)
            if not joined and not begun_before:
                settings.enter_context(metrics_address_known(str(options["_temp_dir"])))
            if not debug:
                quieten_ray()
            ray.data.DataContext.get_current().enable_progress_bars = False
            yield
        finally:
            cleaning_up()
            if not begun_before:
                session = None if joined else session_folder()
                ray.shutdown()
                if session is not None:
                    end_leftover_workers(session)


def _wait_for_the_head() -> None:
    """Wait until the port of `RAY_ADDRESS` answers. Raises ConnectionError after `ANSWER_SECONDS`; Ray would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+?)\]?:(\d+)", os.environ.get("RAY_ADDRESS", ""))
    deadline = time.monotonic() + ANSWER_SECONDS
    while found:
        try:
            socket.create_connection((found[1], int(found[2])), timeout=ANSWER_SECONDS).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline:
                raise ConnectionError(f"nothing answers there: {error}") from None
        time.sleep(0.5)


def _begin(options: Mapping[str, object], joined: bool) -> None:
    """`ray.init`, with its faults as errors of one line. Raises StorageError, ResourceError."""
    try:
        if joined:
            _wait_for_the_head()
        with contextlib.nullcontext() if joined else local_start():
            ray.init(**options)  # type: ignore[arg-type]
        handle_again()
    except ConnectionError as error:
        remedy = "submit the job again" if inside_job() else "unset RAY_ADDRESS to run on this machine"
        raise StorageError(f"{_cluster()} cannot be reached ({error}); {remedy}") from None
    except Exception as error:  # Ray also raises a bare Exception; no data are read yet: safe to quote
        where = f"join {_cluster()}" if joined else "start on this machine"
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        remedy = "is the address right, and the cluster up?" if joined else "see execution.object_store_mb and local_num_cpus, RAY_TMPDIR"
        if not joined and "timed out" in reason:
            remedy = f"this machine may be too busy, then try again later; logs: {options.get('_temp_dir')}/session_latest/logs"
        raise ResourceError(f"Ray could not {where}: {reason} ({remedy})") from None
