"""`python -m pipelines.<command>`, which is what `ray job submit` runs, is `clinjepa <command>`."""

from __future__ import annotations

import runpy
import sys

import pytest

COMMANDS = {
    "run": "run", "ingest": "ingest", "plan": "plan", "pretrain": "pretrain", "evaluate": "evaluate", "grid": "grid", "report": "report",
    "export": "export", "data": "data", "audit": "data audit", "show": "data show", "meds_dev": "meds-dev", "submit": "submit",
    "runs": "runs", "gc": "gc",
}  # fmt: skip


@pytest.mark.parametrize(("module", "command"), COMMANDS.items())
def test_every_command_is_a_module_too(monkeypatch, capsys, module, command):
    monkeypatch.setattr(sys, "argv", ["pipelines", "--help"])
    monkeypatch.delitem(sys.modules, f"pipelines.{module}", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"pipelines.{module}", run_name="__main__")
    assert ended.value.code in (0, None)
    assert f" {command} " in capsys.readouterr().out.splitlines()[1]
