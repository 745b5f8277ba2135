"""Aligning a model with a user's policy, end to end: what is drafted, kept, learned, rewarded."""

from __future__ import annotations

import json
from pathlib import Path

from align_runs import config_of, files, scripted
from tiny_model import write_tiny

from ossia.checkpoint import load
from ossia.train import overrides
from ossia.train.pipeline import run_pipeline
from ossia.train.recipes import align


def test_a_policy_of_three_rules_end_to_end(tmp_path: Path) -> None:
    files(tmp_path)
    base = write_tiny(tmp_path / "base")
    out = tmp_path / "run"
    with scripted() as script:
        config = config_of(tmp_path, base, script.url)
        run_pipeline(align.phases(config, out), out, settings=overrides.flat(config))
    report = json.loads((out / "kept" / "report.json").read_text())
    print(report)
    load(out / "model", "float32")
