"""The engine that samples, on the weights that learn, and what a step or a measurement draws from
it.

Knows an engine and asks; nothing of losses.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ossia.engine import Engine, SamplingParams
from ossia.engine.recheck import Reported, recheck
from ossia.model import Transformer
from ossia.tasks.environment import Ask
from ossia.tokenizer import Tokenizer
from ossia.train.rl.settings import Sampling
from ossia.turn.many import sample_many
from ossia.turn.rollout import Manner, Sample
from ossia.turn.turn import Limits

BATCH_TOKENS = 2048  # of a forward pass
CHECKED = 256  # tokens of each step that are computed again as in training


class Sampler:
    """Holds the engine from the first step to the last: `close` it."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        stop_tokens: Collection[int],
        settings: Sampling,
        replay: bool = False,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings
        self._params = SamplingParams(
            temperature=settings.temperature, stop_ids=frozenset(stop_tokens)
        )
        self._engine = Engine(
            model,
            exact=settings.sampler == "exact",
            latency_target=None,
            max_batch_tokens=BATCH_TOKENS,
            max_running=settings.at_once,
            record_experts=replay,
        )
        self._version = 0

    def draw(self, asks: Sequence[Ask], samples: int, version: int) -> list[list[Sample]]:
        """The groups of samples, in the order of the asks. `version`: how many updates the weights
        have had.
        """
        if version != self._version:
            self._engine.flush()
            self._version = version
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
        """Compute some of the samples again as training does; how many tokens were compared. Raises
        `TrainingError` if a log-probability differs by a single bit.
        """
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

    def close(self) -> None:
        self._engine.close()
