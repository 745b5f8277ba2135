"""The forward in float32 against transformers' GptOss (eager attention), the same weights in
both.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoint_factory import SHAPES, config_of, hf_logits, hf_model, our_logits, relative, text

from ossia.batch import Batch
from ossia.checkpoint.names import table
from ossia.model import Transformer

TOLERANCE = 1e-5


def same_model(hf: Any) -> Transformer:
    """Ours on views of the other's weights."""
    config = config_of(hf)
    stored = hf.state_dict()
    state = {row.native: row.view(stored[row.stored]) for row in table(config, "hf-bf16")}
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits_of_a_text_beyond_the_initial_context(shape: dict[str, Any], seed: int) -> None:
    hf, tokens_T = hf_model(shape, seed), text(300, seed=seed)
    assert relative(hf_logits(hf, tokens_T), our_logits(same_model(hf), tokens_T)) < TOLERANCE


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_packed_texts_do_not_see_each_other(shape: dict[str, Any]) -> None:
    hf = hf_model(shape)
    lengths = [1, 5, 133, 17, 7]
    tokens = [text(n, seed=n) for n in lengths]
    with torch.no_grad():
        packed = same_model(hf)(torch.cat(tokens), Batch.packed(lengths))
    expected = torch.cat([hf_logits(hf, one) for one in tokens])
    assert relative(expected, packed) < TOLERANCE


def test_output_rows_choose_logits() -> None:
    hf, tokens_T = hf_model(), text(40)
    rows = torch.tensor([39, 0, 7])
    with torch.no_grad():
        found = same_model(hf)(tokens_T, Batch.packed([40], output_rows=rows))
    assert relative(hf_logits(hf, tokens_T)[rows], found) < TOLERANCE


def test_bfloat16_is_nearer_to_float32_than_theirs() -> None:
    """Both are compared with the same float32 answer, by the median row: where a row's error makes
    a router choose other experts, the rest of that row is far off for anybody.
    """
    hf, tokens_T = hf_model(dtype=torch.bfloat16), text(90)
    exact = hf_logits(hf_model(dtype=torch.bfloat16).float(), tokens_T)
    model = same_model(hf)
    model.compute_dtype = torch.bfloat16
    ours, theirs = our_logits(model, tokens_T).float(), hf_logits(hf, tokens_T).float()
    error_of_row = [(found - exact).square().mean(1).median() for found in (ours, theirs)]
    assert error_of_row[0] < 0.5 * error_of_row[1]
