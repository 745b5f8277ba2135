"""What training costs: operations a token, bytes of memory, and how fast this machine multiplies.

Formulas; the tests hold them against torch's counter of operations, the tensors that autograd keeps
and the states of optimizers. Knows a model's numbers, no data; one process. Many are
`planner.py`'s.

T tokens, D hidden, F intermediate, H query heads, h head width, K key-value heads, E experts, k
chosen, V vocabulary.
"""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import torch

from ossia.config import ModelConfig, account
from ossia.kernels.experts_training import PAD
from ossia.kernels.products import product
from ossia.model import Transformer
from ossia.train.losses import CHUNK_ELEMENTS, CHUNK_ROWS
from ossia.train.settings import Hyperparameters, Lora, Precision

PEAK_SECONDS = 0.25  # that measuring the peak may take, warm-up not counted


# ---- operations ----------------------------------------------------------------------------------


def mean_keys(context: int, window: int | None) -> float:
    """Keys that a query sees, itself included, averaged over a document of `context` tokens."""
    if window is None or window >= context:
        return (context + 1) / 2
    return (window * (window + 1) / 2 + (context - window) * window) / context


def layer_flops(config: ModelConfig, context: int) -> float:
    """Of one token forward in all layers: 2 for each weight that it meets (router and k experts
    included), and 4 H h for every key that it sees (scores, and the sum of values).
    """
    c, d = config, config.hidden_size
    total = 0.0
    for n in range(c.num_hidden_layers):
        experts, width = c.expert_shape(n)
        chosen = c.experts_per_token if c.is_moe(n) else 1
        weights = (
            d * (2 * c.q_dim + 2 * c.kv_dim)
            + chosen * 3 * d * width
            + (experts * d if c.is_moe(n) else 0)
        )
        total += 2 * weights + 4 * c.q_dim * mean_keys(context, c.window(n))
    return total


def flops_per_token(config: ModelConfig, context: int, checkpoint_layers: bool = False) -> float:
    """Floating-point operations of a token in training, forward and backward, in documents of
    `context` tokens.

    Matrix products only, the backward pass twice the forward one (PaLM, arXiv 2204.02311, appendix
    B), windows and chosen experts taken into account. `checkpoint_layers` adds the layers' second
    forward pass, which a share of the peak (MFU) by definition does not count.
    """
    layers = layer_flops(config, context)
    unembedding = 2 * config.hidden_size * config.vocab_size
    return (4 if checkpoint_layers else 3) * layers + 3 * unembedding


@functools.cache
def peak_flops(dtype: torch.dtype = torch.float32, threads: int = 1) -> float:
    """Operations a second that this machine's CPU reaches in products of large matrices, `threads`
    of them side by side, each on one thread. Measured in less than half a second; the best of
    several.
    """
    with ThreadPoolExecutor(
        threads, "peak", initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        size = 128
        # the first product of a size is prepared as well as computed
        while (
            size < 1024
            and min(_seconds(pool, threads, size, dtype) for _ in range(3)) < PEAK_SECONDS / 40
        ):
            size *= 2
        best, until = 0.0, time.perf_counter() + PEAK_SECONDS / 2
        while not best or time.perf_counter() < until:
            best = max(best, threads * 2 * size**3 / _seconds(pool, threads, size, dtype))
    return best


def _seconds(pool: ThreadPoolExecutor, threads: int, size: int, dtype: torch.dtype) -> float:
    pairs = [torch.ones(2, size, size, dtype=dtype) for _ in range(threads)]
    began = time.perf_counter()
    list(pool.map(lambda pair: product(pair[0], pair[1]), pairs))
    return time.perf_counter() - began


# ---- bytes ---------------------------------------------------------------------------------------


@functools.lru_cache(8)
def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter's shape by native name, experts as matrices."""
    with torch.device("meta"):
        model = Transformer(config)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def is_matrix(name: str) -> bool:
    """Whether Muon steps with it (`optim.Optimizers`): weights that are no tables."""
    return name.endswith("weight") and "embedding" not in name


def optimizer_bytes(name: str, muon: bool) -> int:
    """Of each element: one momentum in float32 for Muon, two for AdamW."""
    return 4 if muon and is_matrix(name) else 8


def lora_parameters(config: ModelConfig, lora: Lora) -> int:
    """Of both factors: rank * (inputs + outputs) of every matrix that is changed."""
    c, d, total = config, config.hidden_size, 0
    for n in range(c.num_hidden_layers):
        if lora.attention:
            total += 2 * (d + c.q_dim) + 2 * (d + c.kv_dim)
        if lora.experts:
            experts, width = c.expert_shape(n)
            total += experts * ((d + 2 * width) + (width + d))
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
    c, d = config, config.hidden_size
    experts, intermediate = c.expert_shape(layer)
    chosen = c.experts_per_token if c.is_moe(layer) else 1
    norms = 2 * (8 * d + width * d)
    attention = width * (3 * c.q_dim + 2 * c.kv_dim) / tp + 4 * c.num_attention_heads / tp
    router = (12 * experts + (4 * d if width < 4 else 0) + 24 * chosen) if c.is_moe(layer) else 0
    rows = chosen * tokens + min(experts // ep, chosen * tokens) * PAD / 2
    kept = rows * (width * (d + 2 * intermediate / tp) + 20)
    sent = chosen * tokens * width * d if ep > 1 and c.is_moe(layer) else 0
    return tokens * (norms + attention + router) + kept + sent


def all_activations(
    config: ModelConfig, tokens: int, width: int, checkpoint_layers: bool, tp: int = 1, ep: int = 1
) -> int:
    """Of all layers and the last norm. With checkpointing a layer keeps its input alone, in
    float32, and one layer at a time is whole again (Chen et al., arXiv 1604.06174).
    """
    each = [
        activation_bytes(config, n, tokens, width, tp, ep) for n in range(config.num_hidden_layers)
    ]
    last = tokens * config.hidden_size * (8 + 2 * width)
    if checkpoint_layers:
        return round(len(each) * tokens * 4 * config.hidden_size + max(each) + last)
    return round(sum(each) + last)


def logits_bytes(config: ModelConfig, tokens: int, width: int) -> int:
    """Of the chunked cross-entropy: a chunk of logits in the compute dtype and in float32, and the
    unembedding in the compute dtype, if that is another than float32.
    """
    copy = width * config.vocab_size * config.hidden_size if width < 4 else 0
    held = max(CHUNK_ELEMENTS, CHUNK_ROWS * config.vocab_size)
    return min(held, tokens * config.vocab_size) * (4 + width) + copy


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
    named = {name: _count(shape) for name, shape in shapes(config).items()}
    width = compute_width(hyper.precision)
    each = -(-hyper.tokens_per_step // (hyper.accumulate * hyper.shards))  # tokens of a part
    sets = hyper.shards + (hyper.accumulate > 1)
    whole = sum(named.values())
    matrices = sum(count for name, count in named.items() if is_matrix(name))
    if lora is None:
        trained, weights = whole, 4 * whole
        states = sum(count * optimizer_bytes(name, hyper.muon) for name, count in named.items())
    else:
        trained = lora_parameters(config, lora)
        weights, states = frozen_bytes(config) + 4 * trained, 8 * trained
    return Memory(
        weights=weights,
        copies=hyper.shards * width * matrices if width < 4 and lora is None else 0,
        gradients=4 * trained * sets,
        optimizer=states,
        average=4 * trained if hyper.ema else 0,
        activations=hyper.shards * all_activations(config, each, width, hyper.checkpoint_layers),
        logits=hyper.shards * logits_bytes(config, each, width),
    )


def disk(config: ModelConfig, hyper: Hyperparameters, lora: Lora | None = None) -> int:
    """What a run keeps: its state twice, while one replaces the other, and its weights."""
    m = memory(config, hyper, lora)
    trained = 4 * lora_parameters(config, lora) if lora is not None else m.weights
    return 2 * (trained + m.optimizer + m.average) + trained


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
