"""EleutherAI's lm-evaluation-harness on a model in this process, for tasks that compare
probabilities: HellaSwag, PIQA, ARC, MMLU by log-likelihood, perplexities.

    python -m ossia.lm_eval --model ossia --model_args pretrained=nano --tasks hellaswag

Knows a loaded model and the harness's `LM`. What answers in words is not for it: reasoning needs a
conversation, which `ossia serve` and `ossia eval` have.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ossia.errors import RequestError
from ossia.llm import LLM, load

NAME = "ossia"  # as --model has it
IN_WORDS = (
    "generative tasks need a conversation: run them against `ossia serve` with --model "
    "local-chat-completions, see docs/evals.md"
)


class Likelihoods:
    """Log-probabilities of texts. Every text begins with `<|endoftext|>`, as documents do."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        (self._first,) = llm.tokenizer.encode_with_specials("<|endoftext|>")

    def of(self, context: str, continuation: str) -> tuple[float, bool]:
        """Log-probability of a continuation, and whether it is what greedy sampling gives.

        Blanks at the end of the context belong to the continuation, whose first token they are a
        part of.
        """
        kept = context.rstrip()
        moved = context[len(kept) :] + continuation
        before = [self._first, *self._llm.tokenizer.encode(kept)]
        after = self._llm.tokenizer.encode(kept + moved)[len(before) - 1 :]
        return self.of_tokens(before, after)

    def of_tokens(self, before: Sequence[int], after: Sequence[int]) -> tuple[float, bool]:
        """Of tokens after others, of which those that do not fit the context are left out."""
        most = self._llm.config.max_context_length + 1
        ids = [*before, *after][-most:]
        count = min(len(after), len(ids) - 1)
        if not count:
            return 0.0, True
        rows = range(len(ids) - 1 - count, len(ids) - 1)
        logits = self._llm.logits(ids[:-1], rows=rows).astype(np.float64)
        highest = logits.max(axis=1, keepdims=True)
        sums = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
        wanted = np.array(ids[-count:])
        chosen = logits[np.arange(count), wanted]
        is_greedy = bool((logits.argmax(axis=1) == wanted).all())
        return float((chosen - sums).sum()), is_greedy

    def of_text(self, text: str) -> float:
        """Of all of a text, in windows that do not overlap; each is told the token before it."""
        ids = [self._first, *self._llm.tokenizer.encode(text)]
        step = self._llm.config.max_context_length
        edges = [*range(0, len(ids) - 1, step), len(ids) - 1]
        total = 0.0
        for begin, end in pairwise(edges):
            value, _ = self.of_tokens(ids[begin : begin + 1], ids[begin + 1 : end + 1])
            total += value
        return total


def register() -> None:
    """Make the harness know `--model ossia`. Raises `RequestError` if it is not installed."""
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError as error:
        message = "lm-evaluation-harness is missing: pip install 'ossia[lm-eval]'"
        raise RequestError(message) from error

    @register_model(NAME)
    class Ossia(LM):  # type: ignore[misc, unused-ignore]
        """`pretrained`: a name as `ossia.load` takes it; other arguments go there, too."""

        def __init__(self, pretrained: str = "nano", **options: Any) -> None:
            super().__init__()
            for unused in ("batch_size", "max_batch_size", "device"):
                options.pop(unused, None)
            self._likelihoods = Likelihoods(load(pretrained, **options))

        def loglikelihood(
            self, requests: Iterable[Any], disable_tqdm: bool = False
        ) -> list[tuple[float, bool]]:
            return [self._likelihoods.of(*request.args) for request in requests]

        def loglikelihood_rolling(
            self, requests: Iterable[Any], disable_tqdm: bool = False
        ) -> list[float]:
            return [self._likelihoods.of_text(request.args[0]) for request in requests]

        def generate_until(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[str]:
            raise RequestError(IN_WORDS)


def main() -> None:
    """The harness's own command line, with our model in it."""
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    try:
        main()
    except RequestError as error:
        sys.exit(f"ossia: {error}")
