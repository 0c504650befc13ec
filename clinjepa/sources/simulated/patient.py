"""Patients of the simulator, their deteriorations, and the records that a simulated stay consists of.

`physiology` simulates the course of a stay from a `Patient` and its `Onset`s. All probabilities are this project's own choices.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

KINDS = ("shock", "respiratory", "renal")
"""Kinds of deterioration, one per simulated organ failure."""


@dataclass(frozen=True)
class Patient:
    """Properties of a patient that are constant over all stays."""

    age_years: float
    female: bool
    race: str
    height_cm: float
    weight_kg: float
    heart_failure: bool
    lung_disease: bool
    kidney_disease: bool
    diabetes: bool
    num_stays: int

    @property
    def frailty(self) -> float:
        """0 (young, healthy) to about 1."""
        chronic = self.heart_failure + self.lung_disease + self.kidney_disease + 0.5 * self.diabetes
        return min(1.0, max(0.0, (self.age_years - 40) / 80) + 0.15 * chronic)


@dataclass(frozen=True)
class Onset:
    """A true deterioration: its kind, its start in hours after ICU admission (negative: before), and its strength (0 … 1)."""

    kind: str
    hour: float
    strength: float


@dataclass(frozen=True)
class Given:
    """A treatment over [start, end] in hours after ICU admission: variable, value (rate, amount, or 1), name."""

    variable: str
    start: float
    end: float
    value: float
    text: str | None = None


@dataclass
class Course:
    """One simulated stay. Arrays have one value per half-hour step; `hours` are the times of the steps since ICU admission."""

    hours: np.ndarray
    severity: np.ndarray
    signals: dict[str, np.ndarray]
    onsets: list[Onset]
    given: list[Given] = field(default_factory=list)
    died_in_icu: bool = False
    died_in_hospital: bool = False
    length_hours: float = 0.0


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient of an adult mixed ICU."""
    age = float(np.clip(rng.normal(64, 16), 18, 95))
    female = bool(rng.random() < 0.44)
    height = float(np.clip(rng.normal(163 if female else 176, 7.5), 140, 205))
    weight = float(np.clip(rng.normal(26.5, 5.0), 17, 48) * (height / 100) ** 2)
    older = (age - 30) / 70
    chance = rng.random(4)
    heart_failure, lung_disease, kidney_disease, diabetes = (
        bool(c < p * max(older, 0.1)) for c, p in zip(chance, (0.35, 0.3, 0.3, 0.4), strict=True)
    )
    race = str(rng.choice(["white", "black", "hispanic", "asian", "other", "unknown"], p=[0.66, 0.12, 0.06, 0.04, 0.04, 0.08]))
    num_stays = 1 + int(rng.random() < 0.15) + int(rng.random() < 0.03)
    return Patient(
        age_years=round(age, 1),
        female=female,
        race=race,
        height_cm=round(height, 1),
        weight_kg=round(weight, 1),
        heart_failure=heart_failure,
        lung_disease=lung_disease,
        kidney_disease=kidney_disease,
        diabetes=diabetes,
        num_stays=num_stays,
    )


def draw_onsets(planned: float, frailty: float, rng: np.random.Generator) -> list[Onset]:
    """Deteriorations of a stay of `planned` hours, each kind at most once.

    A share of them begins before admission, since most patients are sickest then.
    """
    onsets = []
    for kind, base in zip(KINDS, (0.34, 0.34, 0.20), strict=True):
        happens, early, when, strength = rng.random(4)
        if happens < base * (0.6 + 0.9 * frailty):
            hour = -4.0 + 4.0 * when if early < 0.35 else 2.0 + when * max(planned * 0.75 - 2.0, 1.0)
            onsets.append(Onset(kind, round(float(hour), 2), float(0.45 + 0.5 * strength)))
    return sorted(onsets, key=lambda onset: onset.hour)
