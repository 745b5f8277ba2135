"""A whole model of random weights: steps, prompts, the engine around them, and its bits."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from gpu_parts import bounds
from gpu_parts.clock import Bench, Row
from ossia.config import PAGE, ModelConfig
from ossia.engine import Engine
from ossia.engine.budget import make_tables, page_bytes
from ossia.engine.request import Request, SamplingParams
from ossia.engine.runner import Runner
from ossia.engine.scheduler import Work
from ossia.model import Transformer

STEP_MEMORY = 4 << 30  # bytes that a step may take beside weights and cache
PROMPT = 9


def random_model(config: ModelConfig, device: torch.device) -> Transformer:
    """Made on the device; nothing is written or read."""
    with torch.device("meta"):
        model = Transformer(config, "packed")
    model = model.to(torch.bfloat16).to_empty(device=device).requires_grad_(False).eval()
    rng = torch.Generator(device=device).manual_seed(0)
    for name, weight in model.named_parameters():
        model.init_weight(name, weight, rng)
    for name, buffer in model.named_buffers():
        low, high = (0, 256) if name.endswith("blocks") else (112, 116)
        buffer.copy_(torch.randint(low, high, buffer.shape, generator=rng, device=device))
    model.compute_dtype = torch.bfloat16
    model.kv_kind = "bf16"
    return model


def runner_at(
    model: Transformer,
    rows: int,
    depth: int,
    chunk: int,
    graphs: bool = False,
    same_bits: bool = False,
) -> tuple[Runner, list[Work]]:
    """`rows` sequences that have `depth` tokens in the cache, `chunk` new ones each, and room for
    one more.
    """
    tokens = rows * (depth + chunk + PAGE)
    tables = make_tables(model.config, tokens, rows, rows * chunk, snapshots=False)
    runner = Runner(model, tables, same_bits=same_bits, graph_rows=rows if graphs else 0)
    for memory in runner.cache.layers:
        memory.zero_()
    works = []
    for n in range(rows):
        ids = [(7 * n + place) % model.config.vocab_size for place in range(depth + chunk)]
        request = Request(n, tuple(ids), SamplingParams(), limit=2)
        request.computed = depth
        tables.grow(n, 0, depth + chunk + 1)
        works.append(Work(request, chunk))
    return runner, works


def measure_decode(
    bench: Bench, name: str, model: Transformer, rows: int, depth: int, **options: bool
) -> None:
    costs = page_bytes(model.config, model.kv_kind)
    taken = rows * (depth + 2 * PAGE) // PAGE * sum(costs.values())
    if taken + STEP_MEMORY > bench.free_memory():
        bench.allowance.left_out.append(f"decode of {rows} rows at {depth}: memory")
        return
    runner, works = runner_at(model, rows, depth, 1, **options)
    seconds = bench.seconds(lambda: runner.run(works))
    bound = bounds.decode(model.config, rows, depth)
    row = bench.note(f"decode {name}", seconds, bound, rows=rows, depth=depth, **options)
    row["tokens_per_second"] = rows / seconds


def measure_prompt(bench: Bench, name: str, model: Transformer, tokens: int) -> None:
    runner, works = runner_at(model, 1, 0, tokens)
    seconds = bench.seconds(lambda: runner.run(works))
    bound = (0.0, bounds.prefill_operations(model.config, tokens))
    row = bench.note(f"prompt {name}", seconds, bound, rows=tokens)
    row["tokens_per_second"] = tokens / seconds


def measure_first_token(bench: Bench, name: str, model: Transformer, tokens: int) -> None:
    """From a request to its first token, through the engine, draw and reading included."""
    engine = Engine(
        model,
        capacity=2 * tokens,
        max_batch_tokens=8192,
        max_running=1,
        prefix_cache=False,
        latency_target=None,
    )
    prompt = [place % model.config.vocab_size for place in range(tokens)]
    params = SamplingParams(temperature=0, max_tokens=1)
    seconds = bench.seconds(lambda: list(engine.generate(prompt, params)))
    bound = (0.0, bounds.prefill_operations(model.config, tokens))
    bench.note(f"first token {name}", seconds, bound, rows=tokens)


def measure_engine(bench: Bench, name: str, model: Transformer, streams: int, ahead: bool) -> None:
    """Steps of so many answers at once, with all that the host does."""
    answer = bench.sizes.answer
    engine = Engine(
        model,
        capacity=streams * (answer + 2 * PAGE),
        max_running=streams,
        prefix_cache=False,
        latency_target=None,
        speculate=False,
        ahead=ahead,
    )
    params = SamplingParams(temperature=1, seed=0, max_tokens=answer)
    for n in range(streams):
        engine.submit([5 + n % 7, 6, 7], params)
    engine.step()
    engine.step()  # captured, and begun early
    bench.wait()
    began = time.perf_counter()
    tokens = 0
    steps = 0
    while engine.has_work():
        tokens += len(engine.step())
        steps += 1
    bench.wait()
    seconds = (time.perf_counter() - began) / max(1, steps)
    bound = bounds.decode(model.config, streams, answer // 2)
    row = bench.note(f"engine {name}", seconds, bound, rows=streams, ahead=ahead)
    row["tokens_per_second"] = tokens / max(1, steps) / seconds


def logits_after(model: Transformer, rows: int, cut: int, graphs: bool) -> Tensor:
    """[2, V]: of the first of `rows` prompts, in two chunks, and of a token after it."""
    runner, works = runner_at(model, rows, 0, PROMPT, graphs, same_bits=True)
    requests = [work.request for work in works]
    for count in (cut, PROMPT - cut):
        logits = runner.run([Work(request, count) for request in requests])
        for request in requests:
            request.computed += count
    after_prompt = logits[0].clone()
    for request in requests:
        request.generated.append(5)
    logits = runner.run([Work(request, 1) for request in requests])
    return torch.stack([after_prompt, logits[0]])


def same_bits(model: Transformer, rows: int) -> dict[str, bool]:
    """Whether a sequence's logits are the same bits alone and among `rows`, in other chunks, and
    from a graph.
    """
    alone = logits_after(model, 1, PROMPT - 1, False)
    return {
        "among others": torch.equal(alone, logits_after(model, rows, PROMPT - 1, False)),
        "in other chunks": torch.equal(alone, logits_after(model, 1, 3, False)),
        "from a graph": torch.equal(alone, logits_after(model, rows, PROMPT - 1, True)),
    }


def measure_whole(bench: Bench, name: str, config: ModelConfig) -> Row:
    """Everything of a whole model: the bits, and bytes of weights and at most."""
    found: Row = {"same_bits": None}
    before = bench.free_memory()
    model = random_model(config, bench.device)
    found["weight_bytes"] = before - bench.free_memory()
    for rows, depth in bench.sizes.decode:
        for graphs in (True, False):
            if bench.allowance.allows(f"decode of {rows} rows at {depth}"):
                measure_decode(bench, name, model, rows, depth, graphs=graphs)
    if bench.allowance.allows("same bits"):
        rows, _ = bench.sizes.decode[-1]
        measure_decode(bench, name, model, rows, 0, graphs=True, same_bits=False)
        measure_decode(bench, name, model, rows, 0, graphs=True, same_bits=True)
        found["same_bits"] = same_bits(model, bench.sizes.alike)
    for tokens in bench.sizes.prompts:
        if bench.allowance.allows(f"prompt of {tokens}"):
            measure_prompt(bench, name, model, tokens)
            measure_first_token(bench, name, model, tokens)
    for streams in bench.sizes.streams:
        for ahead in (True, False):
            if bench.allowance.allows(f"engine of {streams} streams"):
                measure_engine(bench, name, model, streams, ahead)
    if not bench.is_dry:
        found["most_bytes"] = torch.cuda.max_memory_allocated(bench.device)
    return found
