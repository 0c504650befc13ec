"""Text of docs/tasks.md, generated from the definitions: `python -m clinjepa.clinical.reference > docs/tasks.md`."""

from __future__ import annotations

from clinjepa.clinical.derived import load_derived
from clinjepa.clinical.task_keys import SOURCES
from clinjepa.clinical.tasks import list_tasks, load_task


def reference() -> str:
    """The Markdown page: all tasks with the sources that give them, all derived quantities, and the definitions of both."""
    lines = [
        "# Tasks and derived quantities",
        "",
        "Generated from `clinjepa/clinical/tasks/` and `derived/` by `python -m clinjepa.clinical.reference > docs/tasks.md`.",
        "Kinds, and the rules for a carried event: see [clinical.md](clinical.md). Ahead: hours after the predicted one that a label may",
        "depend on, or the whole stay.",
        "",
        "## Tasks",
        f"| task | what | kind | ahead | {' | '.join(SOURCES)} |",
        "|---|---|---|---|" + "---|" * len(SOURCES),
    ]
    definitions = []
    for name in list_tasks():
        task = load_task(name)
        ahead = "stay" if task.looks_ahead_hours is None else f"{task.looks_ahead_hours} h"
        on = " | ".join("x" if source in task.sources else "" for source in SOURCES)
        lines.append(f"| `{name}` | {task.title} | {task.kind} | {ahead} | {on} |")
        carried = f". Carried event: {task.carried_event}" if task.switches_only else ""
        definitions += ["", f"**`{name}`**: {_definition(task.source + carried, task.note)}"]
    lines += ["", "### Definitions of the tasks", *definitions[1:]]
    lines += ["", "## Derived quantities", "| quantity | what | unit | ahead |", "|---|---|---|---|"]
    definitions = []
    for name, quantity in load_derived().items():
        lines.append(f"| `{name}` | {quantity.title} | {quantity.unit} | {quantity.looks_ahead_hours} h |")
        made_of = ", ".join(quantity.inputs)
        definitions += ["", f"**`{name}`**, from {made_of}: {_definition(quantity.source, quantity.note)}"]
    lines += ["", "### Definitions of the derived quantities", *definitions[1:]]
    return "\n".join(lines) + "\n"


def _definition(source: str, note: str) -> str:
    return source + (f". {note}" if note else "")


if __name__ == "__main__":
    print(reference(), end="")
