"""Overrides: every annotation, nested groups, and errors that say what there is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.config import FULL, SLIDING, ModelConfig
from ossia.errors import ConfigError
from ossia.train.overrides import apply, flat, keys
from ossia.train.settings import Hyperparameters, Lora, Parallel


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    depth: int = 3  # how deep
    rate: float = 0.5


@dataclass(frozen=True)
class Config:
    steps: int = 100  # optimizer steps
    name: str = "x"
    on: bool = False
    data: Path | None = None
    several: tuple[Path, ...] = ()
    pair: tuple[int, float] = (1, 0.5)
    names: tuple[str, ...] = ("a",)
    mode: Literal["fast", "slow"] = "fast"
    colour: Colour = Colour.RED
    maybe: Optional[int] = None  # noqa: UP045 - the older spelling must work, too
    text: str | None = None
    number: int | float = 1
    anything: Any = None
    inner: Inner = Inner()
    lora: Lora | None = None
    parallel: Parallel | None = None
    hyper: Hyperparameters = Hyperparameters()  # noqa: RUF009 - frozen
    model: ModelConfig = ModelConfig.preset("nano")  # noqa: RUF009 - frozen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps=7", {"steps": 7}), ("steps=1e6", {"steps": 1_000_000}),
        ("steps=1_000", {"steps": 1000}),
        ("name=a=b", {"name": "a=b"}), ("name=", {"name": ""}), ("on=true", {"on": True}),
        ("on=No", {"on": False}),
        ("data=a/b.jsonl", {"data": Path("a/b.jsonl")}), ("data=none", {"data": None}),
        ("several=a,b", {"several": (Path("a"), Path("b"))}), ("several=()", {"several": ()}),
        ("pair=2,1e-3", {"pair": (2, 1e-3)}), ("pair=(2,3)", {"pair": (2, 3.0)}),
        ("names=b,c", {"names": ("b", "c")}),
        ("mode=slow", {"mode": "slow"}), ("colour=blue", {"colour": Colour.BLUE}),
        ("colour=BLUE", {"colour": Colour.BLUE}),
        ("maybe=4", {"maybe": 4}), ("maybe=none", {"maybe": None}), ("text=none", {"text": None}),
        ("text=hello", {"text": "hello"}), ("number=2.5", {"number": 2.5}),
        ("inner.depth=9", {"inner": Inner(9)}), ("lora.rank=4", {"lora": Lora(rank=4)}),
        ("parallel.fsdp=2", {"parallel": Parallel(fsdp=2)}), ("lora=none", {"lora": None}),
    ],
)  # fmt: skip
def test_values_by_their_annotations(text: str, expected: dict[str, Any]) -> None:
    assert apply(Config(), [text]) == replace(Config(), **expected)


def test_types_are_kept() -> None:
    made = apply(Config(), ["pair=2,3", "inner.rate=1", "steps=2.0"])
    assert [type(x) for x in (*made.pair, made.inner.rate, made.steps)] == [int, float, float, int]


def test_deep_overrides_go_together_and_the_last_counts() -> None:
    made = apply(
        Config(),
        [
            "hyper.balance.aux=0.5",
            "hyper.peak_lr=1e-3",
            "hyper.balance.mode=bias",
            "hyper.peak_lr=2",
        ],
    )
    assert (
        made.hyper.balance.aux == 0.5
        and made.hyper.balance.mode == "bias"
        and made.hyper.peak_lr == 2
    )
    assert replace(made, hyper=Config().hyper) == Config()
    # Neither alone is a possible model: heads must be a multiple of key-value heads.
    both = apply(Config(), ["model.num_attention_heads=9", "model.num_key_value_heads=3"]).model
    assert (both.num_attention_heads, both.num_key_value_heads) == (9, 3)


def test_layer_types_follow_the_number_of_layers() -> None:
    assert apply(Config(), ["model.num_hidden_layers=3"]).model.layer_types == (
        SLIDING,
        FULL,
        SLIDING,
    )
    both = apply(Config(), ["model.num_hidden_layers=2", f"model.layer_types={FULL},{FULL}"])
    assert both.model.layer_types == (FULL, FULL)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps", "is not key=value"), ("step=3", "did you mean steps"),
        ("depth=3", "did you mean inner.depth"),
        ("hyper.peaklr=3", "did you mean hyper.peak_lr"), ("zzz=1", "Keys: steps, name, on, data"),
        ("steps.more=1", "there is no key 'steps.more'"),
        ("inner=3", "inner is a group: set one of its fields"),
        ("steps=2.5", "steps must be int, found '2.5'"), ("steps=ten", "steps must be int"),
        ("steps=inf", "steps must be int"), ("on=maybe", "on must be true or false"),
        ("pair=1", "pair must be int,float"),
        ("mode=medium", "mode must be one of fast, slow, found 'medium'"),
        ("colour=green", "one of red, blue"),
        ("data=", "data must be path or none"), ("maybe=x", "maybe must be int or none"),
        ("pair=1,x", "pair must be float, found 'x'"), ("anything=1",
            "cannot be set from the command line"),
        ("hyper.peak_lr=-1", "hyper: peak_lr must be more than 0"),
        ("lora.rank=0", "lora: lora.rank must be 1 or more"),
        ("hyper.betas=0.9,1", "hyper: betas must be at least 0 and less than 1, each"),
        ("inner.rate=nan", "inner.rate must be float, found 'nan'"),
        ("hyper.peak_lr=inf", "hyper.peak_lr must be float, found 'inf'"),
        ("inner=none", "inner is a group: set one of its fields"),
        ("hyper.balance.mode=loud", "hyper.balance.mode must be one of none, aux, bias"),
        ("model.head_dim=31", "head_dim must be even"),
    ],
)  # fmt: skip
def test_errors_name_the_key_and_what_there_is(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply(Config(), [text])
    assert said in str(caught.value)


def test_keys_can_be_typed_back() -> None:
    """What is listed is what can be set; setting a key to the value it is listed with changes
    nothing.
    """
    listed = keys(Config())
    given = [
        f"{key.name}={key.value}"
        for key in listed
        if key.name not in ("anything", "lora", "parallel")
    ]
    given = [text for text in given if not text.startswith(("lora.", "parallel."))]
    assert apply(Config(), given) == Config()
    by_name = {key.name: key for key in listed}
    assert (
        by_name["steps"].comment == "optimizer steps"
        and by_name["inner.depth"].comment == "how deep"
    )
    assert (
        by_name["hyper.balance.capacity"].type == "float or none"
        and by_name["lora"].value == "none"
    )
    assert by_name["lora.rank"].value == "8" and by_name["colour"].value == "red"


@given(st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_back(whole: int, real: float) -> None:
    made = apply(Config(), [f"steps={whole}", f"inner.rate={real!r}"])
    assert (made.steps, made.inner.rate) == (whole, real)


def test_flat_is_json_by_dotted_name() -> None:
    found = flat(apply(Config(), ["data=a.txt", "colour=blue", "lora.rank=2"]))
    assert found["data"] == "a.txt" and found["colour"] == "blue" and found["lora.rank"] == 2
    assert (
        found["parallel"] is None
        and found["pair"] == [1, 0.5]
        and found["hyper.balance.mode"] == "aux"
    )


def test_the_optimizer_as_the_first_version_spelled_it() -> None:
    assert apply(Config(), ["hyper.muon=false"]).hyper.optimizer == "adamw"
    assert apply(Config(), ["hyper.muon=true", "hyper.peak_lr=1"]).hyper.optimizer == "muon"
    assert replace(Hyperparameters(muon=False), peak_lr=1.0).optimizer == "adamw"
    assert not any(key.name.endswith("muon") for key in keys(Config()))
    assert "hyper.muon" not in flat(Config())


def test_a_comment_may_be_above_its_field() -> None:
    by_name = {key.name: key for key in keys(Config())}
    assert by_name["hyper.ema"].comment.startswith("decay of an exponential moving average")
