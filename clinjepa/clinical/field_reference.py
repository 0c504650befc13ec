"""Text of docs/clinical_fields.md: every key of the clinical YAML files, generated from the key lists that the loaders check.

`python -m clinjepa.clinical.field_reference > docs/clinical_fields.md`
"""

from __future__ import annotations

from collections.abc import Sequence

from clinjepa.clinical.code_maps import CODE_KEYS, COLUMN_KEYS, FILE_KEYS, HOSPITALIZATION_KEYS, MAP_KEYS, PEOPLE_KEYS, STAY_KEYS
from clinjepa.clinical.conditions import CONDITION_KEYS, RULES
from clinjepa.clinical.definitions import Key
from clinjepa.clinical.derived import FAMILY_KEYS, QUANTITY_KEYS
from clinjepa.clinical.misfiled import MISFILED_KEYS
from clinjepa.clinical.rules import COHORT_KEYS, EXCLUSION_KEYS, PRESET_KEYS
from clinjepa.clinical.task_keys import (
    COMMON_KEYS,
    KIND_KEYS,
    OUTCOME_STATE_KEYS,
    OUTCOME_TIME_KEYS,
    TARGET_TIME_KEYS,
    TARGET_VALUE_KEYS,
)
from clinjepa.clinical.variables import CONVERSION_KEYS, ITEM_KEYS, VARIABLE_KEYS

_TABLES: tuple[tuple[str, str, Sequence[Key]], ...] = (
    ("## Tasks: `tasks/<name>.yaml`", "Keys of every task:", COMMON_KEYS),
    *((f"### Task of kind `{kind}`", "Besides the keys of every task:", keys) for kind, keys in KIND_KEYS.items()),
    ("### `outcome` by time", "The outcome of a `stay` task as a mapping:", OUTCOME_TIME_KEYS),
    ("### `outcome` by state", "The outcome of a `stay` task as a mapping:", OUTCOME_STATE_KEYS),
    ("### `target`: a column in some hours", "The target of a `regression` task:", TARGET_VALUE_KEYS),
    ("### `target`: the time left", "The target of a `regression` task:", TARGET_TIME_KEYS),
    ("## Conditions", "A comparison of the values of one hour. Its value is true, false or unknown.", CONDITION_KEYS),
    ("## Variables: `variables.yaml`", "An entry of `variables`:", VARIABLE_KEYS),
    ("### Entry of `sources`", "", ITEM_KEYS),
    ("### Entry of `conversions`", "The first rule that applies is used.", CONVERSION_KEYS),
    ("## Derived quantities: `derived/<family>.yaml`", "Keys of the file:", FAMILY_KEYS),
    ("### Entry of `quantities`", "", QUANTITY_KEYS),
    ("## Cohorts: `cohorts.yaml`", "A preset, under its name in `presets`:", PRESET_KEYS),
    ("### `fields` of a preset", "", COHORT_KEYS),
    ("## Code maps: `maps/codes/<name>.yaml`", "Keys of a map for `source.map` ([openicu.md](openicu.md)):", MAP_KEYS),
    ("### `files` of a map", "", FILE_KEYS),
    ("### `columns` of a map", "", COLUMN_KEYS),
    ("### `stays` of a map", "", STAY_KEYS),
    ("### `hospitalizations` of a map", "", HOSPITALIZATION_KEYS),
    ("### `people` of a map", "", PEOPLE_KEYS),
    ("### Entry of `codes`", "A variable or a list of variables stands for an entry with `variables` alone.", CODE_KEYS),
    ("## Misfiled readings: `maps/misfiled.yaml`", "An entry of `rules`:", MISFILED_KEYS),
    ("## Exclusions: `exclusions.yaml`", "An entry of `fields`:", EXCLUSION_KEYS),
)


def field_reference() -> str:
    """The Markdown page."""
    lines = [
        "# Keys of the clinical definition files",
        "",
        "Generated from the loaders by `python -m clinjepa.clinical.field_reference > docs/clinical_fields.md`. The files are in",
        "`clinjepa/clinical/`; [clinical.md](clinical.md) explains how to add to them. A file with another key is refused.",
    ]
    for heading, introduction, keys in _TABLES:
        lines += ["", heading, *([introduction, ""] if introduction else [])]
        lines += ["| key | required | values | meaning |", "|---|---|---|---|"]
        for key in keys:
            values = ", ".join(f"`{value}`" for value in key.allowed)
            lines.append(f"| `{key.name}` | {'yes' if key.required else ''} | {values} | {key.meaning} |")
        if keys is CONDITION_KEYS:
            lines += ["", "Conditions are combined by a mapping with one of these keys:", "", "| key | meaning |", "|---|---|"]
            lines += [f"| `{rule}` | {meaning} |" for rule, meaning in RULES.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(field_reference(), end="")
