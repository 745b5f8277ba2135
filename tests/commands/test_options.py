"""From a dataclass to a parser, and from what was typed to its instance."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal, get_type_hints

import pytest
from tiny_model import environment

from ossia.commands.main import COMMANDS, parser
from ossia.commands.options import (
    Command,
    Group,
    Parser,
    Positive,
    Sampling,
    Size,
    TokenIds,
    argument,
    declare,
    option,
    parsed,
)


@dataclass(frozen=True)
class Inner:
    """A group."""

    TITLE: ClassVar[str] = "a group"
    ABOUT: ClassVar[str | None] = "What it is about."

    speed: float = option(1.5, "how fast", "X")
    size: Size | None = option(None, "how large", "SIZE", shown="as it comes")


@dataclass(frozen=True)
class Options:
    """One field of every kind."""

    name: str = argument("whose", "NAME", "nano")
    words: tuple[str, ...] = argument("more", "WORD", ())
    for_: Literal["a", "b"] = option("a", "which")
    count: Positive = option(3, "how many", "N")
    start: int = option(0, "where to begin", "N")
    ids: TokenIds | None = option(None, "which tokens", "1,2,3")
    tag: tuple[Literal["x", "y"], ...] = option((), "repeatable", shown="both")
    quick_one: bool = option(False, "be quick", one_of="pace")
    slow: bool = option(False, "be slow", one_of="pace")
    inner: Inner = Inner(speed=2.5)


def parser_of(options: type[Any]) -> Parser:
    made = Parser("test")
    declare(made, Command(options, print, "the end"))
    return made


def typed(*words: str) -> Options:
    found: Options = parsed(parser_of(Options), words)[1]
    return found


def test_defaults_are_those_of_the_class() -> None:
    assert typed() == Options()


def test_every_kind_of_value() -> None:
    found = typed(
        "small", "v", "w", "--for", "b", "--count", "7", "--ids", "1, 2", "--tag", "y", "--tag",
        "x",
        "--quick-one", "--speed", "3", "--size", "2KiB",
    )  # fmt: skip
    assert found == Options(
        name="small",
        words=("v", "w"),
        for_="b",
        count=7,
        ids=(1, 2),
        tag=("y", "x"),
        quick_one=True,
        inner=Inner(3.0, 2048),
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--for", "c"], "argument --for: invalid choice: 'c' (choose from"),
        (["--tag", "z"], "argument --tag: invalid choice: 'z'"),
        (["--count", "0"], "argument --count: expected a whole number, at least 1, found '0'"),
        (["--start", "x"], "argument --start: invalid int value: 'x'"),
        (["--size", "big"], "argument --size: expected a size such as 4GiB or 512MB, found 'big'"),
        (["--ids", "1,x"], "argument --ids: expected whole numbers between commas, found '1,x'"),
        (["--quick-one", "--slow"], "argument --slow: not allowed with argument --quick-one"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_what_makes_no_sense(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        typed(*words)
    assert end.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("at", range(5))
def test_words_may_stand_anywhere(at: int) -> None:
    words = ["a", "b=1", "c.d=2", "e"]
    given = [*words[:at], "--slow", "--count", "7", *words[at:]]
    assert typed(*given) == Options("a", ("b=1", "c.d=2", "e"), count=7, slow=True)
    between = [word for one in words for word in (one, "--tag", "x")]
    assert typed(*between) == Options("a", ("b=1", "c.d=2", "e"), tag=("x",) * 4)


def test_help_says_defaults_where_the_text_does_not() -> None:
    said = " ".join(parser_of(Options).format_help().split())
    for part in (
        "NAME whose (default: nano)",
        "--for {a,b} which (default: a)",
        "--count N how many (default: 3)",
        "--start N where to begin (default: 0)",
        "--ids 1,2,3 which tokens --tag",
        "repeatable (default: both)",
        "--quick-one be quick --slow be slow a group:",
        "a group: What it is about. --speed X how fast (default: 2.5)",
        "--size SIZE how large (default: as it comes)",
    ):
        assert part in said, part


def test_a_group_has_defaults_of_the_command_that_uses_it() -> None:
    @dataclass(frozen=True)
    class Few:
        sampling: Sampling = Sampling(max_tokens=8)

    Few.__annotations__["sampling"] = Sampling
    assert "(default: 8)" in parser_of(Few).format_help()
    found: Few = parsed(parser_of(Few), ["--top-k", "5"])[1]
    assert found.sampling.given() == {"top_k": 5, "max_tokens": 8}


def commands() -> list[tuple[str, Command]]:
    found: list[tuple[str, Command]] = []
    for name, (module, _) in COMMANDS.items():
        command = import_module(f"ossia.commands.{module}").COMMAND
        if isinstance(command, Group):
            found += [(f"{name} {verb}", one) for verb, (_, one) in command.commands.items()]
        else:
            found.append((name, command))
    return found


def names(options: type[Any]) -> list[str]:
    hints = get_type_hints(options)
    found: list[str] = []
    for one in fields(options):
        inner = hints[one.name]
        found += names(inner) if is_dataclass(inner) else [one.name]  # type: ignore[arg-type]
    return found


NEEDED = {
    "convert": ["DST"],
    "policy": ["FILE"],
    "rollouts show": ["RUN"],
    "rollouts stats": ["RUN"],
    "rollouts grep": ["PATTERN", "RUN"],
    "rollouts diff": ["RUN", "OTHER"],
    "rollouts monitor": ["RUN"],
}


@pytest.mark.parametrize(("name", "command"), commands())
def test_options_of_a_command(name: str, command: Command) -> None:
    """No two of one name, and typing only what is needed gives the defaults."""
    assert len(names(command.options)) == len(set(names(command.options)))
    found = parsed(parser(), [*name.split(), *NEEDED.get(name, ())])[1]
    assert isinstance(found, command.options)
    with pytest.raises(AttributeError):  # frozen
        found.anything = 1  # type: ignore[attr-defined]


# What an answer to --help would wait for.
HEAVY = {"torch", "fastapi", "numpy", "ossia.tasks.registry"}


@pytest.mark.parametrize("module", [module for module, _ in COMMANDS.values()])
def test_options_load_neither_torch_nor_a_server(module: str) -> None:
    program = f"import sys, ossia.commands.{module}; sys.exit(bool({HEAVY} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], env=environment()).returncode == 0
