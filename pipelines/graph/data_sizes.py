"""How many stays and hours a data set has: counted where its ingest is finished, else what the source knows, and the rest as a range."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from clinjepa.capacity.duration import ASSUMED
from clinjepa.config import Config
from clinjepa.errors import ClinJepaError
from clinjepa.sources import open_source
from clinjepa.sources.stay_counts import CountedSource, StayCounts
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from pipelines.graph.artifacts import Artifact
from pipelines.graph.experiment import Experiment
from pipelines.graph.stage import Stage

_SHARE_KEPT = 0.5
"""Least share of a source's stays and hours that a cohort is expected to keep; 0.6 to 0.98 in the open data sets."""

_MEAN_HOURS = (24, 130)
"""Means of stays in public ICU data sets lie in this range: 39 h in CinC 2019, 80 h in MIMIC-IV, over 100 h in AmsterdamUMCdb."""


@dataclass(frozen=True)
class DataSizes:
    """Range of the stays and hours of a data set after the cohort's rules; both ends are equal where they are counted."""

    least_stays: int
    most_stays: int
    least_hours: int
    most_hours: int
    basis: str
    """What the range comes from."""

    counted: bool = False
    hours_of: Mapping[str, int] = field(default_factory=dict)
    """Split -> its hours; empty where they are not counted."""

    @property
    def least_latents(self) -> int:
        """Fewest vectors of a latent store: a state and an action for each hour, a static text for each stay."""
        return 2 * self.least_hours + self.least_stays

    @property
    def most_latents(self) -> int:
        """Most vectors of a latent store."""
        return 2 * self.most_hours + self.most_stays


def data_sizes(config: Config, experiment: Experiment | None) -> DataSizes:
    """The sizes of the configured data set.

    Args:
        config: The configuration.
        experiment: Its stages; None where the source must not be looked at. The simulator has no files and is always known.

    Raises:
        SourceError: The source cannot be read.
    """
    with contextlib.suppress(ClinJepaError):  # a damaged artifact is shown in the table of stages
        store = trajectory_store(config, experiment)
        if store is not None:
            stays = TrajectoryReader(store.folder).stays
            hours = stays.group_by("split").aggregate([("num_hours", "sum")])
            hours_of = dict(zip(hours["split"].to_pylist(), hours["num_hours_sum"].to_pylist(), strict=True))
            return _counted(stays.num_rows, hours_of, "counted in the trajectory store")
        ingest = _finished(config, experiment.ingest) if experiment else None
        if ingest is not None:
            card = ingest.folder.read_json("data_card.json")
            hours_of = {split: counts["num_hours"] for split, counts in card["splits"].items()}
            return _counted(card["num_stays"], hours_of, "counted by the ingest")
    return _expected(config, experiment is not None)


def trajectory_store(config: Config, experiment: Experiment | None) -> Artifact | None:
    """The trajectory store's artifact when it is finished."""
    return _finished(config, experiment.trajectories) if experiment else None


def _finished(config: Config, stage: Stage) -> Artifact | None:
    artifact = Artifact.at(Folder(config.storage), stage.kind, stage.key)
    return artifact if artifact.is_complete() else None


def _counted(num_stays: int, hours_of: Mapping[str, int], basis: str) -> DataSizes:
    num_hours = sum(hours_of.values())
    return DataSizes(num_stays, num_stays, num_hours, num_hours, basis, counted=True, hours_of=hours_of)


def _expected(config: Config, reads_source: bool) -> DataSizes:
    """What the source or `source.max_stays` lets expect."""
    source, max_stays = config.source, config.source.max_stays
    known = None
    if reads_source or source.kind == "simulator":
        opened = open_source(source)
        known = opened.stay_counts() if isinstance(opened, CountedSource) else None
    if known is not None:
        words = f"{known.most_stays:,} stays" if known.least_stays == known.most_stays else f"at most {known.most_stays:,} stays"
        where = "of the simulator" if source.kind == "simulator" else "in the source's files"
        limit = f", source.max_stays={max_stays}" if max_stays is not None else ""
        return _kept(known.first(max_stays), config, f"expected from {words} {where}{limit}")
    least, most = _MEAN_HOURS
    if max_stays is not None:
        counts = StayCounts(max_stays, max_stays, max_stays * least, max_stays * most)
        return _kept(counts, config, f"expected from source.max_stays={max_stays}")
    counts = StayCounts(ASSUMED.num_stays // 10, ASSUMED.num_stays, ASSUMED.num_hours // 10, ASSUMED.num_hours)
    return _kept(counts, config, "assumed, the source's size is not known; the upper end is MIMIC-IV's")


def _kept(counts: StayCounts, config: Config, basis: str) -> DataSizes:
    """The range after the cohort: at least a share of the lower end, and no hour beyond `cohort.max_stay_hours`."""
    longest = config.cohort.max_stay_hours
    most_hours = counts.most_hours if longest is None else min(counts.most_hours, math.ceil(counts.most_stays * longest))
    least_hours = counts.least_hours if longest is None else min(counts.least_hours, math.floor(counts.least_stays * longest))
    return DataSizes(
        math.floor(counts.least_stays * _SHARE_KEPT), counts.most_stays, math.floor(least_hours * _SHARE_KEPT), most_hours, basis
    )
