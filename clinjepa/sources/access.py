"""Access class of a source: whether its patients may be shown without a data use agreement.

`open`: published without conditions on its readers. `synthetic`: simulated patients. `credentialed`: everything else, also the
default when nothing is known about the data.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clinjepa.sources.open_data import list_open_data, verifies
from clinjepa.storage.strays import is_stray

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

Access = Literal["open", "synthetic", "credentialed"]
_BY_KIND: dict[str, Access] = {"simulator": "synthetic", "cinc2012": "open", "cinc2019": "open"}


def source_access(config: SourceConfig) -> Access:
    """The value of `source.access`; with `auto`, the class is derived from the kind of source or from the files' checksums."""
    if config.access != "auto":
        return config.access
    if config.kind in _BY_KIND:
        return _BY_KIND[config.kind]
    return "open" if config.path and "://" not in config.path and _is_open_data(config.kind, Path(config.path)) else "credentialed"


def _is_open_data(kind: str, folder: Path) -> bool:
    """Whether the folder contains exactly the published files of an open data set that this kind of source reads."""
    for dataset in list_open_data():
        if dataset.source_kind != kind:
            continue
        known = {folder / file.path for file in dataset.files}
        roots = {folder / file.path.split("/")[0] for file in dataset.files if "/" in file.path} or {folder}
        tables = {path for root in roots for path in root.rglob("*") if path.suffix in {".parquet", ".gz", ".csv"}}
        others = {path for path in tables if not is_stray(path.relative_to(folder).as_posix())} - known
        sizes = all((folder / f.path).is_file() and f.num_bytes in (None, (folder / f.path).stat().st_size) for f in dataset.files)
        if sizes and not others and all(verifies(folder / file.path, file) for file in dataset.files):
            return True
    return False
