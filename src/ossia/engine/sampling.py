"""Drawing tokens from rows of logits: penalties, bias, a constraint's mask, temperature, filters,
one uniform number.

What a row draws is a function of its logits and its own `RowState` alone: the same bits whatever
other rows there are, however many threads work and whatever was preempted or speculated on the way.
The C++ kernel does the work (kernels/cpu/sampling.inc); where there is none, or with
OSSIA_KERNELS=reference, torch does. Both give the same token unless the uniform number, or a
filter's boundary, falls between their roundings of the same sum (relative 1e-6).

A constraint's masks are asked for in worker threads, a few for all engines, so that they are ready
when the model is.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.engine.request import Constraint, SamplingParams
from ossia.errors import RequestError
from ossia.kernels.cpu.library import SampleRow, library

if TYPE_CHECKING:
    from ossia.engine.request import Mask

NOT_A_NUMBER, NOTHING_ALLOWED = 1, 2  # SampleStatus of sampling.h
WORD = 2**64 - 1


@dataclass(frozen=True)
class Sampled:
    """A drawn id; log-probabilities are those of the unchanged logits, `top_logprobs` likeliest
    first.
    """

    token_id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


# ---- what belongs to a request ----


class RowState:
    """All that a request's draws depend on besides logits and mask. `observe` it every token that
    is taken.

    The n-th token of the answer is drawn with the n-th uniform number of (seed, stream); `stream`
    is the number of the sample where several answer the same prompt. Raises `RequestError` for a
    bias beyond the vocabulary.
    """

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], vocab_size: int, stream: int = 0
    ) -> None:
        wrong = next((id for id in params.logit_bias if id >= vocab_size), None)
        if wrong is not None:
            raise RequestError(
                f"logit_bias names token {wrong}; the vocabulary has {vocab_size} tokens",
                "logit_bias",
            )
        self.params, self.vocab_size = params, vocab_size
        self.drawn = 0
        self._stream = stream
        self._key = int.from_bytes(os.urandom(16), "little") if params.seed is None else params.seed
        self._block: tuple[int, tuple[int, ...]] = (-1, ())
        self._penalized = params.repetition_penalty != 1 or bool(
            params.presence_penalty or params.frequency_penalty
        )
        self.edits = Edits(params.logit_bias, prompt if params.repetition_penalty != 1 else ())

    def observe(self, token_id: int) -> None:
        """`token_id` is the next token of the answer."""
        self.drawn += 1
        if self._penalized:
            self.edits.count(token_id)

    def uniform(self) -> float:
        """In [0, 1), for the token to be drawn next."""
        block, word = divmod(self.drawn, 4)
        if self._block[0] != block:
            self._block = block, philox(self._key, block, self._stream)
        return (self._block[1][word] >> 11) * 2.0**-53

    @property
    def inverse_temperature(self) -> float:
        """0 for greedy; else within what float32 holds, so that no temperature gives nan."""
        return (
            0.0
            if self.params.temperature == 0
            else 1 / min(max(self.params.temperature, 1e-30), 1e30)
        )


class Edits:
    """The ids whose logits change, in order of appearance: their bias, occurrences in the answer,
    and whether the repetition penalty holds for them. Arrays grow by doubling, so a token costs the
    same however many there are.
    """

    def __init__(self, bias: Mapping[int, float], seen: Sequence[int]) -> None:
        known = dict.fromkeys([*bias, *seen])
        self._slots = {id: n for n, id in enumerate(known)}
        self.length = len(known)
        room = max(16, self.length)
        self.ids, self.counts = np.zeros(room, np.int32), np.zeros(room, np.int32)
        self.seen, self.bias = np.zeros(room, np.uint8), np.zeros(room, np.float32)
        self.ids[: self.length] = list(known)
        self.bias[: len(bias)] = list(bias.values())
        self.seen[[self._slots[id] for id in set(seen)]] = 1
        self._point()

    def count(self, token_id: int) -> None:
        slot = self._slots.setdefault(token_id, self.length)
        if slot == self.length:
            if self.length == len(self.ids):
                self.ids, self.counts, self.seen, self.bias = (
                    np.concatenate([array, np.zeros_like(array)])
                    for array in (self.ids, self.counts, self.seen, self.bias)
                )
                self._point()
            self.ids[slot] = token_id
            self.length += 1
        self.counts[slot] += 1
        self.seen[slot] = 1

    def _point(self) -> None:
        self.pointers = tuple(
            array.ctypes.data for array in (self.ids, self.counts, self.seen, self.bias)
        )


def philox(key: int, block: int, stream: int) -> tuple[int, ...]:
    """Four 64-bit words: Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
    3", SC 2011) of the counter (block, stream, 0, 0) under the lower 128 bits of `key`.
    """
    a, b, c, d = block & WORD, stream & WORD, 0, 0
    k, m = key & WORD, key >> 64 & WORD
    for _ in range(10):
        high, low = divmod(0xD2E7470EE14C6C93 * a, WORD + 1)
        top, bottom = divmod(0xCA5A826395121157 * c, WORD + 1)
        a, b, c, d = top ^ b ^ k, bottom, high ^ d ^ m, low
        k, m = (k + 0x9E3779B97F4A7C15) & WORD, (m + 0xBB67AE8584CAA73B) & WORD
    return a, b, c, d


# ---- the draw ----


def sample_rows(
    logits_RV: Tensor, states: Sequence[RowState], masks: Sequence[Mask | None] | None = None
) -> list[Sampled | RequestError]:
    """The next token of each row from logits [R, V]. Changes nothing: who takes a token tells its
    state.

    Only ids that a row's mask allows are drawn, as if the others had a probability of zero: bit i
    of word w stands for id 32 w + i, beyond its end none may come. A row that cannot be drawn from
    gives the error that says so, and leaves the others alone.
    """
    assert len(states) == len(logits_RV) and all(s.vocab_size == logits_RV.shape[1] for s in states)
    if not states:
        return []
    logits_RV = logits_RV.detach().to("cpu", torch.float32).contiguous()
    masks = [None] * len(states) if masks is None else masks
    kernels = None if os.environ.get("OSSIA_KERNELS") == "reference" else library()
    if isinstance(kernels, ctypes.CDLL):
        return _sample_native(kernels, logits_RV, states, masks)
    return [_sample_reference(*row) for row in zip(logits_RV, states, masks, strict=True)]


def _sample_native(
    kernels: ctypes.CDLL,
    logits_RV: Tensor,
    states: Sequence[RowState],
    masks: Sequence[Mask | None],
) -> list[Sampled | RequestError]:
    count, vocab = logits_RV.shape
    words = [
        None if mask is None else np.ascontiguousarray(mask, np.uint32) for mask in masks
    ]  # alive until the end
    most = max(min(state.params.top_logprobs, vocab) for state in states)
    top_ids, top_logprobs = np.empty((count, most), np.int32), np.empty((count, most), np.float32)
    rows = (SampleRow * count)()
    logits = logits_RV.data_ptr()
    for n, (row, state, mask) in enumerate(zip(rows, states, words, strict=True)):
        params = state.params
        row.logits = logits + 4 * vocab * n
        row.top_k, row.top_p = min(params.top_k, vocab), params.top_p
        row.log_min_p = math.log(params.min_p) if params.min_p > 0 else -math.inf
        row.inverse_temperature = state.inverse_temperature
        row.uniform = state.uniform() if params.temperature else 0.0
        if params.top_logprobs:
            row.top = min(params.top_logprobs, vocab)
            row.top_ids, row.top_logprobs = top_ids[n].ctypes.data, top_logprobs[n].ctypes.data
        if mask is not None:
            row.mask, row.mask_words = mask.ctypes.data, len(mask)
        if state.edits.length:
            row.ids, row.counts, row.seen, row.bias = state.edits.pointers
            row.edits, row.repetition = state.edits.length, params.repetition_penalty
            row.presence, row.frequency = params.presence_penalty, params.frequency_penalty
    kernels.ossia_sample(ctypes.addressof(rows), count, vocab)
    return [
        _error(row.status)
        if row.status
        else Sampled(row.token, row.logprob, _likeliest(row, top_ids[n], top_logprobs[n]))
        for n, row in enumerate(rows)
    ]


def _likeliest(
    row: SampleRow, ids: NDArray[Any], logprobs: NDArray[Any]
) -> tuple[tuple[int, float], ...]:
    """The row's part of what the kernel has written to these arrays [most]."""
    if not row.top:
        return ()
    return tuple(zip(ids[: row.top].tolist(), logprobs[: row.top].tolist(), strict=True))


def _error(status: int) -> RequestError:
    if status == NOT_A_NUMBER:
        return RequestError(
            "the model's logits hold nan or infinity, so no token can be drawn; its weights are damaged, or overflow "
            "in this precision: check the files, or load it with dtype='float32'"
        )
    return RequestError(
        "no token may come next: of those that the constraint allows, this model gives none a probability above zero; "
        "was it made for another vocabulary?"
    )


# ---- the same in torch ----


def _sample_reference(
    logits_V: Tensor, state: RowState, mask: Mask | None
) -> Sampled | RequestError:
    if not bool((logits_V < torch.inf).all()):  # nan too
        return _error(NOT_A_NUMBER)
    choice_V = edited(logits_V, state)
    if mask is not None:
        choice_V = choice_V.masked_fill(~unpacked(mask, state.vocab_size), -torch.inf)
    top = choice_V.max()
    if top == -torch.inf:
        return _error(NOTHING_ALLOWED)
    logprobs_V = logits_V.double() - logits_V.double().logsumexp(-1)
    if state.params.temperature == 0:
        token = int(torch.nonzero(choice_V == top)[0])
    else:
        p_V = filtered((choice_V - top) * state.inverse_temperature, state.params).exp().double()
        cumulated_V = p_V.cumsum(-1)
        wanted = cumulated_V[-1:] * state.uniform()
        last = int(torch.nonzero(p_V)[-1])
        token = min(int(torch.searchsorted(cumulated_V, wanted, right=True)), last)
    likeliest = (
        torch.sort(logits_V, descending=True, stable=True)
        .indices[: state.params.top_logprobs]
        .tolist()
    )
    return Sampled(
        token, float(logprobs_V[token]), tuple((id, float(logprobs_V[id])) for id in likeliest)
    )


def edited(logits_V: Tensor, state: RowState) -> Tensor:
    """Logits with the repetition penalty, then frequency and presence penalties, then the bias."""
    params, n = state.params, state.edits.length
    if not n:
        return logits_V
    ids, counts, seen, bias = (
        torch.from_numpy(array[:n])
        for array in (state.edits.ids, state.edits.counts, state.edits.seen, state.edits.bias)
    )
    ids = ids.long()
    x = logits_V[ids]
    penalized = torch.where(x < 0, x * params.repetition_penalty, x / params.repetition_penalty)
    x = torch.where(seen > 0, penalized, x)
    x = x - (params.frequency_penalty * counts + params.presence_penalty * (counts > 0)) + bias
    return logits_V.index_put((ids,), x.clamp(max=torch.finfo(torch.float32).max))


def filtered(logits_V: Tensor, params: SamplingParams) -> Tensor:
    """Logits with -inf where a filter removes a token; the likeliest token always stays.

    In the order of transformers' processors: the `top_k` likeliest, with all that equal the last of
    them; then the smallest set whose probability reaches `top_p`, lower ids first among equals
    (Holtzman et al., arXiv 1904.09751); then those at least `min_p` times as likely as the
    likeliest (arXiv 2407.01082).
    """
    if 0 < params.top_k < logits_V.shape[0]:
        kth = logits_V.topk(params.top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < kth, -torch.inf)
    if params.top_p < 1:
        sorted_V, order_V = logits_V.sort(descending=True, stable=True)
        p_V = sorted_V.double().softmax(-1)
        drop_V = (p_V.cumsum(-1) - p_V >= params.top_p).index_fill(0, torch.tensor([0]), False)
        logits_V = logits_V.masked_fill(
            torch.zeros_like(drop_V).scatter(0, order_V, drop_V), -torch.inf
        )
    if params.min_p > 0:
        logits_V = logits_V.masked_fill(
            logits_V - logits_V.max() < math.log(params.min_p), -torch.inf
        )
    return logits_V


# ---- masks ----


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="ossia-masks")


def mask_ahead(constraint: Constraint) -> Future[Mask]:
    """The constraint's next mask, worked out while the caller goes on."""
    return _workers().submit(constraint.mask)


def unpacked(mask: Mask, vocab_size: int) -> Tensor:
    """Words of bits -> bool [V]; ids beyond the mask are False."""
    bits = np.unpackbits(
        mask.astype("<u4", copy=False).view(np.uint8), count=vocab_size, bitorder="little"
    )
    return torch.from_numpy(bits.view(np.bool_))
