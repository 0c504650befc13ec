"""The report as a reader sees it: opened from disk in a real browser, without network, at a desktop's and a small window's width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clinjepa.report.document import build_report, render_html
from pipelines.graph.planning import plan_experiment
from pipelines.stages.data_card import write_data_card
from tests.support.data.finished_data import finish_data, simulated
from tests.support.data.report_results import extras, results
from tests.support.machines.browser import CHROMIUM, Browser

SECTIONS = ["claims", "run", "cohort", "drift", "forecasts", "geometry"]
SECTIONS += ["downstream", "numbers", "added-value", "risk", "training", "stages", "config"]
CARD_SECTIONS = ["stays", "coverage", "dropped", "texts", "labels", "artifacts"]
WIDTHS = (1440, 900)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("report")
    file = folder / "report.html"
    file.write_text(render_html(build_report(results()), extras()), encoding="utf-8")
    browser = Browser(folder / "profile")
    browser.open(file)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("card")
    config = simulated(folder)
    finish_data(config)
    browser = Browser(folder / "profile")
    browser.open(Path(write_data_card(config, plan_experiment(config))))
    yield browser
    browser.close()


def test_report_opens_without_console_errors(page: Browser) -> None:
    assert page.faults() == []


def test_report_needs_no_network(page: Browser) -> None:
    assert [url[:60] for url in page.asked() if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in page.asked()) == 1


def test_every_image_has_pixels_and_a_text_alternative(page: Browser) -> None:
    images = page.value("[...document.images].map(image => ({width: image.naturalWidth, alt: image.alt}))")
    assert len(images) == 8
    assert all(image["width"] > 0 and image["alt"] for image in images)


def test_every_chart_is_drawn_and_has_a_text_alternative(page: Browser) -> None:
    charts = page.charts()
    assert len(charts) > 20
    assert all(chart["height"] > 40 and len(chart["label"]) > 20 for chart in charts)


def test_all_sections_stand_in_order(page: Browser) -> None:
    assert page.value("[...document.querySelectorAll('section')].map(part => part.id)") == SECTIONS


def test_missing_figures_are_dashes_with_their_reason(page: Browser) -> None:
    reasons = page.value("[...document.querySelectorAll('#downstream abbr')].map(mark => mark.title)")
    assert reasons and set(reasons) == {"3 positive patients in the held-out part, 10 are needed"}


@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_the_window(page: Browser, width: int, tmp_path: Path) -> None:
    picture = page.picture(width)
    (tmp_path / f"report-{width}.png").write_bytes(picture)
    assert len(picture) > 50_000


def test_the_data_card_opens_without_errors_or_network(card: Browser) -> None:
    assert card.faults() == []
    assert [url[:60] for url in card.asked() if not url.startswith(("file:", "data:"))] == []


def test_the_data_card_has_its_sections_and_charts(card: Browser) -> None:
    assert card.value("[...document.querySelectorAll('section')].map(part => part.id)") == CARD_SECTIONS
    charts = card.charts()
    assert len(charts) == 5  # attrition, coverage, three kinds of text; so small a simulation drops nothing
    assert all(chart["height"] > 40 and len(chart["label"]) > 20 for chart in charts)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_data_card_fits_the_window(card: Browser, width: int) -> None:
    assert len(card.picture(width)) > 50_000
