"""What `ossia bench` measures: the machine's ceilings, each kernel alone, then prompts and
decoding, alone and in a crowd.

A model's phases go through the engine, as an answer does: scheduling, forward, sampling. Prompts
are random ids, so that tokens are routed to many experts. Ceilings are measured before and after in
the same run, because a shared machine's change; each speed is given with its share of the bound
that they imply.

    kernels   see kernels/cpu/shares.py
    decode    bytes read per step (chosen experts, dense weights, keys and values)
              / measured read bandwidth
    prefill   operations per token / measured peak of the dot products it is computed in
"""

from __future__ import annotations

import os
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ossia.commands.display import in_columns
from ossia.commands.machine import Others
from ossia.config import ModelConfig
from ossia.engine import Engine, SamplingParams
from ossia.errors import RequestError
from ossia.kernels import cpu
from ossia.kernels.cpu import shares
from ossia.llm import LLM

Progress = Callable[[str], object]
SPEEDS = ("prefill_512", "prefill_2048", "decode_0", "decode_4096", "batch_8", "batch_16")
PHASES = ("kernels_1t", *SPEEDS)
PHASE = re.compile(r"kernels_\d{1,4}t|(prefill|decode|batch)_\d{1,7}")
DECODED = 32  # tokens a repetition
SHORT = 16  # tokens of the prompts before a batch


def check(phases: Sequence[str]) -> None:
    """Raises `RequestError` for a phase that does not exist."""
    for phase in phases:
        if not PHASE.fullmatch(phase) or _is_empty(phase):
            raise RequestError(
                f"there is no phase {phase!r}; phases are kernels_1t (one thread), prefill_512, "
                "decode_0, batch_8 and the like"
            )


def _is_empty(phase: str) -> bool:
    """Whether nothing would be measured: only a stream may begin after no tokens."""
    kind, number = _parts(phase)
    return number == 0 and kind != "decode"


def _parts(phase: str) -> tuple[str, int]:
    """ "decode_4096" -> its kind, its number; "kernels_2t": 2, threads."""
    kind, _, number = phase.partition("_")
    return kind, int(number.removesuffix("t"))


def fitting(llm: LLM, phases: Sequence[str], repetitions: int) -> tuple[str, ...]:
    """Those for which the model's context is long enough."""
    after = DECODED * repetitions + 2
    found = []
    for phase in phases:
        kind, number = _parts(phase)
        lengths = {
            "prefill": number + 1,
            "decode": max(number, 1) + after,
            "batch": SHORT + after,
        }
        if lengths.get(kind, 0) <= llm.config.max_context_length:
            found.append(phase)
    return tuple(found)


def run(
    llm: LLM,
    phases: Sequence[str] = PHASES,
    repetitions: int = 3,
    tell: Progress = lambda what: None,
) -> dict[str, Any]:
    """What was measured, as a JSON object.

    `phases`: kernels_Nt (N: threads), prefill_N, decode_N (N: depth), batch_N (N: streams). Under a
    phase's name: tokens per second, a list of `repetitions` each; of kernels a list of
    `shares.Share` as objects. `bounds`: what the ceilings of this run allow; `ceilings`: before and
    after; `isa`: the instruction set that they and the kernels are of; `warnings`: sentences;
    `others`: processors that other programs used. Raises `RequestError` where there is nothing to
    measure.
    """
    _check_compiled(llm)
    others = Others()
    began = time.process_time()
    found: dict[str, Any] = {"isa": cpu.isa(), "warnings": []}
    tell("machine")
    promotion = llm.serving.promotion
    memory = None
    if promotion is not None:
        memory = promotion.memory  # a gigabyte of its own would count as the model's
    before = cpu.ceilings(memory=memory)
    for phase in phases:
        kind, number = _parts(phase)
        tell(phase)
        if kind == "kernels":
            measured = kernels(number)
            found[phase] = [shares.as_dict(one) for one in measured]
            found["warnings"] += shares.warnings(measured, cpu.isa())
        else:
            measure = {"prefill": prefill, "decode": decode, "batch": batch}[kind]
            found[phase] = measure(llm, number, repetitions)
    after = cpu.ceilings(memory=memory)
    ceiling = _larger(before, after)
    of_the_model = [phase for phase in phases if not phase.startswith("kernels")]
    found["bounds"] = {phase: bound(llm, phase, ceiling) for phase in of_the_model}
    found["ceilings"] = {"before": before, "after": after}
    found["resident_bytes"] = resident_bytes()
    found["others"] = others.processors(time.process_time() - began)
    return found


def _check_compiled(llm: LLM) -> None:
    """Raises `RequestError` unless the compiled kernels serve, with the weights in memory."""
    if llm.serving.why_not is not None:
        raise RequestError(
            "ossia bench measures the compiled kernels, which do not serve here: "
            f"{llm.serving.why_not}"
        )
    promotion = llm.serving.promotion
    if promotion is not None and not (promotion.wait() and promotion.error is None):
        raise RequestError(f"the weights could not be packed: {promotion.error}")


def _larger(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: max(before[name], after[name]) for name in before}


def kernels(threads: int) -> list[shares.Share]:
    """Every kernel, compared with ceilings of so many threads, measured before and after."""
    chosen = shares.kernels()
    before = cpu.ceilings(threads=threads)
    measured = list(shares.measure(chosen, threads))
    after = cpu.ceilings(threads=threads)
    return shares.shares(chosen, measured, _larger(before, after))


def prefill(llm: LLM, tokens: int, repetitions: int) -> list[float]:
    """A prompt of so many tokens, read in one request; nothing of it is cached."""
    speeds = []
    for n in range(repetitions):
        engine = _engine(llm, tokens + 1, 1, tokens)
        engine.submit(_ids(llm.config, tokens, n), SamplingParams(temperature=0, max_tokens=1))
        began = time.perf_counter()
        while engine.has_work():
            engine.step()
        speeds.append(tokens / (time.perf_counter() - began))
    return speeds


def decode(llm: LLM, depth: int, repetitions: int) -> list[float]:
    """One stream after a prompt of `depth` tokens."""
    return _decode(llm, max(depth, 1), 1, repetitions)


def batch(llm: LLM, streams: int, repetitions: int) -> list[float]:
    """So many streams together, each after a short prompt: tokens of all of them per second."""
    return _decode(llm, SHORT, streams, repetitions)


def _decode(llm: LLM, depth: int, streams: int, repetitions: int) -> list[float]:
    total = DECODED * repetitions + 2
    engine = _engine(llm, (depth + total) * streams, streams, 2048)
    params = SamplingParams(temperature=1, seed=1, max_tokens=total)
    for n in range(streams):
        engine.submit(_ids(llm.config, depth, n), params)
    while len(engine.step()) < streams:  # until all prompts are read
        pass
    speeds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        got = sum(len(engine.step()) for _ in range(DECODED))
        assert got == DECODED * streams
        speeds.append(got / (time.perf_counter() - began))
    return speeds


def _engine(llm: LLM, capacity: int, streams: int, batch_tokens: int) -> Engine:
    return llm.new_engine(
        capacity=capacity + 64 * streams,
        max_running=streams,
        max_batch_tokens=batch_tokens,
        prefix_cache=False,
        speculate=False,
        latency_target=None,
    )


def _ids(config: ModelConfig, count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(config.vocab_size) for _ in range(count)]


def bound(llm: LLM, phase: str, ceiling: dict[str, float]) -> float:
    """Tokens per second that the machine would allow if nothing but the dominant cost took time."""
    kind, number = _parts(phase)
    if kind == "prefill":
        return _compute_bound(llm, number, ceiling)
    streams = 1
    depth = number
    if kind == "batch":
        streams = number
        depth = SHORT
    seconds = step_bytes(llm, streams, depth) / (ceiling["read_gb_s"] * 1e9)
    return min(streams / seconds, _step_compute_bound(llm, ceiling))


def step_bytes(llm: LLM, streams: int, depth: int) -> float:
    """Bytes that one decoding step has to read: experts that at least one of the streams is
    expected to choose, dense weights, keys and values.
    """
    c = llm.config
    untouched = (1 - c.experts_per_token / c.num_experts) ** streams
    experts = c.num_experts * (1 - untouched) * c.num_hidden_layers
    expert_bytes = 3 * c.hidden_size * c.intermediate_size * 17 / 32
    attention = c.num_hidden_layers * c.hidden_size * 2 * (c.q_dim + c.kv_dim)
    dense = attention + c.vocab_size * c.hidden_size
    weight_bytes = {"bf16": 2.0, "int8": 1 + 2 / 64}[llm.serving.precision.dense]
    seen = sum(min(c.window(n) or depth, depth) for n in range(c.num_hidden_layers))
    cache_bytes = seen * 4 * c.kv_dim
    return experts * expert_bytes + dense * weight_bytes + streams * cache_bytes


def _compute_bound(llm: LLM, tokens: int, ceiling: dict[str, float]) -> float:
    """For a prompt: weights, and scores in bfloat16. The unembedding, once a prompt, is nothing."""
    c = llm.config
    seen = sum(min(c.window(n) or tokens, tokens / 2) for n in range(c.num_hidden_layers))
    scores = 4 * seen * c.q_dim / (ceiling["bf16_gflop_s"] * 1e9)
    return 1 / (_weights_seconds(llm, ceiling) + scores)


def _step_compute_bound(llm: LLM, ceiling: dict[str, float]) -> float:
    """For decoding: weights and the unembedding. Tokens per second of all streams together,
    however many.
    """
    c = llm.config
    peak = _peak(ceiling, "dense", llm.serving.precision.dense)
    unembedding = 2 * c.vocab_size * c.hidden_size / peak
    return 1 / (_weights_seconds(llm, ceiling) + unembedding)


def _weights_seconds(llm: LLM, ceiling: dict[str, float]) -> float:
    """A token's operations with experts and dense weights, at the peaks of their precisions."""
    c = llm.config
    precision = llm.serving.precision
    experts = 6 * c.hidden_size * c.intermediate_size * c.experts_per_token * c.num_hidden_layers
    dense = 4 * c.hidden_size * (c.q_dim + c.kv_dim) * c.num_hidden_layers
    expert_seconds = experts / _peak(ceiling, "experts", precision.activations)
    return expert_seconds + dense / _peak(ceiling, "dense", precision.dense)


def _peak(ceiling: dict[str, float], weights: str, kind: str) -> float:
    """Operations a second. Products with the codes of experts fit into 16 bits, those of dense
    weights do not.
    """
    if kind == "bf16":
        return ceiling["bf16_gflop_s"] * 1e9
    name = "int8_small_gop_s" if weights == "experts" else "int8_gop_s"
    return ceiling[name] * 1e9


def resident_bytes() -> int:
    """Of this process, as the operating system counts them now."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def as_text(found: dict[str, Any]) -> str:
    """Tables: ceilings, kernels, and of each phase median, minimum and maximum in tokens per second
    and the share of the bound that the median is. Warnings are not in it.
    """
    lines = [*_machine_lines(found), *_kernel_lines(found)]
    if found["bounds"]:
        lines += _speed_lines(found)
    lines.append(f"\nresident memory {found['resident_bytes'] / 1e9:.2f} GB")
    return "\n".join(lines)


def _machine_lines(found: dict[str, Any]) -> Iterator[str]:
    others = f"other programs used {found['others']:.2f} processors meanwhile"
    yield f"instruction set {found['isa']}; {others}"
    after = found["ceilings"]["after"]
    rows = [("", "before", "after")]
    for name, before in found["ceilings"]["before"].items():
        rows.append((name, f"{before:.1f}", f"{after[name]:.1f}"))
    yield from in_columns(rows, indent=0, right=2)


def _kernel_lines(found: dict[str, Any]) -> Iterator[str]:
    about = "share of the bound that memory (m) or arithmetic (a) sets, and a call's time"
    for phase, measured in found.items():
        if phase.startswith("kernels"):
            threads = phase.partition("_")[2]
            yield ""
            yield f"{about}; {'one thread' if threads == '1' else f'{threads} threads'}"
            yield shares.as_text([shares.from_dict(one) for one in measured])


def _speed_lines(found: dict[str, Any]) -> Iterator[str]:
    rows = [("tokens/s", "median", "min", "max", "bound", "share")]
    for phase, limit in found["bounds"].items():
        speeds = found[phase]
        median = statistics.median(speeds)
        measured = [f"{speed:.2f}" for speed in (median, min(speeds), max(speeds))]
        rows.append((phase, *measured, f"{limit:.1f}", f"{median / limit:.0%}"))
    yield ""
    yield from in_columns(rows, indent=0, right=5)
