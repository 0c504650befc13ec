"""Sources: one module per data set's own format, one schema out (`stays`, `events`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clinjepa.errors import SourceError
from clinjepa.sources.challenges.cinc2012 import Cinc2012Source
from clinjepa.sources.challenges.cinc2019 import Cinc2019Source
from clinjepa.sources.meds.source import MedsSource
from clinjepa.sources.mimic_iv.source import MimicIvSource
from clinjepa.sources.schema import EVENTS_SCHEMA, SCHEMA_VERSION, STAYS_SCHEMA, Source, SourceTables, validate
from clinjepa.sources.simulated.source import SimulatorSource

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

SOURCES: dict[str, type[Source]] = {
    "meds": MedsSource,
    "mimic_iv": MimicIvSource,
    "cinc2012": Cinc2012Source,
    "cinc2019": Cinc2019Source,
    "simulator": SimulatorSource,
}

__all__ = ["EVENTS_SCHEMA", "SCHEMA_VERSION", "SOURCES", "STAYS_SCHEMA", "Source", "SourceTables", "open_source", "validate"]


def open_source(config: SourceConfig) -> Source:
    """The source that `config.kind` names; SourceError when its files are not there."""
    if config.kind not in SOURCES:
        raise SourceError(f"source.kind={config.kind!r} is not known; known are {sorted(SOURCES)}")
    return SOURCES[config.kind](config)
