"""An exact engine reports, of every token, the log-probability that training computes: the same
bits, whatever shared its batches.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
import torch
from tiny_model import environment

from ossia import kernels
from ossia.config import ModelConfig
from ossia.engine import Engine, SamplingParams
from ossia.engine.exact import shapes
from ossia.engine.recheck import Reported, differences, recheck
from ossia.engine.speculate import Speculation
from ossia.errors import ConfigError, OssiaError, RequestError, TrainingError
from ossia.kernels import products
from ossia.model import Transformer
from ossia.train.settings import Lora
from ossia.train.weights.lora import attach
from ossia.train.weights.quantization import set_fake_quantize

if kernels.not_compiled():
    pytest.skip(f"needs the compiled kernels: {kernels.not_compiled()}", allow_module_level=True)

MICRO = ModelConfig.preset("micro")
TEMPERATURE = 0.7


def live(seed: int = 0, config: ModelConfig = MICRO) -> Transformer:
    """In training, with logits that are far enough apart for repetitions and guesses."""
    model = Transformer(config).train()
    model.init_weights(seed)
    with torch.no_grad():
        model.unembedding.weight.mul_(2)
    return model


@pytest.fixture(scope="module")
def model() -> Transformer:
    return live()


@pytest.fixture(autouse=True)
def no_holder_is_left() -> Iterator[None]:
    yield
    assert products._alike is None


@dataclass(frozen=True)
class Job:
    prompts: int = 5
    samples: int = 2
    tokens: int = 12


def prompts_of(job: Job, vocabulary: int) -> list[list[int]]:
    """Some begin alike, for the prefix cache; one is a single token."""
    rng = Random(3)
    beginning = [rng.randrange(vocabulary) for _ in range(40)]
    prompts = [[5]]
    for n in range(1, job.prompts):
        rest = [rng.randrange(vocabulary) for _ in range(rng.randint(1, 30))]
        prompts.append((beginning if n % 2 else []) + rest)
    return prompts


def sample(engine: Engine, job: Job, salt: str = "") -> list[Reported]:
    """Groups of samples with lives of different lengths, all at once."""
    owners: dict[int, list[int]] = {}
    ids: list[list[int]] = []
    logprobs: list[list[float | None]] = []
    for n, prompt in enumerate(prompts_of(job, engine.config.vocab_size)):
        first: int | None = None
        for stream in range(job.samples):
            params = SamplingParams(
                temperature=TEMPERATURE, seed=n, max_tokens=job.tokens - 3 * stream
            )
            one = engine.submit(prompt, params, sample_of=first, stream=stream, cache_salt=salt)
            first = one if first is None else first
            owners[one] = [len(ids)]
            ids.append(list(prompt))
            logprobs.append([None] * len(prompt))
    while engine.has_work():
        for token in engine.step():
            (at,) = owners[token.request_id]
            ids[at].append(token.token_id)
            logprobs[at].append(token.logprob)
    assert not engine.failed
    return [Reported(a, b) for a, b in zip(ids, logprobs, strict=True)]


def sampled_by(model: Transformer, job: Job, **settings: Any) -> tuple[list[Reported], Engine]:
    engine = Engine(model, exact=True, latency_target=None, **settings)
    try:
        return sample(engine, job), engine
    finally:
        engine.close()


def check(model: Transformer, found: list[Reported]) -> int:
    """The number of sampled tokens, none of which differs. Products need not be held any more for
    packed batches this large; the engine's own way is taken for the unembedding's last rows.
    """
    products.hold_rows_alike(way_of(model))
    try:
        count, differing = differences(model, found, TEMPERATURE)
    finally:
        products.release_rows_alike()
    assert not differing, f"{len(differing)} of {count}: {differing[0]}"
    return count


def way_of(model: Transformer) -> str:
    engine = Engine(model, exact=True)
    assert products._alike is not None
    way = products._alike.way
    engine.close()
    return way


WAYS: dict[str, dict[str, Any]] = {
    "one after the other": {"max_running": 1},
    "small chunks": {"max_batch_tokens": 7},
    "neither cache nor guesses": {"prefix_cache": False, "speculate": False},
    "little memory": {"capacity": 128, "prefix_cache": False, "max_running": 8},
}


def test_no_bit_differs_however_tokens_are_batched(model: Transformer) -> None:
    job = Job()
    plain, _ = sampled_by(model, job)
    count = check(model, plain)
    assert count == sum(len(one.ids) for one in plain) - sum(
        job.samples * len(prompt) for prompt in prompts_of(job, MICRO.vocab_size)
    )
    for name, settings in WAYS.items():
        found, engine = sampled_by(model, job, **settings)
        assert found == plain, name
        if name == "little memory":
            assert engine.stats().preemptions > 0
    token_by_token, _ = sampled_by(model, replace(job, prompts=2, samples=1), max_batch_tokens=1)
    assert token_by_token == plain[: 2 * job.samples : job.samples]
    assert sum(check(model, [one]) for one in plain[:4]) == check(model, plain[:4])


def test_guesses_are_made_and_held(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a text that repeats itself; some guesses are right, some wrong."""
    monkeypatch.setattr(Speculation, "plan", lambda self, requests: 3)
    engine = Engine(model, exact=True, latency_target=None)
    pattern = [1, 2, 3, 4, 5, 6] * 8
    params = SamplingParams(temperature=0.1, seed=1, max_tokens=60)
    ids, logprobs = list(pattern), [None] * len(pattern)
    steps: list[int] = []
    engine.submit(pattern, params)
    while engine.has_work():
        tokens = engine.step()
        steps.append(len(tokens))
        ids += [token.token_id for token in tokens]
        logprobs += [token.logprob for token in tokens]
    count, differing = differences(model, [Reported(ids, logprobs)], 0.1)
    engine.close()
    assert (count, differing) == (60, [])
    assert 1 in steps[1:], "no guess was ever wrong"
    assert max(steps) > 1, "no guess was ever right"


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_bit(model: Transformer, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, _ = sampled_by(model, Job(samples=1))
    finally:
        torch.set_num_threads(before)
    check(model, found)


def test_training_itself_has_these_numbers(model: Transformer) -> None:
    """With a graph, and in parts; not only the check's own forward pass."""
    from ossia.data.samples import Answer, Group, packed_groups
    from ossia.kernels.logprobs import logprobs
    from ossia.train.step import hidden

    engine = Engine(model, exact=True, latency_target=None)
    job = Job(prompts=3)
    found = sample(engine, job)
    groups, wanted = [], []
    for n, prompt in enumerate(prompts_of(job, MICRO.vocab_size)):
        answers = []
        for one in found[n * job.samples : (n + 1) * job.samples]:
            numbers = one.logprobs[len(prompt) :]
            answers.append(Answer(one.ids[len(prompt) :], {"behaviour": numbers}))
        groups.append(Group(prompt, answers))
    for share in (False, True):
        batch = packed_groups(groups, share)
        x_RD, _ = hidden(model, batch)
        target = torch.tensor(batch.targets)
        got = logprobs(x_RD, model.unembedding.weight, target, TEMPERATURE)
        assert got.requires_grad
        wanted = torch.tensor(batch.streams["behaviour"])
        assert torch.equal(got.detach(), wanted)
    engine.close()


def test_prompt_logprobs_are_the_same_numbers(model: Transformer) -> None:
    engine = Engine(model, exact=True, max_batch_tokens=16)
    params = SamplingParams(seed=1, max_tokens=40)
    prompt = prompts_of(Job(), MICRO.vocab_size)[3]
    tokens = list(engine.generate(prompt, params))
    ids = prompt + [token.token_id for token in tokens]
    scored = [one for part in engine.prompt_logprobs(ids) for one in part]
    engine.close()
    assert [one.logprob for one in scored[len(prompt) - 1 :]] == [t.logprob for t in tokens]


def one_row_is_different(model: Transformer) -> bool:
    """As the library multiplies it, here."""
    multiply = products.PRODUCTS[way_of(model)]
    for inputs, outputs in shapes(model):
        x, w = torch.randn(8, inputs), torch.randn(outputs, inputs)
        if not torch.equal(multiply(x[:1], w.T, None), multiply(x, w.T, None)[:1]):
            return True
    return False


def test_one_row_products_as_they_are_would_be_found(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not one_row_is_different(model):
        pytest.skip("this CPU's products of one row have the bits of those of many")
    monkeypatch.setattr(products, "FEWEST_ROWS", 1)
    found, _ = sampled_by(model, Job(samples=1), max_running=1, speculate=False)
    monkeypatch.undo()
    products.hold_rows_alike(way_of(model))
    _, differing = differences(model, found, TEMPERATURE)
    products.release_rows_alike()
    assert differing


def test_low_rank_changes_and_quantization_are_rolled_out_as_trained() -> None:
    """Whatever the forward of training sees: rounded experts, frozen weights and their changes."""
    quantized = live()
    set_fake_quantize(quantized, True)
    changed = attach(live(), Lora(rank=4))
    without_experts = attach(live(), Lora(rank=4, experts=False))
    for one in (changed, without_experts):
        with torch.no_grad():
            for name, p in one.named_parameters():
                if name.endswith("lora_b"):
                    p.normal_(0, 0.1)
    # as a published checkpoint has them: norms, sinks and the rest, frozen in bfloat16
    frozen = attach(live().requires_grad_(False).to(torch.bfloat16), Lora(rank=4))
    for one in (quantized, changed, without_experts, frozen):
        found, _ = sampled_by(one, Job(prompts=3, samples=1), max_running=2)
        check(one, found)


def test_after_a_change_of_weights() -> None:
    """Old pages serve no longer: by `flush`, or by another salt; without either the check fails."""
    model = live()
    engine = Engine(model, exact=True, latency_target=None)
    job = Job(prompts=4, samples=1)

    def change() -> None:
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.03)

    recheck(model, sample(engine, job, "0"), TEMPERATURE)
    change()
    recheck(model, sample(engine, job, "1"), TEMPERATURE)
    change()
    engine.flush()
    assert engine.stats().kv_cached == 0
    recheck(model, sample(engine, job, "1"), TEMPERATURE)
    change()
    with pytest.raises(TrainingError, match=r"of sequence \d+ \(ids .*engine -\d.*, trainer -\d"):
        recheck(model, sample(engine, job, "1"), TEMPERATURE)
    engine.close()


def test_the_check_takes_as_many_tokens_as_it_is_told(model: Transformer) -> None:
    found, _ = sampled_by(model, Job())
    products.hold_rows_alike(way_of(model))
    assert 24 <= recheck(model, found, TEMPERATURE, tokens=24) < 24 + 12
    assert recheck(model, found, TEMPERATURE, tokens=10**6) == check(model, found)
    assert recheck(model, [], TEMPERATURE) == 0
    products.release_rows_alike()


# ---- refusals ----


def bad(model: Transformer, name: str) -> Transformer:
    match name:
        case "bfloat16":
            model.compute_dtype = torch.bfloat16
        case "hyper.compile":
            model.norm.forward = lambda x: x  # type: ignore[method-assign]
        case "capacity":
            model.layers[0].moe.capacity = 1.5
        case "compiled leaves":
            model.compiled = True
        case "spread over processes":
            model.norm.scale.device_mesh = None
        case "packed for inference":
            return Transformer(MICRO, experts="packed")
        case "head_dim":
            return Transformer(replace(MICRO, head_dim=8))
    return model


@pytest.mark.parametrize(
    "name",
    [
        "bfloat16",
        "hyper.compile",
        "capacity",
        "compiled leaves",
        "spread over processes",
        "packed for inference",
        "head_dim",
    ],
)
def test_models_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"exact rollouts are not possible: .*{name}"):
        Engine(bad(live(), name), exact=True)


def test_without_the_compiled_kernels(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSSIA_KERNELS", "reference")
    with pytest.raises(ConfigError, match="OSSIA_KERNELS=reference"):
        Engine(model, exact=True)


def test_on_another_device() -> None:
    with torch.device("meta"):
        model = Transformer(MICRO)
    with pytest.raises(ConfigError, match="the weights are on meta"):
        Engine(model, exact=True)


def test_a_shape_whose_rows_differ_is_named(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alike(way: str, inputs: int, outputs: int, threads: int) -> bool:
        return (inputs, outputs) != (64, 512)

    monkeypatch.setattr(products, "rows_are_alike", alike)
    with pytest.raises(ConfigError, match=r"other rows here: \[M, 64\] x \[64, 512\] by "):
        Engine(model, exact=True)


def test_the_shapes_of_all_products() -> None:
    """The published form of experts holds the same matrices; low-rank changes add their own."""
    wanted = [(64, 8), (64, 32), (64, 64), (64, 128), (64, 512)]
    assert shapes(Transformer(MICRO)) == shapes(Transformer(MICRO, experts="packed")) == wanted
    assert {(64, 4), (4, 128), (4, 64), (4, 32)} <= {*shapes(attach(live(), Lora(rank=4)))}


def test_the_probe_finds_rows_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(a: torch.Tensor, b: torch.Tensor, bias: Any) -> torch.Tensor:
        return a @ b if len(a) != 5 else (a.double() @ b.double()).float()

    monkeypatch.setitem(products.PRODUCTS, "fragile", fragile)
    assert not products.rows_are_alike("fragile", 300, 17, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 0.9},
        {"top_k": 3},
        {"min_p": 0.1},
        {"min_tokens": 2},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"logit_bias": {3: 1.0}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_changes_the_distribution_is_refused(
    model: Transformer, settings: dict[str, Any]
) -> None:
    engine = Engine(model, exact=True)
    (name,) = settings
    with pytest.raises(RequestError, match=f"{name} must be") as caught:
        engine.submit([1], SamplingParams(**settings))
    assert caught.value.field == name
    engine.close()
    Engine(model).submit([1], SamplingParams(**settings))


def test_grammars_are_refused(model: Transformer) -> None:
    class Anything:
        is_done = False

    engine = Engine(model, exact=True)
    assert not engine.enforces_constraints
    with pytest.raises(RequestError, match="grammar"):
        engine.submit([1], SamplingParams(), Anything())  # type: ignore[arg-type]
    engine.close()


def test_products_are_given_back(model: Transformer) -> None:
    """By `close`, which may come twice, or with the last reference to the engine."""
    first, second = Engine(model, exact=True), Engine(model, exact=True)
    first.close()
    first.close()
    assert products._alike is not None
    other = "torch" if products._alike.way != "torch" else "oneDNN"
    with pytest.raises(OssiaError, match=f"{other} cannot be asked for"):
        products.hold_rows_alike(other)
    del second
    assert products._alike is None


# ---- many tokens ----

SCRIPT = """
import sys; sys.path[:0] = {path!r}
import torch
torch.set_num_threads({threads})
from engine.test_exact import Job, check, live, sampled_by
from ossia.config import ModelConfig
from ossia.kernels import cpu
model = live(1, ModelConfig.preset({preset!r}))
job = Job(prompts={prompts}, samples=8, tokens=60)
found, engine = sampled_by(model, job, max_batch_tokens=512)
print(cpu.isa(), check(model, found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
@pytest.mark.parametrize("threads", [1, 2])
def test_ten_thousand_tokens(isa: str, threads: int) -> None:
    """Of nano's shapes, on every instruction set that this CPU offers."""
    from ossia.kernels import cpu

    if isa not in cpu.offered(cpu.loaded()):
        pytest.skip(f"this CPU does not offer {isa}")
    limits = {"generic": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}
    code = SCRIPT.format(path=sys.path, threads=threads, preset="nano", prompts=27)
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(OSSIA_ISA=isa, ONEDNN_MAX_CPU_ISA=limits[isa]),
    )
    assert not ran.returncode, ran.stderr[-3000:]
    used, count = ran.stdout.split()
    assert used == isa
    assert int(count) >= 10_000
