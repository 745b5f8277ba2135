"""The engine that samples, on the weights that learn, and what a step or a measurement draws from
it.

Knows an engine and asks; nothing of losses.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from ossia.checkpoint import export, load
from ossia.checkpoint.mapped import is_mapped
from ossia.engine import Engine, SamplingParams
from ossia.engine.budget import tokens_within
from ossia.engine.recheck import Reported, recheck
from ossia.kernels import cpu, triton
from ossia.kernels.cpu.memory import available_memory
from ossia.model import Transformer
from ossia.model.native import Precision, make_native
from ossia.model.promotion import Promotion
from ossia.tasks.environment import Ask
from ossia.tokenizer import Tokenizer
from ossia.train.optim import trained
from ossia.train.rl.record import Groups
from ossia.train.rl.settings import Sampling
from ossia.train.rl.sync import checksum
from ossia.turn.many import sample_many
from ossia.turn.rollout import Manner, Sample
from ossia.turn.turn import Limits

BATCH_TOKENS = 2048  # of a forward pass
PRECISIONS = {"bf16": Precision(), "int8": Precision("int8", "int8")}
PROMPT = 1024  # tokens of a usual prompt, and of what tools and users add
CHECKED = 256  # tokens of each step that are computed again as in training


class Drawer(Protocol):
    """Whoever samples: this process (`Sampler`), others (`actors.Actors`), or several at once
    (`ranks.Ranks`). A `version` is how many updates the weights have had.
    """

    leads: bool  # whether this process writes files

    def prepare(self, version: int) -> str:
        """Sample from the weights of this version from now on; their checksum."""
        ...

    def draw(self, asks: Sequence[Ask], samples: int, version: int) -> list[list[Sample]]:
        """The groups of samples, in the order of the asks."""
        ...

    def check(self, groups: Sequence[Sequence[Sample]]) -> int:
        """Compute some of the samples again as training does; how many tokens were compared."""
        ...

    def agreed(self, found: Groups) -> Groups:
        """What the leading process found of earlier samples; the same in every process."""
        ...

    def close(self) -> None: ...


class Sampler:
    """Holds the engine from the first step to the last: `close` it."""

    leads = True

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        stop_tokens: Collection[int],
        settings: Sampling,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings
        self._params = SamplingParams(
            temperature=settings.temperature, stop_ids=frozenset(stop_tokens)
        )
        self._version = 0
        self._weights: str | None = None
        self._engine = self._new_engine()

    def prepare(self, version: int) -> str:
        if version != self._version:
            self._version = version
            self._weights = None
            self._take_new_weights()
        if self._weights is None:
            self._weights = checksum(trained(self._model))
        return self._weights

    def draw(self, asks: Sequence[Ask], samples: int, version: int) -> list[list[Sample]]:
        self.prepare(version)
        settings = self._settings
        manner = Manner(
            limits=Limits(max_tokens=settings.max_tokens),
            turns=settings.turns,
            seconds=settings.seconds,
            version=version,
        )
        groups: dict[int, dict[int, Sample]] = {ask.group: {} for ask in asks}
        for sample in sample_many(
            self._engine,
            self._tokenizer,
            asks,
            self._params,
            samples=samples,
            at_once=settings.at_once,
            manner=manner,
        ):
            groups[sample.group][sample.index] = sample
        return [[group[n] for n in sorted(group)] for group in groups.values()]

    def check(self, groups: Sequence[Sequence[Sample]]) -> int:
        """Raises `TrainingError` if a log-probability differs by a single bit."""
        if self._settings.sampler != "exact":
            return 0
        reported = []
        for group in groups:
            for sample in group:
                for segment in sample.segments:
                    known = zip(segment.logprobs, segment.sampled, strict=True)
                    values = [value if drawn else None for value, drawn in known]
                    reported.append(Reported(segment.ids, values))
        return recheck(
            self._model, reported, temperature=self._settings.temperature, tokens=CHECKED
        )

    def agreed(self, found: Groups) -> Groups:
        return found

    def close(self) -> None:
        self._engine.close()

    def _take_new_weights(self) -> None:
        """The live module has them; a compiled copy has to be made again."""
        if self._settings.sampler in PRECISIONS:
            self._engine.close()
            self._engine = self._new_engine()
        else:
            self._engine.flush()

    def _new_engine(self) -> Engine:
        settings = self._settings
        model = self._model
        if settings.sampler in PRECISIONS:
            with TemporaryDirectory(prefix="ossia-rl-") as folder:
                place = Path(folder, "model")
                export(model, place)
                model = compiled(place, PRECISIONS[settings.sampler])
        return Engine(
            model,
            exact=settings.sampler == "exact",
            latency_target=None,
            capacity=_capacity(model, settings),
            max_batch_tokens=BATCH_TOKENS,
            max_running=settings.at_once,
            record_experts=settings.replay,
        )


def compiled(place: Path, precision: Precision) -> Transformer:
    """A checkpoint for the compiled kernels of inference: experts in MXFP4, as they are served."""
    copy = load(place, "bfloat16")
    packed = make_native(copy, precision, is_mapped)
    promotion = Promotion(packed, is_mapped, others=[copy.embedding.weight])
    promotion.run(cpu.threads(), lambda done, total: None)
    return copy


def _capacity(model: Transformer, settings: Sampling) -> int:
    """Tokens of keys and values: room for all that run together, as far as memory goes."""
    longest = model.config.max_context_length
    wanted = settings.at_once * min(longest, settings.max_tokens + PROMPT)
    memory = triton.free_for_cache(model.device) or available_memory() // 2
    kind = model.kv_kind
    within = tokens_within(model.config, memory, kind, settings.at_once, BATCH_TOKENS)
    return max(longest, min(wanted, within))
