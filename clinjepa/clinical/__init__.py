"""Clinical knowledge as data: variables, units, source maps, tasks, cohorts, exclusions, and the small code that reads and checks it."""

from clinjepa.clinical.conditions import Combination, Condition
from clinjepa.clinical.derived import Derived, can_give, grid_inputs, load_derived
from clinjepa.clinical.rules import Exclusion, excluded_by, load_cohort, load_exclusion_list, load_exclusions
from clinjepa.clinical.tasks import StayOutcome, Target, Task, list_tasks, load_task, load_tasks, parse_task
from clinjepa.clinical.variables import Conversion, ItemSource, Variable, canonical_unit, load_variables, section_names

__all__ = [
    "Combination",
    "Condition",
    "Conversion",
    "Derived",
    "Exclusion",
    "ItemSource",
    "StayOutcome",
    "Target",
    "Task",
    "Variable",
    "can_give",
    "canonical_unit",
    "excluded_by",
    "grid_inputs",
    "list_tasks",
    "load_cohort",
    "load_derived",
    "load_exclusion_list",
    "load_exclusions",
    "load_task",
    "load_tasks",
    "load_variables",
    "parse_task",
    "section_names",
]
