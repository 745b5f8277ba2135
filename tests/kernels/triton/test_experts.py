"""Packed experts against the reference, and their tiles against a count by hand."""

from __future__ import annotations

import pytest
import torch
from device_kernels import close, decoded, needs_triton, random_packed
from torch import Tensor

from ossia import kernels, mxfp4
from ossia.kernels.triton.routing import most_tiles, routing

Shape = tuple[int, int, int, int, int]  # tokens, hidden, width, experts, top k


def routed(rng: torch.Generator, tokens: int, experts: int, top_k: int) -> tuple[Tensor, Tensor]:
    logits = torch.randn(tokens, experts, generator=rng)
    choice = logits.topk(top_k).indices
    return choice, logits.gather(1, choice).softmax(-1)


def compared(
    device: torch.device, shape: Shape, error: float = 1e-5, dtype: torch.dtype = torch.float32
) -> None:
    tokens, hidden, width, experts, top_k = shape
    rng = torch.Generator().manual_seed(sum(shape))
    gate_up = random_packed(rng, experts, 2 * width, hidden)
    down = random_packed(rng, experts, hidden, width)
    x = torch.randn(tokens, hidden, generator=rng).to(dtype)
    choice, weight = routed(rng, tokens, experts, top_k)
    w1 = decoded(gate_up)
    w2 = decoded(down)
    pairs = ((lambda e, _: w1[e]), gate_up[2]), ((lambda e, _: w2[e]), down[2])
    wanted = kernels.experts(x.float(), choice, weight, *pairs, 7.0)
    given = [part.to(device) for part in (x, choice, weight)]
    packed = [tuple(part.to(device) for part in parts) for parts in (gate_up, down)]
    found = kernels.packed_experts(*given, *packed, 7.0)
    assert found is not None and found.dtype == torch.float32
    close(found, wanted, error)


@needs_triton
def test_experts_from_packed_bytes(device: torch.device) -> None:
    compared(device, (5, 96, 64, 4, 2))  # a sum and outputs that fill no whole tile


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [(1, 64, 32, 4, 4), (70, 64, 64, 4, 2), (33, 160, 96, 8, 3), (9, 32, 32, 1, 1)],
    ids=str,
)
def test_experts_of_many_shapes(device: torch.device, shape: Shape) -> None:
    compared(device, shape)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 2880, 64, 4, 2), (3, 64, 2880, 4, 2)], ids=str)
def test_sums_of_the_published_width(device: torch.device, shape: Shape) -> None:
    """2880 is no multiple of the sum's tile."""
    compared(device, shape)


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 7, 64, 500])
def test_experts_in_bfloat16_on_a_device(device: torch.device, tokens: int) -> None:
    compared(device, (tokens, 2880, 2880, 8, 4), error=2e-2, dtype=torch.bfloat16)


@needs_triton
def test_every_code_and_scale_is_decoded(device: torch.device) -> None:
    """The product with the unit matrix is the weight: all codes, the least, the largest and NaN's
    scale; weights of 2^127 * 6 overflow to infinity as in the reference.
    """
    from ossia.kernels.triton.experts import experts_down
    from ossia.kernels.triton.tiles import EXPERTS, chosen

    codes = torch.arange(256, dtype=torch.uint8).view(16, 1, 16)
    scales = torch.tensor([0, 1, 2, 100, 126, 127, 128, 140, 200, 250, 251, 252], dtype=torch.uint8)
    for part in scales.split(4):
        blocks = codes.repeat(len(part), 1, 1)[None]
        each = part.repeat_interleave(16).view(1, -1, 1)
        packed = (blocks, each, torch.zeros(1, blocks.shape[1]))
        x = torch.eye(32)
        tile = chosen(EXPERTS, 0, 32, False)
        found = experts_down(
            x.to(device),
            torch.ones(32, 1, device=device),
            routing(torch.zeros(32, 1, dtype=torch.int64, device=device), 1, tile.rows),
            tuple(part.to(device) for part in packed),
            tile,
        )
        assert torch.equal(found.cpu().T, decoded(packed)[0])
    assert mxfp4.NAN_SCALE == 255


@pytest.mark.parametrize("rows", [1, 4, 16])
@pytest.mark.parametrize("experts", [1, 5, 32])
def test_tiles_hold_every_assignment_once(experts: int, rows: int) -> None:
    """Whatever the choice, those of padding (expert E) excepted; the bound holds for the worst."""
    rng = torch.Generator().manual_seed(experts)
    for tokens in (1, 3, 40):
        choice = torch.randint(0, experts + 1, (tokens, 2), generator=rng)
        made = routing(choice, experts, rows)
        flat = choice.flatten()
        found = []
        for expert, first, count in made.tiles_N3.tolist():
            assert count <= rows
            mine = made.order_A[first : first + count].tolist()
            assert all(flat[n] == expert for n in mine)
            found += mine
        assert sorted(found) == [n for n, expert in enumerate(flat.tolist()) if expert < experts]
        assert len(made.tiles_N3) == most_tiles(2 * tokens, experts, rows)
