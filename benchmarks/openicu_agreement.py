"""How far the open MIMIC-IV demo as OpenICU converts it to MEDS agrees with its own tables: stays, readings and hours.

Needs `openicu-mimic-iv-demo` (made by `benchmarks/support/openicu_convert.py`) and `mimic-iv-demo-2.2` below CLINJEPA_DATA.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.support.harness import Report, arguments, publish
from benchmarks.support.openicu_agreement import DIFFERENT, FOLDER, ONLY_OPENICU, read_both, unnamed


def main() -> None:
    options = arguments(__doc__ or "")
    folders = [Path(os.environ.get("CLINJEPA_DATA", "/nonexistent")) / name for name in (FOLDER, "mimic-iv-demo-2.2")]
    if missing := [folder.name for folder in folders if not folder.is_dir()]:
        raise SystemExit(f"no folder {' and '.join(missing)} in CLINJEPA_DATA; docs/openicu.md says how to make them")
    with tempfile.TemporaryDirectory(prefix="clj-") as scratch:
        both = read_both(folders[0], folders[1], Path(scratch))
    stays, hours = both.stays(), both.hours()
    readings, absent = both.readings(ONLY_OPENICU)
    if without_reason := unnamed(readings, hours):
        raise SystemExit(f"{', '.join(without_reason)} differ without a reason; look at them and name it in openicu_agreement.DIFFERENT")
    alike = [name for name in readings if name not in DIFFERENT]
    num_ours, num_raw = (sum(readings[name][key] for name in alike) for key in ("num_ours", "num_raw"))
    same = sum(readings[name]["share_same"] * readings[name]["num_ours"] for name in alike)
    hours_ours = sum(hours[name]["num_ours"] for name in alike)
    measured = {
        "stays_in_both": stays["num_matched"],
        "variables_in_both": len(readings),
        "variables_that_agree": len(alike),
        "share_of_openicu_readings_that_agree": same / num_ours,
        "share_of_raw_readings_found": same / num_raw,
        "share_of_hours_that_agree": sum(hours[name]["share_same"] * hours[name]["num_ours"] for name in alike) / hours_ours,
    }
    units = {"stays_in_both": "stays", "variables_in_both": "variables", "variables_that_agree": "variables"}
    publish(
        Report(
            "openicu_agreement",
            measured=measured,
            goal={},
            unit={name: units.get(name, "ratio") for name in measured},
            details={
                "stays": stays,
                "readings": readings,
                "hours": hours,
                "why_different": DIFFERENT,
                "raw_readings_of_absent_variables": absent,
            },
        ),
        options.quick,
    )


if __name__ == "__main__":
    main()
