"""The open MIMIC-IV demo converted by OpenICU (`weavehr`), for `benchmarks.openicu_agreement`.

Run by a Python 3.13 with `pip install weavehr==0.0.1`; it imports nothing of this project:
`python3.13 benchmarks/support/openicu_convert.py DEMO OUT`, where DEMO is the folder of the demo's csv.gz tables.
"""

import sys
import tempfile
from pathlib import Path

DATASET, VERSION = "mimic-iv-demo", "2.2"
STEPS = {
    "extraction": "config:\n  data:\n    - {{name: {name}, version: '{version}', path: '{path}'}}\n",
    "concept": "config:\n  extraction_step: Extraction\n  mapping_configs:\n    - {{name: {name}, version: '{version}'}}\n",
}


def convert(demo: Path, out: Path) -> None:
    """Run OpenICU's extraction and concept steps; the data set is in `out/datasets`."""
    from weavehr import ConceptStep, ExtractionStep, WeavEHRProject

    with tempfile.TemporaryDirectory() as scratch, WeavEHRProject(out) as project:
        for step, text in STEPS.items():
            path = Path(scratch) / f"{step}.yml"
            head = f"name: {step.capitalize()}\nversion: 1.0.0\noverwrite: true\n"
            path.write_text(head + text.format(name=DATASET, version=VERSION, path=demo.resolve()))
            (ExtractionStep if step == "extraction" else ConceptStep).load(project, path).run()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
