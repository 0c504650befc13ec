"""What a cluster has and what it can have: waiting for resources that an autoscaler starts or that join by hand.

Ray knows what a cluster can have in two ways. Node groups with their limits lie in the GCS where the provisioner reports them. The
open-source autoscaler reports none, but says which requests it can never serve, so the resources are asked for and its word is read. A
cluster of neither kind may still grow when somebody starts nodes (Slurm, `ray start`), so there only time decides.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clinjepa.errors import ResourceError, retold
from clinjepa.redaction import redacted
from pipelines.graph.context import Needs, RunContext
from pipelines.graph.stage import Stage

CERTAIN_SECONDS = 45.0
"""An autoscaler that says for so long that it can never serve a request is believed: at first its nodes may only be starting."""

_LOOK_SECONDS = 2.0
_TELL_SECONDS = 60.0
SETTING = "execution.wait_for_resources_minutes"


@dataclass(frozen=True)
class Supply:
    """What a cluster has of every resource, and what is known of what it can have."""

    there: Needs
    limits: Needs | None = None
    """What its node groups can have together; None where nobody reported them."""

    is_autoscaled: bool = False
    """Whether an autoscaler starts nodes by itself."""

    never: frozenset[str] = frozenset()
    """Resources of the request that the autoscaler cannot serve with any of its groups."""

    num_coming: int = 0
    """Nodes that are being started."""

    refusal: str | None = None
    """Why the last node could not be started: a quota, no capacity."""

    def missing(self, needs: Needs) -> Needs:
        """What of `needs` the cluster does not have now."""
        return {name: amount for name, amount in needs.items() if self.there.get(name, 0.0) + 1e-6 < amount}

    def impossible(self, needs: Needs) -> Needs:
        """What of `needs` its groups can never have, by their reported limits."""
        if self.limits is None:
            return {}
        most = {name: max(self.limits.get(name, 0.0), self.there.get(name, 0.0)) for name in needs}
        return {name: amount for name, amount in needs.items() if most[name] + 1e-6 < amount}


class RaySupply:
    """The connected Ray cluster."""

    def look(self) -> Supply:
        """What there is now."""
        import ray

        there = dict(ray.cluster_resources())
        limits = None
        with contextlib.suppress(Exception):  # private to Ray: without it only time decides
            limits = _limits()
        try:
            return _with_autoscaler(there, limits)
        except Exception:  # likewise
            return Supply(there, limits)

    def ask(self, needs: Needs) -> None:
        """Ask the autoscaler for resources, one bundle a GPU and one for what else is needed; an empty dict takes the request back."""
        from ray.autoscaler.sdk import request_resources

        bundles = [{name: 1.0} for name, amount in needs.items() for _ in range(max(1, round(amount)))]
        with contextlib.suppress(Exception):  # a cluster without an autoscaler may refuse to be asked
            request_resources(bundles=bundles)


def _limits() -> Needs | None:
    """What the node groups can have together, where a provisioner reported them."""
    import ray._private.state

    found = ray._private.state.state.get_max_resources_from_cluster_config()
    return None if found is None else {name: float(amount) for name, amount in found.items()}


def _with_autoscaler(there: Needs, limits: Needs | None) -> Supply:
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, its stub lacks it
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]  # generated, without types

    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(address=ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=10))
    state, nodes = reply.autoscaling_state, reply.cluster_resource_state.node_states
    # A monitor without an autoscaler reports too; nodes that an autoscaler or KubeRay started have an id there.
    is_autoscaled = bool(state.autoscaler_state_version) and any(node.instance_id or node.ray_node_type_name for node in nodes)
    asked = [each for constraint in state.infeasible_cluster_resource_constraints for each in constraint.resource_requests]
    never = {name for each in asked for name in each.request.resources_bundle}
    failed = sorted(state.failed_instance_requests, key=lambda each: each.failed_ts)
    return Supply(
        there=there,
        limits=limits,
        is_autoscaled=is_autoscaled,
        never=frozenset(never) if is_autoscaled else frozenset(),
        num_coming=len(state.pending_instances) + sum(each.count for each in state.pending_instance_requests),
        refusal=redacted(" ".join(failed[-1].reason.split()))[:200] if failed else None,
    )


def wait_for(needs: Needs, minutes: float, tell: Callable[[str], None], cluster: RaySupply | None = None) -> None:
    """Return when the cluster has `needs`.

    Args:
        needs: Amounts of all nodes together, by Ray's names of resources.
        minutes: How long to wait where the cluster may get them; 0 refuses at once.
        tell: Gets a line at first, when something changes, and every minute.
        cluster: None is the connected one.

    Raises:
        ResourceError: No node group can have them, or they were not there in time.
    """
    cluster = RaySupply() if cluster is None else cluster
    supply = cluster.look()
    if not supply.missing(needs):
        return
    _refuse_impossible(supply, supply.impossible(needs), needs)
    if minutes <= 0:
        raise ResourceError(f"{_lack(supply, needs)}; add nodes that have them, or set {SETTING} to how long to wait for such nodes")
    began = time.monotonic()
    cluster.ask(needs)
    try:
        _wait(needs, minutes, tell, cluster, began)
    finally:
        cluster.ask({})
    tell(f"the cluster has {in_words(needs)} after {_minutes(time.monotonic() - began)}")


def refuse_never(needs: Needs, cluster: RaySupply | None = None) -> None:
    """Raise ResourceError for needs that no node group can have, where the groups' limits are known; asks for nothing."""
    supply = (RaySupply() if cluster is None else cluster).look()
    if supply.missing(needs):
        _refuse_impossible(supply, supply.impossible(needs), needs)


def wait_for_stage(context: RunContext, stage: Stage, least: Needs) -> None:
    """Return when the cluster has the GPUs that a stage starts with; one that a run has started itself has them.

    The stages of one run that wait in vain do so at the same time: once one has given up, the others raise its fault.

    Args:
        context: The run.
        stage: Shown with what it waits for.
        least: What the stage starts with; only its GPUs are waited for.

    Raises:
        ResourceError: No node group can have them, or they were not there within `execution.wait_for_resources_minutes`.
    """
    needs = {name: amount for name, amount in least.items() if name == "GPU" and amount > 0}
    if not needs:
        return
    import ray

    name = f"{context.run_id}/GPU"
    noted: tuple[str, str] | None = ray.get(context.coordinator.fault.remote(name))
    if noted is not None:
        raise retold(*noted)
    try:
        wait_for(needs, context.config.execution.wait_for_resources_minutes, lambda line: context.report(stage, 0, 1, line))
    except ResourceError as error:
        ray.get(context.coordinator.note_fault.remote(name, type(error).__name__, str(error)))
        raise


def _wait(needs: Needs, minutes: float, tell: Callable[[str], None], cluster: RaySupply, began: float) -> None:
    told, told_at, refused_since = "", -_TELL_SECONDS, None
    while True:
        supply, now = cluster.look(), time.monotonic()
        missing = supply.missing(needs)
        if not missing:
            return
        _refuse_impossible(supply, supply.impossible(needs), needs)
        never = {name: amount for name, amount in missing.items() if name in supply.never}
        refused_since = (refused_since or now) if never else None
        if refused_since is not None and now - refused_since >= CERTAIN_SECONDS:
            _refuse_impossible(supply, never, needs)
        if now - began >= minutes * 60:
            raise ResourceError(
                f"{_lack(supply, needs)}, also after {minutes:g} min ({SETTING}){_state(supply)}; add nodes that have them, "
                "or submit again when they are there: finished stages are kept"
            )
        state = f"waiting for {in_words(missing)}: {_has(supply, missing)}{_state(supply)}"
        if state != told or now - told_at >= _TELL_SECONDS:
            tell(f"{state}; waited {_minutes(now - began)} of at most {minutes:g} min ({SETTING})")
            told, told_at = state, now
        time.sleep(_LOOK_SECONDS)


def in_words(needs: Mapping[str, float]) -> str:
    """`2 GPU and 1 CPU`."""
    return " and ".join(f"{amount:g} {name}" for name, amount in needs.items())


def _lack(supply: Supply, needs: Needs) -> str:
    missing = supply.missing(needs)
    return f"{in_words(missing)} {'is' if sum(missing.values()) == 1 else 'are'} needed, {_has(supply, missing)}"


def _has(supply: Supply, missing: Needs) -> str:
    return f"the cluster has {in_words({name: supply.there.get(name, 0.0) for name in missing})}"


def _refuse_impossible(supply: Supply, names: Needs, needs: Needs) -> None:
    """Raise ResourceError where resources can never be there."""
    if not names:
        return
    most = "" if supply.limits is None else f" (at most {in_words({name: supply.limits.get(name, 0.0) for name in names})})"
    raise ResourceError(
        f"{_lack(supply, needs)}, and none of its node groups can have {in_words(names)}{most}; add a group with {' and '.join(names)}, "
        "raise its largest number of nodes, or ask for less: execution.num_workers, execution.use_gpu=false"
    )


def _state(supply: Supply) -> str:
    if supply.num_coming:
        return f" and starts {supply.num_coming} {'node' if supply.num_coming == 1 else 'nodes'}"
    if supply.refusal:
        return f", and its provider refused a node: {supply.refusal}"
    return "" if supply.is_autoscaled else ", and nothing is known to start nodes by itself: start some, or end this command"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
