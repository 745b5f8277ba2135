"""Sampling's kernel beside float64: the likeliest, draws by the distribution's sums, and
log-probabilities.
"""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from ossia.kernels.cpu.library import SampleRow

ALIKE = ("avxvnni", "avx512_vnni", "avx512")  # products of bytes and halves, which it lacks


def sampled(
    library: ctypes.CDLL, logits: np.ndarray, inverse_temperature: float, uniform: float
) -> SampleRow:
    row = SampleRow(
        logits=logits.ctypes.data,
        uniform=uniform,
        top_p=1.0,
        inverse_temperature=inverse_temperature,
    )
    row.log_min_p, row.repetition = -math.inf, 1.0
    library.ossia_sample(ctypes.byref(row), 1, len(logits))
    assert row.status == 0
    return row


@pytest.mark.parametrize("vocab", [1, 15, 16, 1000, 4099])
def test_near_float64(isa: ctypes.CDLL, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    logits = (rng.normal(size=vocab) * 3).astype(np.float32)
    wide = logits.astype(np.float64)
    logprobs = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    assert sampled(isa, logits, 0.0, 0.5).token == wide.argmax()
    shares = np.exp(wide * 1.25 - (wide * 1.25).max())
    order = np.argsort(-shares, kind="stable")
    for uniform in (0.0, 0.3, 0.77, 0.999):
        row = sampled(isa, logits, 1.25, uniform)
        assert abs(row.logprob - logprobs[row.token]) < 1e-4
        assert 0 <= row.token < vocab
    draws = [sampled(isa, logits, 1.25, (n + 0.5) / 200).token for n in range(200)]
    expected = shares[order[0]] / shares.sum()
    # one interval of uniform draws is an id's
    assert abs(draws.count(order[0]) / 200 - expected) < 0.01 + 1e-3
