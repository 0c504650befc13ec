"""What a plan expects of a data set that is not ingested: the truth lies in its range, on every source, and the range is no larger than
what is known allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinjepa.config import load_config
from clinjepa.sources import open_source
from clinjepa.sources.simulated.mimic_writer import write_simulated_mimic
from clinjepa.storage import Folder
from pipelines.graph.data_sizes import DataSizes, data_sizes
from pipelines.graph.estimates import latent_estimate
from pipelines.graph.planning import plan_experiment
from pipelines.results.plan_tables import latent_lines
from tests.support.data.real_data import real

SIMULATED = Path(__file__).parents[2] / "configs" / "demo_simulator.yaml"


def sizes(tmp_path: Path, *overrides: str) -> DataSizes:
    config = load_config(SIMULATED, [f"storage={tmp_path / 'store'}", *overrides])
    return data_sizes(config, plan_experiment(config, remember=False))


@pytest.mark.parametrize("more", [[], ["source.max_stays=10"], ["cohort.max_stay_hours=12"], ["source.simulator.mean_stay_hours=20"]])
def test_the_hours_of_simulated_stays_lie_in_the_range(tmp_path: Path, more: list[str]) -> None:
    overrides = ["source.simulator.num_patients=25", *more]
    source = open_source(load_config(SIMULATED, overrides).source)
    stays = [source.read(part).stays for part in source.partitions()]
    longest = 12.0 if "cohort.max_stay_hours=12" in more else 1e9
    hours = sum(
        min(longest, (end - begin).total_seconds() / 3600)
        for table in stays
        for begin, end in zip(table["intime"].to_pylist(), table["outtime"].to_pylist(), strict=True)
    )
    found = sizes(tmp_path, *overrides)
    assert found.least_stays <= sum(table.num_rows for table in stays) <= found.most_stays
    assert found.least_hours <= hours <= found.most_hours < 25 * found.least_hours


def test_a_small_data_set_is_not_planned_as_if_it_were_mimic(tmp_path: Path) -> None:
    config = load_config(SIMULATED, [f"storage={tmp_path}", "source.simulator.num_patients=100"])
    for experiment in (None, plan_experiment(config, remember=False)):
        assert latent_estimate(config, experiment).bytes_each < 20_000_000
    first = next(iter(latent_lines(latent_estimate(config, None))))
    assert " to " in first and "of the simulator" in first


def test_a_limit_of_stays_is_known_without_reading_the_source(tmp_path: Path) -> None:
    config = load_config(SIMULATED, ["source.kind=meds", f"source.path={tmp_path}", "source.max_stays=100"])
    found = data_sizes(config, None)
    assert found.most_stays == 100 and found.most_hours == 13_000 and "max_stays=100" in found.basis


def test_a_source_of_unknown_size_is_a_range_up_to_mimic(tmp_path: Path) -> None:
    found = data_sizes(load_config(SIMULATED, ["source.kind=meds", f"source.path={tmp_path}"]), None)
    assert found.most_stays == 94_000 and found.least_stays < 10_000


def test_the_lengths_of_stays_of_raw_tables_are_read_from_icustays(tmp_path: Path) -> None:
    config = load_config(SIMULATED, ["source.simulator.num_patients=30"])
    written = write_simulated_mimic(Folder(tmp_path / "tables"), config.source.simulator, 1)
    found = sizes(tmp_path, "source.kind=mimic_iv", f"source.path={tmp_path / 'tables'}")
    assert found.most_stays == written["num_stays"] and "in the source's files" in found.basis
    fewer = sizes(tmp_path, "source.kind=mimic_iv", f"source.path={tmp_path / 'tables'}", "source.max_stays=5")
    assert fewer.most_stays == 5 and fewer.most_hours < found.most_hours


@pytest.mark.parametrize(
    ("kind", "folder", "num_stays", "mean_hours"),
    [("meds", "mimic-iv-demo-meds", 140, 88), ("mimic_iv", "mimic-iv-demo-2.2", 140, 88), ("cinc2012", "cinc2012", 8000, 48)],
)
def test_open_data_sets_are_counted_in_their_files(tmp_path: Path, kind: str, folder: str, num_stays: int, mean_hours: float) -> None:
    found = sizes(tmp_path, f"source.kind={kind}", f"source.path={real(folder, 'https://physionet.org/content/')}")
    assert found.most_stays == num_stays
    assert found.least_hours < num_stays * mean_hours < found.most_hours * 1.1
