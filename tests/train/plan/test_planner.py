"""Plans against hand computations, and against what really lies in a process once a model is
spread.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.testing._internal.distributed.fake_pg import FakeStore

from ossia.config import ModelConfig, account
from ossia.errors import ConfigError
from ossia.model import Transformer
from ossia.model.parallel import Meshes, apply, local
from ossia.train.optim import is_matrix
from ossia.train.plan import cost
from ossia.train.plan.layout import (
    BUSIEST,
    MFU,
    PEAK,
    USABLE,
    Hardware,
    Job,
    Traffic,
    kinds,
    lay_out,
)
from ossia.train.plan.planner import plan
from ossia.train.plan.text import as_json, as_text
from ossia.train.settings import Lora, Parallel

SMALL = ModelConfig(
    num_hidden_layers=2, hidden_size=64, intermediate_size=64, num_experts=8, experts_per_token=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=128, sliding_window=8,
    initial_context_length=64, max_context_length=64, rope_theta=100.0, rope_scaling="none",
)  # fmt: skip
BIG = ModelConfig.preset("gpt-oss-120b")
LAYOUTS = [(1, 1, 8, 1), (1, 2, 2, 2), (2, 4, 1, 1), (1, 3, 2, 1)]  # replicate, fsdp, ep, tp


def traffic_of(
    job: Job, gpus: int, layout: Parallel, **more: float
) -> dict[tuple[str, str], Traffic]:
    hardware = replace(Hardware(gpus), **more)  # type: ignore[arg-type]
    return {
        (t.kind, t.what.split("'")[0].split()[-1]): t
        for t in lay_out(job, hardware, layout).traffic
    }


# ---- bytes ---------------------------------------------------------------------------------------


def spread(config: ModelConfig, layout: Sequence[int]) -> dict[str, int]:
    """The numbers that lie in the first of pretended processes."""
    dist.init_process_group("fake", rank=0, world_size=math.prod(layout), store=FakeStore())
    try:
        model = Transformer(config)
        apply(model, Meshes.make(*layout))
        return {name: local(p).numel() for name, p in model.named_parameters()}
    finally:
        dist.destroy_process_group()


def local_parameters(config: ModelConfig, layout: Parallel) -> dict[str, int]:
    """Elements of every parameter on the fullest process, as the plan counts them."""
    return {name: kind.sliced(layout) for kind in kinds(config) for name in kind.names}


def test_parameters_are_those_that_lie_in_a_process() -> None:
    """`model/parallel.py` spreads a model over pretended processes; the first one holds the longest
    slices.
    """
    config = replace(SMALL, moe_stride=2)
    for layout in LAYOUTS:
        assert local_parameters(config, Parallel(*layout)) == spread(config, layout), layout


def test_bytes_of_one_gpu_by_hand() -> None:
    """fsdp 2 x ep 2 x tp 2 of a small model, in bfloat16 with AdamW."""
    c, job = SMALL, Job(SMALL, tokens=32, context=16)
    found = lay_out(job, Hardware(8), Parallel(1, 2, 2, 2)).memory
    # Experts: 8 x (128 x 64 + 128 + 64 x 64 + 64) a layer; cut by ep and tp (but for down's bias),
    # then by fsdp.
    experts = 8 * ((128 * 64 + 128 + 64 * 64) // 2 + 64) // 2
    # q, k, v of 64, 32, 32 rows with biases, out's columns, the sinks are cut by tp; out's bias,
    # norms, router not.
    heads = ((64 + 32 + 32) * 65 + 64 * 64 + 4) // 2
    rest = 64 + 2 * 64 + 8 * 65
    # of one head each where there is half a head to hold: the only ones that do not divide by 4
    sinks = 2
    local = 2 * experts // 2 + (2 * (heads - 2 + rest) + 2 * 128 * 64 + 64) // 4 + sinks
    assert found["weights, float32"] == 4 * local
    assert found["gradients, float32"] == found["weights, float32"]
    assert found["optimizer states"] == 2 * found["weights, float32"]
    # sinks, norms and router travel in float32
    block = 2 * (experts + heads - 2 + 64) + 4 * (2 + 2 * 64 + 8 * 65)
    assert found["weights in the compute dtype"] == 2 * block + 4 * 128 * 64
    assert found["gradients being added up"] == 3 * block
    tokens = math.ceil(32 * BUSIEST)
    assert found["activations"] == cost.all_activations(c, tokens, 2, False, 2, 2)
    assert found["communication buffers"] == 2 * 2 * tokens * 2 * 64 + 2 * 4 * 32 * 64


def test_one_gpu_holds_what_one_process_does() -> None:
    job = Job(SMALL, tokens=64, context=32, precision="float32", optimizer="muon")
    found = lay_out(job, Hardware(1), Parallel()).memory
    total = account(SMALL).total
    assert found["weights, float32"] == found["gradients, float32"] == 4 * total
    matrices = sum(
        math.prod(shape) for name, shape in cost.shapes(SMALL).items() if is_matrix(name)
    )
    assert found["optimizer states"] == 4 * matrices + 8 * (total - matrices)
    assert found["weights in the compute dtype"] == found["communication buffers"] == 0


def test_120b_on_64_gpus_is_what_a_division_gives() -> None:
    """16 bytes a parameter (weights, gradients, two momenta in float32) over 64 GPUs."""
    p = plan(Job(BIG), Hardware(64))
    states = sum(
        p.memory[item] for item in ("weights, float32", "gradients, float32", "optimizer states")
    )
    assert states == pytest.approx(16 * account(BIG).total / 64, rel=0.001)
    assert p.fits and p.layout.processes == 64 and p.step_tokens == 64 * 4096 // p.layout.tp


# ---- communication and time ----------------------------------------------------------------------


def test_communication_by_hand() -> None:
    job = Job(SMALL, tokens=32, context=16, precision="float32")
    found = traffic_of(job, 16, Parallel(2, 2, 2, 2))
    experts = 2 * 8 * ((128 * 64 + 128 + 64 * 64) // 2 + 64) // 2
    blocks = 2 * (((64 + 32 + 32) * 65 + 64 * 64 + 4) // 2 + 64 + 2 * 64 + 8 * 65)
    tables = 128 * 64
    gathers = {"experts": 2 * 4 * experts / 2, "rest": 3 / 4 * 4 * (2 * blocks + 3 * tables)}
    assert [t.bytes for key, t in found.items() if key[0] == "all-gather"] == list(
        map(round, gathers.values())
    )
    # Once each in float32: all but this process's part of the sum. The last norm is small, but
    # there.
    dense = blocks + 2 * tables + 64
    reduced = [t.bytes for key, t in found.items() if key[0] == "reduce-scatter"]
    assert reduced == [round(4 * experts / 2), round(3 / 4 * 4 * dense)]
    assert found["all-reduce", "copies"].bytes == round(2 * 1 / 2 * 4 * (experts / 2 + dense / 4))
    # Out and back, forward and backward, in two layers; half of the rows stay. k = 2.
    assert found["all-to-all", "back"].bytes == round(4 * 2 * 2 * 32 * 64 * 4 * BUSIEST / 2)
    assert found["all-reduce", "widths"].bytes == round(4 * 2 * 32 * 64 * 4 * 2 / 2)


def test_checkpointing_sends_tokens_once_more() -> None:
    job = Job(SMALL, tokens=32, context=16)
    plain = traffic_of(job, 4, Parallel(1, 1, 2, 2))
    again = traffic_of(replace(job, checkpoint_layers=True), 4, Parallel(1, 1, 2, 2))
    for key in (("all-to-all", "back"), ("all-reduce", "widths")):
        assert again[key].bytes == pytest.approx(1.5 * plain[key].bytes, abs=1)


def test_groups_beyond_a_node_take_the_slower_way() -> None:
    job = Job(BIG)
    found = traffic_of(job, 64, Parallel(1, 8, 8, 1))
    tokens, experts = found["all-to-all", "back"], found["all-gather", "experts"]
    assert not tokens.wide and tokens.seconds == pytest.approx(tokens.bytes / 450e9)
    assert experts.wide and experts.seconds == pytest.approx(experts.bytes / 50e9)
    assert traffic_of(job, 64, Parallel(1, 8, 8, 1), per_node=4)["all-to-all", "back"].wide


def test_time_is_arithmetic() -> None:
    p = lay_out(Job(SMALL, tokens=32, context=16), Hardware(4, peak=1e12), Parallel(1, 1, 2, 2))
    assert p.compute_seconds == pytest.approx(
        32 * cost.flops_per_token(SMALL, 16) / 2 / (1e12 * MFU)
    )
    waits = sum(t.seconds for t in p.traffic if not t.hides)
    hides = sum(t.seconds for t in p.traffic if t.hides)
    assert p.seconds == pytest.approx(max(p.compute_seconds, hides) + waits)
    assert lay_out(
        Job(SMALL, tokens=32, context=16), Hardware(1), Parallel()
    ).seconds == pytest.approx(32 * cost.flops_per_token(SMALL, 16) / (PEAK["bfloat16"] * MFU))


# ---- choosing and refusing -----------------------------------------------------------------------


def test_what_is_given_is_kept_and_the_rest_chosen() -> None:
    p = plan(Job(BIG), Hardware(64), {"ep": 8, "tp": 2})
    assert (p.layout.ep, p.layout.tp, p.layout.fsdp * p.layout.replicate) == (8, 2, 4)
    slower = lay_out(Job(BIG), Hardware(64), Parallel(1, 64, 1, 1))
    assert plan(Job(BIG), Hardware(64)).seconds <= slower.seconds


@pytest.mark.parametrize(
    ("job", "gpus", "fixed", "said"),
    [
        (Job(BIG), 64, {"tp": 16},
            "parallel.tp=16 does not divide num_key_value_heads (8): choose 1, 2, 4, 8"),
        (Job(BIG), 256, {"ep": 256}, "parallel.ep=256 does not divide num_experts (128)"),
        (Job(replace(BIG, num_attention_heads=12, num_key_value_heads=12)), 8, {"tp": 8},
            "num_key_value_heads (12)"),
        (Job(replace(BIG, intermediate_size=2881)), 64, {"tp": 2},
            "does not divide intermediate_size (2881)"),
        (Job(BIG), 64, {"tp": 3}, "3 does not divide 64; replicate x fsdp x ep x tp must be 64"),
        (Job(BIG), 64, {"fsdp": 2, "ep": 2, "tp": 2, "replicate": 2}, "their product is 16"),
        (Job(SMALL, 64, 16), 8, {}, "out of memory"), (Job(BIG, lora=Lora()), 8, {"ep": 8},
            "LoRA's frozen model is whole on every GPU"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_reason(
    job: Job, gpus: int, fixed: dict[str, int], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(
            job,
            Hardware(gpus, memory=(80 << 30) if job.config.hidden_size > 64 else 1 << 20),
            fixed,
        )
    assert said in str(caught.value)


def test_what_would_fit_really_fits() -> None:
    with pytest.raises(ConfigError) as caught:
        plan(Job(BIG), Hardware(32))
    advice = str(caught.value).partition("What would fit: ")[2]
    assert "--checkpoint-layers" in advice and "--gpus" in advice
    assert plan(Job(BIG, checkpoint_layers=True), Hardware(32)).fits
    gpus = int(re.search(r"--gpus (\d+)", advice)[1])  # type: ignore[index]
    assert plan(Job(BIG, checkpoint_layers=f"--gpus {gpus} --check" in advice), Hardware(gpus)).fits
    with pytest.raises(ConfigError):
        plan(Job(BIG), Hardware(gpus // 2))


@pytest.mark.parametrize(
    ("job", "gpus", "said"),
    [
        (Job(BIG, lora=Lora(rank=16)), 1, "--lora 8 --checkpoint-layers"),
        (Job(BIG, lora=Lora(rank=16), checkpoint_layers=True), 1, "--lora 8"),
        (
            Job(BIG, 131072, 131072, checkpoint_layers=True),
            64,
            "--context 65536 --tokens-per-gpu 65536",
        ),
    ],
)
def test_smaller_things_are_proposed_if_they_fit(job: Job, gpus: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(job, Hardware(gpus))
    proposed = str(caught.value).partition("What would fit: ")[2].split(" or ")
    assert said in proposed
    words = said.split()
    values = {name: int(n) for name, n in pairwise(words) if n.isdecimal()}
    changed = replace(
        job, checkpoint_layers=job.checkpoint_layers or "--checkpoint-layers" in words
    )
    if "--lora" in values:
        changed = replace(changed, lora=Lora(values["--lora"]))
    else:
        changed = replace(changed, tokens=values["--tokens-per-gpu"], context=values["--context"])
    assert plan(changed, Hardware(gpus)).fits


def test_lora_on_several_gpus_is_whole_on_each() -> None:
    job = Job(BIG, lora=Lora(rank=4), checkpoint_layers=True)
    one = plan(job, Hardware(1))
    eight = plan(job, Hardware(8))
    assert eight.layout == Parallel(replicate=8) and eight.memory == one.memory
    (sent,) = eight.traffic
    assert sent.bytes == 2 * 7 * 4 * cost.lora_parameters(BIG, Lora(rank=4)) // 8


def test_lora_of_120b_fits_on_one_gpu() -> None:
    """What is published fits on one of 80 GiB; its matrices stay as they are."""
    p = plan(Job(BIG, lora=Lora(rank=4), checkpoint_layers=True), Hardware(1))
    assert p.memory["frozen weights"] == account(BIG).checkpoint_bytes
    assert p.memory["optimizer states"] == 8 * cost.lora_parameters(BIG, Lora(rank=4))


def test_documents_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="--tokens-per-gpu 8192"):
        Job(BIG, tokens=4096, context=8192)


@given(st.sampled_from([1, 2, 4, 8, 16, 48]), st.integers(1, 4), st.booleans())
def test_a_plan_is_consistent(gpus: int, size: int, checkpointed: bool) -> None:
    hardware = Hardware(gpus, memory=size << 22)
    job = Job(SMALL, tokens=64, context=16, checkpoint_layers=checkpointed)
    try:
        p = plan(job, hardware)
    except ConfigError as error:
        assert str(error).startswith("out of memory")  # SMALL needs more than that on a few
        return
    assert (
        p.total == sum(p.memory.values()) <= hardware.memory * USABLE
        and min(p.memory.values()) >= 0
    )
    assert p.layout.processes == gpus
    assert 4 * gpus * sum(local_parameters(SMALL, p.layout).values()) >= 4 * account(SMALL).total


# ---- what is printed -----------------------------------------------------------------------------


def test_text_and_json_say_the_same() -> None:
    p = plan(Job(BIG), Hardware(64))
    text, data = as_text(p, "gpt-oss-120b"), json.loads(json.dumps(as_json(p)))
    assert max(map(len, text.splitlines())) <= 120
    assert data["bytes"]["total"] == p.total and f"{p.total / 2**30:.1f} GiB" in text
    for item, size in p.memory.items():
        assert data["bytes"][item] == size and (item in text) == (size > 0)
    kinds = {t["kind"] for t in data["communication"]}
    assert kinds <= {"all-gather", "reduce-scatter", "all-to-all", "all-reduce"} and all(
        kind in text for kind in kinds
    )
    assert "116.8B parameters, 5.13B active" in text and "(assumed)" in text
    assert "communication: none" in as_text(plan(Job(SMALL, 64, 16), Hardware(1)), "small")
