"""Several finished runs side by side: their reports and predictions read, `comparison.json` and `comparison.html` written."""

from __future__ import annotations

from collections.abc import Sequence

from clinjepa.addresses import plain_address
from clinjepa.errors import ConfigError, StoreError
from clinjepa.evaluation.predictions import PREDICTIONS
from clinjepa.redaction import redacted
from clinjepa.report.comparison.content import FinishedRun, build_comparison, labels
from clinjepa.report.comparison.page import render_comparison
from clinjepa.storage import Folder

REPORT, CONTENT, PAGE = "report.json", "comparison.json", "comparison.html"


def write_comparison(runs: Sequence[str], out: str) -> str:
    """Write comparison.html and comparison.json.

    Args:
        runs: Folders of finished runs, `<storage>/runs/<name>`, of one or several storages.
        out: The folder to write into.

    Returns:
        The page's address.

    Raises:
        ConfigError: Fewer than two runs, or the same one twice.
        StoreError: A folder has no report, or one of another schema version.
    """
    folders = [Folder(plain_address(run)) for run in runs]
    if len(folders) < 2:
        raise ConfigError("--compare needs at least two runs; give the folders of finished runs, <storage>/runs/<name>")
    twice = [folder.address for place, folder in enumerate(folders) if folder.address in {one.address for one in folders[:place]}]
    if twice:
        raise ConfigError(f"{twice[0]} stands twice; name each run once")
    content = build_comparison(_finished(folders))
    target = Folder(plain_address(out))
    target.write_json(CONTENT, content)
    target.write_bytes(PAGE, redacted(render_comparison(content)).encode())
    return f"{target.address}/{PAGE}"


def _finished(folders: Sequence[Folder]) -> list[FinishedRun]:
    reports = []
    for folder in folders:
        if not folder.exists(REPORT):
            raise StoreError(
                f"{folder.address} has no {REPORT}; give the folder of a finished run, <storage>/runs/<name>, or write its report with "
                "`clinjepa report CONFIG`"
            )
        reports.append(folder.read_json(REPORT))
    names = labels([str(report.get("run", "run")) for report in reports])
    kept = [folder.read_table(PREDICTIONS) if folder.exists(PREDICTIONS) else None for folder in folders]
    return [FinishedRun(*one) for one in zip(names, reports, kept, strict=True)]
