"""Clinical knowledge as data (YAML beside this file), and the code that reads and checks it.

| module | contents |
|---|---|
| `definitions` | reading of the YAML files, checking of their keys |
| `variables` | the variable dictionary (`variables.yaml`) and unit spellings |
| `missing` | values that mean "not measured" (`maps/missing.yaml`) |
| `units` | from one unit to another (`maps/units.yaml`) |
| `medians` | medians that an ICU population can have (`maps/medians.yaml`) |
| `conditions` | three-valued conditions on the values of an hour |
| `derived` | derived quantities (`derived/*.yaml`) |
| `tasks`, `task_keys` | prediction tasks (`tasks/*.yaml`) and their keys |
| `rules` | cohort presets and the exclusion list |
| `reference`, `field_reference` | the generated pages docs/tasks.md and docs/clinical_fields.md |
| `misfiled` | readings that stand under another variable or unit than their own (`maps/misfiled.yaml`) |
| `scaffold` | skeletons of new tasks and variables |
"""

from clinjepa.clinical.conditions import Combination, Condition
from clinjepa.clinical.derived import Derived, can_give, grid_inputs, load_derived
from clinjepa.clinical.missing import MissingValues, missing_values
from clinjepa.clinical.rules import Exclusion, excluded_by, load_cohort, load_exclusion_list, load_exclusions
from clinjepa.clinical.task_keys import CarriedEvent, LabelColumn
from clinjepa.clinical.tasks import StayOutcome, Target, Task, given_task, list_tasks, load_task, load_tasks, parse_task
from clinjepa.clinical.variables import DEFAULT_DIGITS, Conversion, ItemSource, Variable, canonical_unit, load_variables, section_names

__all__ = [
    "DEFAULT_DIGITS",
    "CarriedEvent",
    "Combination",
    "Condition",
    "Conversion",
    "Derived",
    "Exclusion",
    "ItemSource",
    "LabelColumn",
    "MissingValues",
    "StayOutcome",
    "Target",
    "Task",
    "Variable",
    "can_give",
    "canonical_unit",
    "excluded_by",
    "given_task",
    "grid_inputs",
    "list_tasks",
    "load_cohort",
    "load_derived",
    "load_exclusion_list",
    "load_exclusions",
    "load_task",
    "load_tasks",
    "load_variables",
    "missing_values",
    "parse_task",
    "section_names",
]
