"""What an ingest prints, and the data card says, about the codes that a source's map lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clinjepa.sources.mapped_meds.coverage import CodeCoverage


def describe_coverage(found: CodeCoverage) -> str:
    """One line with shares and counts; it names no code."""
    share = 100 * found["num_known"] / max(1, found["num_numeric"])
    return (
        f"source.map names the codes of {share:.1f} % of the {found['num_numeric']} rows with a number inside ICU stays; "
        f"{found['num_unknown']} rows there have another code, the data card lists the most frequent ones"
    )
