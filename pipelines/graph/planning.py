"""From a configuration to its stage graph, without Ray and without running anything."""

from __future__ import annotations

import os
from pathlib import Path

from clinjepa.clinical.code_maps import MIMIC_MAP
from clinjepa.config import Config
from clinjepa.errors import ClinJepaError
from clinjepa.sources import open_source
from clinjepa.sources.mapped_meds.maps import load_code_map
from clinjepa.storage import Folder
from pipelines.graph.artifacts import content_key
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.saved_run import read_start


def plan_experiment(config: Config, remember: bool = True) -> Experiment:
    """The experiment's stages with their keys. Reads the source's files once to digest them; `remember` keeps the digest in storage."""
    return build_experiment(config, source_digest(config, remember), start=read_start(config))


def source_digest(config: Config, remember: bool = True) -> str:
    """Content digest of the source, cached in storage by path, size and modification time of every file."""
    source = open_source(config.source)
    path = config.source.path
    if path is None:
        return source.content_digest()
    name = f"cache/source-{_signature(path, config)}.json"
    storage = Folder(config.storage)
    try:
        if storage.exists(name):
            return str(storage.read_json(name)["digest"])
    except ClinJepaError:
        pass  # ignore an unreadable cache entry and compute the digest again
    digest = source.content_digest()
    if remember:
        storage.write_json(name, {"digest": digest})
    return digest


def _signature(path: str, config: Config) -> str:
    if "://" in path:
        folder = Folder(path)
        listing = [
            [name, info.get("size"), str(info.get("ETag") or info.get("mtime"))]
            for name, info in folder.fs.find(folder.path(), detail=True).items()
        ]
    else:
        root = Path(path)
        files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        listing = [[os.fspath(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    own_map = [] if config.source.map == MIMIC_MAP else [load_code_map(config.source.map).digest]
    return content_key([config.source.kind, config.source.subsets, listing, *own_map])
