"""Text of docs/tasks.md, generated from the definitions: `python -m clinjepa.clinical.reference > docs/tasks.md`."""

from __future__ import annotations

from clinjepa.clinical.derived import load_derived
from clinjepa.clinical.task_keys import SOURCES
from clinjepa.clinical.tasks import list_tasks, load_task


def reference() -> str:
    """The Markdown page: all tasks with the sources that give them, and all derived quantities with their definitions."""
    lines = [
        "# Tasks and derived quantities",
        "",
        "Generated from `clinjepa/clinical/tasks/` and `derived/` by `python -m clinjepa.clinical.reference > docs/tasks.md`.",
        "Kinds: see [clinical.md](clinical.md). Ahead: hours after the predicted one that a label may depend on, or the whole stay.",
        "",
        "## Tasks",
        f"| task | what | kind | ahead | {' | '.join(SOURCES)} | definition |",
        "|---|---|---|---|" + "---|" * len(SOURCES) + "---|",
    ]
    for name in list_tasks():
        task = load_task(name)
        ahead = "stay" if task.looks_ahead_hours is None else f"{task.looks_ahead_hours} h"
        on = " | ".join("x" if source in task.sources else "" for source in SOURCES)
        text = task.source + (f". {task.note}" if task.note else "")
        lines.append(f"| `{name}` | {task.title} | {task.kind} | {ahead} | {on} | {text} |")
    lines += ["", "## Derived quantities", "| quantity | what | unit | ahead | made of | definition |", "|---|---|---|---|---|---|"]
    for name, quantity in load_derived().items():
        text = quantity.source + (f". {quantity.note}" if quantity.note else "")
        inputs = ", ".join(quantity.inputs)
        lines.append(f"| `{name}` | {quantity.title} | {quantity.unit} | {quantity.looks_ahead_hours} h | {inputs} | {text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
