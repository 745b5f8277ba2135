"""Budget forcing: thoughts that are cut after n tokens, and an answer from what is there.

Knows tokens and an engine; nothing of effort or rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ossia.engine import Engine, SamplingParams
from ossia.model import Transformer
from ossia.tasks.environment import Ask, Outcome
from ossia.tokenizer import Tokenizer
from ossia.turn import stop_ids
from ossia.turn.rollout import Sample

NOW = "<|end|><|start|>assistant<|channel|>final<|message|>"
ANSWER = 24  # tokens that a forced answer may have
HEADER = 3  # tokens before the first thought: <|channel|>analysis<|message|>


def cut(sample: Sample, budget: int, tokenizer: Tokenizer) -> list[int] | None:
    """The prompt and the first `budget` tokens of thought, with an answer begun; None for a sample
    that had ended its thoughts by then.
    """
    segment = sample.segments[0]
    sampled = segment.ids[len(segment.prompt) :]
    kept = sampled[: HEADER + budget]
    end = tokenizer.special("<|end|>")
    if len(kept) < HEADER + budget or end in kept:
        return None
    return [*segment.prompt, *kept, *tokenizer.encode_with_specials(NOW)]


def forced(
    model: Transformer,
    tokenizer: Tokenizer,
    asks: Sequence[Ask],
    groups: Sequence[Sequence[Sample]],
    budget: int,
) -> list[float]:
    """The share of each group's samples that are right under the budget: those that need no more
    as they are, the others by what they answer when they are cut.
    """
    prompts: dict[tuple[int, int], list[int]] = {}
    for number, group in enumerate(groups):
        for index, sample in enumerate(group):
            prompt = cut(sample, budget, tokenizer)
            if prompt is not None:
                prompts[number, index] = prompt
    answers = complete(model, tokenizer, list(prompts.values()))
    said = dict(zip(prompts, answers, strict=True))
    found = []
    for number, (ask, group) in enumerate(zip(asks, groups, strict=True)):
        environment = ask.environment()
        right = []
        for index, sample in enumerate(group):
            reward = sample.reward
            if (number, index) in said:
                reward = environment.reward(Outcome(said[number, index]))
            right.append(reward.correct is True)
        found.append(fmean(right))
    return found


def complete(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], seed: int = 0
) -> list[str]:
    """What follows each prompt up to a stop token, at temperature 1."""
    stops = frozenset(stop_ids(tokenizer))
    engine = Engine(model, latency_target=None, max_running=64)
    ids: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        params = SamplingParams(
            temperature=1.0, seed=seed + number, max_tokens=ANSWER, stop_ids=stops
        )
        ids[engine.submit(prompt, params)] = []
    while engine.has_work():
        for token in engine.step():
            if token.token_id not in stops:
                ids[token.request_id].append(token.token_id)
    engine.close()
    return [tokenizer.decode(found) for found in ids.values()]
