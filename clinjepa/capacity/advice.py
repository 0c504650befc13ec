"""Settings to change when a run does not fit the memory of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from clinjepa.capacity.memory import GIB, RunSizes, run_memory
from clinjepa.curriculum.recipes import Recipe


def advice(run: RunSizes, recipes: Sequence[Recipe]) -> list[str]:
    """Changes of settings that make all recipes fit, as lines to print; empty when they fit.

    First every setting that is enough alone. If none is, the first combination that is enough; if none is either, a line that says so.
    """
    if fits(run, recipes):
        return []
    alone: dict[str, str] = {}
    for setting, value, changed in _changes(run, recipes):
        if setting not in alone and fits(changed, recipes):
            alone[setting] = value
    if alone:
        return [f"{setting}={value}" for setting, value in alone.items()]
    together: list[str] = []
    changed = run
    combined: tuple[tuple[str, Callable[[RunSizes], RunSizes]], ...] = (
        ("encoder.activation_checkpointing", lambda sizes: replace(sizes, activation_checkpointing="full")),
        ("execution.num_workers", lambda sizes: _with_most_workers(sizes, run, recipes)),
        ("encoder.token_budget", lambda sizes: replace(sizes, token_budget=min(run.token_budget, run.max_tokens))),
        ("sft.micro_tokens", lambda sizes: replace(sizes, micro_tokens=min(run.micro_tokens, run.least_micro_tokens))),
        ("curriculum.micro_batch", lambda sizes: replace(sizes, micro_batch=1)),
        ("execution.num_workers", lambda sizes: _with_most_workers(sizes, run, recipes)),
    )
    for setting, change in combined:
        before, changed = changed, change(changed)
        if changed != before:
            value = getattr(changed, setting.rpartition(".")[2])
            together = [each for each in together if not each.startswith(f"{setting}=")] + [f"{setting}={value}"]
        if fits(changed, recipes):
            return [f"no single setting makes it fit, together these do: {' '.join(together)}"]
    largest = max((phase for recipe in recipes for phase in run_memory(changed, recipe)), key=lambda phase: phase.total)
    return [
        f"it fits under no setting ({largest.name} needs {largest.total / GIB:.1f} GiB even with {' '.join(together)}): take a smaller "
        "encoder.model, GPUs with more memory (execution.gpu_memory_gb), or a lower tokenizer.max_tokens if few texts are that long"
    ]


def peak_bytes(run: RunSizes, recipe: Recipe) -> int:
    """Bytes per GPU of the recipe's largest phase."""
    return max(phase.total for phase in run_memory(run, recipe))


def fits(run: RunSizes, recipes: Sequence[Recipe]) -> bool:
    """Whether the largest phase of every recipe fits the memory of a GPU."""
    return all(peak_bytes(run, recipe) <= run.gpu_memory_gib * GIB for recipe in recipes)


def _most_workers(run: RunSizes, recipes: Sequence[Recipe]) -> int:
    """The largest number of workers for which a phase and SFT have a micro-batch each; more workers are refused."""
    in_sft = -(-run.tokens_per_step // run.micro_tokens)
    return min([run.num_micro_batches, *(in_sft for recipe in recipes if recipe.encoder_start == "sft")])


def _with_most_workers(sizes: RunSizes, run: RunSizes, recipes: Sequence[Recipe]) -> RunSizes:
    """`sizes` with as many workers as its micro-batches allow, but not fewer than `run` has."""
    return replace(sizes, num_workers=max(run.num_workers, _most_workers(sizes, recipes)))


def _changes(run: RunSizes, recipes: Sequence[Recipe]) -> list[tuple[str, str, RunSizes]]:
    """(setting, value, run) of single changes; per setting the smallest change first, settings that leave the result as it is first."""
    same, other = "(same result)", "(the plan is cut by it: another result)"
    changes = [
        ("encoder.activation_checkpointing", f"{what} {same}", replace(run, activation_checkpointing=what))
        for what in ("selective", "full")
        if what != run.activation_checkpointing
    ]
    workers = 2 * run.num_workers
    while workers <= _most_workers(run, recipes):
        changes.append(("execution.num_workers", f"{workers} {same}", replace(run, num_workers=workers)))
        workers *= 2
    cuts = (("encoder", "token_budget", run.max_tokens), ("sft", "micro_tokens", run.least_micro_tokens), ("curriculum", "micro_batch", 1))
    for section, name, least in cuts:  # a chunk holds a whole text, however small its budget
        value = getattr(run, name) // 2
        while value >= least:
            changes.append((f"{section}.{name}", f"{value} {other}", replace(run, **{name: value})))
            value //= 2
    return changes
