"""Ventilation status, PaO2/FiO2 ratio and Glasgow coma scale per hour.

Definitions, charted words and sources: `clinjepa/clinical/derived/respiratory.yaml` and `neuro.yaml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from clinjepa.trajectory.hours.aggregates import WORD_SEPARATOR

if TYPE_CHECKING:
    from clinjepa.trajectory.labels.derived.state import DerivedState, Function


class RespiratoryParameters(TypedDict):
    """`parameters` of `respiratory.yaml`."""

    fio2_max_age_hours: int
    room_air_fio2: float
    """Percent."""

    status_max_age_hours: int
    status: dict[str, int]
    """Class of support -> code, higher codes taking precedence."""

    devices: dict[str, list[str]]
    """Class of support -> charted devices."""

    modes: dict[str, list[str]]
    """Class of support -> charted ventilator modes."""


class NeuroParameters(TypedDict):
    """`parameters` of `neuro.yaml`."""

    carry_hours: int
    normal: dict[str, int]
    """Component of the GCS -> its normal score."""

    untestable_verbal: list[str]
    """Charted verbal responses that mean that speech could not be tested."""

    untestable_total: int


def vent_status(state: DerivedState, parameters: RespiratoryParameters) -> np.ndarray:
    """Status code per hour: the highest of the charted classes (of the hour, else the latest) and the procedures; NaN if none is known."""
    rows, codes = state.rows, parameters["status"]
    status = np.full(len(rows), np.nan)
    for column, classes in (("o2_device", parameters["devices"]), ("vent_mode", parameters["modes"])):
        meaning = {_spelled(word): float(codes[name]) for name, words in classes.items() for word in words}
        charted, words = rows.words(column)
        known = {word: meaning.get(_spelled(word), np.nan) for word in set(words)}
        status[charted] = np.fmax(status[charted], [known[word] for word in words])
    status, _ = rows.last_known(status, parameters["status_max_age_hours"])
    for column, name in (("invasive_ventilation", "invasive"), ("noninvasive_ventilation", "noninvasive")):
        status = np.where(rows.given(column) > 0, np.fmax(status, float(codes[name])), status)
    return status


def ventilated_invasively(state: DerivedState, parameters: RespiratoryParameters) -> np.ndarray:
    """1 in hours of invasive ventilation, else 0; a treatment that is not recorded counts as not given."""
    invasive: np.ndarray = state.column("vent_status") == parameters["status"]["invasive"]
    return np.asarray(invasive | (state.rows.given("invasive_ventilation") > 0), np.float64)


def ventilated(state: DerivedState, parameters: RespiratoryParameters) -> np.ndarray:
    """1 in hours of invasive or non-invasive ventilation, else 0."""
    codes = parameters["status"]
    by_status = np.isin(state.column("vent_status"), [codes["invasive"], codes["noninvasive"]])
    by_procedure = (state.rows.given("invasive_ventilation") > 0) | (state.rows.given("noninvasive_ventilation") > 0)
    return (by_status | by_procedure).astype(np.float64)


def pf_ratio(state: DerivedState, parameters: RespiratoryParameters) -> np.ndarray:
    """PaO2 / FiO2 in mmHg in hours with a PaO2 whose FiO2 is known, or is that of room air because the record says so."""
    rows, ventilation = state.rows, state.column("ventilated")
    slip, (charted, _) = rows.column("fio2_blood_gas"), rows.last_known(rows.column("fio2"), parameters["fio2_max_age_hours"])
    fio2 = np.where(np.isnan(slip), charted, slip)
    breathes_alone = (ventilation == 0) & (rows.shifted(ventilation, 1, 0.0) == 0)
    breathes_air = breathes_alone & _has_no_device(state, parameters) & (_oxygen(state, parameters) == 0)
    fio2 = np.where(np.isnan(fio2) & breathes_air, float(parameters["room_air_fio2"]), fio2)
    return 100.0 * rows.column("pao2") / fio2


def _has_no_device(state: DerivedState, parameters: RespiratoryParameters) -> np.ndarray:
    """Whether the latest charted devices, of the hour or of the 13 h before it, are all of class `none`; False where none was charted."""
    rows = state.rows
    none = {_spelled(word) for word in parameters["devices"]["none"]}
    charted, words = rows.words("o2_device_latest")
    is_none = np.full(len(rows), np.nan)
    is_none[charted] = [float(all(_spelled(one) in none for one in word.split(WORD_SEPARATOR))) for word in words]
    latest, _ = rows.last_known(is_none, parameters["status_max_age_hours"])
    return np.asarray(latest == 1)


def _oxygen(state: DerivedState, parameters: RespiratoryParameters) -> np.ndarray:
    """1 where a charting of the hour, or the latest one before it, says that oxygen is given, 0 where all say that none is, else NaN.

    The time of a blood gas inside its hour is unknown, so every device of the hour counts, and the state that the hour begins with, which
    lasts until the next charting, at most 13 h.

    Oxygen is given by every charted device that is not of class `none` and by every ventilator mode, also by those whose class is not
    known, by a flow above 0 and an FiO2 above that of room air.
    """
    rows = state.rows
    none = {_spelled(word) for word in parameters["devices"]["none"]}
    last, any_of_hour = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for found, columns in ((last, ("o2_device_latest", "vent_mode")), (any_of_hour, ("o2_device_all", "vent_mode"))):
        for column in columns:
            charted, words = rows.words(column)
            gives_none = set() if column == "vent_mode" else none
            given = [float(any(_spelled(one) not in gives_none for one in word.split(WORD_SEPARATOR))) for word in words]
            found[charted] = np.fmax(found[charted], given)
    air = float(parameters["room_air_fio2"])
    for column, highest_without in (("o2_flow", 0.0), ("fio2", air), ("fio2_blood_gas", air)):
        last = np.fmax(last, _above(rows.column(column), highest_without))
    any_of_hour = np.fmax(np.fmax(any_of_hour, last), _above(rows.column("o2_flow_highest"), 0.0))
    carried, _ = rows.last_known(last, parameters["status_max_age_hours"] - 1)
    return np.asarray(np.fmax(any_of_hour, rows.shifted(carried, 1)))


def _above(values: np.ndarray, limit: float) -> np.ndarray:
    """1 where a value is above `limit`, 0 where it is not, NaN without one."""
    return np.where(np.isnan(values), np.nan, (values > limit).astype(np.float64))


def pf_ratio_ventilated(state: DerivedState, _: RespiratoryParameters) -> np.ndarray:
    """PaO2 / FiO2 in mmHg in hours of invasive ventilation, NaN in others."""
    return np.where(state.column("ventilated_invasively") == 1, state.column("pf_ratio"), np.nan)


def gcs(state: DerivedState, parameters: NeuroParameters) -> np.ndarray:
    """GCS total, 3 to 15, in hours in which a component or a total was charted.

    A missing component is carried forward for up to `carry_hours`, else it counts as normal; a charted total takes precedence.
    """
    rows, normal = state.rows, parameters["normal"]
    responded, words = rows.words("gcs_verbal_response")
    untestable = np.zeros(len(rows), bool)
    untestable[responded] = [word in parameters["untestable_verbal"] for word in words]
    verbal_now = np.where(untestable, np.nan, rows.column("gcs_verbal"))
    parts = {name: verbal_now if name == "gcs_verbal" else rows.column(name) for name in normal}
    charted = np.logical_or.reduce([~np.isnan(values) for values in parts.values()]) | untestable
    # The latest earlier hour with a charting, if recent enough, and whether speech could be tested in it.
    before = rows.previous_known(np.where(charted, 1.0, np.nan))
    recent = (before >= 0) & (rows.row_R - before <= parameters["carry_hours"])
    untestable_before = recent & untestable[np.maximum(before, 0)]
    total = np.zeros(len(rows))
    for name, values in parts.items():
        carried = rows.shifted(rows.last_known(values, parameters["carry_hours"] - 1)[0], 1)
        carried = np.where(untestable_before, np.nan, carried)
        total += np.where(~np.isnan(values), values, np.where(~np.isnan(carried), carried, float(normal[name])))
    mute = untestable | (np.isnan(verbal_now) & untestable_before)
    total = np.where(mute, float(parameters["untestable_total"]), total)
    own_total = rows.column("gcs_total")
    return np.where(~np.isnan(own_total), own_total, np.where(charted, total, np.nan))


def _spelled(word: object) -> str:
    return " ".join(str(word).split()).casefold()


FUNCTIONS: dict[str, Function] = {
    "vent_status": vent_status,
    "ventilated_invasively": ventilated_invasively,
    "ventilated": ventilated,
    "pf_ratio": pf_ratio,
    "pf_ratio_ventilated": pf_ratio_ventilated,
    "gcs": gcs,
}
