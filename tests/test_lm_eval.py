"""Log-likelihoods for another program's harness, against the model's own logits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tiny_model import write_tiny

import ossia
from ossia.errors import RequestError
from ossia.llm import LLM
from ossia.lm_eval import Likelihoods, register


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return ossia.load(write_tiny(tmp_path_factory.mktemp("models") / "tiny"), dtype="float32")


def by_hand(llm: LLM, ids: list[int], count: int) -> float:
    """Of the last tokens, one row after the other."""
    logits = llm.logits(ids)
    total = 0.0
    for place in range(len(ids) - count, len(ids)):
        row = logits[place - 1].astype(np.float64)
        total += row[ids[place]] - np.log(np.exp(row - row.max()).sum()) - row.max()
    return float(total)


def ids_of(llm: LLM, text: str) -> list[int]:
    return [*llm.tokenizer.encode_with_specials("<|endoftext|>"), *llm.tokenizer.encode(text)]


def test_of_a_continuation(llm: LLM) -> None:
    found = Likelihoods(llm)
    value, is_greedy = found.of("What is 37 +", " 48?")
    ids = ids_of(llm, "What is 37 + 48?")
    count = len(ids) - len(ids_of(llm, "What is 37 +"))
    assert value == pytest.approx(by_hand(llm, ids, count), abs=1e-4)
    assert found.of("What is 37 + ", "48?")[0] == pytest.approx(value)
    assert not is_greedy and value < 0
    best = int(llm.logits(ids)[-1].argmax())
    assert found.of_tokens(ids, [best])[1]


def test_of_a_text(llm: LLM) -> None:
    found = Likelihoods(llm)
    ids = ids_of(llm, "37 + 48 = 85")
    assert found.of_text("37 + 48 = 85") == pytest.approx(by_hand(llm, ids, len(ids) - 1), abs=1e-4)
    assert found.of_text("") == 0.0
    long = "apple " * llm.config.max_context_length
    assert math.isfinite(found.of_text(long)) and math.isfinite(found.of(long, " pear")[0])


def test_without_the_harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(RequestError, match="pip install 'ossia"):
        register()
