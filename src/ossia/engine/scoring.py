"""What a model gives the tokens of a text that is there already: log-probabilities, chunk by chunk.

The text goes through a cache of its own, so it takes memory beside the engine's and nothing of what
that keeps. Knows models; nothing of requests or of who waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ossia.engine.request import PromptToken
from ossia.engine.runner import hidden_in_chunks
from ossia.model import Transformer

LOGITS = 1 << 24  # at once; 64 MB of them


def prompt_logprobs(
    model: Transformer, tokens: Sequence[int], top: int, chunk: int
) -> Iterator[list[PromptToken]]:
    """Of every token but the first, which nothing comes before; after each `chunk` of tokens those
    that it tells of.
    """
    starts = range(0, len(tokens), chunk)
    hiddens = hidden_in_chunks(model, tokens, [min(chunk, len(tokens) - start) for start in starts])
    for start, hidden_TD in zip(starts, hiddens, strict=True):
        following = tokens[start + 1 : start + 1 + len(hidden_TD)]
        yield _scored(model, hidden_TD, following, top)


@torch.inference_mode()
def _scored(
    model: Transformer, hidden_TD: Tensor, following: Sequence[int], top: int
) -> list[PromptToken]:
    """`following[t]`: the token that comes after row t."""
    vocabulary = model.config.vocab_size
    rows, count = max(1, LOGITS // vocabulary), min(top, vocabulary)
    scored = []
    for r in range(0, len(following), rows):
        ids = following[r : r + rows]
        logprobs_RV = model.unembed(hidden_TD[r : r + len(ids)]).float().cpu().log_softmax(-1)
        values = logprobs_RV[torch.arange(len(ids)), torch.tensor(ids)].tolist()
        best = logprobs_RV.topk(count)
        tops = (
            tuple(zip(*row, strict=True))
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
        scored += [PromptToken(*token) for token in zip(ids, values, tops, strict=True)]
    return scored
