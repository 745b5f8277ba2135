"""One model on several processes: which parameter is cut along which dimension, and the leaves that
know about it.

`apply` changes a Transformer from outside, in three moves. Parameters named in `TABLE` are cut over
the processes of `ep` and `tp`; the leaves that hold such parameters are exchanged for ones that
talk to the other processes; and all parameters are sliced by FSDP2 over the processes that see
different tokens. Afterwards every parameter is a DTensor: its `shape` is that of the whole,
`to_local()` is this process's part. The Transformer's own code does not change.

    processes   rank = ((replicate * fsdp + f) * ep + e) * tp + t; a tp group sees the same tokens
    tp          heads of attention with their sinks; the width of every expert; sums are all-reduced
                twice a layer
    ep          experts; tokens travel (kernels/experts_dispatch.py)
    fsdp        a slice of the rest, gathered layer by layer: expert matrices over `fsdp`, which are
                different ones on each process under `ep`; everything else over fsdp x ep
    replicate   whole copies of all that, whose gradients are added up

Gradients are sums over the processes, so a loss must be divided by the totals over all of them.
Knows DTensors and process groups; does not know optimizers or files. T tokens, D hidden, E experts,
k chosen per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement

from ossia import kernels
from ossia.config import MX_BLOCK, ModelConfig
from ossia.errors import ConfigError
from ossia.kernels.experts_dispatch import experts_dispatch, experts_of_rows
from ossia.model.common import Linear, RMSNorm
from ossia.model.moe import Experts, TrainableExperts
from ossia.model.transformer import Attention, Block, Transformer


@dataclass(frozen=True)
class Cut:
    """The dimension along which a parameter is cut over the processes of `ep` and of `tp`; None: it
    is not cut.
    """

    ep: int | None = None
    tp: int | None = None


# The first pattern that a parameter's name matches counts. A parameter that matches none is whole
# in every process of ep and tp: the two tables, norms, routers, the bias of attention's output. A
# dense layer's one expert is cut by tp only.
TABLE: tuple[tuple[str, Cut], ...] = (
    ("layers.*.attn.[qkv].*", Cut(tp=0)),  # rows: heads
    ("layers.*.attn.out.weight", Cut(tp=1)),  # columns: heads
    ("layers.*.attn.sinks", Cut(tp=0)),  # heads
    # experts; rows, in pairs of gate and linear
    ("layers.*.moe.experts.gate_up.*", Cut(ep=0, tp=1)),
    ("layers.*.moe.experts.down.bias", Cut(ep=0)),  # experts
    # experts; columns, of MXFP4 in blocks
    ("layers.*.moe.experts.down.*", Cut(ep=0, tp=2)),
)


def cut_of(name: str, config: ModelConfig) -> Cut:
    cut = next((cut for pattern, cut in TABLE if fnmatchcase(name, pattern)), Cut())
    dense = ".experts." in name and not config.is_moe(int(name.split(".")[1]))
    return Cut(tp=cut.tp) if dense else cut


@dataclass(frozen=True)
class Meshes:
    """The same processes in two views: `dense` (replicate, shard, tp), where shard is fsdp x ep,
    for all parameters but those of experts; `experts` (replicate, fsdp, ep, tp).
    """

    dense: DeviceMesh
    experts: DeviceMesh

    @staticmethod
    def make(
        replicate: int = 1, fsdp: int = 1, ep: int = 1, tp: int = 1, device: str = "cpu"
    ) -> Meshes:
        """Collective. The product must be the number of processes in the default group."""
        names: tuple[str, ...] = ("replicate", "shard", "tp")
        dense = init_device_mesh(device, (replicate, fsdp * ep, tp), mesh_dim_names=names)
        names = ("replicate", "fsdp", "ep", "tp")
        experts = init_device_mesh(device, (replicate, fsdp, ep, tp), mesh_dim_names=names)
        return Meshes(dense, experts)

    @property
    def ep(self) -> int:
        return self.experts["ep"].size()

    @property
    def tp(self) -> int:
        return self.experts["tp"].size()

    def data(self) -> tuple[int, int]:
        """(the number of this process's part of the tokens, how many parts there are)"""
        return dist.get_rank() // self.tp, dist.get_world_size() // self.tp

    def slicing(self, experts: bool) -> DeviceMesh:
        """The mesh for FSDP2: one dimension, or two where whole copies are kept."""
        mesh = self.experts if experts else self.dense
        name = "fsdp" if experts else "shard"
        if mesh["replicate"].size() > 1:
            return mesh["replicate", name]
        return mesh[name]


def check(config: ModelConfig, *, ep: int = 1, tp: int = 1, quantize: bool = False) -> None:
    """Raises `ConfigError` for numbers of processes that the model's sizes cannot be divided by."""
    _divides("ep", ep, num_experts=config.num_experts)
    _divides("tp", tp, num_key_value_heads=config.num_key_value_heads)
    _divides("tp", tp, num_attention_heads=config.num_attention_heads)
    if quantize:
        name = "intermediate_size / 32, because MXFP4 has blocks of 32"
        _divides("tp", tp, **{name: config.intermediate_size // MX_BLOCK})
    else:
        _divides("tp", tp, intermediate_size=config.intermediate_size)


def _divides(dimension: str, processes: int, **sizes: int) -> None:
    for name, size in sizes.items():
        if size % processes:
            fitting = ", ".join(str(n) for n in range(1, size + 1) if size % n == 0)
            what = f"parallel.{dimension}={processes}"
            raise ConfigError(f"{what} does not divide {name} ({size}): choose {fitting}")


def apply(model: Transformer, meshes: Meshes, *, gather: torch.dtype | None = None) -> None:
    """Spread `model`, the same on every process, over the processes of `meshes`. Collective;
    changes it in place.

    A model on the device "meta" gets its memory afterwards, by `to_empty`; then no process ever
    holds all of it. `load_state_dict` takes whole tensors, of which every process keeps its part.

    `gather`: the dtype in which the matrices of attention and experts travel; None: the one they
    are stored in. They are converted before they are multiplied anyway, so bfloat16 changes no
    result of a bfloat16 run, unless the experts are quantized on the way, and gradients are added
    up in float32. Raises `ConfigError` if sizes do not divide, or if a leaf is none of the
    trainable ones.
    """
    check(model.config, ep=meshes.ep, tp=meshes.tp)
    _cut(model, meshes)
    for block in _blocks(model):
        _swap(block, meshes)
    _slice(model, meshes, gather)
    model.register_load_state_dict_pre_hook(_keep_parts)  # type: ignore[no-untyped-call]


def _blocks(model: Transformer) -> Iterator[Block]:
    for layer in model.layers:
        yield cast(Block, layer)


# ---- ep and tp: parameters ----


def _cut(model: Transformer, meshes: Meshes) -> None:
    for name, p in list(model.named_parameters()):
        cut = cut_of(name, model.config)
        wanted = {"ep": cut.ep if meshes.ep > 1 else None, "tp": cut.tp if meshes.tp > 1 else None}
        dims = {mesh: dim for mesh, dim in wanted.items() if dim is not None}
        if dims:
            mesh = (meshes.experts if cut.ep is not None else meshes.dense)[tuple(dims)]
            owner, _, leaf = name.rpartition(".")
            placements = [Shard(dim) for dim in dims.values()]
            local = distribute_tensor(p.detach(), mesh, placements, src_data_rank=None)
            setattr(model.get_submodule(owner), leaf, nn.Parameter(local, p.requires_grad))


def local(p: Tensor) -> Tensor:
    """This process's part."""
    return p.to_local() if isinstance(p, DTensor) else p


# ---- ep and tp: leaves ----


class _Spread(torch.autograd.Function):
    """Before different work on equal values: the identity, whose gradients are added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _all_reduced(grad, ctx.group), None


class _Sum(torch.autograd.Function):
    """After different work that adds up to equal values: a sum, whose gradient every part gets."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        return _all_reduced(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None


def _all_reduced(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    out = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(out, group=group)
    return out


def spread(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    return x if group is None else _Spread.apply(x, group)  # type: ignore[no-untyped-call]


def added_up(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    return x if group is None else _Sum.apply(x, group)  # type: ignore[no-untyped-call]


class SpreadNorm(RMSNorm):
    """The norm before q, k and v, which take different heads from it."""

    tp: dist.ProcessGroup

    def forward(self, x_TD: Tensor) -> Tensor:
        return spread(super().forward(x_TD), self.tp)


class ColumnLinear(Linear):
    """Some of the outputs."""

    def forward(self, x_TK: Tensor) -> Tensor:
        bias = None if self.bias is None else local(self.bias)
        return kernels.linear(x_TK, local(self.weight), bias)


class RowLinear(Linear):
    """Some of the inputs. The bias comes once, after the sum."""

    tp: dist.ProcessGroup

    def forward(self, x_TK: Tensor) -> Tensor:
        return self.completed(added_up(self.part(x_TK), self.tp))

    def part(self, x_TK: Tensor) -> Tensor:
        return kernels.linear(x_TK, local(self.weight))

    def completed(self, y_TN: Tensor) -> Tensor:
        """With the bias, from the sum of all parts."""
        if self.bias is None:
            return y_TN
        return y_TN + self.bias.to(y_TN.dtype)


class HeadsAttention(Attention):
    """Some of the heads, with their sinks."""

    def _sink(self, q_THh: Tensor) -> Tensor | None:
        sink = super()._sink(q_THh)
        return None if sink is None else local(sink)


class SpreadExperts(Experts):
    """Some of the experts (`ep`), or a slice of the width of each (`tp`), or both.

    The sum over `tp` comes at the end, after the tokens are back: then it is over T rows, not over
    k T. So that the bias of `down` is in that sum once, the first process of a tp group adds it.
    """

    ep: dist.ProcessGroup | None
    tp: dist.ProcessGroup | None
    num_experts: int

    def forward(self, x_TD: Tensor, choice_Tk: Tensor, weight_Tk: Tensor, limit: float) -> Tensor:
        gate_up = self._tensors(self.gate_up)
        w2, b2 = self._tensors(self.down)
        if self.tp is not None:
            b2 = spread(b2, self.tp) * (dist.get_rank(self.tp) == 0)
        down = (w2, b2)
        x_TD = spread(x_TD, self.tp)
        weight_Tk = spread(weight_Tk, self.tp)
        if self.ep is None:
            y_TD = kernels.experts_training(x_TD, choice_Tk, weight_Tk, gate_up, down, limit)
            return added_up(y_TD, self.tp)

        def compute(rows_nD: Tensor, expert_n: Tensor) -> Tensor:
            return experts_of_rows(rows_nD, expert_n, gate_up, down, limit)

        y_TD = experts_dispatch(x_TD, choice_Tk, weight_Tk, self.num_experts, self.ep, compute)
        return added_up(y_TD, self.tp)

    def _tensors(self, leaf: nn.Module) -> tuple[Tensor, Tensor]:
        assert isinstance(leaf, TrainableExperts)
        return leaf.seen(local(leaf.weight)), local(leaf.bias)


def _swap(block: Block, meshes: Meshes) -> None:
    """Give the leaves of a block the class that knows the other processes; they keep their
    parameters.
    """
    attn = block.attn
    moe = block.moe
    linears = [attn.q, attn.k, attn.v, attn.out]
    experts_leaves = [moe.experts.gate_up, moe.experts.down]
    are_whole = all(type(leaf) is Linear for leaf in linears)
    if not are_whole or any(type(leaf) is not TrainableExperts for leaf in experts_leaves):
        raise ConfigError(
            "only whole, trainable weights can be spread over processes: train LoRA and packed "
            "experts in one process"
        )
    tp = None
    ep = None
    if meshes.tp > 1:
        tp = meshes.experts.get_group("tp")
    if meshes.ep > 1 and moe.router is not None:
        ep = meshes.experts.get_group("ep")
    if tp is not None:
        become(attn, HeadsAttention)
        become(attn.norm, SpreadNorm, tp=tp)
        for leaf in (attn.q, attn.k, attn.v):
            become(leaf, ColumnLinear)
        become(attn.out, RowLinear, tp=tp)
    if tp is not None or ep is not None:
        experts = 1 if moe.router is None else moe.router.weight.shape[0]
        become(moe.experts, SpreadExperts, ep=ep, tp=tp, num_experts=experts)


def become(module: nn.Module, kind: type[nn.Module], **attributes: Any) -> None:
    """Give a leaf another class; it keeps its parameters."""
    module.__class__ = kind
    for name, value in attributes.items():
        setattr(module, name, value)


# ---- fsdp ----


def _slice(model: Transformer, meshes: Meshes, gather: torch.dtype | None) -> None:
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    rough = (
        MixedPrecisionPolicy(gather, torch.float32, cast_forward_inputs=False)
        if gather is not None
        else exact
    )
    for block in _blocks(model):
        attn = block.attn
        moe = block.moe
        _fully_shard(moe.experts, meshes.slicing(experts=moe.router is not None), rough)
        if gather is not None:
            _fully_shard([attn.q, attn.k, attn.v, attn.out], meshes.slicing(experts=False), rough)
        _fully_shard(block, meshes.slicing(experts=False), exact)
    _fully_shard(model.embedding, meshes.slicing(experts=False), exact)
    # the unembedding, which the loss reads after `hidden`
    _fully_shard(model, meshes.slicing(experts=False), exact)
    register_fsdp_forward_method(model, "hidden")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other


def _fully_shard(unit: Any, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    fully_shard(unit, mesh=mesh, mp_policy=policy, shard_placement_fn=_sliced_along(mesh.size(-1)))


def _sliced_along(processes: int) -> Callable[[nn.Parameter], Shard]:
    """The first dimension that divides; else the first dimension, whose last slices are then
    shorter, or empty.
    """

    def choose(p: nn.Parameter) -> Shard:
        for dimension, size in enumerate(local(p).shape):
            if size % processes == 0:
                return Shard(dimension)
        return Shard(0)

    return choose


# ---- wholes and parts ----


def whole(p: Tensor) -> Tensor:
    """All of a parameter, on every process. Collective."""
    return p.full_tensor() if isinstance(p, DTensor) else p


@torch.no_grad()
def assign(p: Tensor, value: Tensor) -> None:
    """Set `p` to `value`, of which a DTensor takes its part. `value` is whole, the same on every
    process.
    """
    if isinstance(p, DTensor) and not isinstance(value, DTensor):
        value = part_of(value.to(p.device, p.dtype), p)
        p = p.to_local()
    p.copy_(value)


def part_of(value: Tensor, like: DTensor) -> Tensor:
    """This process's part of a whole tensor that is cut like `like`."""
    replicated: list[Placement] = [Replicate()] * like.device_mesh.ndim
    wrapped = DTensor.from_local(value, like.device_mesh, replicated, run_check=False)
    return wrapped.redistribute(placements=like.placements).to_local()


def _keep_parts(model: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Before `load_state_dict`: parts in the place of whole tensors."""
    for name, p in model.named_parameters():
        if isinstance(p, DTensor) and name in state and not isinstance(state[name], DTensor):
            here = part_of(state[name].to(p.device, p.dtype), p)
            state[name] = DTensor.from_local(
                here, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
            )


def on_whole_matrices(function: Callable[[Tensor], Tensor], x: DTensor) -> Tensor:
    """This process's part of function(x), where `function` works on matrices, the last two
    dimensions, one by one.

    If matrices are whole in a process, as in a stack that is cut by its first dimension, it works
    on those only; otherwise they are gathered, and every process of the group does the same work.
    Collective.
    """
    kept: list[Placement] = []
    for place in x.placements:
        is_whole = isinstance(place, Replicate) or _dim(place) < x.ndim - 2
        kept.append(place if is_whole else Replicate())
    gathered = x.redistribute(placements=kept)
    out = DTensor.from_local(
        function(gathered.to_local()),
        x.device_mesh,
        kept,
        run_check=False,
        shape=x.shape,
        stride=x.stride(),
    )
    return out.redistribute(placements=x.placements).to_local()


def copies(p: DTensor) -> int:
    """How many processes hold the same part of `p`."""
    parts = 1
    for size, place in zip(p.device_mesh.shape, p.placements, strict=True):
        if not isinstance(place, Replicate):
            parts *= size
    return dist.get_world_size() // parts


def _dim(place: Placement) -> int:
    assert place.is_shard() or hasattr(place, "dim"), place
    return int(place.dim)  # type: ignore[attr-defined]
