"""What a GPU could do at best: bytes and operations of gpt-oss's parts, by arithmetic; and the time
a measurement may take.

Knows shapes, no devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ossia.config import ModelConfig, account

BF16 = 2
MXFP4_BYTES = 17 / 32  # of a weight: 16 bytes of codes and a scale for 32 values


@dataclass(frozen=True)
class Ceilings:
    """Of one device, as measured: bytes a second of a copy, operations a second of a bfloat16
    product.
    """

    bandwidth: float
    operations: float

    def seconds(self, moved: float, operations: float) -> float:
        """The least time for so many bytes and operations."""
        return max(moved / self.bandwidth, operations / self.operations)


def experts_read(config: ModelConfig, rows: int) -> float:
    """Different experts that so many tokens choose in a layer, if all are equally likely."""
    missed = (1 - config.experts_per_token / config.num_experts) ** rows
    return config.num_experts * (1 - missed)


def expert_weights(config: ModelConfig) -> int:
    """Of one expert, both matrices."""
    return 3 * config.hidden_size * config.intermediate_size


def experts(config: ModelConfig, rows: int) -> tuple[float, float]:
    """Bytes and operations of one layer's experts."""
    weights = expert_weights(config)
    moved = experts_read(config, rows) * weights * MXFP4_BYTES
    return moved, 2.0 * rows * config.experts_per_token * weights


def attention(config: ModelConfig, rows: int, keys: int) -> tuple[float, float]:
    """Bytes and operations of one layer's attention, each row a sequence that sees `keys` keys."""
    moved = 2.0 * rows * keys * config.kv_dim * BF16
    return moved, 4.0 * rows * keys * config.q_dim


def dense_bytes(config: ModelConfig) -> int:
    """What every token reads besides experts, keys and values: attention, routers, norms, and the
    unembedding.
    """
    counted = account(config)
    matrices = config.num_hidden_layers * config.num_experts * expert_weights(config)
    biases = config.num_hidden_layers * config.num_experts
    biases *= 2 * config.intermediate_size + config.hidden_size
    return BF16 * (counted.total - counted.embedding - matrices - biases)


def decode(config: ModelConfig, rows: int, depth: int) -> tuple[float, float]:
    """Bytes and operations of a step that gives each of `rows` sequences of `depth` tokens another
    one.
    """
    moved = float(dense_bytes(config))
    operations = rows * moved / BF16 * 2
    for layer in range(config.num_hidden_layers):
        window = config.window(layer)
        keys = depth + 1 if window is None else min(window, depth + 1)
        for part in (experts(config, rows), attention(config, rows, keys)):
            moved += part[0]
            operations += part[1]
    return moved, operations


def prefill_operations(config: ModelConfig, tokens: int) -> float:
    """Products with weights, without attention's: 2 for each active weight and token."""
    active = config.num_hidden_layers * config.experts_per_token * expert_weights(config)
    unembedding = config.hidden_size * config.vocab_size
    return 2.0 * tokens * (active + dense_bytes(config) / BF16 - unembedding)


@dataclass
class Allowance:
    """So many seconds for everything. What begins later is left out, by name."""

    seconds: float
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.left_out: list[str] = []

    @property
    def left(self) -> float:
        return self.seconds - (self.clock() - self.began)

    def allows(self, what: str) -> bool:
        if self.left > 0:
            return True
        self.left_out.append(what)
        return False


def median_seconds(
    call: Callable[[], object],
    wait: Callable[[], None],
    clock: Callable[[], float],
    repeat: int,
    warm: int = 2,
) -> float:
    """Of `repeat` calls, each waited for; the first `warm`, which compile, do not count."""
    for _ in range(warm):
        call()
    wait()
    taken = []
    for _ in range(repeat):
        began = clock()
        call()
        wait()
        taken.append(clock() - began)
    return sorted(taken)[repeat // 2]
