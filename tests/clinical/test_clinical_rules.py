"""What must never reach a text, and the cohort presets."""

from __future__ import annotations

import pytest

from clinjepa.clinical import excluded_by, load_cohort, load_exclusion_list, load_exclusions, load_variables
from clinjepa.config.schema import CohortConfig
from clinjepa.errors import ConfigError


@pytest.mark.parametrize(
    "name",
    [
        "DIAGNOSIS//ICD//10//I951",
        "DRG//APR//194",
        "HOSPITAL_DISCHARGE//DIED",
        "MEDS_DEATH",
        "PROCEDURE//ICD//9//8854",
        "SAPS-I",
        "sofa",
        "SepsisLabel",
    ],
)
def test_outcomes_and_billing_codes_are_excluded(name):
    assert excluded_by(name) is not None


@pytest.mark.parametrize("name", ["LAB//50813//mmol/L", "PROCEDURE//START//225792", "HOSPITAL_ADMISSION//URGENT", "lactate"])
def test_what_is_known_in_time_is_not_excluded(name):
    assert excluded_by(name) is None


def test_every_exclusion_says_why():
    assert all(len(entry.reason) > 10 for entry in load_exclusion_list())


def test_no_variable_that_reaches_a_text_is_on_the_exclusion_list():
    excluded = {name.casefold() for name in load_exclusions()}
    written = [variable for variable in load_variables().values() if variable.role != "label_only"]
    assert not excluded & {name for v in written for name in (v.name.casefold(), v.text_name.casefold())}


@pytest.mark.parametrize("preset", ["clin_jepa", "icarefm", "yaib"])
def test_a_preset_sets_every_field_of_the_cohort_section(preset):
    fields = load_cohort(preset)
    assert fields.keys() == CohortConfig.model_fields.keys() - {"preset"}
    CohortConfig(preset=preset, **fields)


def test_the_method_s_own_preset_is_the_default_of_the_configuration():
    assert load_cohort("clin_jepa") == CohortConfig().model_dump(exclude={"preset"})


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'eicu'.*clin_jepa"):
        load_cohort("eicu")
