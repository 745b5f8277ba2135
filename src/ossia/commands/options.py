"""Options of commands are frozen dataclasses: from one to its parser, and back.

A field is an option with its help, or an argument without a name:

    bool                  a flag
    Literal["a", "b"]     one of these words
    tuple[X, ...]         may be repeated; of an argument: all the words that are left
    another dataclass     a group with its TITLE and ABOUT; its defaults are those of this default
    Annotated[X, read]    whatever `read` makes of the text
    anything else         called with the text: int, float, str

Then come the kinds of values and the groups that several commands share. Knows argparse; does not
import torch, and knows nothing of what a command does.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from datetime import date
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from ossia.commands.display import did_you_mean
from ossia.errors import ConfigError, RequestError
from ossia.parts import Parts, read_parts

if TYPE_CHECKING:
    from ossia.llm import LLM

T = TypeVar("T")


def option(
    default: T, help: str, metavar: str | None = None, *, shown: str = "", one_of: str = ""
) -> T:
    """A field that is `--its-name`; an underscore at the end of the name is not part of it.

    The help ends with the default, or with `shown`, what the default means, unless it says so
    itself. Of the options with the same `one_of`, only one may be given.
    """
    about = {"help": help, "metavar": metavar, "shown": shown, "one_of": one_of}
    made: T = field(default=default, metadata=about)
    return made


def argument(help: str, metavar: str, default: Any = MISSING) -> Any:
    """A field that is given by its place, and must be if it has no default."""
    return field(default=default, metadata={"help": help, "metavar": metavar, "positional": True})


@dataclass(frozen=True)
class Command:
    """What a command takes and does."""

    options: type[Any]
    run: Callable[[Any], None]
    epilog: str


@dataclass(frozen=True)
class Group:
    """Commands under one word, with a line about each: `ossia harmony render`."""

    commands: Mapping[str, tuple[str, Command]]
    epilog: str


# ---- from a dataclass to a parser, and back ------------------------------------------------------


class Help(argparse.RawDescriptionHelpFormatter):
    """Texts as they are written, options in a column of their own."""

    def __init__(self, prog: str, **given: Any) -> None:
        super().__init__(prog, max_help_position=28, **given)


class Parser(argparse.ArgumentParser):
    """Declares its options when it is asked to parse: no other command's module is imported.

    Words without a name may stand before, between and after options.
    """

    def __init__(self, prog: str | None = None, **given: Any) -> None:
        super().__init__(prog, formatter_class=Help, **given)
        self.fill: Callable[[], Command | Group] | None = None
        self._mixes = False
        self.set_defaults(parser=self)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does, and which choice was probably meant."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = did_you_mean(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, error.message + near) from None

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """End the program because of words that mean nothing, with the option that was meant."""
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        near = did_you_mean(options[0], self._option_string_actions) if options else ""
        self.error(f"unrecognized arguments: {' '.join(words)}{near}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        fill, self.fill = self.fill, None
        if fill is not None:
            declare(self, fill())
        is_group = self._subparsers is not None
        if is_group or self._mixes:
            return super().parse_known_args(args, namespace)
        self._mixes = True  # argparse calls back for the options alone
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixes = False


def declare(parser: argparse.ArgumentParser, command: Command | Group) -> None:
    """Give `parser` the options of a command, or the commands of a group."""
    parser.epilog = command.epilog
    if isinstance(command, Command):
        _declare_fields(parser, command.options)
        parser.set_defaults(command=command)
        return
    metavar = "|".join(command.commands)
    added = parser.add_subparsers(title="what to do", metavar=metavar, required=True)
    for name, (about, inner) in command.commands.items():
        declare(added.add_parser(name, help=about, description=about), inner)


def _declare_fields(parser: Any, options: type[Any], given: Any = None) -> None:
    """`given`: an instance whose values are the defaults, in place of the fields' own."""
    hints = get_type_hints(options, include_extras=True)
    exclusive: dict[str, Any] = {}
    for one in fields(options):
        default = one.default if given is None else getattr(given, one.name)
        if is_dataclass(kind := hints[one.name]):
            group = parser.add_argument_group(kind.TITLE, kind.ABOUT)  # type: ignore[union-attr]
            _declare_fields(group, kind, default)  # type: ignore[arg-type]
            continue
        place = parser
        if name := one.metadata.get("one_of"):
            if name not in exclusive:
                exclusive[name] = parser.add_mutually_exclusive_group()
            place = exclusive[name]
        _declare(place, one, kind, default)


def _declare(place: Any, one: Field[Any], hint: Any, default: Any) -> None:
    kind = _without_none(hint)
    about: dict[str, Any] = {"help": _help_of(one, default), "metavar": one.metadata["metavar"]}
    if kind is bool:
        place.add_argument(_flag(one), dest=one.name, action="store_true", help=about["help"])
        return
    many = get_origin(kind) is tuple
    if many:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        about["choices"] = get_args(kind)
    elif get_origin(kind) is Annotated:
        about["type"] = get_args(kind)[1]
    elif kind is not str:
        about["type"] = kind
    if "positional" in one.metadata:
        place.add_argument(one.name, nargs=_count(many, default), default=default, **about)
    elif many:
        place.add_argument(_flag(one), dest=one.name, action="append", **about)
    else:
        place.add_argument(_flag(one), dest=one.name, default=default, **about)


def _flag(one: Field[Any]) -> str:
    return "--" + one.name.rstrip("_").replace("_", "-")


def _count(many: bool, default: Any) -> str | None:
    """argparse's word for how many words a positional argument takes."""
    if many:
        return "*"
    return None if default is MISSING else "?"


def _without_none(hint: Any) -> Any:
    """`X | None` -> X."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    (kind,) = (one for one in get_args(hint) if one is not NoneType)
    return kind


def _help_of(one: Field[Any], default: Any) -> str:
    text: str = one.metadata["help"]
    shown = one.metadata.get("shown", "")
    if default != one.default or not shown:  # a group has a default of its own, or it says itself
        shown = _as_text(default)
    if not shown or "(default" in text:
        return text
    return f"{text} (default: {shown})".lstrip()


def _as_text(default: Any) -> str:
    silent = default is None or isinstance(default, bool) or default in ((), MISSING)
    return "" if silent else str(default)


def build(options: type[T], given: Mapping[str, Any]) -> T:
    """The instance of `options` that argparse's values, by name, are."""
    hints = get_type_hints(options)
    values: dict[str, Any] = {}
    for one in fields(options):  # type: ignore[arg-type]
        kind = hints[one.name]
        if is_dataclass(kind):
            values[one.name] = build(kind, given)  # type: ignore[arg-type]
        elif get_origin(_without_none(kind)) is tuple and one.default == ():
            values[one.name] = tuple(given[one.name] or ())
        else:
            values[one.name] = given[one.name]
    return options(**values)


def parsed(whole: Parser, argv: Sequence[str] | None) -> tuple[Command, Any] | None:
    """The command that was typed and its options; None if nothing was typed. Ends the program, as
    argparse does, if they make no sense.
    """
    namespace, rest = whole.parse_known_args(argv)
    given = vars(namespace)
    command: Command | None = given.get("command")
    if command is None and not rest:
        return None
    if rest:
        given["parser"].refuse(rest)
    assert command is not None
    return command, build(command.options, given)


# ---- kinds of values -----------------------------------------------------------------------------


def _expected(what: str, found: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"expected {what}, found {found!r}")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise _expected("a whole number, at least 1", text)
    return int(text)


def positive_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise _expected("a number above 0", text)
    return value


def byte_count(text: str) -> int:
    """ "4GiB", "512M", "1.5 GB" or a number of bytes."""
    match = re.fullmatch(r"\s*+(\d++(?:\.\d++)?)\s*+([kmgt]?)(i?)b?\s*+", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise _expected("a size such as 4GiB or 512MB", text)
    base = 1024 if match[3] else 1000
    power = " kmgt".index(match[2].lower() or " ")
    return int(float(match[1]) * base**power)


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise _expected("a whole number from 0 to 65535", text)
    return int(text)


def seconds(text: str) -> float:
    """ "500ms", "30s", "15min", "12h", "30d" or a number of seconds."""
    units = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    match = re.fullmatch(r"\s*+(\d{1,12}+(?:\.\d++)?)\s*+([a-z]*+)\s*+", text, re.IGNORECASE)
    if match is None or match[2].lower() not in units:
        raise _expected("a time such as 30s, 15min, 12h or 30d", text)
    return float(match[1]) * units[match[2].lower()]


def token_ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise _expected("whole numbers between commas", text) from None


def day(text: str) -> str | None:
    if text == "none":
        return None
    try:
        found = date.today() if text == "today" else date.fromisoformat(text)
    except ValueError:
        raise _expected("YYYY-MM-DD, today or none", text) from None
    return found.isoformat()


def parts(text: str) -> Parts:
    try:
        return read_parts(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


Positive = Annotated[int, positive]
PositiveNumber = Annotated[float, positive_number]
Size = Annotated[int, byte_count]
Port = Annotated[int, port]
Seconds = Annotated[float, seconds]
TokenIds = Annotated[tuple[int, ...], token_ids]
Day = Annotated[str | None, day]
SomeParts = Annotated[Parts, parts]

# ---- groups --------------------------------------------------------------------------------------

EffortWord = Literal["low", "medium", "high"]
MODEL_HELP = (
    "nano, a folder, a GGUF file, gpt-oss-20b, gpt-oss-120b or a Hugging Face id; id:Q4_K_M or "
    "id:FILE for one of its GGUFs"
)


def model() -> Any:
    """The model's name, nano if none is given."""
    return argument(MODEL_HELP, "MODEL", "nano")


@dataclass(frozen=True)
class Computing:
    """How a model is loaded, and what it is computed in."""

    TITLE: ClassVar[str] = "computing"
    ABOUT: ClassVar[str | None] = None

    dtype: Literal["bfloat16", "float32"] = option("bfloat16", "what to compute in")
    device: str = option("cpu", "cpu, cuda, or cuda:1 and so on")
    dense: Literal["bf16", "int8"] = option(
        "bf16", "attention and unembedding: bf16 as published, exact; or int8, half the bytes"
    )
    activations: Literal["bf16", "int8"] = option(
        "bf16", "what experts' MXFP4 weights are multiplied with: bf16, exact; or int8, faster"
    )
    kv: Literal["bf16", "int8"] = option(
        "bf16", "keys and values in the cache: bf16, or int8, half the memory"
    )
    load: Literal["map", "promote", "copy"] = option(
        "promote",
        "map: weights stay in the file; promote: they move to memory while answers flow; copy: "
        "before the first answer (default: promote). No answer depends on it",
    )
    experts: Literal["stored", "mxfp4"] = option(
        "stored",
        "mxfp4: round experts that are stored otherwise, or that an adapter changes, to MXFP4, for "
        "the compiled kernels; says what that cost",
    )
    adapter: str | None = option(
        None, "low-rank changes to add: the folder of a run with LoRA, or of peft", "DIR"
    )
    threads: Positive | None = option(None, "of the CPU", "N", shown="as many as there are cores")
    kv_memory: Size | None = option(
        None,
        "memory for keys and values, such as 4GiB",
        "SIZE",
        shown="half of what the weights leave free, of a GPU most of it",
    )
    gpu_steps: Literal["ahead", "graphs", "plain"] = option(
        "ahead",
        "graphs: steps that only decode are launched as CUDA graphs; ahead: and begun before the "
        "tokens of the last one are read; plain: neither",
    )
    same_bits: bool = option(
        False, "on a GPU: an answer's bits do not depend on what is computed beside it, slower"
    )

    parallel: SomeParts | None = option(
        None,
        "spread the model over the processes that torchrun starts: ep parts of the experts, tp "
        "parts of the heads; such as ep=2 or ep=2,tp=2",
        "ep=N,tp=N",
    )

    @property
    def is_beside(self) -> bool:
        """Whether this process is one of several, and not the first: it loads its part of the model
        and computes, and does nothing else of a command. Raises `RequestError` if there are several
        and no parts.
        """
        processes = os.environ.get("WORLD_SIZE", "1")
        if self.parallel is None and processes != "1":
            raise RequestError(
                f"WORLD_SIZE says that this is one of {processes} processes: give --parallel, such "
                f"as --parallel ep={processes}, or start one process, without torchrun"
            )
        return self.parallel is not None and os.environ.get("RANK", "0") != "0"

    def load_model(self, model: str) -> LLM:
        """The model, with a word on the terminal while torch and the checkpoint are looked for."""
        quiet = self.is_beside or not sys.stderr.isatty()
        if not quiet:
            print(f"loading {model} ...", end="\r", file=sys.stderr, flush=True)
        try:
            from ossia.commands.display import progress
            from ossia.llm import load
            from ossia.serving import Options

            options = Options(
                self.dense,
                self.activations,
                self.kv,
                self.load,
                self.threads,
                self.gpu_steps,
                self.same_bits,
            )
            with progress(f"loading {model}") as tell:
                llm = load(
                    model,
                    dtype=self.dtype,
                    device=self.device,
                    options=options,
                    kv_memory=self.kv_memory,
                    progress=tell,
                    adapter=self.adapter,
                    experts=self.experts,
                    parallel=self.parallel,
                )
            if llm.model.rounding is not None:
                print(f"note: {llm.model.rounding}", file=sys.stderr)
            return llm
        finally:
            if not quiet:
                print(" " * (12 + len(model)), end="\r", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `max_tokens` has a default of each command's own."""

    TITLE: ClassVar[str] = "sampling"
    ABOUT: ClassVar[str | None] = "What is not given is the model's own, else the default."

    temperature: float | None = option(None, "0: always the likeliest token", "X", shown="1")
    top_p: float | None = option(
        None, "draw from the likeliest tokens that together have probability X", "X", shown="1"
    )
    top_k: int | None = option(
        None, "draw from the N likeliest tokens; 0: from all", "N", shown="0"
    )
    min_p: float | None = option(
        None, "draw from tokens at least X times as likely as the likeliest", "X", shown="0"
    )
    seed: int | None = option(
        None, "the same seed draws the same tokens", "N", shown="a new one every time"
    )
    max_tokens: int | None = option(
        None, "sample at most N tokens", "N", shown="until the context is full"
    )

    def given(self) -> dict[str, Any]:
        """The values that were given. For the rest the model's own hold."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
