"""What training costs: operations a token, bytes of memory, and how fast this machine multiplies.

Formulas; the tests hold them against torch's counter of operations, the tensors that autograd keeps
and the states of optimizers. Knows a model's numbers, no data; one process. Many are
`planner.py`'s.

T tokens, D hidden, F intermediate, H query heads, h head width, K key-value heads, E experts, k
chosen, V vocabulary.
"""

from __future__ import annotations

import functools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import torch

from ossia.config import ModelConfig, account
from ossia.kernels.experts_training import PAD
from ossia.kernels.logprobs import chunk_rows
from ossia.kernels.products import product
from ossia.model import Transformer
from ossia.train.optim import OPTIMIZERS, is_matrix
from ossia.train.settings import Hyperparameters, Lora, Precision

PEAK_SECONDS = 0.25  # that measuring the peak may take, warm-up not counted


# ---- operations ----------------------------------------------------------------------------------


def mean_keys(context: int, window: int | None) -> float:
    """Keys that a query sees, itself included, averaged over a document of `context` tokens."""
    if window is None or window >= context:
        return (context + 1) / 2
    growing = window * (window + 1) / 2
    full = (context - window) * window
    return (growing + full) / context


def layer_flops(config: ModelConfig, context: int) -> float:
    """Of one token forward in all layers: 2 for each weight that it meets (router and k experts
    included), and 4 H h for every key that it sees (scores, and the sum of values).
    """
    c = config
    d = c.hidden_size
    attention = d * (2 * c.q_dim + 2 * c.kv_dim)
    total = 0.0
    for n in range(c.num_hidden_layers):
        experts, width = c.expert_shape(n)
        mlp = 3 * d * width
        if c.is_moe(n):
            mlp = c.experts_per_token * mlp + experts * d
        keys = mean_keys(context, c.window(n))
        total += 2 * (attention + mlp) + 4 * c.q_dim * keys
    return total


def flops_per_token(config: ModelConfig, context: int, checkpoint_layers: bool = False) -> float:
    """Floating-point operations of a token in training, forward and backward, in documents of
    `context` tokens.

    Matrix products only, the backward pass twice the forward one (PaLM, arXiv 2204.02311, appendix
    B), windows and chosen experts taken into account. `checkpoint_layers` adds the layers' second
    forward pass, which a share of the peak (MFU) by definition does not count.
    """
    passes = 4 if checkpoint_layers else 3
    unembedding = 2 * config.hidden_size * config.vocab_size
    return passes * layer_flops(config, context) + 3 * unembedding


@functools.cache
def peak_flops(dtype: torch.dtype = torch.float32, threads: int = 1) -> float:
    """Operations a second that this machine's CPU reaches in products of large matrices, `threads`
    of them side by side, each on one thread. Measured in less than half a second; the best of
    several.
    """
    single = torch.set_num_threads
    with ThreadPoolExecutor(threads, "peak", initializer=single, initargs=(1,)) as pool:
        size = 128
        # the first product of a size is prepared as well as computed, so the best of three counts
        while size < 1024:
            took = min(_seconds(pool, threads, size, dtype) for _ in range(3))
            if took >= PEAK_SECONDS / 40:
                break
            size *= 2
        operations = threads * 2 * size**3
        until = time.perf_counter() + PEAK_SECONDS / 2
        best = operations / _seconds(pool, threads, size, dtype)
        while time.perf_counter() < until:
            best = max(best, operations / _seconds(pool, threads, size, dtype))
    return best


def _seconds(pool: ThreadPoolExecutor, threads: int, size: int, dtype: torch.dtype) -> float:
    pairs = [torch.ones(2, size, size, dtype=dtype) for _ in range(threads)]
    began = time.perf_counter()
    list(pool.map(lambda pair: product(*pair), pairs))
    return time.perf_counter() - began


# ---- bytes ---------------------------------------------------------------------------------------


@functools.lru_cache(8)
def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter's shape by native name, experts as matrices."""
    with torch.device("meta"):
        model = Transformer(config)
    named = model.named_parameters()
    return {name: tuple(p.shape) for name, p in named}


def lora_parameters(config: ModelConfig, lora: Lora) -> int:
    """Of both factors: rank * (inputs + outputs) of every matrix that is changed."""
    c = config
    d = c.hidden_size
    total = 0
    for n in range(c.num_hidden_layers):
        if lora.attention:
            total += 4 * d + 2 * c.q_dim + 2 * c.kv_dim
        if lora.experts:
            experts, width = c.expert_shape(n)
            gate_up = d + 2 * width
            down = width + d
            total += experts * (gate_up + down)
    return lora.rank * total


def frozen_bytes(config: ModelConfig) -> int:
    """Of weights as LoRA keeps them: experts' matrices in MXFP4, everything else in bfloat16."""
    return account(config).checkpoint_bytes


def activation_bytes(
    config: ModelConfig, layer: int, tokens: int, width: int, tp: int = 1, ep: int = 1
) -> float:
    """What autograd keeps of `tokens` tokens in one layer; `width`: bytes of the compute dtype.

    Per token two norms (input and normalized values in float32, output in the compute dtype: 8 D +
    w D each), the router's input and logits, q, k, v and the output of attention before and after
    it is put back in order (w h (3 H + 2 K)) with its log-sum-exp; per chosen expert its input and
    its 2 F (w (D + 2 F)), padded to whole `PAD`s. Under `tp` heads and F are divided; under `ep`
    the tokens that were sent are kept, too. That is torch's form, which GPUs have; what is compiled
    for CPUs keeps up to a third less.
    """
    c = config
    d = c.hidden_size
    experts, intermediate = c.expert_shape(layer)
    chosen = 1
    router = 0  # bytes a token
    if c.is_moe(layer):
        chosen = c.experts_per_token
        router = 12 * experts + 24 * chosen
        if width < 4:
            router += 4 * d
    norms = 2 * (8 * d + width * d)
    heads = width * (3 * c.q_dim + 2 * c.kv_dim)
    attention = (heads + 4 * c.num_attention_heads) / tp
    routed = chosen * tokens
    rows = routed + min(experts // ep, routed) * PAD / 2
    row = width * (d + 2 * intermediate / tp) + 20
    total = tokens * (norms + attention + router) + rows * row
    if ep > 1 and c.is_moe(layer):
        total += routed * width * d
    return total


def all_activations(
    config: ModelConfig, tokens: int, width: int, checkpoint_layers: bool, tp: int = 1, ep: int = 1
) -> int:
    """Of all layers and the last norm. With checkpointing a layer keeps its input alone, in
    float32, and one layer at a time is whole again (Chen et al., arXiv 1604.06174).
    """
    layers = range(config.num_hidden_layers)
    each = [activation_bytes(config, n, tokens, width, tp, ep) for n in layers]
    last = tokens * config.hidden_size * (8 + 2 * width)
    if not checkpoint_layers:
        return round(sum(each) + last)
    inputs = len(each) * tokens * 4 * config.hidden_size
    return round(inputs + max(each) + last)


def logits_bytes(config: ModelConfig, tokens: int, width: int) -> int:
    """Of the chunked cross-entropy: a chunk of logits in the compute dtype and in float32, and the
    unembedding in the compute dtype, if that is another than float32.
    """
    vocabulary = config.vocab_size
    chunk = chunk_rows(vocabulary) * vocabulary
    held = min(chunk, tokens * vocabulary) * (4 + width)
    if width < 4:
        held += width * vocabulary * config.hidden_size
    return held


def compute_width(precision: Precision) -> int:
    return 2 if precision == "bfloat16" else 4


@dataclass(frozen=True)
class Memory:
    """Bytes at the fullest moment of a step, an estimate."""

    weights: int
    copies: int  # of weights, in the compute dtype
    gradients: int  # one set a thread, and their sum where parts are accumulated
    optimizer: int
    average: int  # of hyper.ema
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def memory(config: ModelConfig, hyper: Hyperparameters, lora: Lora | None = None) -> Memory:
    """Of `ThreadedStep`: `shards` parts of a step side by side, each with gradients of its own."""
    width = compute_width(hyper.precision)
    parts = hyper.accumulate * hyper.shards
    tokens = math.ceil(hyper.tokens_per_step / parts)  # of a part
    sets = hyper.shards
    if hyper.accumulate > 1:
        sets += 1
    activations = all_activations(config, tokens, width, hyper.checkpoint_layers)
    held = _weights(config, hyper, width) if lora is None else _changes(config, lora)
    return Memory(
        weights=held.weights,
        copies=hyper.shards * held.copies,
        gradients=4 * held.trained * sets,
        optimizer=held.optimizer,
        average=4 * held.trained if hyper.ema else 0,
        activations=hyper.shards * activations,
        logits=hyper.shards * logits_bytes(config, tokens, width),
    )


@dataclass(frozen=True)
class _Held:
    trained: int  # elements
    weights: int  # bytes
    copies: int  # bytes, in the compute dtype, for each part
    optimizer: int  # bytes


def _weights(config: ModelConfig, hyper: Hyperparameters, width: int) -> _Held:
    """Of a run that trains every weight."""
    optimizer = OPTIMIZERS[hyper.optimizer]
    whole = 0
    matrices = 0
    states = 0
    for name, shape in shapes(config).items():
        count = math.prod(shape)
        whole += count
        states += count * optimizer.state_bytes(name)
        if is_matrix(name):
            matrices += count
    copies = width * matrices if width < 4 else 0
    return _Held(trained=whole, weights=4 * whole, copies=copies, optimizer=states)


def _changes(config: ModelConfig, lora: Lora) -> _Held:
    """Of a run that trains low-rank changes, with AdamW."""
    trained = lora_parameters(config, lora)
    return _Held(
        trained=trained,
        weights=frozen_bytes(config) + 4 * trained,
        copies=0,
        optimizer=8 * trained,
    )


def disk(config: ModelConfig, hyper: Hyperparameters, lora: Lora | None = None) -> int:
    """What a run keeps: its state twice, while one replaces the other, and its weights."""
    held = memory(config, hyper, lora)
    trained = held.weights
    if lora is not None:
        trained = 4 * lora_parameters(config, lora)
    return 2 * (trained + held.optimizer + held.average) + trained
