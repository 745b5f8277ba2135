"""Matrix products for training: a @ b, and y = x W^T + b with a backward pass made of such
products.

Bound: 2*M*K*N FLOPs a product. Which library multiplies fastest depends on the CPU: MKL, torch's
usual one, uses the wide vectors of Intel's CPUs only; oneDNN, which comes with torch as well, uses
those of any maker, but costs more to call. A CPU without bfloat16 instructions emulates them,
twenty times slower. So two choices on a CPU are measured (`contest.py`): the library for float32
matrices, and the dtype in which stacks of matrices are iterated. Everything else is torch.

M, T rows, K summed over, N columns.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ossia.errors import ConfigError
from ossia.kernels import contest

SMALLEST = 1 << 18  # multiplications; for fewer, calling oneDNN costs more than the product
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


# ---- the choice ----


def _by_torch(a_MK: Tensor, b_KN: Tensor, bias_N: Tensor | None) -> Tensor:
    return a_MK @ b_KN if bias_N is None else torch.addmm(bias_N, a_MK, b_KN)


def _by_onednn(a_MK: Tensor, b_KN: Tensor, bias_N: Tensor | None) -> Tensor:
    """By the operator that torch's own compiler emits, which torch does not document."""
    bias_N = None if bias_N is None else bias_N.contiguous()  # the operator ignores its strides
    multiply = torch.ops.mkldnn._linear_pointwise
    out_MN: Tensor = multiply(a_MK, b_KN.T, bias_N, "none", [], "")
    return out_MN


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


PRODUCTS: dict[str, Product] = {"torch": _by_torch}  # the first is the usual one
if _has_onednn():
    PRODUCTS["oneDNN"] = _by_onednn
STACKS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Serving:
    """The ways to multiply that were chosen on a CPU, and why. JSON values."""

    machine: str  # where it was measured
    product: str  # of float32 matrices: a name in PRODUCTS
    stacks: str  # of matrices: a name in STACKS
    rates: Mapping[str, float]  # GFLOP/s of one thread, of each way


_lock = threading.Lock()
_serving: Serving | None = None


def serving() -> Serving:
    """The choice for this process; measured on first use, in about 0.1 s, unless this machine has a
    record of it.
    """
    global _serving
    if _serving is None:
        with _lock:
            if _serving is None:
                _serving = _found(contest.machine())
    return _serving


def use(recorded: Serving | None) -> None:
    """Use this choice from here on, whatever was measured; None: the one that `serving` finds."""
    global _serving
    _serving = recorded


def go_on_with(record: Mapping[str, Any]) -> None:
    """Use the choice of a run (`asdict(serving())` at its beginning) for its resumption, for the
    same bits.

    On another machine the bits cannot be the same, and the record of another version may be one
    that this version cannot read: then this machine's own choice is used, and a warning says so if
    it differs.
    """
    recorded = parse(record)
    here = serving()
    if recorded is None:
        warnings.warn(
            "the run's record of its products is from another version of ossia: it continues "
            f"with products by {_named(here)}, perhaps not to the bits it would have had",
            stacklevel=2,
        )
        return
    if (recorded.product, recorded.stacks) == (here.product, here.stacks):
        return
    if recorded.machine == here.machine and _is_possible(recorded):
        use(recorded)
        return
    warnings.warn(
        f"the run began with products by {_named(recorded)} and continues with {_named(here)}: not "
        "to the bits it would have had",
        stacklevel=2,
    )


def _named(choice: Serving) -> str:
    return f"{choice.product} and {choice.stacks} on {choice.machine}"


def _is_possible(choice: Serving) -> bool:
    return choice.product in PRODUCTS and choice.stacks in STACKS


def parse(record: Mapping[str, Any]) -> Serving | None:
    """A `Serving` from `asdict`; None if it has other fields, as one of another version may."""
    try:
        return Serving(**record)
    except TypeError:
        return None


def _found(machine: str) -> Serving:
    try:
        file = contest.memory(machine)
    except RuntimeError:  # no home directory
        return measured(machine)
    record: Any = contest.remembered(file, lambda: asdict(measured(machine)), _is_valid)
    return Serving(**record)


def _is_valid(record: Mapping[str, Any]) -> bool:
    known = parse(record)
    return known is not None and _is_possible(known)


def measured(machine: str) -> Serving:
    """Measured now, on one thread, as training's products are computed."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            1, "contest", initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return pool.submit(_measure, machine).result()
    finally:
        torch.set_num_threads(threads)  # a thread that sets its own also sets what new threads get


@torch.no_grad()
def _measure(machine: str) -> Serving:
    products, flops = _product_calls()
    stacks, stack_flops = _stack_calls()
    of_products = contest.seconds(products)
    of_stacks = contest.seconds(stacks)
    rates = {name: flops / took for name, took in of_products.items()}
    rates |= {name: stack_flops / took for name, took in of_stacks.items()}
    rounded = {name: round(rate / 1e9, 1) for name, rate in rates.items()}
    return Serving(machine, contest.fastest(of_products), contest.fastest(of_stacks), rounded)


def _product_calls() -> tuple[dict[str, contest.Calls], int]:
    """Forward, and backward by both factors: for an expert of a small model, and a larger one."""
    calls: dict[str, list[Callable[[], object]]] = {name: [] for name in PRODUCTS}
    flops = 0
    for m, k, n in ((512, 128, 256), (256, 512, 256)):
        x_MK = torch.ones(m, k)
        weight_NK = torch.ones(n, k)
        grad_MN = torch.ones(m, n)
        for a, b in ((x_MK, weight_NK.T), (grad_MN, weight_NK), (grad_MN.T, x_MK)):
            flops += 2 * m * k * n
            for name, multiply in PRODUCTS.items():
                calls[name].append(partial(multiply, a, b, None))
    return dict(calls), flops


def _stack_calls() -> tuple[dict[str, contest.Calls], int]:
    """The two kinds of products of a Newton-Schulz iteration."""
    count = 2
    rows = 128
    columns = 256
    calls: dict[str, contest.Calls] = {}
    for name, dtype in STACKS.items():
        x = torch.ones(count, rows, columns, dtype=dtype)
        s = torch.ones(count, rows, rows, dtype=dtype)
        calls[name] = [partial(torch.bmm, x, x.mT), partial(torch.baddbmm, x, s, x)]
    return calls, 2 * count * 2 * rows * rows * columns


# ---- products ----


def product(a_MK: Tensor, b_KN: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """a @ b (+ bias) [M, N], a new tensor, not differentiable. Views that are transposed cost no
    copy.
    """
    multiplications = a_MK.shape[0] * a_MK.shape[1] * b_KN.shape[1]
    if a_MK.dtype != torch.float32 or a_MK.device.type != "cpu" or not multiplications:
        return _by_torch(a_MK, b_KN, bias_N)
    if _alike is not None:
        return _row_by_row(_alike.way, a_MK, b_KN, bias_N)
    if multiplications < SMALLEST:
        return _by_torch(a_MK, b_KN, bias_N)
    return PRODUCTS[serving().product](a_MK, b_KN, bias_N)


# ---- the same bits for a row, whatever rows are beside it ----

MOST_TRIED = 64  # rows
FEW_TRIED = (2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 32, 48, 63, 64)
MANY_ROWS = 256
LARGE = 1 << 25  # weights of which trying everything would take minutes
FEWEST_ROWS = 2  # a product of fewer has an order of sums of its own, in MKL and oneDNN alike


@dataclass
class _Alike:
    way: str  # a name in PRODUCTS
    holders: int = 0


_alike: _Alike | None = None


def hold_rows_alike(way: str) -> None:
    """From now on, until `release_rows_alike` has been called as often, every float32 product on a
    CPU goes the same `way`, a name in `PRODUCTS`, however small it is, and a single row is computed
    as two. Where `rows_are_alike` holds for that way, a row of a product then depends on nothing
    but that row: a sequence has the same numbers alone, in a packed batch, and token by token.

    It holds for the whole process, for what is trained beside it as well: parts of a step run in
    threads. Raises `ConfigError` if another way is held already.
    """
    global _alike
    with _lock:
        found = _alike or _Alike(way)
        if found.way != way:
            raise ConfigError(
                f"products of this process are made by {found.way} alone until its exact engine is "
                f"closed; {way} cannot be asked for now"
            )
        found.holders += 1
        _alike = found


def release_rows_alike() -> None:
    global _alike
    with _lock:
        assert _alike is not None
        _alike.holders -= 1
        if not _alike.holders:
            _alike = None


def rows_held_alike() -> str | None:
    """The way that all products go now; None if each goes its own."""
    return None if _alike is None else _alike.way


def _row_by_row(way: str, a_MK: Tensor, b_KN: Tensor, bias_N: Tensor | None) -> Tensor:
    rows = len(a_MK)
    if rows >= FEWEST_ROWS:
        return PRODUCTS[way](a_MK, b_KN, bias_N)
    repeated = a_MK.expand(FEWEST_ROWS, -1).contiguous()
    return PRODUCTS[way](repeated, b_KN, bias_N)[:rows]


@cache
def rows_are_alike(way: str, inputs: int, outputs: int, threads: int) -> bool:
    """Whether x W^T [M, outputs] has the same bits in every row for 2 to 64 rows, on so many
    threads, as among many rows on one thread, as training computes it; tried on this machine.
    """
    rng = torch.Generator().manual_seed(inputs)
    many = MANY_ROWS
    tried: Iterable[int] = range(2, MOST_TRIED + 1)
    if inputs * outputs > LARGE:
        many = MOST_TRIED
        tried = FEW_TRIED
    x_MK = torch.randn(many, inputs, generator=rng)
    weight_NK = torch.randn(outputs, inputs, generator=rng)
    multiply = PRODUCTS[way]
    with _threads(1):
        wanted_MN = multiply(x_MK, weight_NK.T, None)
    with _threads(threads):
        for rows in tried:
            first = 7 * rows % (many - rows + 1)
            part = slice(first, first + rows)
            if not torch.equal(multiply(x_MK[part], weight_NK.T, None), wanted_MN[part]):
                return False
    return True


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stack_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which products of stacks of matrices are fastest, if either would do: bfloat16
    or float32.
    """
    return STACKS[serving().stacks] if device.type == "cpu" else torch.bfloat16


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_TK, weight_NK)
        return product(x_TK, weight_NK.T, bias_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TN: Tensor) -> tuple[Tensor | None, ...]:
        x_TK, weight_NK = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        dx_TK = product(grad_TN, weight_NK) if wants_x else None
        dw_NK = product(grad_TN.T, x_TK) if wants_weight else None
        db_N = grad_TN.sum(0) if wants_bias else None
        return dx_TK, dw_NK, db_N


def linear_training(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """x W^T + b [T, N], differentiable by all three; all of one dtype."""
    apply: Any = _Linear.apply
    y_TN: Tensor = apply(x_TK, weight_NK, bias_N)
    return y_TN
