"""Log-probabilities of the tokens of a given text, or the experts they go to, chunk by chunk.

The text has a cache of its own, so it takes memory in addition to the engine's, and leaves the
engine's pages alone. Knows models; does not know requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.engine.request import PromptToken
from ossia.engine.runner import experts_in_chunks, hidden_in_chunks
from ossia.kernels.logprobs import logprobs
from ossia.model import Transformer

LOGITS = 1 << 24  # computed at once; 64 MB


def prompt_logprobs(
    model: Transformer, tokens: Sequence[int], top: int, chunk: int, exact: bool = False
) -> Iterator[list[PromptToken]]:
    """Of every token but the first. A list for each `chunk` of tokens read: those of the tokens
    that follow them, each with the `top` likeliest tokens in its place. `exact`: with the bits that
    training has for the tokens' own ones.
    """
    starts = range(0, len(tokens), chunk)
    sizes = [min(chunk, len(tokens) - start) for start in starts]
    hiddens = hidden_in_chunks(model, tokens, sizes, exact)
    for start, hidden_TD in zip(starts, hiddens, strict=True):
        following = tokens[start + 1 : start + 1 + len(hidden_TD)]
        yield _scored(model, hidden_TD, following, top, exact)


def prompt_experts(
    model: Transformer, tokens: Sequence[int], chunk: int, exact: bool = False
) -> NDArray[np.int16]:
    """[T, L, k]: the experts that the tokens go to, by layer; -1 where there is no router."""
    sizes = [min(chunk, len(tokens) - start) for start in range(0, len(tokens), chunk)]
    return np.concatenate([*experts_in_chunks(model, tokens, sizes, exact)])


@torch.inference_mode()
def _scored(
    model: Transformer, hidden_TD: Tensor, following: Sequence[int], top: int, exact: bool
) -> list[PromptToken]:
    """`following[t]`: the token that comes after row t."""
    vocabulary = model.config.vocab_size
    rows = max(1, LOGITS // vocabulary)
    scored = []
    for r in range(0, len(following), rows):
        ids = following[r : r + rows]
        x_RD = hidden_TD[r : r + len(ids)]
        logits_RV = model.unembed(x_RD)
        logprobs_RV = logits_RV.float().cpu().log_softmax(-1)
        own_R1 = logprobs_RV[torch.arange(len(ids)), torch.tensor(ids)].unsqueeze(1)
        own_R = own_R1.squeeze(1)
        if exact:
            own_R = logprobs(x_RD, model.unembedding.weight, torch.tensor(ids))
        own = own_R.tolist()
        ranks = (1 + (logprobs_RV > own_R1).sum(1)).tolist()
        best = logprobs_RV.topk(min(top, vocabulary))
        best_ids = best.indices.tolist()
        best_logprobs = best.values.tolist()
        for n, id in enumerate(ids):
            likeliest = tuple(zip(best_ids[n], best_logprobs[n], strict=True))
            scored.append(PromptToken(id, own[n], likeliest, ranks[n]))
    return scored
