"""Whether an engine on a model that is being trained can report log-probabilities that training
will find again to the bit, and why not.

Knows a model's parts and the kernels; no requests. What `Engine(exact=True)` promises rests on
this: the kernels of training give every token numbers that depend on the tokens before it alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn

from ossia import kernels
from ossia.engine.request import Constraint, SamplingParams
from ossia.engine.sampling import RowState, Sampled
from ossia.errors import ConfigError, RequestError
from ossia.kernels import products
from ossia.kernels.logprobs import logprobs_of_logits
from ossia.model import Transformer
from ossia.model.common import RMSNorm
from ossia.model.moe import Experts, Moe, Router, TrainableExperts
from ossia.mxfp4 import BLOCK

LANES = 16  # numbers in a vector of the compiled kernels; widths are multiples of it
Shape = tuple[int, int]

# Fields of the sampling parameters that change the distribution drawn from, and their value for
# no change.
RESTRICTIONS = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "min_tokens": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
}


def check_model(model: Transformer) -> str:
    """The way of `products.PRODUCTS` by which rollouts on this model are exact. Raises
    `ConfigError`, which names what is in the way.
    """
    reason = next(_obstacles(model), None)
    if reason is not None:
        raise ConfigError(f"exact rollouts are not possible: {reason}", "exact")
    return _way(model)


def check_sampling(params: SamplingParams, constraint: Constraint | None) -> None:
    """Raises `RequestError` for what would be drawn from another distribution than the one that is
    trained, softmax(logits / temperature).
    """
    for name, neutral in RESTRICTIONS.items():
        found = getattr(params, name)
        if found != neutral:
            raise RequestError(
                f"an exact engine draws from the model's own distribution: {name} must be "
                f"{neutral}, found {found}; leave it out, or sample with exact=False",
                name,
            )
    if constraint is not None:
        raise RequestError(
            "an exact engine draws from the model's own distribution, which a grammar changes: "
            "leave the constraint out, or sample with exact=False",
            "constraint",
        )


def _obstacles(model: Transformer) -> Iterator[str]:
    """What stands in the way, in words."""
    if model.compiled:
        yield (
            "the model has compiled leaves for inference (native.make_native); give the engine the "
            "module that is trained"
        )
    if model.device.type != "cpu":
        yield f"the weights are on {model.device}; only products on a CPU can be held to their rows"
    if model.compute_dtype != torch.float32:
        yield f"products are in {model.compute_dtype}; set hyper.precision to float32"
    missing = kernels.not_compiled()
    if missing is not None:
        yield f"the compiled kernels are not used: {missing}"
    c = model.config
    for name, width in (("hidden_size", c.hidden_size), ("head_dim", c.head_dim)):
        if width % LANES:
            yield f"{name} {width} is not a multiple of {LANES}, which the compiled kernels need"
    in_parts = any(hasattr(p, "device_mesh") for p in model.parameters())
    if in_parts or model.spread is not None:
        yield (
            "the weights are spread over processes (parallel.fsdp, ep or tp, or --parallel); take "
            "them whole, in one process"
        )
    yield from chain.from_iterable(map(_in_module, model.modules()))


def _in_module(module: nn.Module) -> Iterator[str]:
    if isinstance(module, RMSNorm | Router) and "forward" in vars(module):
        yield "norms and routers are compiled by torch; set hyper.compile to false"
    if isinstance(module, Moe) and module.capacity is not None:
        yield (
            f"experts take {module.capacity} times their share of a batch at most, so a token "
            "depends on its neighbours; set hyper.balance.capacity to none"
        )
    if type(module) is Experts and not isinstance(module.gate_up, TrainableExperts):
        yield "the experts are packed for inference; train them, or a low-rank change of them"


def _way(model: Transformer) -> str:
    """The first way to multiply whose rows are alike at all of the model's shapes. Not the fastest:
    a run that is resumed must find the same one, whatever is measured by then.
    """
    refused = []
    for way in products.PRODUCTS:
        wrong = _first_unlike(model, way)
        if wrong is None:
            return way
        inputs, outputs = wrong
        refused.append(f"[M, {inputs}] x [{inputs}, {outputs}] by {way}")
    raise ConfigError(
        "exact rollouts are not possible: a row of a product has other bits among other rows here: "
        f"{'; '.join(refused)}",
        "exact",
    )


def _first_unlike(model: Transformer, way: str) -> Shape | None:
    threads = torch.get_num_threads()
    for shape in shapes(model):
        if not products.rows_are_alike(way, *shape, threads):
            return shape
    return None


def shapes(model: Transformer) -> list[Shape]:
    """(inputs, outputs) of every product in a forward pass, smallest first."""
    found: set[Shape] = set()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        is_matrix = tensor.ndim >= 2 and not name.endswith((".bias", ".scales"))
        if is_matrix and not name.startswith("embedding"):
            found.add(_shape_of(name, tensor))
    return sorted(found, key=lambda shape: shape[0] * shape[1])


def _shape_of(name: str, tensor: Tensor) -> Shape:
    if name.endswith(".blocks"):  # of packed experts: [E, rows, groups, bytes]
        _, outputs, groups, _ = tensor.shape
        return groups * BLOCK, outputs
    outputs, inputs = tensor.shape[-2:]
    return inputs, outputs


@torch.inference_mode()
def as_trained(
    logits_RV: Tensor, states: Sequence[RowState], sampled: Sequence[Sampled | RequestError]
) -> list[Sampled | RequestError]:
    """The same draws with the log-probabilities that training has for them: of
    softmax(logits / temperature), by its own function. For greedy ones the temperature is 1.
    Overwrites the logits.
    """
    ids = [one.token_id if isinstance(one, Sampled) else 0 for one in sampled]
    temperatures = [state.params.temperature or 1.0 for state in states]
    found_R = logprobs_of_logits(logits_RV, torch.tensor(ids), torch.tensor(temperatures))
    out: list[Sampled | RequestError] = []
    for one, logprob in zip(sampled, found_R.tolist(), strict=True):
        out.append(replace(one, logprob=logprob) if isinstance(one, Sampled) else one)
    return out
