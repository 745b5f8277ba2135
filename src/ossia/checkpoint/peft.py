"""Low-rank changes in the form of the `peft` library: what TRL, unsloth, axolotl and LLaMA-Factory
leave. Their settings, and which tensor changes which matrix.

Two files: `adapter_config.json`, and `adapter_model.safetensors` with a pair A [r, inputs], B
[outputs, r] for a changed module, under its path in the model of transformers. All experts' pairs
are one, A [E * r, inputs] and B [outputs, r * E] with the expert as the faster index, on the module
`experts` itself (peft's `ParamWrapper`, `target_parameters`): which of its two parameters they
change is told by their sizes. Variants whose change is another than scale * B A are refused by the
name of their setting.

D hidden, E experts, F intermediate, V vocabulary, r rank.
"""

from __future__ import annotations

import math
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex  # type: ignore[import-untyped]  # it has a clock
import torch
from torch import Tensor

from ossia.checkpoint.mapped import MappedFile, inside, name_files, read_json
from ossia.checkpoint.names import Row
from ossia.errors import CheckpointError

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
Pair = tuple[Tensor, Tensor]
Factors = tuple[Tensor, Tensor, float]  # a [.., r, inputs], b [.., outputs, r], scale
PATIENCE = 1.0  # seconds for a pattern and a name

_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.(?P<kind>lora|lora_embedding)_(?P<letter>[AB])"
    r"(?:\.default)?(?:\.weight)?"
)
_ONE_EXPERT = re.compile(r"(?P<stem>.+\.experts\.(?:gate_up|down)_proj)s\.(?P<expert>\d+)")
_LAYER = re.compile(r"(?P<experts>.+\.mlp\.experts)(?:\.base_layer)*")
# Settings under which the change is another, or not all; and the value with which it is not.
_PLAIN = {"bias": "none", "peft_type": "LORA", "loftq_config": {}}
_REFUSED = (
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "target_modules_to_tie",
)
# Beginnings that leave the base as it is. Others (pissa, olora, corda, loftq) change it first: what
# they leave in the file does not stand alone.
_BEGINNINGS = ("True", "False", "None", "gaussian", "eva", "orthogonal")
_ELSEWHERE = "give the model that the adapter was trained on"
# Settings that look like a variant and are none: they are about how it was trained.
_HARMLESS = ("use_rslora", "megatron_config", "eva_config", "runtime_config", "corda_config")


def read(folder: Path, rows: Mapping[str, Row]) -> dict[str, Factors]:
    """The changes by native name, such as `layers.0.attn.q` or `layers.0.moe.experts.down`; `rows`
    are the matrices of the base by theirs, in the layout of transformers.

    Raises `CheckpointError` that names the setting or tensor that cannot be used.
    """
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(
            f"{folder}: {SETTINGS} without {WEIGHTS}; save the adapter with "
            "save_pretrained(safe_serialization=True)"
        )
    settings = _Settings.read(folder / SETTINGS)
    file = MappedFile(inside(folder, WEIGHTS))
    name_files()
    pairs: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name in file.entries:
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"{file.path}: tensor {name!r} is no factor of a low-rank change; ossia reads LoRA "
                "adapters alone: merge this one with peft (merge_and_unload) and take the result"
            )
        module = match["module"]
        letter = match["letter"]
        tensor = file.tensor(name)
        if match["kind"] == "lora_embedding":  # its B [D, r] A [r, V] is the table's transpose
            letter = "B" if letter == "A" else "A"
            tensor = tensor.T
        pairs[module][letter] = tensor
    return _Reader(file.path, settings, rows).all(pairs)


@dataclass(frozen=True)
class _Settings:
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    by_root: bool  # rsLoRA: alpha / sqrt(r), arXiv 2312.03732

    @classmethod
    def read(cls, path: Path) -> _Settings:
        data = read_json(path)
        if (name := _refused(data)) is not None:
            raise CheckpointError(
                f"{path}: {name} is {data[name]!r:.80}, which ossia does not add at run time nor "
                "merges; merge it with peft (merge_and_unload) and take the result"
            )
        rank = data.get("r")
        alpha = data.get("lora_alpha")
        ranks = _patterns(path, data, "rank_pattern")
        alphas = _patterns(path, data, "alpha_pattern")
        numbers = [rank, alpha, *ranks.values(), *alphas.values()]
        if not all(type(n) in (int, float) and 0 < n <= sys.float_info.max for n in numbers):
            raise CheckpointError(
                f"{path}: r, lora_alpha, and the values of rank_pattern and alpha_pattern must be "
                f"finite numbers above 0, found {numbers!r:.200}; put right those that were "
                "trained with"
            )
        by_root = bool(data.get("use_rslora"))
        return cls(data["r"], data["lora_alpha"], ranks, alphas, by_root)

    def scale(self, where: str, module: str, rank: int) -> float:
        """What multiplies B A of a module. Raises `CheckpointError` for another rank than is
        said.
        """
        said = _matching(self.ranks, module, self.rank)
        if said != rank:
            raise CheckpointError(f"{where}: has rank {rank}, {SETTINGS} says {said}")
        alpha: float = _matching(self.alphas, module, self.alpha)
        if self.by_root:
            return alpha / math.sqrt(rank)
        return alpha / rank


def _refused(data: Mapping[str, Any]) -> str | None:
    """The first setting with which a change is not scale * B A."""
    for name, plain in _PLAIN.items():
        if (data.get(name) or plain) != plain:
            return name
    if str(data.get("init_lora_weights")) not in _BEGINNINGS:
        return "init_lora_weights"
    for name, value in data.items():
        looks_so = name.startswith("use_") or name.endswith("_config")
        is_variant = looks_so and name not in (*_HARMLESS, *_PLAIN)
        if value and (is_variant or name in _REFUSED):
            return name
    return None


def _matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """Of the first pattern that is the end of a module's path, as peft's `get_pattern_key`. Raises
    `CheckpointError` for one that is no regular expression or takes too long.
    """
    for pattern, value in patterns.items():
        try:
            found = regex.match(rf"(.*\.)?({pattern})$", module, timeout=PATIENCE)
        except (regex.error, TimeoutError, RecursionError, OverflowError) as error:
            why = str(error) or "it nests too deeply"
            raise CheckpointError(
                f"{SETTINGS}: the pattern {pattern!r:.200} of rank_pattern or alpha_pattern cannot "
                f"be matched: {why}; write the modules' names instead"
            ) from error
        if found:
            return value
    return default


def _patterns(path: Path, data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = data.get(key) or {}
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{path}: {key} must be an object, a number for each pattern, found {found!r:.80}"
        )
    return found


@dataclass(frozen=True)
class _Reader:
    path: Path
    settings: _Settings
    rows: Mapping[str, Row]

    def all(self, pairs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Factors]:
        by_module = {row.stored.removesuffix(".weight"): stem for stem, row in self.rows.items()}
        found: dict[str, Factors] = {}
        apart: defaultdict[str, dict[int, Factors]] = defaultdict(dict)
        together: defaultdict[str, list[Pair]] = defaultdict(list)
        for module, pair in pairs.items():
            a, b = self._pair(module, pair)
            plain = module.replace(".router.linear", ".router")
            if match := _LAYER.fullmatch(module):
                layer = match["experts"]
                together[layer].append((a, b))
            elif (match := _ONE_EXPERT.fullmatch(module)) and match["stem"] in by_module:
                expert = int(match["expert"])
                apart[match["stem"]][expert] = self._factors(module, a, b)
            elif plain in by_module:
                stem = by_module[plain]
                found[stem] = self._factors(plain, a, b)
            else:
                raise CheckpointError(
                    f"{self.path}: changes {module!r}, which the base model does not have; "
                    f"{_ELSEWHERE}"
                )
        for module, experts in apart.items():
            stem = by_module[module]
            found[stem] = self._stacked(module, experts, self.rows[stem])
        for module, its in together.items():
            found |= self._of_experts(module, its, by_module)
        return found

    def _pair(self, module: str, pair: Mapping[str, Tensor]) -> Pair:
        are_matrices = all(tensor.dim() == 2 for tensor in pair.values())
        if set(pair) != {"A", "B"} or not are_matrices:
            raise CheckpointError(f"{self.path}: {module!r} lacks lora_A or lora_B, two matrices")
        return pair["A"], pair["B"]

    def _factors(self, module: str, a: Tensor, b: Tensor) -> Factors:
        scale = self.settings.scale(f"{self.path}: {module!r}", module, a.shape[-2])
        return a, b, scale

    def _stacked(self, module: str, experts: Mapping[int, Factors], row: Row) -> Factors:
        """Of experts that are changed one by one; one without a change gets zeros."""
        count, outputs, inputs = row.native_shape
        ranks = [len(a) for a, _, _ in experts.values()]
        a_ErK = torch.zeros(count, max(ranks), inputs)
        b_ERr = torch.zeros(count, outputs, max(ranks))
        for expert, (a, b, scale) in experts.items():
            rank = len(a)
            fits = a.shape == (rank, inputs) and b.shape == (outputs, rank)
            if not fits or expert >= count:
                raise CheckpointError(
                    f"{self.path}: the change of {module}, expert {expert}, does not fit the base: "
                    f"A {list(a.shape)}, B {list(b.shape)} for {count} matrices "
                    f"{[outputs, inputs]}; {_ELSEWHERE}"
                )
            a_ErK[expert, :rank] = a
            b_ERr[expert, :, :rank] = b.float() * scale
        return a_ErK, b_ERr, 1.0

    def _of_experts(
        self, module: str, pairs: list[Pair], by_module: Mapping[str, str]
    ) -> dict[str, Factors]:
        """Of all experts of a layer together.

        peft takes a parameter's second dimension for the inputs, which is right for gpt-oss, or,
        with releases of transformers that do not tell it so, for the outputs; then A and B have
        changed places in both parameters. Where F = D only gate_up shows which it is.
        """
        gate_up = by_module.get(f"{module}.gate_up_proj", "")
        down = by_module.get(f"{module}.down_proj", "")
        known = [stem for stem in (gate_up, down) if stem]
        straight = {self._inputs_outputs(stem): stem for stem in known}
        crossed = {self._inputs_outputs(stem)[::-1]: stem for stem in known}
        sizes = [(a.shape[1], b.shape[0]) for a, b in pairs]
        swapped = any(size in crossed and size not in straight for size in sizes)
        found: dict[str, Factors] = {}
        for size, (a, b) in zip(sizes, pairs, strict=True):
            stem = (crossed if swapped else straight).get(size)
            experts = self.rows[stem].shape[0] if stem else 1
            is_whole = len(a) % experts == 0 and len(a) == b.shape[1]
            if stem is None or stem in found or not is_whole:
                raise CheckpointError(
                    f"{self.path}: the change of {module}, A {list(a.shape)}, B {list(b.shape)}, "
                    f"fits neither of the base's two matrices; {_ELSEWHERE}"
                )
            a_ErK = a.unflatten(0, (experts, -1))
            b_RrE = b.unflatten(1, (-1, experts))
            b_ERr = b_RrE.permute(2, 0, 1)
            if swapped:
                a_ErK, b_ERr = b_ERr.transpose(1, 2), a_ErK.transpose(1, 2)
            found[stem] = self._factors(self.rows[stem].stored, a_ErK, b_ERr)
        return found

    def _inputs_outputs(self, stem: str) -> tuple[int, int]:
        _, outputs, inputs = self.rows[stem].native_shape
        return inputs, outputs
