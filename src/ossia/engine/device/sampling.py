"""The draw of all rows at once, where the logits are: the reference of sampling.py, batched, so
that a GPU hands back a few numbers a row instead of its logits.

Uniform numbers come from the host, as everywhere, so a row draws the same token; sums are in double
precision. Nothing waits for the device before a draw is read, so one can be begun while its logits
are still computed. What no row asks for is not computed: sorting, above all. Knows tensors and
arrays, no requests.

R rows, V vocabulary, W words of a mask, N ids whose logits change, of all rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.kernels.transfer import Download, integers, uploaded

NOT_A_NUMBER = 1  # SampleStatus of kernels/cpu/sampling.h
NOTHING_ALLOWED = 2


@dataclass(frozen=True)
class Wish:
    """What a row's draw depends on. `inverse_temperature` 0 is greedy; `edits`: ids, counts, seen
    and biases of the logits that change; `mask`: words of bits of the ids that may come.
    """

    uniform: float
    inverse_temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition: float
    presence: float
    frequency: float
    top_logprobs: int
    edits: tuple[NDArray[Any], ...]
    mask: NDArray[np.uint32] | None


@dataclass(frozen=True)
class Drawn:
    """By row: the token, its log-probability, 0 or why there is none; the likeliest ids [R, n] and
    their log-probabilities, as many as the row with most asks for.
    """

    tokens: list[int]
    logprobs: list[float]
    statuses: list[int]
    top_ids: list[list[int]]
    top_logprobs: list[list[float]]


class Drawing:
    """A draw that has been begun. `tokens_R`: int64 on the device; of a row that cannot be drawn
    from, some token.
    """

    def __init__(self, tokens_R: Tensor, found_RC: Tensor, likeliest: int) -> None:
        self.tokens_R = tokens_R
        self._found_RC = Download(found_RC)
        self._likeliest = likeliest

    def read(self) -> Drawn:
        """Waits for it."""
        found = self._found_RC.wait().numpy(force=True)
        end = 3 + self._likeliest
        return Drawn(
            found[:, 0].astype(np.int64).tolist(),
            found[:, 1].tolist(),
            found[:, 2].astype(np.int64).tolist(),
            found[:, 3:end].astype(np.int64).tolist(),
            found[:, end:].tolist(),
        )


def begin(logits_RV: Tensor, wishes: Sequence[Wish]) -> Drawing:
    """A token of each row of float32 logits."""
    vocab = logits_RV.shape[1]
    device = logits_RV.device
    is_bad_R = ~(logits_RV < torch.inf).all(1)  # nan too
    choice_RV = _edited(logits_RV, wishes)
    masked = [n for n, wish in enumerate(wishes) if wish.mask is not None]
    if masked:
        rows_n = integers(masked, device)
        allowed_nV = _unpacked([wishes[n].mask for n in masked], vocab, device)
        choice_nV = choice_RV[rows_n].masked_fill(~allowed_nV, -torch.inf)
        choice_RV = choice_RV.index_copy(0, rows_n, choice_nV)
    top_R1 = choice_RV.amax(1, keepdim=True)
    status_R = torch.where(top_R1[:, 0] == -torch.inf, NOTHING_ALLOWED, 0)
    status_R = torch.where(is_bad_R, NOT_A_NUMBER, status_R)
    token_R = _greedy(choice_RV, top_R1)
    if any(wish.inverse_temperature for wish in wishes):
        token_R = _random(choice_RV, top_R1, token_R, wishes)
    lse_R = logits_RV.double().logsumexp(1)
    logprob_R = logits_RV.gather(1, token_R[:, None])[:, 0] - lse_R
    most = min(vocab, max(wish.top_logprobs for wish in wishes))
    order_RV = token_R[:, None]
    if most:
        order_RV = logits_RV.sort(dim=1, descending=True, stable=True).indices
    best_Rn = order_RV[:, :most]
    best_logprobs_Rn = logits_RV.gather(1, best_Rn) - lse_R[:, None]
    columns = [
        token_R[:, None],
        logprob_R[:, None],
        status_R[:, None],
        best_Rn,
        best_logprobs_Rn,
    ]
    found_RC = torch.cat([column.double() for column in columns], dim=1)
    return Drawing(token_R, found_RC, most)


def _greedy(choice_RV: Tensor, top_R1: Tensor) -> Tensor:
    """int64 [R]: the first of the likeliest; 0 where there is none."""
    vocab = choice_RV.shape[1]
    id_V = torch.arange(vocab, device=choice_RV.device)
    first_R = torch.where(choice_RV == top_R1, id_V, vocab).amin(1)
    return torch.where(first_R < vocab, first_R, 0)


def _random(choice_RV: Tensor, top_R1: Tensor, greedy_R: Tensor, wishes: Sequence[Wish]) -> Tensor:
    """int64 [R]: by the uniform numbers, where a row has a temperature."""
    device = choice_RV.device
    vocab = choice_RV.shape[1]
    inverse_R = _column([wish.inverse_temperature for wish in wishes], device, np.float32)
    uniform_R = _column([wish.uniform for wish in wishes], device, np.float64)
    top_R1 = top_R1.clamp(min=torch.finfo(torch.float32).min)  # of a row without any
    scaled_RV = (choice_RV - top_R1) * inverse_R.clamp(min=1e-30)[:, None]
    cut = [n for n, wish in enumerate(wishes) if 0 < wish.top_k < vocab or wish.top_p < 1]
    if cut:
        rows_n = integers(cut, device)
        cut_nV = _cut(scaled_RV[rows_n], [wishes[n] for n in cut])
        scaled_RV = scaled_RV.index_copy(0, rows_n, cut_nV)
    if any(wish.min_p > 0 for wish in wishes):
        least = [math.log(wish.min_p) if wish.min_p > 0 else -math.inf for wish in wishes]
        least_R1 = _column(least, device, np.float32)[:, None]
        is_less_RV = scaled_RV - scaled_RV.amax(1, keepdim=True) < least_R1
        scaled_RV = scaled_RV.masked_fill(is_less_RV, -torch.inf)
    cumulated_RV = scaled_RV.exp().double().cumsum(1)
    wanted_R1 = cumulated_RV[:, -1:] * uniform_R[:, None]
    place_R = torch.searchsorted(cumulated_RV, wanted_R1, right=True)[:, 0]
    id_V = torch.arange(vocab, device=device)
    last_R = torch.where(scaled_RV.exp() > 0, id_V, 0).amax(1)
    return torch.where(inverse_R > 0, torch.minimum(place_R, last_R), greedy_R)


def _cut(scaled_nV: Tensor, wishes: Sequence[Wish]) -> Tensor:
    """Rows with -inf where top_k, then top_p, removes a token: as `filtered` of sampling.py."""
    device = scaled_nV.device
    vocab = scaled_nV.shape[1]
    counts = [wish.top_k if 0 < wish.top_k < vocab else vocab for wish in wishes]
    count_n = integers(counts, device)
    top_p_n = _column([wish.top_p for wish in wishes], device, np.float64)
    sorted_nV, order_nV = scaled_nV.sort(dim=1, descending=True, stable=True)
    kth_n1 = sorted_nV.gather(1, count_n[:, None] - 1)
    sorted_nV = sorted_nV.masked_fill(sorted_nV < kth_n1, -torch.inf)
    p_nV = sorted_nV.double().softmax(1)
    before_nV = p_nV.cumsum(1) - p_nV
    is_beyond_nV = (before_nV >= top_p_n[:, None]) & (top_p_n < 1)[:, None]
    is_beyond_nV[:, 0] = False
    sorted_nV = sorted_nV.masked_fill(is_beyond_nV, -torch.inf)
    return torch.empty_like(sorted_nV).scatter_(1, order_nV, sorted_nV)


def _edited(logits_RV: Tensor, wishes: Sequence[Wish]) -> Tensor:
    """Penalties and biases, as `edited` of sampling.py."""
    lengths = [len(wish.edits[0]) for wish in wishes]
    if not any(lengths):
        return logits_RV
    device = logits_RV.device
    parts = [np.concatenate([wish.edits[n] for wish in wishes]) for n in range(4)]
    ids_N, counts_N, seen_N, bias_N = (uploaded(part, device) for part in parts)
    row_N = uploaded(np.repeat(np.arange(len(wishes)), lengths), device)
    penalties = [(wish.repetition, wish.presence, wish.frequency) for wish in wishes]
    penalties_R3 = _column(penalties, device, np.float32)
    each_N3 = penalties_R3[row_N]
    repetition_N, presence_N, frequency_N = each_N3.unbind(1)
    ids_N = ids_N.long()
    x_N = logits_RV[row_N, ids_N]
    penalized_N = torch.where(x_N < 0, x_N * repetition_N, x_N / repetition_N)
    x_N = torch.where(seen_N > 0, penalized_N, x_N)
    occurs_N = counts_N > 0
    penalty_N = frequency_N * counts_N + presence_N * occurs_N
    x_N = x_N - penalty_N + bias_N
    largest = torch.finfo(torch.float32).max
    x_N = x_N.clamp(max=largest)
    return logits_RV.index_put((row_N, ids_N), x_N)


def _unpacked(
    masks: Sequence[NDArray[np.uint32] | None], vocab: int, device: torch.device
) -> Tensor:
    """bool [n, V] from words of bits, which alone go to the device; ids beyond a mask are False."""
    words = (vocab + 31) // 32
    packed_nW = np.zeros((len(masks), words), np.uint32)
    for row_W, mask in zip(packed_nW, masks, strict=True):
        assert mask is not None
        row_W[: len(mask)] = mask[:words]
    words_nW = uploaded(packed_nW.view(np.int32), device)
    shifts = torch.arange(32, dtype=torch.int32, device=device)
    bits_nW32 = (words_nW[:, :, None] >> shifts) & 1
    return bits_nW32.flatten(1)[:, :vocab].bool()


def _column(values: Sequence[Any], device: torch.device, dtype: Any) -> Tensor:
    return uploaded(np.array(values, dtype), device)
