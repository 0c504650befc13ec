"""One export and its simulated patients for all tests of serving."""

from __future__ import annotations

import pytest

from clinjepa.sources import open_source
from tests.support.data.stay_requests import StayRequests
from tests.support.training.served_export import ServedExport


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> ServedExport:
    """An export with probes and a forecaster."""
    return ServedExport(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def requests(made: ServedExport) -> StayRequests:
    """Requests of the patients of the first partition."""
    source = open_source(made.config.source)
    return StayRequests(source.read(source.partitions()[0]))
