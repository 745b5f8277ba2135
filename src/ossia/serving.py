"""How a loaded model computes: which kernels, in which precision, from the file or from memory,
with how much cache.

Chooses the compiled kernels where they can serve a model, and sizes the key-value cache by what the
machine has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from ossia import kernels
from ossia.checkpoint.mapped import is_mapped
from ossia.engine.engine import Engine, Progress
from ossia.engine.request import SamplingParams
from ossia.errors import ModelNotFoundError, RequestError
from ossia.kernels import cpu
from ossia.kernels.cpu.memory import available_memory, copy_from_file
from ossia.model import Transformer
from ossia.model.moe import ChangedExperts, Moe, PackedExperts
from ossia.model.native import (
    Activations,
    Dense,
    Kv,
    Precision,
    first_logits,
    make_native,
    unsupported,
)
from ossia.model.promotion import Promotion

Loading = Literal["map", "promote", "copy"]
Steps = Literal["ahead", "graphs", "plain"]
WARM_UP_TOKENS = 8
PROMOTE_AT_ONCE = 64 << 20  # bytes: a model this small is packed before anybody could notice


@dataclass(frozen=True)
class Options:
    """`dense`, `activations` and `kv`: see `Precision`. `loading`: "map" leaves weights in the
    mapped file; "promote" begins there and packs them into memory in the background, while answers
    flow; "copy" reads all of them first, and the file is not needed any more. None of the three
    changes an answer. `threads` None: as before; at first, as many as there are cores. On a GPU:
    `steps` "graphs" launches those that only decode as CUDA graphs, "ahead" also begins a step
    before the tokens of the last one are read, "plain" does neither; `same_bits`: see `Engine`.
    """

    dense: Dense = "bf16"
    activations: Activations = "bf16"
    kv: Kv = "bf16"
    loading: Loading = "promote"
    threads: int | None = None
    steps: Steps = "ahead"
    same_bits: bool = False

    def __post_init__(self) -> None:
        kinds = {
            "dense": Dense,
            "activations": Activations,
            "kv": Kv,
            "loading": Loading,
            "steps": Steps,
        }
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value not in get_args(kind):
                raise RequestError(
                    f"{name} must be one of {', '.join(get_args(kind))}, found {value!r}"
                )
        if self.threads is not None and self.threads < 1:
            raise RequestError(f"threads must be at least 1, found {self.threads}")


def device_of(name: str | torch.device) -> torch.device:
    """Raises `RequestError` for what is no device, `ModelNotFoundError` for one that torch does not
    see.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"{name!r} is no device; use cpu, cuda or cuda:1") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ModelNotFoundError("device 'cuda': torch sees no CUDA device; use device='cpu'")
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ModelNotFoundError(
                f"device {str(device)!r}: torch sees {count} CUDA devices, cuda:0 to "
                f"cuda:{count - 1}; CUDA_VISIBLE_DEVICES hides others"
            )
    return device


@dataclass(frozen=True)
class Serving:
    """What was chosen. `why_not`: the reason why the compiled kernels of CPUs do not serve, None
    where they do. `kv_memory`: the default size of the cache of keys and values, in bytes; None
    where it is not in the memory of the machine.
    """

    precision: Precision
    why_not: str | None = None
    kv_memory: int | None = None
    promotion: Promotion | None = None


def prepare(
    model: Transformer, options: Options, progress: Progress = lambda done, total: None
) -> Serving:
    """Give `model` the compiled leaves if it can have them, and begin moving its weights. Raises
    `RequestError` if the options ask for what only compiled kernels can do and there are none for
    this model.
    """
    why_not = _why_not(model)
    memory = None
    if model.device.type == "cpu":  # before weights move: afterwards they would count twice
        memory = default_kv_memory(_mapped_bytes(model))
    if why_not is not None:
        if (options.dense, options.activations, options.kv) != ("bf16", "bf16", "bf16"):
            raise RequestError(
                "8-bit precision needs the compiled kernels, which do not serve this model: "
                f"{why_not}"
            )
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        if options.loading == "copy":
            _leave_file(model)
        return Serving(Precision(), why_not, memory)
    if options.threads is not None:
        cpu.set_threads(options.threads)
    precision = Precision(options.dense, options.activations, options.kv)
    if options.loading == "copy":
        _leave_file(model.embedding)  # all else is packed, or copied by its leaf
    weights = make_native(model, precision, is_mapped)
    if options.loading == "map":
        return Serving(precision, kv_memory=memory)
    promotion = Promotion(weights, is_mapped, others=[model.embedding.weight])
    if options.loading == "copy" or promotion.bytes_total < PROMOTE_AT_ONCE:
        promotion.run(cpu.threads(), progress)
    else:
        promotion.start(after=first_logits(model))
    return Serving(precision, kv_memory=memory, promotion=promotion)


def _mapped_bytes(model: nn.Module) -> int:
    """Of the weights in files: those that are the process's memory are not available any more."""
    weights = (*model.parameters(), *model.buffers())
    return sum(weight.nbytes for weight in weights if is_mapped(weight))


def _leave_file(module: nn.Module) -> None:
    """Its weights become memory of the process."""
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            if is_mapped(weight):
                copied = copy_from_file(weight.detach())
                setattr(part, name, nn.Parameter(copied, weight.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            if is_mapped(buffer):  # not its `data`: a view would keep what it is a view of
                setattr(part, name, copy_from_file(buffer))


def _why_not(model: Transformer) -> str | None:
    if model.device.type != "cpu":
        return f"device {model.device.type}"
    if model.spread is not None:
        return "being spread over several processes"
    if model.compute_dtype != torch.bfloat16:
        return "dtype float32"
    experts = [module.experts for module in model.modules() if isinstance(module, Moe)]
    leaves = [leaf for its in experts for leaf in (its.gate_up, its.down)]
    if not all(isinstance(leaf, PackedExperts) for leaf in leaves):
        which = "have an adapter's changes beside them"
        if not any(isinstance(leaf, ChangedExperts) for leaf in leaves):
            which = "are not in MXFP4 (layouts hf and original have them so)"
        return f"its experts {which}; --experts mxfp4 rounds them, for the compiled kernels"
    return unsupported(model.config) or kernels.not_compiled()


def default_kv_memory(weight_bytes: int) -> int:
    """The default size of the cache, in bytes: half of what weights that are still to come leave of
    the available memory.
    """
    return max(64 << 20, (available_memory() - weight_bytes) // 2)


def warm_up(engine: Engine, device: str, hello: Sequence[int]) -> None:
    """Answers something short: weights are read, kernels chosen. On a GPU also prompts, so that
    they are compiled for all of their tiles.
    """
    most = min(engine.max_batch_tokens, engine.longest // 2)
    few = SamplingParams(max_tokens=WARM_UP_TOKENS)
    for length in warm_up_lengths(device, most):
        prompt = [*hello] * length
        for _ in engine.generate(prompt[:length], few):
            pass
    engine.flush()


def warm_up_lengths(device: str, most: int) -> list[int]:
    """Of prompts; `most` tokens are read in a step. Tiles of kernels go by tokens an expert and by
    queries of a sequence.
    """
    if device == "cpu":
        return [1]
    lengths = [1]
    while 4 * lengths[-1] < most:
        lengths.append(4 * lengths[-1])
    return [*lengths, most]
