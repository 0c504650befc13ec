"""Lets functions of the project fail with a patient's text in hand, in every Python process that has this folder in PYTHONPATH.

The file that the variable CANARY_FAULT names says which: a key of `PLACES`, or nothing. The text is that of CANARY_TEXT. The exception
quotes it, as those of libraries quote the value that they could not convert, and so does the one that it follows.
"""

import functools
import importlib.machinery
import os
import sys

PLACES = {
    "ingest": ("clinjepa.trajectory.hours.ingest", "texts_and_grid"),
    "tokenizer": ("clinjepa.trajectory.tokens.tokenizer", "build_tokenizer"),
    "trajectories": ("clinjepa.trajectory.tokens.build", "build_trajectories"),
    "feed": ("pipelines.stages.feed", "open_micro_batches"),
    "training": ("clinjepa.curriculum.dispatch", "run_sft"),
    "phase": ("clinjepa.curriculum.dispatch", "run_phase"),
    "embed": ("clinjepa.curriculum.embedding", "Embedder.embed_shard"),
    "evaluation": ("pipelines.stages.evaluation", "_drift"),
    "risk": ("pipelines.stages.evaluation", "_downstream"),
    "report": ("pipelines.results.run_report", "write_report"),
}
"""Where a fault can be planted: module and function, or method."""


def _is_asked_for(place):
    try:
        with open(os.environ["CANARY_FAULT"]) as file:
            return file.read().strip() == place
    except OSError:
        return False


def _failing(place, function):
    @functools.wraps(function)
    def planted(*arguments, **options):
        if _is_asked_for(place):
            patient = os.environ["CANARY_TEXT"]
            try:
                {}[patient]
            except KeyError as error:
                raise ValueError(f"could not convert string to float: {patient!r}") from error
        return function(*arguments, **options)

    return planted


class _Planter:
    """Finds the modules of `PLACES` as usual and changes their functions once they are loaded."""

    def find_spec(self, name, path, target=None):
        found = [(place, attribute) for place, (module, attribute) in PLACES.items() if module == name]
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if found else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            for place, attribute in found:
                *way, last = attribute.split(".")
                owner = functools.reduce(getattr, way, module)
                setattr(owner, last, _failing(place, getattr(owner, last)))

        spec.loader.exec_module = exec_module
        return spec


if "CANARY_FAULT" in os.environ:
    sys.meta_path.insert(0, _Planter())
