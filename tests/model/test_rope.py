"""Rotary frequencies: gpt-oss's constants, transformers' implementations, and what each method
promises.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GptOssConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ossia.config import ModelConfig
from ossia.model.rope import concentration, inverse_frequencies, yarn_ramp

B20 = ModelConfig.preset("gpt-oss-20b")
NANO = ModelConfig.preset("nano")


def test_constants_of_gpt_oss() -> None:
    assert yarn_ramp(B20) == (8.092779115512402, 17.39802450158856)
    assert concentration(B20) == 1.3465735902799727
    plain, scaled = inverse_frequencies(replace(B20, rope_scaling="none")), inverse_frequencies(B20)
    assert torch.equal(scaled[:9], plain[:9]) and torch.equal(scaled[18:], plain[18:] / 32)


@pytest.mark.parametrize(
    "config", [B20, NANO, replace(B20, rope_truncate=True), replace(NANO, rope_scaling="pi")]
)
def test_equals_transformers(config: ModelConfig) -> None:
    theirs = GptOssConfig.from_dict(config.to_hf_json(quantized=False))
    want, factor = ROPE_INIT_FUNCTIONS[theirs.rope_parameters["rope_type"]](
        theirs, torch.device("cpu")
    )
    torch.testing.assert_close(inverse_frequencies(config), want, rtol=1e-6, atol=0)
    assert concentration(config) == pytest.approx(factor, rel=1e-12)


def test_ntk_interpolates_the_slowest_dimension_only() -> None:
    plain, ntk = (
        inverse_frequencies(replace(NANO, rope_scaling="none")),
        inverse_frequencies(replace(NANO, rope_scaling="ntk")),
    )
    assert ntk[0] == plain[0]
    assert float(plain[-1] / ntk[-1]) == pytest.approx(NANO.rope_scaling_factor, rel=1e-5)
    assert bool((ntk[1:] < plain[1:]).all())


def test_by_parts_is_linear_in_turns_and_yarn_in_the_index() -> None:
    plain = inverse_frequencies(replace(B20, rope_scaling="none"))
    turns = B20.initial_context_length * plain / (2 * torch.pi)
    by_parts = inverse_frequencies(replace(B20, rope_scaling="ntk_by_parts"))
    share = (by_parts / plain - 1 / 32) / (1 - 1 / 32)  # 1 extrapolated, 0 interpolated
    torch.testing.assert_close(share, ((turns - 1) / 31).clamp(0, 1), rtol=1e-4, atol=1e-5)
    yarn_share = (inverse_frequencies(B20) / plain - 1 / 32) / (1 - 1 / 32)
    low, high = yarn_ramp(B20)
    torch.testing.assert_close(
        yarn_share, 1 - ((torch.arange(32) - low) / (high - low)).clamp(0, 1), rtol=1e-4, atol=1e-5
    )
    assert concentration(replace(B20, rope_scaling="ntk_by_parts")) == 1.0
