"""`clinjepa plan`: the stages of an experiment, which are done, and what each needs; starts nothing and writes nothing."""

from __future__ import annotations

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors


def plan(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Print the stages, which are done and what each needs; starts nothing."""
    from pipelines.results.plan_tables import print_plan

    with one_line_errors(debug):
        print_plan(configured(config, overrides))


if __name__ == "__main__":
    run_as_module(plan, "plan")
