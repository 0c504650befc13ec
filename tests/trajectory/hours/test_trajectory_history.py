"""What lies before ICU admission: in `history/`, by each variable's rule and lookback, and nowhere else."""

from __future__ import annotations

from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table


def built(tmp_path, *events) -> Folder:
    out = Folder(tmp_path)
    stays = stays_table({"stay_id": 1, "outtime": at(3)}, {"stay_id": 2, "outtime": at(3)})
    build_partition(HandmadeSource((stays, events_table(*events))), {"part": 0}, lenient_config(), out, "part-0")
    return out


def rows(out: Folder) -> list[tuple]:
    return [tuple(row.values()) for row in out.read_table("history/part-0.parquet").to_pylist()]


def test_earlier_values_are_aggregated_hourly_by_their_variables_rule(tmp_path):
    events = [event(1, -0.5, "creatinine", 2.0), event(1, -0.25, "creatinine", 1.0), event(1, -1.0, "creatinine", 3.0)]
    assert rows(built(tmp_path, *events, event(2, -30, "culture", 1.0))) == [
        (1, -1, "creatinine", 2.0),
        (1, -1, "creatinine_highest", 3.0),
        (2, -30, "culture", 1.0),
    ]


def test_each_variable_reaches_back_as_far_as_it_says(tmp_path):
    events = [event(1, -167.5, "creatinine", 1.0), event(1, -169, "creatinine", 2.0)]
    events += [event(1, -24, "lactate", 3.0), event(1, -24.5, "lactate", 4.0)]
    assert rows(built(tmp_path, *events)) == [(1, -168, "creatinine", 1.0), (1, -24, "lactate", 3.0)]


def test_an_antibiotic_that_runs_into_the_stay_starts_once(tmp_path):
    out = built(tmp_path, event(1, -1.5, "antibiotic", 1.0, until=1.25, text="cefepime"), event(1, -0.5, "antibiotic", 1.0, until=0.75))
    assert rows(out) == [(1, -2, "antibiotic", 1.0), (1, -1, "antibiotic", 1.0)]
    assert out.read_table("grid/part-0.parquet")["antibiotic"].to_pylist()[:3] == [0.0, 0.0, None]


def test_nothing_before_admission_stands_in_a_text_or_on_the_grid(tmp_path):
    out = built(
        tmp_path, event(1, -0.5, "creatinine", 7.5), event(1, -0.5, "culture", 1.0), event(1, 0.5, "antibiotic", 1.0, text="cefepime")
    )
    texts = str(out.read_table("hours/part-0.parquet").to_pydict())
    assert not any(word in texts for word in ("7.5", "cefepime", "Culture", "Antibiotic"))
    grid = out.read_table("grid/part-0.parquet")
    assert grid["creatinine"].null_count == grid["culture"].null_count == grid.num_rows
