"""The control of reinforcement learning: as many sampled tokens, all from the seeds, and ordinary
fine-tuning on the answers that would have been rewarded (STaR, arXiv 2203.14465; RFT, arXiv
2308.01825). Copies of a teacher are made in the same way.

Knows the same problems, sampler and prices as the rewards do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from ossia.data.packing import Example, State
from ossia.errors import TrainingError
from ossia.files import replace_file
from ossia.model import Transformer
from ossia.tokenizer import Tokenizer
from ossia.train.rl.asks import Problems
from ossia.train.rl.sampler import Sampler
from ossia.train.rl.settings import Sampling
from ossia.train.rl.worth import priced
from ossia.turn import stop_ids
from ossia.turn.rollout import Sample

KEPT = "kept.jsonl"
COUNTS = "counts.json"


def rewarded(sampling: Sampling) -> Callable[[Sample], bool]:
    """Whether an answer is worth something, its thoughts paid for."""
    return lambda sample: bool(priced(sample, sampling.charged))


def finished(sample: Sample) -> bool:
    """Whether an answer came to its end, right or wrong."""
    return sample.reason == "stop"


def sample(
    model: Transformer,
    tokenizer: Tokenizer,
    problems: Problems,
    sampling: Sampling,
    tokens: int,
    out: Path,
    keep: Callable[[Sample], bool],
) -> None:
    """`kept.jsonl`, those of at least `tokens` sampled tokens that are to be learned from, and
    `counts.json`. What was answered twice is kept twice, as rewards would count it: each different
    answer once would teach the right ones, but not how often which way is right.
    """
    sampler = Sampler(model, tokenizer, stop_ids(tokenizer), sampling)
    worth: list[str] = []
    sampled = 0
    answers = 0
    step = 0
    try:
        while sampled < tokens:
            asks = problems.step(step, range(sampling.groups), None)
            for group in sampler.draw(asks, sampling.samples, version=0):
                for each in group:
                    sampled += each.counts.sampled
                    answers += 1
                    if keep(each):
                        segment = each.segments[0]
                        line = {"prompt": segment.prompt, "ids": segment.ids[len(segment.prompt) :]}
                        worth.append(json.dumps(line))
            step += 1
    finally:
        sampler.close()
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / KEPT, "".join(f"{line}\n" for line in worth))
    different = len(set(worth))
    counts = {"sampled": sampled, "answers": answers, "kept": len(worth), "different": different}
    replace_file(out / COUNTS, json.dumps(counts) + "\n")


def kept(folder: Path) -> list[Example]:
    """Raises `TrainingError` if no answer was worth anything."""
    found = []
    for text in (folder / KEPT).read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        mask = [False] * len(line["prompt"]) + [True] * len(line["ids"])
        found.append(Example([*line["prompt"], *line["ids"]], mask))
    if not found:
        raise TrainingError(
            f"{folder / KEPT}: none of the answers was rewarded, so there is nothing to learn "
            "from: train the seeds for longer, or ask for fewer steps"
        )
    return found


def kept_tokens(folder: Path) -> int:
    return sum(len(example.ids) for example in kept(folder))


def examples(folder: Path, seed: int, state: State) -> Iterator[tuple[Example, State]]:
    """The kept answers, in another order each time; for `train.run.ExamplesFrom`."""
    found = kept(folder)
    index = state or 0
    while True:
        epoch, place = divmod(index, len(found))
        order = list(range(len(found)))
        Random(f"{seed}:{epoch}").shuffle(order)
        for number in order[place:]:
            index += 1
            yield found[number], index
