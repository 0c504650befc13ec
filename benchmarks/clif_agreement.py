"""How far the CLIF tables of the open MIMIC-IV demo agree with its own tables, stay by stay and reading by reading.

Needs `clif-mimic-demo` and `mimic-iv-demo-2.2` below CLINJEPA_DATA.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.support.clif_agreement import DIFFERENT, compare_readings, compare_stays, read_both
from benchmarks.support.harness import Report, arguments, publish


def main() -> None:
    options = arguments(__doc__ or "")
    folders = [Path(os.environ.get("CLINJEPA_DATA", "/nonexistent")) / name for name in ("clif-mimic-demo", "mimic-iv-demo-2.2")]
    if missing := [folder.name for folder in folders if not folder.is_dir()]:
        raise SystemExit(f"no folder {' and '.join(missing)} in CLINJEPA_DATA; docs/data.md says where the open copies are")
    with tempfile.TemporaryDirectory(prefix="clj-") as scratch:
        both = read_both(*folders, Path(scratch))
    stays = compare_stays(both)
    readings, absent = compare_readings(both)
    alike = [found for name, found in readings.items() if name not in DIFFERENT]
    num_clif = sum(found["num_clif"] for found in alike)
    publish(
        Report(
            "clif_agreement",
            measured={
                "stays_in_both": stays["num_matched"],
                "variables_in_both": len(readings),
                "variables_that_agree": len(alike),
                "share_of_clif_readings_that_agree": sum(found["share_same"] * found["num_clif"] for found in alike) / num_clif,
                "share_of_raw_readings_found": sum(found["share_same"] * found["num_clif"] for found in alike)
                / sum(f["num_raw"] for f in alike),
            },
            goal={},
            unit={
                "stays_in_both": "stays",
                "variables_in_both": "variables",
                "variables_that_agree": "variables",
                "share_of_clif_readings_that_agree": "ratio",
                "share_of_raw_readings_found": "ratio",
            },
            details={"stays": stays, "readings": readings, "why_different": DIFFERENT, "raw_readings_of_absent_variables": absent},
        ),
        options.quick,
    )


if __name__ == "__main__":
    main()
