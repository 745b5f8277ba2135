"""What the benchmark beside other programs reads from them, chooses and prints; no program is
run.
"""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict

import peers
import pytest
import vs_llamacpp
from peers import Turn
from vs_llamacpp import Found

FORK_TABLE = """\
main: n_kv_max = 1280, n_batch = 2048, flash_attn = 1

|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|    16 |     64 |    8 |    640 |    0.500 |   256.00 |    5.120 |   100.00 |    5.620 |   113.88 |
|    16 |     64 |   16 |   1280 |    1.000 |   256.00 |    8.192 |   125.00 |    9.192 |   139.25 |
"""


def test_speeds_are_read_from_what_the_programs_print() -> None:
    tests = [
        {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 120.5},
        {"n_prompt": 0, "n_gen": 64, "n_depth": 0, "avg_ts": 20.0},
        {"n_prompt": 0, "n_gen": 64, "n_depth": 4096, "avg_ts": 15},
    ]
    lines = "\n".join(map(json.dumps, tests))
    assert peers.llama_bench_speeds(lines) == {
        "prefill_512": 120.5,
        "decode_0": 20.0,
        "decode_4096": 15.0,
    }
    tests[2] = {"n_prompt": 4096, "n_gen": 64, "avg_ts": 14.0}  # it decodes behind a prompt
    told = "repacked [3 tensors]\n" + json.dumps(tests, indent=2)
    assert peers.fork_bench_speeds(told) == {
        "prefill_512": 120.5,
        "decode_0": 20.0,
        "decode_4096": 14.0,
    }
    batch = 'loading\n{"pl": 8, "speed_tg": 44.0}\n{"pl": 16, "speed_tg": 60}\n'
    assert peers.llama_batch_speeds(batch) == {"batch_8": 44.0, "batch_16": 60.0}
    assert peers.fork_batch_speeds(FORK_TABLE) == {"batch_8": 100.0, "batch_16": 125.0}


def test_phases_that_would_take_too_long_are_left_out_and_said() -> None:
    trial = {"prefill": 100.0, "decode": 10.0}
    phases = ["prefill_512", "prefill_2048", "decode_0", "decode_4096", "batch_8"]
    wanted, too_long = vs_llamacpp.fitting(phases, trial, limit=30)
    assert wanted == ["prefill_512", "decode_0", "batch_8"]
    assert too_long == {"prefill_2048": 2 * 20.48, "decode_4096": 40.96 + 6.4}


def test_the_order_moves_on_from_round_to_round() -> None:
    orders = ["".join(vs_llamacpp.rotated("abc", n)) for n in range(4)]  # type: ignore[arg-type]
    assert orders == ["abc", "bca", "cab", "abc"]


class Steady:
    """A side that always measures the same."""

    name = "steady"

    def prepare(self, precision: str) -> dict[str, float]:
        return {"prefill": 100.0, "decode": 10.0}

    def turn(self, precision: str, phases: object) -> Turn:
        return Turn({"decode_0": 10.0})

    def first(self, precision: str) -> dict[str, float]:
        return {"first_token_s": 1.0}


def test_ceilings_are_kept_with_the_turn_that_they_were_measured_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = iter([30.0, 20.0])
    monkeypatch.setattr(vs_llamacpp, "wait_until_quiet", lambda patience: 0.0)
    monkeypatch.setattr(
        vs_llamacpp, "measured_ceilings", lambda threads: {"read_gb_s": next(reads)}
    )
    args = Namespace(threads=1, phases="decode_0", rounds=2, patience=0, limit=300)
    found = json.loads(json.dumps(asdict(vs_llamacpp.compare([Steady()], "int8", args))))
    assert [turn["ceilings"]["read_gb_s"] for turn in found["turns"]["steady"]] == [30.0, 20.0]


def test_the_table_compares_the_first_side_with_every_other_and_with_the_bound() -> None:
    turns = {
        "ossia": [
            Turn({"decode_0": 20.0}, {"decode_0": 25.0}, peak_bytes=2 * 10**9),
            Turn({"decode_0": 22.0}),
        ],
        "llama.cpp": [Turn({"decode_0": 10.0}, peak_bytes=3 * 10**9), Turn({"decode_0": 10.0})],
        "fork": [Turn(), Turn()],
    }
    firsts = {
        "ossia": {"first_token_s": 2.0, "load_s": 1.0},
        "llama.cpp": {"first_token_s": 5.0},
        "fork": {},
    }
    text = vs_llamacpp.table(Found(("decode_0",), turns, firsts))
    rows = {line[:16].strip(): line[16:].split() for line in text.splitlines() if line}
    assert " ".join(rows["decode_0"]) == (
        "21.00 (20.0 - 22.0) 84% 10.00 (10.0 - 10.0) 40% - 2.10x (2.00 - 2.20) -"
    )
    assert rows["peak, GB"] == ["2.00", "3.00", "-", "1.50x", "-"]
    assert rows["first token, s"] == ["2.00", "5.00", "-", "2.50x", "-"]
    assert rows["to load, s"] == ["1.00", "-", "-", "-", "-"]
