"""Sampling: the filters against transformers' processors, and draws against their probabilities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from ossia.engine.request import SamplingParams
from ossia.engine.sampling import filtered, sample
from ossia.errors import RequestError


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 60),
    st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    st.sampled_from([0.0, 0.1, 0.9]),
)
def test_filters_equal_transformers(seed: int, top_k: int, top_p: float, min_p: float) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 3
    want = logits[None]
    if top_k:
        want = TopKLogitsWarper(top_k)(None, want)
    if top_p < 1:
        want = TopPLogitsWarper(top_p)(None, want)
    if min_p:
        want = MinPLogitsWarper(min_p)(None, want)
    got = filtered(logits, SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p))
    assert torch.equal(torch.isinf(got), torch.isinf(want[0]))


def test_draws_follow_the_tempered_probabilities() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    params, rng = SamplingParams(temperature=0.5), torch.Generator().manual_seed(0)
    draws = torch.tensor([sample(logits, params, rng)[0] for _ in range(4000)])
    shares = torch.bincount(draws, minlength=4) / 4000
    torch.testing.assert_close(shares, (logits / 0.5).softmax(-1), atol=0.03, rtol=0)


def test_a_temperature_near_zero_is_greedy() -> None:
    logits = torch.tensor([0.1, 0.2, 0.0])
    for temperature in (1e-40, 1e-300, 1e-6):
        assert sample(logits, SamplingParams(temperature=temperature), torch.Generator())[0] == 1


def test_logprob_is_before_temperature_and_temperature_zero_is_greedy() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0])
    token, logprob = sample(logits, SamplingParams(temperature=0), torch.Generator())
    assert token == 1 and logprob == pytest.approx(float(logits.log_softmax(-1)[1]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1.0), ("temperature", float("nan")), ("top_p", 0.0), ("top_p", 1.5), ("top_k", -1), 
     ("min_p", 2.0), ("max_tokens", 0), ("temperature", "hot"), ("top_k", 1.5), ("seed", True)],
)  # fmt: skip
def test_senseless_values_are_named(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=name):
        SamplingParams(**{name: value})
