"""Drawing tokens from rows of logits: penalties, bias, a constraint's mask, temperature, filters,
one uniform number.

The token that a row draws is a function of its logits and its own `RowState` alone: the same bits
whatever other rows there are, however many threads work and whatever was preempted or speculated on
the way. The C++ kernel does the work (kernels/cpu/sampling.inc); without it, or with
OSSIA_KERNELS=reference, torch does. Logits on a GPU are drawn from there, all rows at once
(device/sampling.py). All give the same token unless the uniform number, or a
filter's boundary, falls between their roundings of the same sum (relative 1e-6).

A constraint's masks are computed in worker threads, a few for all engines, so that they are ready
when the model is.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.engine.device import sampling as device_sampling
from ossia.engine.device.sampling import NOT_A_NUMBER, NOTHING_ALLOWED, Wish
from ossia.engine.request import Constraint, SamplingParams
from ossia.errors import RequestError
from ossia.kernels.cpu.library import SampleRow, library
from ossia.kernels.transfer import integers

if TYPE_CHECKING:
    from ossia.engine.request import Mask

WORD = 2**64 - 1


@dataclass(frozen=True)
class Sampled:
    """A drawn id. Log-probabilities are those of the unchanged logits, `top_logprobs` the likeliest
    first.
    """

    token_id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


# ---- what belongs to a request ----


class RowState:
    """Everything that a request's draws depend on besides logits and mask. Call `observe` for every
    token that is taken.

    The n-th token of the answer is drawn with the n-th uniform number of (seed, stream); `stream`
    is the number of the sample if several answer the same prompt. Raises `RequestError` for a bias
    beyond the vocabulary.
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
        self.params = params
        self.vocab_size = vocab_size
        self.drawn = 0
        self._stream = stream
        seed = params.seed
        self._key = int.from_bytes(os.urandom(16), "little") if seed is None else seed
        self._block = -1  # the number of the block of `_words`
        self._words: tuple[int, ...] = ()
        repetition = params.repetition_penalty != 1
        occurrence = params.presence_penalty != 0 or params.frequency_penalty != 0
        self._penalized = repetition or occurrence
        self.edits = Edits(params.logit_bias, prompt if repetition else ())

    def observe(self, token_id: int) -> None:
        """`token_id` is the next token of the answer."""
        self.drawn += 1
        if self._penalized:
            self.edits.count(token_id)

    def allowed(self, mask: Mask | None) -> Mask | None:
        """`mask` without the tokens that would end the answer too early, if it leaves any other."""
        if self.drawn >= self.params.min_tokens:
            return mask
        going_on = self._going_on if mask is None else mask & self._going_on[: len(mask)]
        return going_on if going_on.any() else mask

    @cached_property
    def _going_on(self) -> Mask:
        """Every token but those that end the answer."""
        bits = np.zeros(-(-self.vocab_size // 32) * 32, np.uint8)
        bits[: self.vocab_size] = 1
        bits[[id for id in self.params.stop_ids if 0 <= id < self.vocab_size]] = 0
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def uniform(self) -> float:
        """In [0, 1), for the token to be drawn next."""
        block, word = divmod(self.drawn, 4)
        if self._block != block:
            self._block = block
            self._words = philox(self._key, block, self._stream)
        return (self._words[word] >> 11) * 2.0**-53

    @property
    def inverse_temperature(self) -> float:
        """0 for greedy; else within the range of float32, so that no temperature gives nan."""
        if self.params.temperature == 0:
            return 0.0
        return 1 / min(max(self.params.temperature, 1e-30), 1e30)


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
        self.ids = np.zeros(room, np.int32)
        self.counts = np.zeros(room, np.int32)
        self.seen = np.zeros(room, np.uint8)
        self.bias = np.zeros(room, np.float32)
        self.ids[: self.length] = list(known)
        self.bias[: len(bias)] = list(bias.values())
        self.seen[[self._slots[id] for id in set(seen)]] = 1
        self._point()

    def count(self, token_id: int) -> None:
        slot = self._slots.setdefault(token_id, self.length)
        if slot == self.length:
            if self.length == len(self.ids):
                self._double()
            self.ids[slot] = token_id
            self.length += 1
        self.counts[slot] += 1
        self.seen[slot] = 1

    def _double(self) -> None:
        self.ids = _doubled(self.ids)
        self.counts = _doubled(self.counts)
        self.seen = _doubled(self.seen)
        self.bias = _doubled(self.bias)
        self._point()

    def _point(self) -> None:
        """Takes the addresses of the arrays, in the order of `SampleRow`."""
        arrays = (self.ids, self.counts, self.seen, self.bias)
        self.pointers = tuple(array.ctypes.data for array in arrays)


def _doubled(array: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array, np.zeros_like(array)])


def philox(key: int, block: int, stream: int) -> tuple[int, ...]:
    """Four 64-bit words: Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
    3", SC 2011) of the counter (block, stream, 0, 0) under the lower 128 bits of `key`.
    """
    a = block & WORD
    b = stream & WORD
    c = 0
    d = 0
    k = key & WORD
    m = key >> 64 & WORD
    for _ in range(10):
        high, low = divmod(0xD2E7470EE14C6C93 * a, WORD + 1)
        top, bottom = divmod(0xCA5A826395121157 * c, WORD + 1)
        a = top ^ b ^ k
        b = bottom
        c = high ^ d ^ m
        d = low
        k = (k + 0x9E3779B97F4A7C15) & WORD
        m = (m + 0xBB67AE8584CAA73B) & WORD
    return a, b, c, d


# ---- the draw ----


@dataclass(frozen=True)
class Drawing:
    """A draw that has been begun: on a GPU it need not be done. `tokens_R()`: int64, where the
    logits are; of a row that cannot be drawn from, some token.
    """

    tokens_R: Callable[[], Tensor]
    read: Callable[[], list[Sampled | RequestError]]


def sample_rows(
    logits_RV: Tensor, states: Sequence[RowState], masks: Sequence[Mask | None] | None = None
) -> list[Sampled | RequestError]:
    """The next token of each row, as `begin_rows`."""
    return begin_rows(logits_RV, states, masks).read()


def begin_rows(
    logits_RV: Tensor, states: Sequence[RowState], masks: Sequence[Mask | None] | None = None
) -> Drawing:
    """The next token of each row from logits [R, V]. Changes no state: the caller that takes a
    token calls `observe`.

    Only ids that a row's mask allows are drawn, as if the others had a probability of zero: bit i
    of word w stands for id 32 w + i; ids beyond its end are not allowed. A row that cannot be drawn
    from gives the error that says so, and leaves the others alone.
    """
    assert len(states) == len(logits_RV)
    assert all(state.vocab_size == logits_RV.shape[1] for state in states)
    if not states:
        return _drawn([], logits_RV.device)
    masks = [None] * len(states) if masks is None else masks
    masks = [state.allowed(mask) for state, mask in zip(states, masks, strict=True)]
    switch = os.environ.get("OSSIA_KERNELS")
    on_gpu = logits_RV.device.type != "cpu" and switch != "reference"
    if on_gpu or switch == "interpret":
        return _begin_on_device(logits_RV.detach().float(), states, masks)
    device = logits_RV.device
    logits_RV = logits_RV.detach().to("cpu", torch.float32).contiguous()
    kernels = None if switch == "reference" else library()
    if isinstance(kernels, ctypes.CDLL):
        return _drawn(_sample_native(kernels, logits_RV, states, masks), device)
    rows = zip(logits_RV, states, masks, strict=True)
    return _drawn([_sample_reference(*row) for row in rows], device)


def _drawn(sampled: list[Sampled | RequestError], device: torch.device) -> Drawing:
    """That is done."""
    ids = [one.token_id if isinstance(one, Sampled) else 0 for one in sampled]
    return Drawing(lambda: integers(ids, device), lambda: sampled)


def _begin_on_device(
    logits_RV: Tensor, states: Sequence[RowState], masks: Sequence[Mask | None]
) -> Drawing:
    wishes = [_wish(state, mask) for state, mask in zip(states, masks, strict=True)]
    drawing = device_sampling.begin(logits_RV, wishes)
    return Drawing(lambda: drawing.tokens_R, lambda: _read(drawing, states))


def _read(
    drawing: device_sampling.Drawing, states: Sequence[RowState]
) -> list[Sampled | RequestError]:
    drawn = drawing.read()
    sampled: list[Sampled | RequestError] = []
    for n, state in enumerate(states):
        if drawn.statuses[n]:
            sampled.append(_error(drawn.statuses[n]))
            continue
        top = state.params.top_logprobs
        likeliest = tuple(zip(drawn.top_ids[n][:top], drawn.top_logprobs[n][:top], strict=True))
        sampled.append(Sampled(drawn.tokens[n], drawn.logprobs[n], likeliest))
    return sampled


def _wish(state: RowState, mask: Mask | None) -> Wish:
    params = state.params
    edits = state.edits
    n = edits.length
    return Wish(
        uniform=state.uniform() if params.temperature else 0.0,
        inverse_temperature=state.inverse_temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition=params.repetition_penalty,
        presence=params.presence_penalty,
        frequency=params.frequency_penalty,
        top_logprobs=params.top_logprobs,
        edits=(edits.ids[:n], edits.counts[:n], edits.seen[:n], edits.bias[:n]),
        mask=mask,
    )


def _sample_native(
    kernels: ctypes.CDLL,
    logits_RV: Tensor,
    states: Sequence[RowState],
    masks: Sequence[Mask | None],
) -> list[Sampled | RequestError]:
    count, vocab = logits_RV.shape
    most = max(min(state.params.top_logprobs, vocab) for state in states)
    top_ids = np.empty((count, most), np.int32)
    top_logprobs = np.empty((count, most), np.float32)
    words: list[Mask] = []  # keeps the masks alive until the end
    rows = (SampleRow * count)()
    logits = logits_RV.data_ptr()
    for n, (row, state, mask) in enumerate(zip(rows, states, masks, strict=True)):
        row.logits = logits + 4 * vocab * n
        _describe(row, state)
        if state.params.top_logprobs:
            row.top = min(state.params.top_logprobs, vocab)
            row.top_ids = top_ids[n].ctypes.data
            row.top_logprobs = top_logprobs[n].ctypes.data
        if mask is not None:
            words.append(np.ascontiguousarray(mask, np.uint32))
            row.mask = words[-1].ctypes.data
            row.mask_words = len(mask)
    kernels.ossia_sample(ctypes.addressof(rows), count, vocab)
    sampled: list[Sampled | RequestError] = []
    for n, row in enumerate(rows):
        if row.status:
            sampled.append(_error(row.status))
        else:
            likeliest = _likeliest(row, top_ids[n], top_logprobs[n])
            sampled.append(Sampled(row.token, row.logprob, likeliest))
    return sampled


def _describe(row: SampleRow, state: RowState) -> None:
    """Fills in what the row's state says: filters, temperature, uniform number, edits."""
    params = state.params
    row.top_k = min(params.top_k, state.vocab_size)
    row.top_p = params.top_p
    row.log_min_p = math.log(params.min_p) if params.min_p > 0 else -math.inf
    row.inverse_temperature = state.inverse_temperature
    row.uniform = state.uniform() if params.temperature else 0.0
    if state.edits.length:
        row.ids, row.counts, row.seen, row.bias = state.edits.pointers
        row.edits = state.edits.length
        row.repetition = params.repetition_penalty
        row.presence = params.presence_penalty
        row.frequency = params.frequency_penalty


def _likeliest(
    row: SampleRow, ids: NDArray[Any], logprobs: NDArray[Any]
) -> tuple[tuple[int, float], ...]:
    """The `row.top` first entries that the kernel has written to these arrays [most]."""
    top = row.top
    if not top:
        return ()
    best_ids = ids[:top].tolist()
    best = logprobs[:top].tolist()
    return tuple(zip(best_ids, best, strict=True))


def _error(status: int) -> RequestError:
    if status == NOT_A_NUMBER:
        return RequestError(
            "the model's logits hold nan or infinity, so no token can be drawn; its weights are "
            "damaged, or overflow in this precision: check the files, or load it with "
            "dtype='float32'"
        )
    return RequestError(
        "no token may come next: this model gives none of the tokens that the constraint allows a "
        "probability above zero; was it made for another vocabulary?"
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
        scaled_V = (choice_V - top) * state.inverse_temperature
        p_V = filtered(scaled_V, state.params).exp().double()
        cumulated_V = p_V.cumsum(-1)
        wanted = cumulated_V[-1:] * state.uniform()
        last = int(torch.nonzero(p_V)[-1])
        token = min(int(torch.searchsorted(cumulated_V, wanted, right=True)), last)
    order_V = torch.sort(logits_V, descending=True, stable=True).indices
    top_ids = order_V[: state.params.top_logprobs].tolist()
    likeliest = tuple((id, float(logprobs_V[id])) for id in top_ids)
    return Sampled(token, float(logprobs_V[token]), likeliest)


def edited(logits_V: Tensor, state: RowState) -> Tensor:
    """Logits with the repetition penalty, then frequency and presence penalties, then the bias."""
    params = state.params
    edits = state.edits
    n = edits.length
    if not n:
        return logits_V
    ids_n = torch.from_numpy(edits.ids[:n]).long()
    counts_n = torch.from_numpy(edits.counts[:n])
    seen_n = torch.from_numpy(edits.seen[:n])
    bias_n = torch.from_numpy(edits.bias[:n])
    x_n = logits_V[ids_n]
    divided_n = x_n / params.repetition_penalty
    multiplied_n = x_n * params.repetition_penalty
    penalized_n = torch.where(x_n < 0, multiplied_n, divided_n)
    x_n = torch.where(seen_n > 0, penalized_n, x_n)
    penalty_n = params.frequency_penalty * counts_n + params.presence_penalty * (counts_n > 0)
    x_n = x_n - penalty_n + bias_n
    largest = torch.finfo(torch.float32).max
    return logits_V.index_put((ids_n,), x_n.clamp(max=largest))


def filtered(logits_V: Tensor, params: SamplingParams) -> Tensor:
    """Logits with -inf where a filter removes a token; the likeliest token always stays.

    In the order of transformers' processors: the `top_k` likeliest, with all tokens equal to the
    last of them; then the smallest set whose probability reaches `top_p`, lower ids first among
    equals (Holtzman et al., arXiv 1904.09751); then the tokens at least `min_p` times as likely as
    the likeliest (arXiv 2407.01082).
    """
    if 0 < params.top_k < logits_V.shape[0]:
        kth = logits_V.topk(params.top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < kth, -torch.inf)
    if params.top_p < 1:
        sorted_V, order_V = logits_V.sort(descending=True, stable=True)
        p_V = sorted_V.double().softmax(-1)
        before_V = p_V.cumsum(-1) - p_V
        sorted_drop_V = before_V >= params.top_p
        sorted_drop_V[0] = False
        drop_V = torch.zeros_like(sorted_drop_V).scatter(0, order_V, sorted_drop_V)
        logits_V = logits_V.masked_fill(drop_V, -torch.inf)
    if params.min_p > 0:
        drop_V = logits_V - logits_V.max() < math.log(params.min_p)
        logits_V = logits_V.masked_fill(drop_V, -torch.inf)
    return logits_V


# ---- masks ----


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="ossia-masks")


def mask_ahead(constraint: Constraint) -> Future[Mask]:
    """The constraint's next mask, computed while the caller continues."""
    return _workers().submit(constraint.mask)


def unpacked(mask: Mask, vocab_size: int) -> Tensor:
    """Words of bits -> bool [V]; ids beyond the mask are False."""
    data = mask.astype("<u4", copy=False).view(np.uint8)
    bits = np.unpackbits(data, count=vocab_size, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_))
