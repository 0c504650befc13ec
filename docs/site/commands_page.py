"""The commands as a page of documentation: `python docs/site/commands_page.py > docs/commands.md` in the root of the repository.

Every command of the typer application with its arguments and options, the exit statuses, and the fields of `clinjepa plan --json`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[2]))

import typer  # noqa: E402
from pydantic import BaseModel  # noqa: E402

from pipelines.cli import app  # noqa: E402
from pipelines.results.garbage import GarbageList  # noqa: E402
from pipelines.results.plan_record import PlanRecord  # noqa: E402
from pipelines.results.stored_runs import RunList  # noqa: E402
from pipelines.terminal.faults import EXIT_STATUSES  # noqa: E402

HEAD = """# Commands

`clinjepa COMMAND` in a shell. A command is also a module, which is what `ray job submit` needs: `python -m pipelines.run`, and
`pipelines.audit` and `pipelines.show` for `data audit` and `data show`. `CONFIG` is a YAML file; `KEY=VALUE` replaces one of its settings
by its dotted name ([configuration.md](configuration.md)).

This page is generated: `python docs/site/commands_page.py > docs/commands.md`.

## Output
Results go to standard output. Progress, warnings, the addresses of results of `run`, `ingest`, `pretrain` and `evaluate`, and errors go
to standard error. Colours and progress bars are for terminals only: in a file or a pipe progress is one line a stage every 15 s, and
`clinjepa data list` prints tab-separated lines. `NO_COLOR=1` turns colours off on a terminal.

`clinjepa --version` prints the version. `clinjepa --install-completion` sets up completion of commands and options in bash, zsh, fish or
PowerShell; `clinjepa --show-completion` prints what it would add.
"""

STATUS_NOTE = """
An error is one line on standard error; a command line that cannot be parsed also prints the usage. With `--debug` an error is a
traceback and its status is 1.

`ray job submit` has its own exit status: 0 when the command's was 0, else 1. The command's status is in the job's log and in the message
of `ray job status ID` ("failed with exit code 2").
"""

_TYPES = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}

RUNS_HEAD = """
## `clinjepa runs --json`
Prints one JSON object, a `RunList` ([runs.md](runs.md)):
"""

GC_HEAD = """
## `clinjepa gc --json`
Prints one JSON object, a `GarbageList` ([runs.md](runs.md)):
"""

SUBMIT_NOTE = """
`clinjepa submit` exits with the status of the job's command; with 1 when the command's process ended without one, 130 when the job was
stopped or the following was interrupted, 2 when nothing was submitted.
"""

PLAN_HEAD = """
## `clinjepa plan --json`
Prints one JSON object on standard output and nothing else. A configuration or source that cannot be read gives no object, one line on
standard error, and status 2. Bytes are bytes, times are seconds, a null field is explained where it can be null. The object is a
`PlanRecord`:
"""


def commands_page() -> str:
    """The whole page as Markdown."""
    root = typer.main.get_command(app)
    statuses = "\n".join(f"| {status} | {meaning} |" for status, meaning in EXIT_STATUSES.items())
    parts = [HEAD, f"\n## Exit status\n| status | when |\n|---|---|\n{statuses}\n", STATUS_NOTE, SUBMIT_NOTE]
    parts += [_section(name, command) for name, command in _commands("clinjepa", root)]
    parts.append(PLAN_HEAD)
    parts += [_fields(model) for model in _models(PlanRecord)]
    parts += [RUNS_HEAD, *(_fields(model) for model in _models(RunList)), GC_HEAD, *(_fields(model) for model in _models(GarbageList))]
    return "".join(parts)


def _commands(path: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(f"{path} {name}", command)
        else:
            yield f"{path} {name}", command


def _section(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = [name, *(_argument_usage(each) for each in arguments), *(["[OPTIONS]"] if options else [])]
    lines = [f"\n## `{name}`", " ".join(command.help.split()), "", "```text", " ".join(usage), "```"]
    rows = [_row(_argument_name(each), each) for each in arguments] + [_row(", ".join(each.opts), each) for each in options]
    if rows:
        lines += ["", "| argument | type | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _argument_name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _argument_usage(argument: Any) -> str:
    name = _argument_name(argument) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _row(name: str, parameter: Any) -> str:
    annotation = parameter.type_descriptor.annotation
    kind = "flag" if getattr(parameter, "is_bool_flag", False) else {"int": "whole number", "str": "text"}.get(annotation.__name__, "texts")
    plain = parameter.default is None or kind == "flag"
    default = "required" if parameter.required else ("" if plain else f"`{parameter.default}`")
    return f"| `{name}` | {kind} | {default} | {' '.join((parameter.help or '').split())} |"


def _models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The model and every model that its fields hold, each once, in the order in which the fields name them."""
    found = [model]
    for info in model.model_fields.values():
        for inner in _inside(info.annotation):
            found += [each for each in _models(inner) if each not in found]
    return found


def _inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _inside(argument)


def _fields(model: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {_type(info.annotation)} | {' '.join((info.description or '').split())} |"
        for name, info in model.model_fields.items()
    ]
    about = " ".join((model.__doc__ or "").split())
    return "\n".join([f"\n### {model.__name__}", about, "", "| field | type | meaning |", "|---|---|---|", *rows]) + "\n"


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    arguments = get_args(annotation)
    if isinstance(annotation, type) and not arguments:
        return _TYPES.get(annotation.__name__, annotation.__name__)
    if re.match(r"typing\.Literal", str(annotation)):
        return " or ".join(f"`{value}`" for value in arguments)
    if str(annotation).startswith("list"):
        return f"list of {_type(arguments[0])}"
    return " or ".join(_type(each) for each in arguments)


if __name__ == "__main__":
    sys.stdout.write(commands_page())
