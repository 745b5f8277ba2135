"""For tests of the kernels of a GPU: on a GPU they run there, without one in Triton's interpreter,
where it is installed.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from ossia import mxfp4

NO_TRITON = "triton is not installed: pip install 'ossia[gpu-test]' brings it"
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason=NO_TRITON)


def prepared(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device of the kernels, which serve until the end of the test."""
    if find_spec("triton") is None:
        pytest.skip(NO_TRITON)
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    monkeypatch.setenv("OSSIA_KERNELS", "interpret")
    return torch.device("cpu")


def random_packed(
    rng: torch.Generator, experts: int, rows: int, columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks, scales and biases of random experts; among them every code and zeros."""
    shape = (experts, rows, columns // 32)
    blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=rng)
    scales = torch.randint(118, 124, shape, dtype=torch.uint8, generator=rng)
    blocks[torch.rand(shape, generator=rng) < 0.05] = 0x80
    return blocks, scales, torch.randn(experts, rows, generator=rng)


def decoded(packed: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """[E, rows, columns] in float32."""
    return mxfp4.decode(packed[0], packed[1], torch.float32)


def close(found: Tensor, wanted: Tensor, error: float = 1e-5) -> None:
    """Within `error` of the largest."""
    found = found.float().cpu()
    assert found.shape == wanted.shape
    assert found.isfinite().all()
    assert float((found - wanted).abs().max()) <= error * float(wanted.abs().max())


def rows_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, a row's products are the same bits at every place of a tile, as they are
    on tensor cores; numpy's own are not.
    """
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def product(self, a, b, d, *_):  # type: ignore[no-untyped-def]
        each = a.data[:, :, None] * b.data[None]
        return TensorHandle(each.sum(1, dtype=d.data.dtype) + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", product)
