"""What an engine answers over a model in one process or in several: the same requests for both.

In several, only the first process has an engine; the others compute beside it.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from random import Random
from typing import Any

import device_kernels
import pytest
import torch
from torch import Tensor

from ossia import checkpoint
from ossia.engine import Engine, SamplingParams
from ossia.engine.beside import compute_beside
from ossia.engine.forward import Forward
from ossia.engine.leading import Ended
from ossia.engine.runner import Runner, experts_in_chunks, hidden_in_chunks
from ossia.errors import ProcessLost
from ossia.model import Transformer
from ossia.model.processes import join
from ossia.parts import read_parts

VOCABULARY = 300


def answered(task: dict[str, Any], out: Path) -> None:
    """In `out`: `answers.json`, `logits.pt`, and what each process holds in `bytes-RANK.json`."""
    if "kernels" in task:
        os.environ["OSSIA_KERNELS"] = task["kernels"]
    if task.get("same_bits"):
        device_kernels.rows_alike(pytest.MonkeyPatch())
    spread = join(read_parts(task["parts"]), "cpu") if "parts" in task else None
    model = checkpoint.load(task["model"], "float32", spread=spread)
    rank = 0 if spread is None else spread.rank
    if task.get("kill_at") == rank:
        die_in_a_step()
    (out / f"bytes-{rank}.json").write_text(json.dumps(held(model)))
    try:
        _answered(task, out, model)
    except ProcessLost as error:
        (out / f"lost-{rank}").write_text(str(error))


def die_in_a_step() -> None:
    """The third of this process."""
    compute = Runner.compute
    steps = iter(range(3))

    def dying(self: Runner, forward: Forward, *late: Any) -> Tensor:
        if next(steps) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(self, forward, *late)

    Runner.compute = dying  # type: ignore[method-assign]


def _answered(task: dict[str, Any], out: Path, model: Transformer) -> None:
    spread = model.spread
    if spread is not None and not spread.leads:
        compute_beside(model)
        return
    if task.get("same_bits"):
        (out / "same bits").write_text(str(same_bits(model)))
        if spread is not None:
            spread.tell(Ended())
        return
    found, logits = requests_answered(model, task.get("short", False))
    if spread is not None:
        spread.tell(Ended())
    (out / "answers.json").write_text(json.dumps(found))
    torch.save(logits, out / "logits.pt")


def held(model: Transformer) -> dict[str, int]:
    """Bytes by name, of weights as this process has them."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.nbytes for name, tensor in tensors}


def prompts(short: bool) -> list[list[int]]:
    """Some share a beginning longer than a page; longer than the window and a chunk."""
    rng = Random(0)
    beginning = [rng.randrange(VOCABULARY) for _ in range(37)]
    ends = [[rng.randrange(VOCABULARY) for _ in range(n)] for n in (1, 9, 30)]
    repeated = [5, 6, 7, 8] * 5  # for guesses
    if short:
        return [beginning + ends[0], [3]]
    return [beginning + end for end in ends] + [repeated, [3]]


GREEDY = SamplingParams(temperature=0, max_tokens=10)
DRAWN = SamplingParams(temperature=1.0, top_p=0.9, seed=7, max_tokens=6)


def requests_answered(model: Transformer, short: bool) -> tuple[dict[str, Any], list[Tensor]]:
    """Greedy and drawn, in chunks and batches, on cached prefixes and with guesses: answers by
    name. The logits are of steps without guesses, which depend on the time that steps take.
    """
    logits: list[Tensor] = []
    found: dict[str, Any] = {}
    for guesses in (False, True):
        engine = Engine(
            model, capacity=2048, max_batch_tokens=16, latency_target=None, speculate=guesses
        )
        if not guesses:
            keep_logits(engine, logits)
        for kind, params in (("greedy", GREEDY), ("drawn", DRAWN)):
            asked = [engine.submit(prompt, params) for prompt in prompts(short)]
            tokens: dict[int, list[int]] = {}
            while engine.has_work():
                for token in engine.step():
                    tokens.setdefault(token.request_id, []).append(token.token_id)
            found[f"{kind}, guesses {guesses}"] = [tokens[request] for request in asked]
        found[f"reused, guesses {guesses}"] = engine.stats().reused_tokens
    scored = [token for chunk in engine.prompt_logprobs(prompts(short)[0]) for token in chunk]
    found["scored"] = [token.logprob for token in scored]
    chosen = experts_in_chunks(model, prompts(short)[0], [20, 18])
    found["experts"] = [part.tolist() for part in chosen]
    logits += [model.unembed(x).float() for x in hidden_in_chunks(model, [1, 2, 3, 4], [3, 1])]
    return found, logits


def same_bits(model: Transformer) -> bool:
    """Whether a prompt's answer has the same logits alone, in chunks, and beside others."""
    prompt = [(7 * n) % VOCABULARY for n in range(21)]
    seen = []
    for others, at_once in ((), 64), ((), 11), (([3, 1, 4, 1, 5], [9] * 11), 64):
        engine = Engine(
            model,
            capacity=1024,
            max_batch_tokens=at_once,
            latency_target=None,
            speculate=False,
            same_bits=True,
            prefix_cache=False,
        )
        logits: list[Tensor] = []
        keep_logits(engine, logits)
        for one in (prompt, *others):
            engine.submit(one, SamplingParams(temperature=0, max_tokens=3))
        while engine.has_work():
            engine.step()
        seen.append([rows[0] for rows in logits if len(rows)])
    alone, *rest = seen
    return all(len(other) == len(alone) and all(map(torch.equal, other, alone)) for other in rest)


def keep_logits(engine: Engine, logits: list[Tensor]) -> None:
    run = engine._runner.run

    def spied(*scheduled: Any) -> Tensor:
        rows = run(*scheduled)
        logits.append(rows.clone())
        return rows

    engine._runner.run = spied  # type: ignore[method-assign]
