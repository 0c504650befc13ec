"""A plan as tables and lines on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from clinjepa.capacity.memory import GIB
from pipelines.graph.changed_action_sizes import ChangedActionEstimate
from pipelines.graph.estimates import GpuEstimate, LatentEstimate
from pipelines.results.plan_record import GridPlan, PlanRecord, StagePlan

_WIDTH_WITHOUT_TERMINAL = 150
MOST_ROWS = 100
"""A larger grid is shown by kind of stage instead of stage by stage; `--json` always holds every stage."""


def print_plan(plan: PlanRecord) -> None:
    """Print the table of stages, the estimates and the warnings on standard output."""
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=_WIDTH_WITHOUT_TERMINAL)
    if plan.stages and len(plan.stages) <= MOST_ROWS:
        console.print(stage_table(plan))
    if plan.grid and (plan.grid.num_trials > 1 or len(plan.stages) > MOST_ROWS):
        console.print(grid_table(plan, plan.grid))
        for line in grid_lines(plan.grid, len(plan.stages)):
            console.print(line, highlight=False, markup=False)
    if plan.stages:
        console.print("done: the manifest is there and every file it names has its size; contents (SHA-256) were not read", highlight=False)
    for stage in plan.stages:
        if stage.damage:
            console.print(f"damaged: {stage.damage}", highlight=False, markup=False)
    if plan.other_code:
        console.print(f"note: {plan.other_code}", highlight=False, markup=False)
    if plan.gpu:
        console.print(gpu_table(plan.gpu))
        for line in gpu_lines(plan.gpu):
            console.print(line, markup=False)
    for line in latent_lines(plan.latents):
        console.print(line, markup=False)
    if plan.changed_actions:
        console.print(changed_action_line(plan.changed_actions), markup=False)
    for line in plan.refusals:
        console.print(f"change: {line}", markup=False)
    for line in plan.warnings:
        console.print(f"warning: {line}", markup=False)


def stage_table(plan: PlanRecord) -> Table:
    """One row per stage."""
    columns = ("stage", "kind", "key", "state", "steps", "needs", "used by")
    table = Table(*columns, title=f"{plan.name}: {len(plan.stages)} stages in {plan.storage}")
    labels = {stage.key: stage.label.split(" · ")[0] for stage in plan.stages}
    num_trials = plan.grid.num_trials if plan.grid else 0
    for stage in plan.stages:
        needs = ", ".join(dict.fromkeys(labels[key] for key in stage.needs)) or "source"
        users = "all" if len(stage.used_by) == num_trials else ", ".join(dict.fromkeys(trial.recipe for trial in stage.used_by))
        steps = "" if stage.num_steps is None else str(stage.num_steps)
        table.add_row(stage.label, stage.kind, stage.key[:8], _state(stage), steps, needs, users)
    return table


def grid_table(plan: PlanRecord, grid: GridPlan) -> Table:
    """One row per kind of stage: how many there are, and how many the trials would run if each ran alone."""
    table = Table("kind", "stages", "alone", "shared", "done", title=f"{plan.name}: {grid.num_trials} trials in {plan.storage}")
    for kind in grid.kinds:
        table.add_row(
            kind.kind, *(f"{number:,}" for number in (kind.num_stages, kind.num_alone, kind.num_alone - kind.num_stages, kind.num_done))
        )
    table.add_section()
    done = sum(kind.num_done for kind in grid.kinds)
    table.add_row("together", *(f"{number:,}" for number in (grid.num_stages, grid.num_alone, grid.num_alone - grid.num_stages, done)))
    return table


def grid_lines(grid: GridPlan, num_stages: int) -> Iterator[str]:
    """Cost of the grid beside that of its trials alone; what the budget of tokens is computed with."""
    yield f"grid: {grid.num_trials:,} trials, {grid.num_stages:,} distinct stages; alone they would run {grid.num_alone:,}"
    if grid.encoder_tokens is not None and grid.encoder_tokens_alone:
        ratio = grid.encoder_tokens / grid.encoder_tokens_alone
        alone = f"{grid.encoder_tokens_alone:.3g}"
        yield f"encoder tokens (estimate): {grid.encoder_tokens:.3g}, {ratio:.0%} of the {alone} of its trials alone"
    if grid.seconds is not None and grid.seconds_alone is not None:
        yield f"time of all stages in turn (estimate): {_duration(grid.seconds)}; of its trials alone {_duration(grid.seconds_alone)}"
    if grid.state_token_share is not None:
        yield f"states are {grid.state_token_share:.2f} of the tokens of states and actions (curriculum.state_token_share)"
    if num_stages > MOST_ROWS:
        yield f"{num_stages:,} stages are too many for a table; --json lists them"


def _state(stage: StagePlan) -> str:
    if stage.seconds is None:
        return stage.state
    return f"{stage.state} ({stage.seconds:.0f} s)" + (", other code" if stage.other_code else "")


def gpu_table(gpu: GpuEstimate) -> Table:
    """One row per phase: GiB per GPU by what holds them, the verdict, steps, tokens, time."""
    title = f"{gpu.workers} x {gpu.gpu_kind} ({gpu.memory_gib:g} GiB): GiB per GPU and time, recipe {gpu.recipe} (estimates)"
    columns = ("phase", "encoder", "adapters", "predictor", "latents", "activations", "runtime", "total", "", "steps", "tokens", "time")
    table = Table(*columns, title=title)
    for phase in gpu.phases:
        parts = (
            phase.encoder_bytes,
            phase.adapter_bytes,
            phase.predictor_bytes,
            phase.latent_bytes,
            phase.activation_bytes,
            phase.runtime_bytes,
            phase.total_bytes,
        )
        table.add_row(
            phase.name,
            *(f"{part / GIB:.2f}" if part else "-" for part in parts),
            "TOO LARGE" if phase.verdict == "too large" else phase.verdict,
            str(phase.steps or ""),
            f"{phase.encoder_tokens:.2g}" if phase.encoder_tokens else "-",
            _duration(phase.seconds),
        )
    table.add_section()
    table.add_row("together", *[""] * 6, f"{gpu.peak_bytes / GIB:.2f}", "", str(gpu.num_steps), "", _duration(gpu.seconds))
    return table


def gpu_lines(gpu: GpuEstimate) -> Iterator[str]:
    """What the table's figures are computed from, the other recipes, and what to change."""
    texts = gpu.texts
    yield (
        f"texts ({'of the trajectory store' if texts.measured else 'lengths assumed'}): {texts.hours_per_window:.1f} h a window, "
        f"{texts.tokens_per_static:.0f} tokens a static text, {texts.tokens_per_state:.0f} a state, "
        f"{texts.tokens_per_action:.0f} an action, {_range(texts.least_hours, texts.num_hours)} hours in all ({texts.basis})"
    )
    if texts.least_hours < texts.num_hours:
        yield "times that depend on the number of hours (SFT, latent stores) are those of its upper end"
    yield (
        f"time: {gpu.bf16_tflops:g} TFLOP/s bf16, {gpu.fp32_tflops:g} fp32, at {gpu.utilisation:.0%} of it (execution.gpu_utilisation); "
        "without start-up, reading, communication and unused places of rows. Formulas: docs/scaling.md"
    )
    if gpu.other_recipes:
        others = "; ".join(f"{each.recipe} {each.peak_bytes / GIB:.2f} GiB, {_duration(each.seconds)}" for each in gpu.other_recipes)
        yield f"other recipes, each alone: {others}. Stages that recipes share run once; further seeds come on top"
    if gpu.embed_workers < gpu.num_workers:
        yield f"latent stores are filled by {gpu.embed_workers} of {gpu.num_workers} GPUs (execution.embed_workers)"
    yield from (f"change: {line}" for line in gpu.changes)
    yield from (f"with room for an estimate 15 % too low: {line}" for line in gpu.changes_for_room)


def latent_lines(latents: LatentEstimate) -> Iterator[str]:
    """Bytes of every latent store and of all together."""
    if latents.unknown:
        yield f"latent stores: {latents.num_stores}, of unknown size: {latents.unknown}"
        return
    yield (
        f"latent stores: {_range(latents.least_vectors, latents.num_vectors)} vectors ({latents.basis}) "
        f"x {latents.width:,} x {latents.value_bytes} B = {_gigabytes(latents.bytes_each, latents.least_bytes_each)} each"
    )
    for store in latents.stores if len(latents.stores) <= MOST_ROWS else ():
        name = f"{store.label} {store.key[:8]}" if store.key else store.label
        size = _gigabytes(store.num_bytes) if store.written else f"{_gigabytes(store.num_bytes, latents.least_bytes_each)} to write"
        yield f"  {name}, encoder of {store.encoder}: {size}"
    yield f"  together: {_gigabytes(latents.total_bytes, latents.least_total_bytes)}"


def changed_action_line(changed: ChangedActionEstimate) -> str:
    """Upper bounds of the action texts with other doses."""
    done = f", {changed.num_done} of them finished" if changed.num_done else ""
    start = f"actions with other doses: {changed.num_stores} stores{done}, each of at most {changed.most_texts:,} texts ({changed.basis})"
    if changed.unknown:
        return f"{start}, of unknown size: {changed.unknown}"
    time = "" if changed.most_seconds is None else f", {_duration(changed.most_seconds)}"
    return (
        f"{start}, {changed.most_tokens:.2g} tokens, {_gigabytes(changed.most_bytes)}{time}; together at most "
        f"{_gigabytes(changed.most_total_bytes)}. Only texts with a dose are encoded, so a store is smaller"
    )


def _range(least: int, most: int) -> str:
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _gigabytes(count: int, least: int | None = None) -> str:
    """Bytes, exactly where they are known, else as a range of GB."""
    if least is None or least == count:
        return f"{count:,} B ({count / 1e9:.3g} GB)"
    return f"{least / 1e9:.3g} to {count / 1e9:.3g} GB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
