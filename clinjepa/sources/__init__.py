"""Sources: data sets in their own formats, read into one schema (`stays`, `events`).

| module or folder | contents |
|---|---|
| `schema` | Arrow schemas of `stays` and `events`, the protocol of a source |
| `cleaning` | raw events to clean events: units, plausible ranges, the stay's window, duplicates |
| `misfiled`, `range_losses` | readings moved to the variable or unit they belong to; readings lost to ranges and units, by group |
| `missing_values` | values that mean "not measured": dropped from events, null in stays |
| `written_units` | units as they are written, in the dictionary's spelling |
| `known_weight` | the body weight known when a drug was given |
| `calendar` | ages, dates without a time of day |
| `csv_stream`, `csv_rows` | csv tables of any size in bounded memory; which row of a broken one is at fault |
| `arrow_types` | types of Parquet files that polars does not read |
| `text_files` | small text files: byte-order marks, sizes, whole numbers |
| `buckets` | rows of a large table stored by bucket of patients |
| `antibiotics` | which drugs are antibiotics, by name |
| `stay_counts` | number and length of a source's stays before they are read |
| `extraction` | tables that are laid out by patient before they are read |
| `access`, `open_data` | who may see a source's patients; download of the open data sets |
| `mimic_iv/` | MIMIC-IV, original tables |
| `meds/` | MIMIC-IV in the MEDS format |
| `mapped_meds/` | MEDS data sets whose codes a map explains, such as OpenICU's |
| `challenges/` | PhysioNet/CinC challenges 2012 and 2019 |
| `clif/` | Common Longitudinal ICU data Format 2.1 |
| `simulated/` | the simulator, and its patients written as MIMIC-IV tables |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clinjepa.clinical.code_maps import MIMIC_MAP
from clinjepa.errors import SourceError
from clinjepa.sources.challenges.cinc2012 import Cinc2012Source
from clinjepa.sources.challenges.cinc2019 import Cinc2019Source
from clinjepa.sources.clif.source import ClifSource
from clinjepa.sources.mapped_meds.source import MappedMedsSource
from clinjepa.sources.meds.source import MedsSource
from clinjepa.sources.mimic_iv.source import MimicIvSource
from clinjepa.sources.schema import EVENTS_SCHEMA, SCHEMA_VERSION, STAYS_SCHEMA, Source, SourceTables, validate
from clinjepa.sources.simulated.source import SimulatorSource

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

SOURCES: dict[str, type[Source[Any]]] = {
    "meds": MedsSource,
    "mimic_iv": MimicIvSource,
    "cinc2012": Cinc2012Source,
    "cinc2019": Cinc2019Source,
    "clif": ClifSource,
    "simulator": SimulatorSource,
}

FORMAT_VERSIONS = {"extract": 3}
"""By kind of stage that this room's code makes; raised when the content of an extraction changes for the same settings."""

__all__ = [
    "EVENTS_SCHEMA",
    "FORMAT_VERSIONS",
    "SCHEMA_VERSION",
    "SOURCES",
    "STAYS_SCHEMA",
    "Source",
    "SourceTables",
    "open_source",
    "source_class",
    "validate",
]


def source_class(config: SourceConfig) -> type[Source[Any]]:
    """The class that reads `config.kind` with `config.map`; SourceError for an unknown kind."""
    if config.kind not in SOURCES:
        raise SourceError(f"source.kind={config.kind!r} is not known; known are {sorted(SOURCES)}")
    return MappedMedsSource if config.kind == "meds" and config.map != MIMIC_MAP else SOURCES[config.kind]


def open_source(config: SourceConfig) -> Source[Any]:
    """The source that `config.kind` and `config.map` name; SourceError when its files are missing, or for a map of another kind."""
    found = source_class(config)
    if config.kind != "meds" and config.map != MIMIC_MAP:
        raise SourceError(f"source.map={config.map} is for source.kind=meds; this kind is {config.kind}, leave source.map out")
    return found(config)
