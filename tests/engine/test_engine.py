"""The engine: prefill in chunks, decode, batching and preemption all give what one forward pass
gives.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from amounts import thorough

from ossia import checkpoint
from ossia.batch import Batch
from ossia.config import ModelConfig
from ossia.engine import Engine, SamplingParams, kv
from ossia.engine.runner import hidden_in_chunks
from ossia.errors import RequestError
from ossia.kernels import not_compiled
from ossia.model import Transformer
from ossia.model.native import Precision, make_native

ONES = 120 if thorough() else 20  # tokens that come one by one
GREEDY = SamplingParams(temperature=0, max_tokens=12)


def small_model(seed: int = 0, **change: object) -> Transformer:
    config = replace(
        ModelConfig.preset("nano"), num_hidden_layers=4, layer_types=(), hidden_size=64,
        intermediate_size=32,
        num_experts=5, vocab_size=97, sliding_window=7, initial_context_length=64,
        max_context_length=512,
        rope_ntk_beta=4.0, **change,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(seed)
    rng = torch.Generator().manual_seed(seed)
    # away from initialisation (uneven experts, sinks that matter), yet well-conditioned: with twice
    # this noise one ulp in an embedding moves the logits by 3e-5, and nothing could be compared to
    # 1e-5
    for p in model.parameters():
        p.data += 0.15 * torch.randn(p.shape, generator=rng)
    return model.requires_grad_(False).eval()


def random_ids(count: int, seed: int) -> list[int]:
    return torch.randint(0, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module")
def model() -> Iterator[Transformer]:
    yield small_model()


@pytest.mark.parametrize(
    "chunks",
    [
        [150],
        [7] * 20 + [10],
        [*[1] * ONES, 150 - ONES],
        [150 - ONES, *[1] * ONES],
        [6, 7, 8, 1, 128],
        [16, 16, 16, 16, 16, 70],
    ],
)
@pytest.mark.parametrize("sink", ["learned", "off_by_one", "none"])
def test_chunks_through_the_cache_equal_one_pass(chunks: list[int], sink: str) -> None:
    model = small_model(seed=1, attention_sink=sink)
    ids = random_ids(150, 5)
    with torch.inference_mode():
        want = model(torch.tensor(ids), Batch.packed([150]))
        got = model.unembed(torch.cat(list(hidden_in_chunks(model, ids, chunks))))
    assert float((got - want).abs().max() / want.abs().max()) < 1e-5


def greedy_by_forward(model: Transformer, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor(ids), Batch.packed([len(ids)]))[-1].argmax()))
    return ids[len(prompt) :]


PROMPTS = [random_ids(n, n) for n in (3, 40, 17, 60, 1, 25, 33, 8)]


@pytest.fixture(scope="module")
def alone(model: Transformer) -> list[list[int]]:
    """The answers to `PROMPTS`, of one forward pass for each token."""
    return [greedy_by_forward(model, prompt, 12) for prompt in PROMPTS]


def run(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[list[int]]:
    ids = [engine.submit(p, params) for p in prompts]
    out: dict[int, list[int]] = {i: [] for i in ids}
    for _ in range(10_000):
        if not engine.has_work():
            return [out[i] for i in ids]
        for token in engine.step():
            out[token.request_id].append(token.token_id)
    raise AssertionError("the engine does not come to an end")


@pytest.mark.parametrize(
    "limits",
    [{}, {"max_batch_tokens": 16}, {"max_running": 2}, {"capacity": 96, "max_batch_tokens": 8}],
    ids=["roomy", "chunked prefill", "two at a time", "preempting"],
)
def test_many_requests_answer_as_if_alone(
    model: Transformer, alone: list[list[int]], limits: dict[str, int]
) -> None:
    engine = Engine(model, **limits)
    free = [pool.available for pool in engine._scheduler.tables.pools.values()]
    assert run(engine, PROMPTS, GREEDY) == alone
    assert free == [pool.available for pool in engine._scheduler.tables.pools.values()], (
        "pages leaked"
    )


def test_window_layers_keep_only_their_window(model: Transformer) -> None:
    engine = Engine(model, max_batch_tokens=32)
    request = engine.submit(random_ids(300, 2), replace(GREEDY, max_tokens=20))
    for _ in range(15):
        engine.step()
    window = model.config.sliding_window
    pages = engine._scheduler.tables.run(request, window).pages
    assert len(pages) <= 2 and len(engine._scheduler.tables.run(request, None).pages) >= 300 // 16


def test_same_seed_same_answer_whoever_else_is_served(model: Transformer) -> None:
    params = SamplingParams(temperature=1.0, seed=7, max_tokens=20)
    prompt = random_ids(9, 1)
    alone = run(Engine(model), [prompt], params)[0]
    crowd = run(Engine(model), [random_ids(30, 8), prompt, random_ids(5, 9)], params)[1]
    other = run(Engine(model), [prompt], replace(params, seed=8))[0]
    assert alone == crowd != other


def test_stop_length_and_abort(model: Transformer) -> None:
    prompt = random_ids(5, 3)
    greedy = greedy_by_forward(model, prompt, 8)
    stop = greedy[3]
    tokens = list(Engine(model).generate(prompt, replace(GREEDY, stop_ids=frozenset({stop}))))
    assert [t.token_id for t in tokens] == greedy[: greedy.index(stop) + 1]
    assert tokens[-1].finish_reason == "stop"
    engine = Engine(model)
    tokens = list(engine.generate(prompt, replace(GREEDY, max_tokens=3)))
    assert [t.finish_reason for t in tokens] == [None, None, "length"]
    cut = engine.generate(prompt, replace(GREEDY, max_tokens=50))
    next(cut)
    cut.close()
    assert not engine.has_work()


def test_interleaved_generators_do_not_steal_tokens(model: Transformer) -> None:
    prompts = [random_ids(6, 1), random_ids(11, 2)]
    engine = Engine(model)
    a, b = (engine.generate(p, GREEDY) for p in prompts)
    pairs = [(x.token_id, y.token_id) for x, y in zip(a, b, strict=True)]
    assert [list(side) for side in zip(*pairs, strict=True)] == [
        greedy_by_forward(model, p, 12) for p in prompts
    ]


def test_the_context_ends_an_answer(model: Transformer) -> None:
    tokens = list(
        Engine(model, capacity=40).generate(random_ids(30, 1), SamplingParams(temperature=0))
    )
    assert len(tokens) == 10 and tokens[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], "empty"),
        ([97], "outside the vocabulary"),
        ([-1], "outside"),
        ([1] * 512, "context holds 512"),
    ],
)
def test_requests_that_cannot_run_are_refused(
    model: Transformer, prompt: list[int], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        Engine(model).submit(prompt, GREEDY)


def steps_to_first_token(engine: Engine, size: int, seed: int) -> int:
    """Of a prompt that nobody has sent before, for a caller who sends nothing else."""
    params = replace(GREEDY, max_tokens=1)
    request = engine.submit(random_ids(size, seed), params, caller="light")
    for steps in range(1, 10_000):
        if any(token.request_id == request for token in engine.step()):
            return steps
    raise AssertionError("no token")


@pytest.mark.parametrize("size", [3, 100])
def test_a_light_caller_beside_two_hundred_samples_of_another(
    model: Transformer, size: int
) -> None:
    limits = {"max_batch_tokens": 32, "max_running": 8}
    alone = steps_to_first_token(Engine(model, **limits), size, 1)
    engine = Engine(model, **limits)
    for n in range(2):
        prompt = random_ids(30, 10 + n)
        first = engine.submit(prompt, replace(GREEDY, max_tokens=100), caller="heavy")
        for stream in range(1, 100):
            params = replace(GREEDY, max_tokens=100)
            engine.submit(prompt, params, sample_of=first, stream=stream, caller="heavy")
    for _ in range(10):
        engine.step()
    assert engine.stats().waiting > 100
    for seed in (2, 3):
        assert steps_to_first_token(engine, size, seed) <= 3 * alone


def compiled_model(folder: Path) -> Transformer:
    if not_compiled():
        pytest.skip(f"needs the compiled kernels: {not_compiled()}")
    checkpoint.write_random(small_model().config, folder / "model", seed=1)
    model = checkpoint.load(folder / "model")
    make_native(model, Precision())
    return model


@pytest.mark.parametrize("compiled", [False, True])
def test_an_engine_that_rests_gives_memory_back_and_answers_as_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiled: bool
) -> None:
    model = compiled_model(tmp_path) if compiled else small_model()
    engine = Engine(model, capacity=512)
    prompts = [random_ids(100, seed) for seed in range(3)]

    def answers() -> list[list[int]]:
        said = [engine.generate(prompt, GREEDY) for prompt in prompts]
        return [[token.token_id for token in each] for each in said]

    given: list[object] = []
    monkeypatch.setattr(kv, "drop_resident", lambda view: given.append(view.zero_()))
    want = answers()
    engine.submit(prompts[0], GREEDY)
    engine.step()
    engine.rest()
    assert not given, "a request runs"
    while engine.has_work():
        engine.step()
    engine.rest()
    assert given and engine.prefix_cache is not None
    tables = engine._scheduler.tables
    tables.check(engine.prefix_cache.check())
    assert engine.prefix_cache.cost > 0, "the last sequence stays"
    assert sum(pool.kept for pool in tables.pools.values()) <= 2 * 112 // 16
    given.clear()
    engine.rest()
    assert not given
    assert answers() == want
    hits = engine.prefix_cache.tokens_reused
    engine.rest()
    assert given and answers()[2] == want[2] and engine.prefix_cache.tokens_reused > hits


def flags_at(address: int) -> set[str]:
    """Of the mapping that an address of this process is in."""
    is_there = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if "-" in name:
            begin, end = (int(part, 16) for part in name.split("-"))
            is_there = begin <= address < end
        elif is_there and name == "VmFlags:":
            return set(rest.split())
    raise AssertionError("no mapping")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_what_stays_at_rest_does_not_grow_to_huge_pages_again(tmp_path: Path) -> None:
    engine = Engine(compiled_model(tmp_path), capacity=512)
    layers = engine._runner.cache.kv.layers
    address = max(layers, key=lambda layer: layer.memory.numel()).memory.data_ptr()
    if "hg" not in flags_at(address):
        pytest.skip("the system has no huge pages")
    for _ in range(2):
        list(engine.generate(random_ids(40, 1), GREEDY))
        assert "hg" in flags_at(address)
        engine.rest()
        assert "nh" in flags_at(address)
