"""A small physiological model of an ICU stay: hidden severity, deteriorations with known onsets, treatments and their effects.

Half-hour steps of coupled first-order processes. Three hidden organ failures (circulatory, respiratory, renal, each 0 … 1) rise
after the onset of a deterioration and fall with recovery, faster when treated. Vitals and laboratory values are computed from them. A
simple protocol treats by the visible values: vasopressor and fluid for a low pressure, antibiotics for a suspected infection, oxygen
and ventilation for a low saturation, insulin for a high glucose, renal replacement. All constants are this project's own choices, set
to give ranges and frequencies like those of an adult mixed ICU; they are not a clinical reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from clinjepa.sources.simulated.patient import KINDS, Course, Given, Onset, Patient, draw_onsets

STEP_HOURS = 0.5
_SHORTEST_HOURS = 6.0
_LONGEST_FACTOR = 6.0
_LOGNORMAL_SIGMA = 0.7


def simulate_course(patient: Patient, mean_stay_hours: float, rng: np.random.Generator) -> Course:
    """Simulate one ICU stay of `patient`. All random numbers come from `rng`, in an order that does not depend on other patients."""
    frailty = patient.frailty
    mu = math.log(mean_stay_hours) - _LOGNORMAL_SIGMA**2 / 2
    planned = float(np.clip(rng.lognormal(mu, _LOGNORMAL_SIGMA), _SHORTEST_HOURS, _LONGEST_FACTOR * mean_stay_hours))
    onsets = draw_onsets(planned, frailty, rng)
    if onsets:
        planned = max(planned, min(max(onset.hour for onset in onsets) + 12.0, planned * 1.5))
    num_steps = int(planned / STEP_HOURS) + 1
    person = rng.normal(size=12)
    noise = _smooth_noise(rng.normal(size=(num_steps, 8)))
    death_draw, late_death_draw, drug_draw = -math.log(max(rng.random(), 1e-12)), rng.random(), rng.random(3)
    bedside = _Bedside(patient, person, onsets, drug_draw)
    hazard = 0.0
    died = False
    for step in range(num_steps):
        bedside.advance(step, noise[step])
        hazard += STEP_HOURS * math.exp(-12.2 + 9.5 * bedside.severity + 1.8 * frailty)
        if hazard > death_draw and step * STEP_HOURS >= _SHORTEST_HOURS:
            died = True
            break
    last = bedside.severity
    length = (step + 1) * STEP_HOURS
    late = 1 / (1 + math.exp(5.0 - 5.0 * last - 1.6 * frailty))
    signals = dict(zip(bedside.names, np.array(bedside.record).T, strict=True))
    return Course(
        hours=np.arange(step + 1) * STEP_HOURS,
        severity=signals.pop("severity"),
        signals=signals,
        onsets=[onset for onset in onsets if onset.hour < length],
        given=bedside.finish(length),
        died_in_icu=died,
        died_in_hospital=died or bool(late_death_draw < late),
        length_hours=length,
    )


def _smooth_noise(white: np.ndarray, memory: float = 0.8) -> np.ndarray:
    """AR(1) noise of unit variance along axis 0."""
    scaled = white * math.sqrt(1 - memory**2)
    scaled[0] = white[0]
    from scipy.signal import lfilter  # local: it takes a second, and every data task imports the registry of sources

    filtered: np.ndarray = lfilter([1.0], [1.0, -memory], scaled, axis=0)
    return filtered


class _Bedside:
    """State of one patient and of the treatment protocol; `advance` moves both by one step."""

    def __init__(self, patient: Patient, person: np.ndarray, onsets: list[Onset], drug_draw: np.ndarray) -> None:
        self.patient, self.onsets, self.drug_draw = patient, onsets, drug_draw
        self.person = [float(value) for value in person]
        sick = 0.10 + 0.15 * patient.frailty
        self.failure = {
            "shock": sick,
            "respiratory": sick + 0.1 * patient.lung_disease,
            "renal": 0.5 * sick + 0.15 * patient.kidney_disease,
        }
        self.lactate, self.glucose = 1.3, 130.0 + 35.0 * patient.diabetes
        self.creatinine = self.base_creatinine = max(0.4, 0.85 + 0.15 * self.person[0] + 1.0 * patient.kidney_disease)
        self.bun = 12.0 + 9.0 * self.creatinine
        self.infection, self.volume, self.temperature = 0.0, 0.0, 36.9
        self.platelets, self.hemoglobin, self.bilirubin = 210.0 + 50 * self.person[1], 11.2 + 1.4 * self.person[2], 0.7
        self.norepinephrine, self.insulin, self.fio2, self.peep = 0.0, 0.0, 21.0, 5.0
        self.ventilated = self.on_crrt = self.on_antibiotics = False
        self.next_antibiotic = self.next_bolus = 0.0
        self.low_pressure_steps = self.low_saturation_steps = self.anuric_steps = 0
        self.severity = 0.0
        self.since: dict[str, tuple[float, float, str | None]] = {}
        self.given: list[Given] = []
        self.record: list[tuple[float, ...]] = []
        self.names: Iterable[str] = ()

    def advance(self, step: int, noise: np.ndarray) -> None:
        hour = step * STEP_HOURS
        wobble = noise.tolist()
        self._illness(hour, wobble)
        vitals = self._vitals(hour, wobble)
        self._chemistry(vitals, wobble)
        self._treat(hour, vitals)
        self._note(vitals)

    def finish(self, length: float) -> list[Given]:
        """End the treatments that run at discharge; returns all treatments in order of time."""
        for variable in list(self.since):
            self._run(variable, 0.0, length)
        for daily, name in (
            (True, "Pantoprazole"),
            (self.patient.heart_failure, "Metoprolol Tartrate"),
            (self.patient.lung_disease, "Ipratropium-Albuterol Neb"),
        ):
            if daily:
                first = 4.0 + 3.0 * abs(self.person[3])
                self.given += [Given("medication", hour, hour, math.nan, name) for hour in np.arange(first, length, 12.0).tolist()]
        return sorted((g for g in self.given if g.start < length), key=lambda g: (g.start, g.variable))

    def _illness(self, hour: float, wobble: list[float]) -> None:
        cure = {"shock": 0.02 + 0.035 * self.on_antibiotics, "respiratory": 0.022 + 0.02 * self.ventilated, "renal": 0.018}
        floor = 0.04 + 0.08 * self.patient.frailty
        for kind in KINDS:
            level, rise = self.failure[kind], 0.0
            for onset in self.onsets:
                if onset.kind == kind and onset.hour <= hour < onset.hour + 14.0:
                    rise += 0.16 * max(0.0, onset.strength * (1.1 + 0.2 * self.patient.frailty) - level)
            if kind == "renal":  # shock reduces the kidney's blood supply
                rise += 0.03 * max(0.0, self.failure["shock"] - 0.4)
            level += STEP_HOURS * (rise * 2 - cure[kind] * max(0.0, level - floor)) + 0.006 * wobble[KINDS.index(kind)]
            self.failure[kind] = min(1.0, max(0.0, level))
        septic = any(onset.kind == "shock" and onset.hour <= hour for onset in self.onsets)
        target = self.failure["shock"] if septic else 0.1
        self.infection += STEP_HOURS * 0.15 * (target * (0.5 if self.on_antibiotics else 1.0) - self.infection)
        worst = max(self.failure.values())
        self.severity = 0.5 * worst + 0.25 * self.failure["shock"] + 0.15 * self.failure["respiratory"] + 0.10 * self.failure["renal"]

    def _vitals(self, hour: float, wobble: list[float]) -> dict[str, float]:
        shock, lungs = self.failure["shock"], self.failure["respiratory"]
        person = self.person
        day = math.sin(2 * math.pi * (hour - 4 * person[4]) / 24)
        pressor = 42.0 * math.tanh(self.norepinephrine / 0.35)
        mean = 84 + 7 * person[5] - 50 * shock + pressor + 4 * self.volume - 5 * self.ventilated + 2.5 * day + 5.5 * wobble[3]
        pulse = 48 + 6 * person[6] - 14 * shock + 8 * (self.patient.age_years > 70)
        self.temperature += STEP_HOURS * 0.35 * (36.7 + 4.0 * self.infection + 0.2 * day - self.temperature)
        rate = (
            76 + 8 * person[7] + 42 * shock + 16 * lungs + 7 * (self.temperature - 37) + 12 * self.norepinephrine + 2 * day + 4 * wobble[4]
        )
        ratio = max(50.0, 420 - 430 * lungs - 60 * self.patient.lung_disease + (30 if self.ventilated else 0) + 4 * (self.peep - 5))
        pao2 = max(36.0, ratio * self.fio2 / 100 + (5 + 8 * lungs) * wobble[5])
        saturation = 100 * pao2**2.7 / (pao2**2.7 + 27.0**2.7) - 0.3
        breaths = 15.5 + 2 * person[8] + 17 * lungs + 7 * shock + 1.5 * wobble[6]
        if self.ventilated:
            breaths = 16 + 0.3 * (breaths - 16)
        return {
            "map": max(28.0, mean),
            "sbp": max(40.0, mean + 0.66 * pulse),
            "dbp": max(18.0, mean - 0.34 * pulse),
            "heart_rate": min(190.0, max(32.0, rate)),
            "resp_rate": min(55.0, max(6.0, breaths)),
            "spo2": min(100.0, max(55.0, saturation)),
            "temperature": self.temperature,
            "pao2": pao2,
        }

    def _chemistry(self, vitals: dict[str, float], wobble: list[float]) -> None:
        shock, kidney = self.failure["shock"], self.failure["renal"]
        starved = max(0.0, shock - 0.25) + max(0.0, 62 - vitals["map"]) / 40
        self.lactate += STEP_HOURS * (1.9 * starved - 0.22 * (self.lactate - 0.9))
        clearance = 0.9 if self.on_crrt else 0.0
        self.creatinine += STEP_HOURS * (
            0.11 * kidney**1.5 - 0.035 * (self.creatinine - self.base_creatinine) - 0.05 * clearance * (self.creatinine - 1.0)
        )
        self.bun += STEP_HOURS * 0.06 * (12 + 11 * self.creatinine + 10 * shock - self.bun)
        stress = 124 + 60 * self.patient.diabetes + 90 * shock + 26 * wobble[7] + 12 * self.person[9]
        self.glucose += STEP_HOURS * (0.30 * (stress - self.glucose) - 5.5 * self.insulin)
        self.platelets += STEP_HOURS * (0.02 * (220 + 50 * self.person[1] - self.platelets) - 3.0 * max(0.0, self.severity - 0.35))
        self.bilirubin += STEP_HOURS * (0.12 * max(0.0, shock - 0.35) - 0.02 * (self.bilirubin - 0.6))
        self.volume = max(0.0, self.volume - STEP_HOURS * 0.12 * self.volume)
        filtered = 75 * (1 - 0.97 * kidney) * min(1.0, max(0.1, (vitals["map"] - 40) / 32))
        vitals["urine_rate"] = max(0.0, filtered * (1 + 0.3 * self.person[9] / 3) + 10 * self.volume)

    def _treat(self, hour: float, vitals: dict[str, float]) -> None:
        pressure, saturation = vitals["map"], vitals["spo2"]
        self.low_pressure_steps = self.low_pressure_steps + 1 if pressure < 64 else 0
        if self.low_pressure_steps >= 3:  # treat only a pressure that stays low
            self.norepinephrine = min(1.2, self.norepinephrine + (0.03 if pressure > 56 else 0.06))
        elif pressure > 72 and self.norepinephrine > 0:
            self.norepinephrine = max(0.0, self.norepinephrine - 0.02)
        self._run("norepinephrine", round(self.norepinephrine, 2), hour)
        if pressure < 63 and hour >= self.next_bolus and self.volume < 2.5:
            amount = 500.0 if self.drug_draw[0] < 0.7 else 1000.0
            self.given.append(Given("crystalloid", hour, hour + 1.0, amount))
            self.volume += amount / 500 * 0.8
            self.next_bolus = hour + 3.0
        if not self.on_antibiotics and self.infection > 0.16 and (self.temperature > 37.8 or self.lactate > 2.2):
            self.on_antibiotics, self.next_antibiotic = True, hour + 1.0
        if self.on_antibiotics and hour >= self.next_antibiotic:
            name = ("Piperacillin/Tazobactam (Zosyn)", "Vancomycin", "Cefepime")[int(self.drug_draw[1] * 3)]
            self.given.append(Given("antibiotics_iv", hour, hour + 1.0, 1.0, name))
            self.next_antibiotic = hour + 8.0
            self.on_antibiotics = self.infection > 0.05
        lowest = 40.0 if self.ventilated else 21.0
        if saturation < 91:
            self.fio2 = min(100.0 if self.ventilated else 60.0, self.fio2 + (5 if saturation > 86 else 10))
        elif saturation > 96.5:
            self.fio2 = max(lowest, self.fio2 - 5)
        self.low_saturation_steps = self.low_saturation_steps + 1 if saturation < 90 and self.fio2 >= 50 else 0
        if not self.ventilated and (self.low_saturation_steps >= 3 or self.failure["shock"] > 0.7):
            self.ventilated, self.fio2 = True, max(60.0, self.fio2)
            self.given.append(Given("intubation_event", hour, hour, 1.0, "Intubation"))
        elif self.ventilated and self.fio2 <= 40 and self.failure["respiratory"] < 0.3 and self.failure["shock"] < 0.45:
            self.ventilated = False
            self.given.append(Given("extubation_event", hour, hour, 1.0, "Extubation"))
        self.peep = 5.0 + 5.0 * (self.ventilated and self.fio2 >= 60)
        self._run("invasive_ventilation", float(self.ventilated), hour, "Invasive Ventilation")
        self._run("propofol", 30.0 if self.ventilated else 0.0, hour)
        if self.glucose > 200:
            self.insulin = min(8.0, self.insulin + 1.0)
        elif self.glucose < 140:
            self.insulin = max(0.0, self.insulin - 2.0)
        self._run("insulin_regular_infusion", self.insulin, hour)
        self.anuric_steps = self.anuric_steps + 1 if self.failure["renal"] > 0.72 else 0
        if self.anuric_steps >= 12 or (self.on_crrt and self.failure["renal"] > 0.4):
            self.on_crrt = True
        else:
            self.on_crrt = False
        self._run("crrt", float(self.on_crrt), hour, "Dialysis - CRRT")

    def _run(self, variable: str, value: float, hour: float, text: str | None = None) -> None:
        """Run a treatment at `value` from `hour` on; a change of value ends the current interval and starts a new one."""
        running = self.since.get(variable)
        if running is not None and running[1] == value:
            return
        if running is not None:
            self.given.append(Given(variable, running[0], hour, running[1], running[2]))
            del self.since[variable]
        if value > 0:
            self.since[variable] = (hour, value, text)

    def _note(self, vitals: dict[str, float]) -> None:
        shock, lungs, kidney = self.failure["shock"], self.failure["respiratory"], self.failure["renal"]
        bicarbonate = 25.5 - 6.5 * kidney * (not self.on_crrt) - 1.0 * (self.lactate - 1.0)
        paco2 = 39 + 16 * lungs * (not self.ventilated) + 3 * self.patient.lung_disease - 0.6 * max(0.0, 24 - bicarbonate)
        ph = 6.1 + math.log10(max(4.0, bicarbonate) / (0.0307 * max(18.0, paco2)))
        awake = 0.0 if self.ventilated else 1 - max(0.0, self.severity - 0.45)
        values = vitals | {
            "severity": self.severity,
            "lactate": self.lactate,
            "creatinine": self.creatinine,
            "bun": self.bun,
            "glucose": max(35.0, self.glucose),
            "potassium": 4.0 + 1.3 * kidney * (not self.on_crrt) + 0.8 * max(0.0, 7.35 - ph) * 4,
            "sodium": 139 + 2.5 * self.person[10] - 2 * shock,
            "chloride": 104 + 2 * self.person[10] + 1.5 * self.volume,
            "bicarbonate": max(6.0, bicarbonate),
            "ph": min(7.65, max(6.85, ph)),
            "paco2": max(18.0, paco2),
            "base_excess": bicarbonate - 24.5,
            "wbc": max(1.0, 9.0 + 1.5 * self.person[11] + 13 * self.infection),
            "hemoglobin": max(5.0, self.hemoglobin - 0.4 * self.volume),
            "platelets": max(8.0, self.platelets),
            "bilirubin_total": max(0.2, self.bilirubin),
            "inr": 1.1 + 1.1 * max(0.0, shock - 0.3),
            "magnesium": 2.0 + 0.3 * kidney,
            "fio2": self.fio2,
            "peep": self.peep,
            "ventilated": float(self.ventilated),
            "gcs_eye": 1 + 3 * awake,
            "gcs_verbal": 1 + 4 * awake,
            "gcs_motor": 4 + 2 * awake if self.ventilated else 1 + 5 * awake,
            "on_pressor": float(self.norepinephrine > 0),
        }
        self.names = values.keys()
        self.record.append(tuple(values.values()))
