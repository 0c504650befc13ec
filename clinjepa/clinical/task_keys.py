"""Keys and enumerations of a task file (`tasks/*.yaml`): checked by `tasks.py`, listed in docs/clinical_fields.md."""

from __future__ import annotations

from typing import Literal, get_args

from clinjepa.clinical.conditions import Operator
from clinjepa.clinical.definitions import Key, optional

Kind = Literal["event", "time", "change", "regression", "column", "stay"]
StayTime = Literal[
    "intime", "outtime", "death_time", "hospital_admission_time", "hospital_discharge_time", "next_icu_admission_time",
    "next_hospital_admission_time",
]  # fmt: skip
StayFlag = Literal["died_in_hospital", "died_in_icu", "sepsis", "chronic_dialysis"]
Statistic = Literal["first", "last", "median", "mean", "min", "max"]
Transform = Literal["none", "log"]
PredictedAt = Literal["prediction_hour", "icu_discharge"]
CarriedEvent = Literal["negatives_only", "unknown"]
"""What an hour without a measurement has as label when its last known state is the event; docs/clinical.md explains both rules."""

LabelColumn = Literal["boolean_value", "integer_value", "float_value"]
"""Column of a label file (LabelSchema of MEDS) that holds the labels of a task from outside (`labels.files`)."""

SOURCES = ("meds", "mimic_iv", "cinc2012", "cinc2019", "clif", "simulator")
"""Kinds of source that a task may name."""

COMMON_KEYS = (
    Key("name", "Identifier: the file's name."),
    Key("title", "What is predicted, in words; the report shows it."),
    Key("kind", "Kind of label, see below.", allowed=get_args(Kind)),
    Key("source", "Where the definition is taken from."),
    optional("requires", "Columns without which a data set cannot give the task; all must be read by the task. Default: none."),
    optional("sources", "Kinds of source on which it can be computed. Default: wherever the required columns are.", SOURCES),
    optional(
        "exclude_stays",
        "Columns of `stays`; a stay where one of them is true has no label, nor one of unknown outcome (all but `chronic_dialysis`).",
        get_args(StayFlag),
    ),
    optional("note", "Remarks for the reader."),
)
"""Keys of every task."""

_HORIZON = Key("horizon_hours", "Hours after the predicted hour that the label covers; a whole number, at least 1.")
_REQUIRES = Key("requires", "As above, but required.")

KIND_KEYS: dict[Kind, tuple[Key, ...]] = {
    "event": (
        _HORIZON,
        Key("switches_only", "true: a label 1 needs a known recovery since the last event."),
        Key("state", "Condition that defines the event, for every hour."),
        optional(
            "carried_event",
            "With `switches_only`, for an hour without a measurement whose last known state is the event. `negatives_only` (default): "
            "label 0 where recovery follows, none where it does not. `unknown`: no label, whatever follows.",
            get_args(CarriedEvent),
        ),
        _REQUIRES,
        optional(
            "free_hours", "Number of hours, the current one included, in which the event must not have occurred; `all`: first onsets only."
        ),
        optional("unless", "Condition; in an hour where it is true there is no label."),
    ),
    "time": (
        _HORIZON,
        Key("time", "Time of the stay that must lie within the horizon.", allowed=get_args(StayTime)),
        optional("gap_hours", "Hours between the prediction and the start of the horizon. Default: 0."),
        optional("only_if", "Column of `stays`: where it is false the label is 0, where it is missing there is none.", get_args(StayFlag)),
    ),
    "change": (
        _HORIZON,
        Key("column", "Numeric variable or derived quantity whose change is compared: value at the horizon minus value now."),
        Key("op", "Comparison of the change with `value`.", allowed=get_args(Operator)),
        Key("value", "Threshold, in the column's unit."),
        _REQUIRES,
    ),
    "regression": (Key("target", "The number to predict, see below."),),
    "column": (Key("column", "Variable that is the label itself."), _REQUIRES),
    "stay": (
        Key("outcome", "Outcome of the stay: a column of `stays`, or one of the two mappings below."),
        optional("at", "When it is predicted. Default: `prediction_hour` (`labels.stay_prediction_hour`).", get_args(PredictedAt)),
        optional("unless", "Condition; a stay where it was true by the prediction has no label."),
    ),
}
"""Keys that a kind of task has besides COMMON_KEYS."""

OUTCOME_TIME_KEYS = (
    Key("time", "1 when this time lies within the hours below; a missing time never does.", allowed=get_args(StayTime)),
    Key("since", "Start of the hours.", allowed=get_args(StayTime)),
    optional("within_hours", "1 up to so many hours after `since`. Either this or `beyond_hours` is needed."),
    optional("beyond_hours", "1 when it is more than so many hours after `since`."),
    optional(
        "known_if", "Columns of `stays` that must not be missing, otherwise there is no label.", (*get_args(StayTime), *get_args(StayFlag))
    ),
)
"""Keys of an outcome by time."""

OUTCOME_STATE_KEYS = (
    Key(
        "state",
        "Condition: 1 when it is true in an hour after the prediction. No label when it was true before, or no later hour is known.",
    ),
)
"""Keys of an outcome by state."""

TARGET_VALUE_KEYS = (
    Key("column", "Numeric variable or derived quantity."),
    Key("hours", "Hours ahead: one whole number, or the first and the last as a list; at least 1."),
    optional("statistic", "Of the known values in these hours. Default: `last`.", get_args(Statistic)),
    optional("transform", "`log`: ln(x + offset). Default: `none`.", get_args(Transform)),
    optional("offset", "Added before the logarithm. Default: 0."),
    optional("once", "true: predicted once per stay, at the prediction hour. Default: false."),
    optional("whole_window", "true: only where the stay lasts until the last of these hours has passed. Default: false."),
)
"""Keys of a regression target: a column in some hours ahead."""

TARGET_TIME_KEYS = (
    Key("time", "The number is the time left until this time of the stay.", allowed=get_args(StayTime)),
    optional("unit_hours", "Unit of the number, in hours. Default: 24, which gives days."),
)
"""Keys of a regression target: the time left."""
