"""Progress on standard error: a bar per running stage on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clinjepa.config import Config
from clinjepa.errors import counted
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.provenance import reuse_warning
from pipelines.graph.stage import Stage

if TYPE_CHECKING:
    from pipelines.scheduling.coordinator import StageProgress

console = Console(stderr=True, soft_wrap=True)
_LOG_SECONDS = 15.0


_above: list[Callable[[], RenderableType]] = []


@contextlib.contextmanager
def shown_above(renderable: Callable[[], RenderableType]) -> Iterator[None]:
    """Show what `renderable` returns above the bars of running stages while the block runs, on a terminal."""
    _above.append(renderable)
    try:
        yield
    finally:
        _above.remove(renderable)


@contextlib.contextmanager
def watch(coordinator: Any, enabled: bool = True) -> Iterator[None]:
    """Show the progress of all running stages until the block ends.

    coordinator: handle of the actor; enabled: False shows nothing (`execution.progress`).
    """
    if not enabled:
        yield
        return
    stop = threading.Event()
    follow = _follow_bars if console.is_interactive else _follow_lines
    thread = threading.Thread(target=follow, args=(coordinator, stop), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def say_what_is_reused(config: Config, stages: Iterable[Stage]) -> None:
    """Print how many stages are finished already, and a warning when another version of the code made some of them."""
    stages = list({stage.key: stage for stage in stages}.values())
    storage = Folder(config.storage)
    finished = sum(Artifact.at(storage, stage.kind, stage.key).is_complete() for stage in stages)
    if finished:
        console.print(
            f"{finished} of {counted(len(stages), 'stage')} {'is' if finished == 1 else 'are'} finished and reused",
            highlight=False,
            markup=False,
        )
    line = reuse_warning(config, stages)
    if line:
        console.print(f"warning: {line}", highlight=False, markup=False)


def _read(coordinator: Any) -> dict[str, StageProgress] | None:
    """Progress by stage key; None while the cluster starts, stops or is busy."""
    import ray  # here, so that commands which start no cluster can print without it

    try:
        progress: dict[str, StageProgress] = ray.get(coordinator.progress.remote(), timeout=5)
        return progress
    except (ray.exceptions.RayError, TimeoutError):
        return None


def _follow_bars(coordinator: Any, stop: threading.Event) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[note]}"),
    )
    bars = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
    everything = lambda: Group(*(each() for each in _above), bars)  # noqa: E731
    with Live(get_renderable=everything, console=console, transient=True, refresh_per_second=2):
        tasks: dict[str, TaskID] = {}
        while not stop.wait(0.5):
            current = _read(coordinator)
            if current is None:
                continue
            for key, state in current.items():
                if key not in tasks:
                    tasks[key] = bars.add_task(state.label, total=state.total, note="")
                bars.update(tasks[key], completed=state.done, total=state.total, note=state.note)
            for key in set(tasks) - set(current):
                task = tasks.pop(key)
                seconds = bars.tasks[bars.task_ids.index(task)].elapsed or 0
                bars.console.print(f"[green]done[/] {bars.tasks[bars.task_ids.index(task)].description} [dim]{seconds:.0f} s[/]")
                bars.remove_task(task)


def _follow_lines(coordinator: Any, stop: threading.Event) -> None:
    begun: dict[str, tuple[float, str]] = {}
    moved: dict[str, tuple[float, float]] = {}  # when the first step was seen done, and how many were by then
    logged: dict[str, float] = {}
    while not stop.wait(1.0):
        current = _read(coordinator)
        if current is None:
            continue
        now = time.monotonic()
        for key, state in current.items():
            if key not in begun:
                begun[key] = (now, state.label)
            if state.done:
                moved.setdefault(key, (now, state.done))
            if now - logged.get(key, 0.0) >= _LOG_SECONDS:
                logged[key] = now
                since, done = moved.get(key, (now, state.done))
                left = (now - since) / (state.done - done) * (state.total - state.done) if state.done > done else None
                estimate = f", about {left:.0f} s left" if left is not None else ""
                console.print(f"{state.label}: {state.done:.0f}/{state.total:.0f} {state.note}{estimate}", highlight=False, markup=False)
        for key in set(begun) - set(current):
            started, label = begun.pop(key)
            logged.pop(key, None)
            moved.pop(key, None)
            console.print(f"done {label} {now - started:.0f} s", highlight=False, markup=False)
