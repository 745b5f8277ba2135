"""A device that is not there: tensors that say they are elsewhere, and compute on the CPU.

What a GPU refuses is refused: an operation on tensors of the device and tensors of the CPU, but for
numbers without dimensions, copies, and indices. So a tensor that somebody forgot to make on the
device is found without one. They say "meta", a device that torch has everywhere; kernels that read
their memory find none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("meta")
aten = torch.ops.aten
# they go from one device to the other, or take indices from either
MAY_MIX = {
    aten.copy_.default,
    aten._to_copy.default,
    aten.index.Tensor,
}


class ForgottenError(RuntimeError):
    """An operation met tensors of two devices."""


class Pretended(Tensor):
    """Says that it lies elsewhere; `held` is what it computes with."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=ELSEWHERE,
            requires_grad=False,
        )
        made.held = real
        return made

    @classmethod
    def __torch_dispatch__(
        cls, op: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return computed(op, args, dict(kwargs or {}))


def computed(op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What `op` gives, on the device where its tensors are or where it is told to."""
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    is_there = any(isinstance(x, Pretended) for x in given)
    on_cpu = [x for x in given if not isinstance(x, Pretended) and x.ndim]
    if is_there and on_cpu and op not in MAY_MIX:
        raise ForgottenError(f"{op} met a tensor {list(on_cpu[0].shape)} of the CPU")
    wanted = kwargs.get("device")
    if wanted is not None:
        is_there = torch.device(wanted) == ELSEWHERE
        kwargs["device"] = torch.device("cpu")
    real_args, real_kwargs = tree_map(_real, (args, kwargs))
    found = op(*real_args, **real_kwargs)
    if not is_there:
        return found
    known = {id(x.held): x for x in given if isinstance(x, Pretended)}
    return tree_map(lambda x: known[id(x)] if id(x) in known else _placed(x), found)


def _real(x: Any) -> Any:
    return x.held if isinstance(x, Pretended) else x


def _placed(x: Any) -> Any:
    return Pretended(x) if isinstance(x, Tensor) else x


class _Operations(TorchDispatchMode):
    """Also what takes no tensor, as `torch.zeros(..., device=...)`."""

    def __torch_dispatch__(
        self, op: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return computed(op, args, dict(kwargs or {}))


# torch fills no tensor of the device that is pretended, and reads none
_tensor = torch.tensor
_tolist = Tensor.tolist
_numpy = Tensor.numpy


def _made(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
    made = _tensor(data, **kwargs)
    return made if device is None else made.to(device)


def _listed(x: Tensor) -> Any:
    return _tolist(x.held if isinstance(x, Pretended) else x)


def _array(x: Tensor, *, force: bool = False) -> Any:
    if not isinstance(x, Pretended):
        return _numpy(x, force=force)
    if not force:
        raise ForgottenError("numpy cannot read a tensor of the device")
    return _numpy(x.held, force=True)


@contextmanager
def pretending() -> Iterator[None]:
    """Within, in this thread, tensors that are made or moved to `ELSEWHERE` compute."""
    numbers = patch.object(torch, "tensor", _made)
    lists = patch.object(Tensor, "tolist", _listed)
    arrays = patch.object(Tensor, "numpy", _array)
    with numbers, lists, arrays, _Operations():
        yield
