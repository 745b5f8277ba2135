"""One layout of a model on many GPUs: bytes on each, bytes between them, seconds of a step.

Follows `model/parallel.py`: its table says which parameter is cut by ep and tp, and what is left is
sliced by FSDP2 (ZeRO stage 3, arXiv 1910.02054): experts over `fsdp`, all else over `fsdp` x `ep`.
Arithmetic alone: nothing is run, no GPU is needed. What cannot be computed is assumed, and named:
the constants below, and the hardware's numbers. Which layout to take is `planner.py`'s.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from ossia.config import ModelConfig
from ossia.errors import ConfigError
from ossia.model.parallel import Cut, check, cut_of
from ossia.train.optim import OPTIMIZERS, is_matrix
from ossia.train.plan import cost
from ossia.train.settings import Lora, OptimizerName, Parallel, Precision

# of a GPU's memory: the rest is CUDA's, NCCL's and what an allocator cannot use. Assumed
USABLE = 0.92
MFU = 0.35  # share of the peak that products reach, attention and routing included. Assumed
# tokens of the busiest process under ep, in units of the mean. Assumed; the balance loss aims lower
BUSIEST = 1.25
PREFETCHED = 2  # blocks whose weights are gathered at a time: one in use, one on its way
PEAK = {"bfloat16": 989e12, "float32": 67e12}  # of an H100 SXM, dense, by its data sheet
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Hardware:
    """Defaults: nodes of eight H100 SXM with a 400 Gb/s adapter each. Bandwidths are of one GPU,
    one direction.
    """

    gpus: int
    memory: int = 80 << 30  # bytes of one
    per_node: int = 8
    intra: float = 450e9  # bytes/s inside a node
    inter: float = 50e9  # bytes/s between nodes
    peak: float | None = None  # operations/s of one; None: `PEAK` of the precision

    @property
    def usable(self) -> int:
        return int(self.memory * USABLE)


@dataclass(frozen=True)
class Job:
    """What is to be trained. `tokens` of one step on each GPU; those of a tp group work on the same
    ones.
    """

    config: ModelConfig
    tokens: int = 4096
    context: int = 4096  # tokens of a document
    precision: Precision = "bfloat16"
    optimizer: OptimizerName = "adamw"
    checkpoint_layers: bool = False
    lora: Lora | None = None

    def __post_init__(self) -> None:
        if min(self.tokens, self.context) < 1:
            raise ConfigError(
                f"tokens and context must be 1 or more, found {self.tokens} and {self.context}"
            )
        if self.context > self.tokens:
            raise ConfigError(
                f"documents of {self.context:,} tokens do not fit into {self.tokens:,} tokens a "
                f"GPU: none is cut; give --tokens-per-gpu {self.context} or more, or a smaller "
                "--context"
            )

    @property
    def width(self) -> int:
        """Bytes of a value in the compute dtype."""
        return cost.compute_width(self.precision)


@dataclass(frozen=True)
class Traffic:
    """What one GPU sends in a step, of one kind. `wide`: whether the group goes beyond a node."""

    kind: str  # "all-gather", "reduce-scatter", "all-reduce", "all-to-all"
    what: str
    processes: int
    bytes: int
    wide: bool
    hides: bool  # behind computation, normally
    seconds: float


@dataclass(frozen=True)
class Plan:
    """One layout: bytes on the fullest GPU by item, and traffic. Seconds are estimates."""

    job: Job
    hardware: Hardware
    layout: Parallel
    memory: Mapping[str, int]
    traffic: tuple[Traffic, ...]
    compute_seconds: float

    @property
    def total(self) -> int:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.hardware.usable

    @property
    def seconds(self) -> float:
        """Of a step: gathers and gradient sums behind the computation, tokens and partial sums on
        top of it.
        """
        hidden = sum(t.seconds for t in self.traffic if t.hides)
        waited = sum(t.seconds for t in self.traffic if not t.hides)
        return max(self.compute_seconds, hidden) + waited

    @property
    def step_tokens(self) -> int:
        return self.job.tokens * self.hardware.gpus // self.layout.tp


def lay_out(job: Job, hardware: Hardware, layout: Parallel) -> Plan:
    """The plan of this layout, whether it fits or not. Raises `ConfigError` if it does not divide
    the model.
    """
    check(job.config, ep=layout.ep, tp=layout.tp)
    flops = cost.flops_per_token(job.config, job.context, job.checkpoint_layers)
    peak = hardware.peak or PEAK[job.precision]
    seconds = job.tokens * flops / layout.tp / (peak * MFU)
    messages = [*_weights_sent(job, hardware, layout), *_tokens_sent(job, layout)]
    traffic = [message.sent(hardware) for message in messages if message.processes > 1]
    memory = _memory(job, layout)
    return Plan(job, hardware, layout, memory, tuple(traffic), seconds)


def in_words(layout: Parallel) -> str:
    return " ".join(f"{f.name}={getattr(layout, f.name)}" for f in fields(layout))


# ---- parameters ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """Parameters that lie in the same way: one of each layer, or one alone."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    cut: Cut
    moe: bool | None  # whether their layers have routed experts; None outside of layers

    @property
    def routed(self) -> bool:
        """Whether they are experts to choose from: those are sliced over fsdp alone."""
        return bool(self.moe) and ".experts." in self.names[0]

    @property
    def rough(self) -> bool:
        """Whether they travel in the compute dtype; norms, routers and tables do in float32."""
        places = (".experts.", ".attn.q.", ".attn.k.", ".attn.v.", ".attn.out.")
        return any(place in self.names[0] for place in places)

    def local(self, layout: Parallel) -> list[int]:
        """The shape after ep and tp."""
        local = list(self.shape)
        if self.cut.ep is not None:
            local[self.cut.ep] //= layout.ep
        if self.cut.tp is not None:
            local[self.cut.tp] //= layout.tp
        return local

    def whole(self, layout: Parallel) -> int:
        """Elements of all of them on one process, before FSDP slices them."""
        return len(self.names) * math.prod(self.local(layout))

    def sliced(self, layout: Parallel) -> int:
        """Elements of one on the fullest process: sliced along the first dimension that divides,
        else along the first (`model/parallel.py:_slice`).
        """
        local = self.local(layout)
        ways = layout.fsdp if self.routed else layout.fsdp * layout.ep
        dividing = [n for n, size in enumerate(local) if size % ways == 0]
        along = dividing[0] if dividing else 0
        local[along] = math.ceil(local[along] / ways)
        return math.prod(local)


@functools.lru_cache(8)
def kinds(config: ModelConfig) -> tuple[Kind, ...]:
    names: dict[tuple[str, bool | None], list[str]] = {}
    shapes = cost.shapes(config)
    for name in shapes:
        leaf = name
        moe: bool | None = None
        if name.startswith("layers."):
            _, layer, leaf = name.split(".", 2)
            moe = config.is_moe(int(layer))
        names.setdefault((leaf, moe), []).append(name)
    found: list[Kind] = []
    for (_, moe), same in names.items():
        first = same[0]
        found.append(Kind(tuple(same), shapes[first], cut_of(first, config), moe))
    return tuple(found)


@dataclass(frozen=True)
class _Gathered:
    """What FSDP2 makes whole on each process, in bytes: all of it, and the largest block."""

    experts: int
    dense: int
    block: int
    table: int  # one of the two tables, in float32


@functools.lru_cache(64)
def _gathered(job: Job, layout: Parallel) -> _Gathered:
    experts = 0
    dense = 0
    blocks = {True: 0, False: 0}  # by whether it has routed experts
    for kind in kinds(job.config):
        if kind.moe is None:
            continue
        size = kind.whole(layout) * (job.width if kind.rough else FLOAT32)
        blocks[kind.moe] += size // len(kind.names)
        if kind.routed:
            experts += size
        else:
            dense += size
    table = FLOAT32 * job.config.vocab_size * job.config.hidden_size
    return _Gathered(experts, dense, max(blocks.values()), table)


# ---- bytes on a GPU ------------------------------------------------------------------------------


def _memory(job: Job, layout: Parallel) -> dict[str, int]:
    """Bytes on the fullest GPU in the middle of the backward pass, when most is held at once."""
    c = job.config
    tokens = _most_tokens(job, layout)
    activations = cost.all_activations(
        c, tokens, job.width, job.checkpoint_layers, layout.tp, layout.ep
    )
    logits = cost.logits_bytes(c, job.tokens, job.width)
    if job.lora is None:  # the gradient of the unembedding, made in the forward pass
        logits += FLOAT32 * c.vocab_size * c.hidden_size
    buffers = 0
    if layout.ep > 1:
        buffers += 2 * c.experts_per_token * tokens * job.width * c.hidden_size
    if layout.tp > 1:
        buffers += 2 * FLOAT32 * job.tokens * c.hidden_size
    return {
        **(_low_rank(c, job.lora) if job.lora else _every_weight(job, layout)),
        "activations": activations,
        "logits and their gradients": logits,
        "communication buffers": buffers,
    }


def _most_tokens(job: Job, layout: Parallel) -> int:
    return math.ceil(job.tokens * BUSIEST) if layout.ep > 1 else job.tokens


def _low_rank(config: ModelConfig, lora: Lora) -> dict[str, int]:
    trained = cost.lora_parameters(config, lora)
    return {
        "frozen weights": cost.frozen_bytes(config),
        "low-rank factors, float32": FLOAT32 * trained,
        "gradients, float32": FLOAT32 * trained,
        "optimizer states": 8 * trained,  # AdamW's
    }


def _every_weight(job: Job, layout: Parallel) -> dict[str, int]:
    optimizer = OPTIMIZERS[job.optimizer]
    local = 0
    matrices = 0
    states = 0
    for kind in kinds(job.config):
        size = len(kind.names) * kind.sliced(layout)
        local += size
        states += size * optimizer.state_bytes(kind.names[0])
        if is_matrix(kind.names[0]):
            matrices += size
    copies = 0
    adding = 0
    if layout.processes > 1:
        gathered = _gathered(job, layout)
        copies = PREFETCHED * gathered.block + gathered.table
        adding = gathered.block + gathered.block * FLOAT32 // job.width
    elif job.width < FLOAT32:
        copies = job.width * matrices
    return {
        "weights, float32": FLOAT32 * local,
        "weights in the compute dtype": copies,
        "gradients, float32": FLOAT32 * local,
        "gradients being added up": adding,
        "optimizer states": states,
    }


# ---- bytes between GPUs --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Message:
    """`size` bytes are the whole of what a group of `processes` exchanges in a step."""

    kind: str
    what: str
    processes: int
    size: float
    span: int  # GPUs from the group's first to its last
    hides: bool = True

    def sent(self, hardware: Hardware) -> Traffic:
        """By one GPU: (n-1)/n of the whole for a ring's all-gather or reduce-scatter, twice that
        for an all-reduce, (n-1)/n of what it has for an all-to-all (Thakur et al., 2005;
        nccl-tests, PERFORMANCE.md).
        """
        size = self.size * (self.processes - 1) / self.processes
        if self.kind == "all-reduce":
            size *= 2
        wide = self.span > hardware.per_node
        seconds = size / (hardware.inter if wide else hardware.intra)
        return Traffic(self.kind, self.what, self.processes, round(size), wide, self.hides, seconds)


def _weights_sent(job: Job, hardware: Hardware, layout: Parallel) -> Iterator[_Message]:
    """Blocks are gathered forward and backward, the unembedding once, the embedding twice.
    Gradients are reduced in float32.
    """
    if job.lora is not None:
        changes = FLOAT32 * cost.lora_parameters(job.config, job.lora)
        what = "gradients of low-rank factors"
        yield _Message("all-reduce", what, layout.replicate, changes, hardware.gpus, hides=False)
        return
    fsdp = layout.fsdp
    shard = fsdp * layout.ep
    span = shard * layout.tp
    gathered = _gathered(job, layout)
    others = 2 * gathered.dense + 3 * gathered.table
    yield _Message("all-gather", "experts' weights", fsdp, 2 * gathered.experts, span)
    yield _Message("all-gather", "all other weights", shard, others, span)
    experts = 0
    dense = 0
    for kind in kinds(job.config):
        if kind.routed:
            experts += FLOAT32 * kind.whole(layout)
        else:
            dense += FLOAT32 * kind.whole(layout)
    yield _Message("reduce-scatter", "experts' gradients", fsdp, experts, span)
    yield _Message("reduce-scatter", "all other gradients", shard, dense, span)
    local = experts / fsdp + dense / shard
    copies = layout.replicate
    yield _Message("all-reduce", "gradients of whole copies", copies, local, hardware.gpus)


def _tokens_sent(job: Job, layout: Parallel) -> Iterator[_Message]:
    """Tokens go out and back in each pass through an MoE layer, of which there are two, or three
    with checkpointing; partial sums over tp are twice a layer and pass.
    """
    c = job.config
    passes = 3 if job.checkpoint_layers else 2
    rows = job.tokens * c.hidden_size * job.width
    moe = sum(c.is_moe(layer) for layer in range(c.num_hidden_layers))
    tokens = 2 * passes * moe * c.experts_per_token * rows * BUSIEST
    span = layout.ep * layout.tp
    yield _Message("all-to-all", "tokens to experts and back", layout.ep, tokens, span, hides=False)
    sums = 2 * passes * c.num_hidden_layers * rows
    what = "partial sums of heads and widths"
    yield _Message("all-reduce", what, layout.tp, sums, layout.tp, hides=False)
