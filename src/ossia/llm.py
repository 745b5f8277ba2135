"""The public face: `ossia.load(...)` and what one does with a loaded model.

    llm = ossia.load("nano")                                       # or a path, or a hub id
    llm.logits(tokens)                                             # float32 array [T, V]
    llm.generate(prompt_ids, temperature=0.7, max_tokens=100)      # token ids as they are sampled
    llm.chat("What is 37 + 48?", tools=[my_function, Python()])    # events as they happen

Puts checkpoint, engine, Harmony and chat together; the work is done there.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date as Date
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from ossia import checkpoint, hub
from ossia.batch import Batch
from ossia.checkpoint.mapped import read_json
from ossia.config import ModelConfig
from ossia.engine import Engine, SampledToken, SamplingParams
from ossia.engine.engine import Progress
from ossia.engine.runner import hidden_in_chunks
from ossia.errors import (
    CONTEXT_EXCEEDED,
    ConfigError,
    RequestError,
    TokenizerError,
    ToolChoiceError,
)
from ossia.harmony import (
    Conversation,
    DeveloperContent,
    Message,
    ResponseFormat,
    Role,
    SystemContent,
    ToolNamespace,
)
from ossia.harmony.grammar.bodies import BodyFormat
from ossia.harmony.messages import FUNCTIONS, EffortName
from ossia.kernels import triton
from ossia.model import Transformer
from ossia.model.native import Precision
from ossia.parts import Parts, read_parts
from ossia.serving import Options, Serving, device_of, prepare
from ossia.tokenizer import Tokenizer
from ossia.tools import (
    PythonFunction,
    SessionKey,
    Sessions,
    Tool,
    Toolbox,
    ToolChoice,
    from_function,
)
from ossia.turn import Limits, Rules, Turn, run_turn, stop_ids
from ossia.turn.events import TurnEnd, TurnEvent
from ossia.turn.targets import FREE, Grammars

DType = Literal["bfloat16", "float32"]
Messages = str | Message | Conversation | Sequence[Message | Mapping[str, Any]]
CHUNK = 2048  # tokens that the compiled kernels read at a time
UNEMBED_ELEMENTS = 1 << 26  # logits worked out at a time: 256 MiB in float32


def load(
    name: str | os.PathLike[str] = "nano",
    *,
    dtype: DType = "bfloat16",
    device: str | torch.device = "cpu",
    options: Options | None = None,
    kv_memory: int | None = None,
    progress: Progress = lambda done, total: None,
    adapter: str | os.PathLike[str] | None = None,
    experts: checkpoint.ExpertsAs = "stored",
    parallel: str | Parts | None = None,
) -> LLM:
    """Load a model: "nano" (part of the package), a folder, a GGUF file, "gpt-oss-20b", or a
    Hugging Face id, with `:file` or `:Q4_K_M` after it for a GGUF.

    Weights are mapped, not read: loading takes a moment. `dtype` is what the model computes in;
    "float32" computes everything in float32 from the exact stored values, with torch's kernels.
    `options` say how the compiled kernels compute and where they read weights, `kv_memory` how many
    bytes keys and values may take (None: by what the machine has). `progress` hears of what has to
    be copied. `adapter` is a folder (or hub id) of low-rank changes, of a run or of peft, that are
    added to the model; `experts` "mxfp4" rounds experts that are stored otherwise, or changed, to
    MXFP4, which the compiled kernels need. `parallel`, such as "ep=2,tp=2", spreads the model over
    the processes that torchrun has started: ep parts of the experts, tp parts of the heads. Only
    the first process comes back from here; the others compute their part for it until it ends, and
    leave the program then (`SystemExit`). Raises `ModelNotFoundError`, `CheckpointError`,
    `ConfigError`, `TokenizerError` or `RequestError`, which say what is wrong and what to do.
    """
    folder = hub.find(name)
    device = device_of(device)
    changes = None if adapter is None else hub.find(adapter)
    spread = None
    if parallel is not None:
        from ossia.model.processes import join

        parts = read_parts(parallel) if isinstance(parallel, str) else parallel
        spread = join(parts, device.type)
        if device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
    model = checkpoint.load(
        folder, dtype, device, progress, adapter=changes, experts=experts, spread=spread
    )
    options = options or Options()
    serving = prepare(model, options, progress)
    if spread is not None:
        from ossia.engine import beside

        beside.begin(model)
    return LLM(
        model,
        checkpoint.find_tokenizer(folder, model.config),
        sampling_defaults(folder),
        serving,
        kv_memory,
        options,
    )


def sampling_defaults(folder: Path) -> SamplingParams:
    """What the folder's generation_config.json recommends; temperature 1 otherwise, as for gpt-oss.

    Raises `CheckpointError` for a file that is no JSON object, `ConfigError` for values that make
    no sense.
    """
    path = folder / "generation_config.json"
    data = read_json(path) if path.exists() else {}
    if data.get("do_sample") is False:
        return SamplingParams(temperature=0.0)
    names = ("temperature", "top_p", "top_k", "min_p")
    try:
        return SamplingParams(**{name: data[name] for name in names if data.get(name) is not None})
    except RequestError as error:
        raise ConfigError(f"{path}: {error}") from error


class Generation:
    """Sampled token ids, as an iterator. It keeps `ids`, `logprobs` and `finish_reason`."""

    def __init__(self, tokens: Iterator[SampledToken]) -> None:
        self._tokens = tokens
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason: str | None = None

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> int:
        token = next(self._tokens)
        self.ids.append(token.token_id)
        self.logprobs.append(token.logprob)
        self.finish_reason = token.finish_reason
        return token.token_id

    def close(self) -> None:
        """Stop here and let the engine forget the request. An iterator that is merely left alone
        goes on being sampled along with later requests.
        """
        if isinstance(self._tokens, Generator):
            self._tokens.close()


class Chat:
    """The events of one turn, as an iterator; `result()` runs it to its end. The last is a
    `TurnEnd`.
    """

    def __init__(
        self, events: Iterator[TurnEvent], conversation: Conversation, sessions: Sessions
    ) -> None:
        self._events = events
        self._sessions = sessions
        self._end: TurnEnd | None = None
        self._before = conversation

    def __iter__(self) -> Chat:
        return self

    def __next__(self) -> TurnEvent:
        event = next(self._events)
        if isinstance(event, TurnEnd):
            self._end = event
        return event

    def close(self) -> None:
        """Stop here; the rest of the turn is not sampled. There is no `result` then."""
        if isinstance(self._events, Generator):
            self._events.close()

    def interrupt(self) -> bool:
        """Break off the calls of tools that run now; the turn goes on with what they say. False:
        none runs, or they were asked before. For the handler of a signal, or another thread.
        """
        return self._sessions.interrupt()

    def result(self) -> TurnEnd:
        """The end of the turn: `.text`, `.reasoning`, `.messages`, `.reason` and token counts.

        Raises `RequestError` if the turn was closed, or broke off, before its end.
        """
        for _ in self:
            pass
        if self._end is None:
            raise RequestError("the turn was stopped before its end; there is no result")
        return self._end

    @property
    def conversation(self) -> Conversation:
        """The conversation with what this turn added: the next turn's beginning."""
        return Conversation((*self._before.messages, *self.result().messages))


@dataclass
class LLM:
    """A loaded model with its tokenizer (None if the folder has none: then only token ids can be
    used).
    """

    model: Transformer
    maybe_tokenizer: Tokenizer | None
    sampling: SamplingParams
    serving: Serving = field(default_factory=lambda: Serving(Precision()))
    kv_memory: int | None = None  # bytes
    options: Options = field(default_factory=Options)

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def tokenizer(self) -> Tokenizer:
        if self.maybe_tokenizer is None:
            raise TokenizerError(
                "the model's folder has no tokenizer.json; put one there, or use token ids"
            )
        return self.maybe_tokenizer

    @cached_property
    def engine(self) -> Engine:
        memory = self.kv_memory or self.serving.kv_memory
        return self.new_engine(kv_memory=memory or triton.free_for_cache(self.model.device))

    def new_engine(self, **sizes: Any) -> Engine:
        """An engine with a cache of its own, that steps as the model's options say; `sizes` are
        `Engine`'s.
        """
        how = self.options.steps
        return Engine(
            self.model,
            same_bits=self.options.same_bits,
            graphs=how != "plain",
            ahead=None if how == "ahead" else False,
            **sizes,
        )

    def logits(
        self,
        tokens: Sequence[int],
        *,
        rows: Sequence[int] | None = None,
        chunks: Sequence[int] | None = None,
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Logits after each of T tokens: float32 [T, V], or [len(rows), V] for the given rows.

        All rows of 32,768 tokens over gpt-oss's vocabulary would be 26 GB: ask for those you need.
        T may exceed the context that the model was trained for.

        `chunks`, which must add up to T, feeds the tokens through a key-value cache in pieces of
        those lengths, as the engine does: [T - 3, 1, 1, 1] is a prefill and three steps of
        decoding. Raises `RequestError` on bad input.
        """
        ids = _checked_ids(tokens, self.config)
        picked = list(range(len(ids))) if rows is None else [_row(r, len(ids)) for r in rows]
        if chunks is not None and (sum(chunks) != len(ids) or min(chunks) < 1):
            raise RequestError(
                f"chunks {list(chunks)} must be positive and add up to {len(ids)} tokens"
            )
        out = np.empty((len(picked), self.config.vocab_size), dtype=np.float32)
        if chunks is None and (self.model.compiled or self.model.spread is not None):
            chunks = [min(CHUNK, len(ids) - n) for n in range(0, len(ids), CHUNK)]
        with torch.inference_mode():
            if chunks is None:
                index = torch.tensor(picked, device=self.model.device)
                batch = Batch.packed([len(ids)], self.model.device, output_rows=index)
                hidden = self.model.hidden(torch.tensor(ids, device=self.model.device), batch)
            else:
                hidden = torch.cat(list(hidden_in_chunks(self.model, ids, chunks)))[picked]
            step = max(1, UNEMBED_ELEMENTS // self.config.vocab_size)
            for r in range(0, len(picked), step):
                out[r : r + step] = self.model.unembed(hidden[r : r + step]).float().cpu().numpy()
        return out

    def generate(
        self,
        prompt: Sequence[int],
        *,
        progress: Progress = lambda done, total: None,
        **sampling: Any,
    ) -> Generation:
        """Token ids sampled after `prompt`, as they come; the stop token, if one ends it, is the
        last.

        Keywords are those of `SamplingParams` (temperature, top_p, top_k, min_p, seed, max_tokens,
        stop_ids); those not given are the model's own. Without `stop_ids`, `<|return|>`, `<|call|>`
        and `<|endoftext|>` stop. `progress` is told how many tokens of the prompt have been read,
        of how many. Raises `RequestError`.
        """
        params = self.params(**sampling)
        ids = _checked_ids(prompt, self.config)
        return Generation(self.engine.generate(ids, params, progress=progress))

    def chat(
        self,
        messages: Messages,
        *,
        tools: Callable[..., Any] | Iterable[Tool | Callable[..., Any]] = (),
        effort: EffortName | None = None,
        instructions: str | None = None,
        date: str | None = "today",
        tool_choice: str | Mapping[str, Any] = "auto",
        response_format: BodyFormat | ResponseFormat | Mapping[str, Any] | str | None = None,
        reasoning_budget: int | None = None,
        constrained: bool = False,
        thread: str = "",
        max_tool_rounds: int = 100,
        stop: Callable[[], bool] = lambda: False,
        progress: Progress = lambda done, total: None,
        **sampling: Any,
    ) -> Chat:
        """Answer a conversation, running `tools`, functions or `Tool`s, as the model calls them.

        `messages`: the user's text; or chat-completions messages (`{"role": ..., "content": ...}`);
        or Harmony messages, or a `Conversation`, which are used as they stand, a system message put
        first if there is none; tools that its developer message declares are not declared again.
        `effort` (None: medium) and `date` (None: none) go into the system message; if there is one
        already, a given effort replaces that one's, and its date stays. `instructions` go into the
        developer message.

        `tool_choice` ("auto", "none", "required" or a tool's name; of the first sample: a call is
        followed by "auto"), `response_format` (of the final answer: an OpenAI format object, or a
        `ResponseFormat`, which a developer message also shows to the model) and `reasoning_budget`
        (tokens of analysis in a sample) hold the sampling to a grammar, see `harmony_grammar`; so
        does `constrained` alone: calls then always have valid arguments.

        `thread`: a name by which tools know the conversation again: variables and files of
        `Python`, and pages of a `Browser`, are those of the last turn with the same tool and
        thread; without one they end with this turn.

        `stop` is asked after every token; True ends the turn, as if the tokens had run out.
        `progress` hears how many tokens of a prompt were read, of how many. Sampling keywords are
        those of `generate`; `max_tokens` counts all samples. Raises `RequestError`, and
        `GrammarError` for a schema that sampling cannot be held to.
        """
        tool_list = [_as_tool(t) for t in ([tools] if callable(tools) else tools)]
        asked = _asked(messages, tool_list, effort, instructions, date)
        conversation = _with_response_format(asked, response_format)
        params = self.params(**sampling)
        toolbox = replace(Toolbox.of(conversation, tool_list), choice=_choice(tool_choice))
        grammars = FREE
        is_held = tool_choice != "auto" or response_format is not None
        if constrained or is_held or reasoning_budget is not None:
            tokenizer = self.tokenizer
            grammars = Grammars.of(
                toolbox, lambda box: box.grammar(tokenizer, response_format, reasoning_budget)
            )
        rules = Rules(toolbox, is_enforced=grammars is not FREE, min_tokens=params.min_tokens)
        sessions = Sessions(SessionKey(conversation=thread))
        limits = Limits(params.max_tokens, rounds=max_tool_rounds)
        turn = Turn(conversation, self.tokenizer, rules, limits, sessions)
        sample = partial(self._sample, turn, params, grammars, stop, progress)
        return Chat(run_turn(turn, sample), conversation, sessions)

    def _sample(
        self,
        turn: Turn,
        params: SamplingParams,
        grammars: Grammars,
        stop: Callable[[], bool],
        progress: Progress,
        prompt: list[int],
    ) -> Iterator[SampledToken]:
        """One sample of a turn. A later prompt that does not fit gives no tokens: what has been
        said must not be lost because the context is full now.
        """
        if turn.samples > 1 and stop():  # while a tool ran
            return
        grammar = grammars.of_sample(
            has_called=turn.has_called, calls_are_spent=turn.calls_are_spent
        )
        constraint = None if grammar is None else grammar.start()
        least = max(0, params.min_tokens - turn.usage.completion)
        params = replace(params, max_tokens=turn.tokens_left, min_tokens=least)
        try:
            for token in self.engine.generate(prompt, params, constraint, progress):
                yield token
                if stop():
                    return
        except RequestError as error:
            if turn.samples == 1 or error.code != CONTEXT_EXCEEDED:
                raise

    def params(self, **given: Any) -> SamplingParams:
        """What to sample with: `given`, and the model's own for the rest. Raises `RequestError`."""
        names = {f.name for f in fields(SamplingParams)}
        if unknown := set(given) - names:
            raise RequestError(
                f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}"
            )
        params = replace(self.sampling, **given)
        if "stop_ids" not in given and self.maybe_tokenizer is not None:
            params = replace(params, stop_ids=stop_ids(self.maybe_tokenizer))
        return params


def to_conversation(
    messages: Messages,
    system: SystemContent,
    developer: DeveloperContent,
) -> Conversation:
    """Whatever `chat` accepts, as a Conversation that has a system message, and the instructions
    and tools of `developer`.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if isinstance(messages, Message):
        messages = [messages]
    given = messages.messages if isinstance(messages, Conversation) else tuple(messages)
    if given and all(isinstance(m, Message) for m in given):
        return _completed(cast("tuple[Message, ...]", given), system, developer)
    if any(isinstance(m, Message) for m in given):
        raise RequestError(
            "give either Harmony messages or chat messages (dictionaries), not a mixture"
        )
    chat = cast("list[Mapping[str, Any]]", list(given))
    if developer.instructions is not None:
        chat = [{"role": "developer", "content": developer.instructions}, *chat]
    conversation = Conversation.from_chat(chat, system=system, tools=developer.tools)
    if not developer.namespaces:
        return conversation

    def declared(content: DeveloperContent) -> DeveloperContent:
        return replace(content, namespaces=(*content.namespaces, *developer.namespaces))

    return _with_developer(conversation, declared)


def _asked(
    messages: Messages,
    tools: Sequence[Tool],
    effort: EffortName | None,
    instructions: str | None,
    date: str | None,
) -> Conversation:
    """The conversation that `chat` answers. Raises `RequestError`."""
    if not messages or (isinstance(messages, Conversation) and not messages.messages):
        raise RequestError("the conversation is empty; give at least one message to answer")
    ours = Toolbox(builtin=tuple(tools))
    today = Date.today().isoformat() if date == "today" else date
    system = SystemContent(
        current_date=today, effort=effort or "medium", namespaces=ours.system_namespaces
    )
    developer = ours.developer(instructions) or DeveloperContent()
    conversation = to_conversation(messages, system, developer)
    if effort is None:
        return conversation
    return conversation.with_first(SystemContent, lambda system: replace(system, effort=effort))


def _as_tool(tool: Any) -> Tool:
    if isinstance(tool, Mapping):
        raise RequestError(
            "a tool declaration without code cannot be run; give Python functions or Tool objects, "
            "or declare the tool in a developer message and run its calls yourself"
        )
    if isinstance(tool, type) and hasattr(tool, "session"):
        raise RequestError(f"{tool.__name__} is the class of a tool: give {tool.__name__}(...)")
    if hasattr(tool, "namespace") and hasattr(tool, "session"):
        return cast(Tool, tool)
    if hasattr(tool, "function") and hasattr(tool, "run"):
        return PythonFunction(tool.function, tool.run)
    return from_function(tool)


def _choice(wanted: str | Mapping[str, Any]) -> ToolChoice:
    """`wanted`: a mode, a tool's name, or the object that OpenAI's clients send."""
    if isinstance(wanted, Mapping):
        inner = wanted.get(str(wanted.get("type")), wanted)
        name = inner.get("name") if isinstance(inner, Mapping) else None
        if not isinstance(name, str):
            raise ToolChoiceError(f"tool_choice {wanted!r:.120} names no function", "tool_choice")
        return ToolChoice("required", (f"{FUNCTIONS}.{name}",))
    match wanted:
        case "auto" | "none" | "required":
            return ToolChoice(wanted)
    return ToolChoice("required", (wanted,))


def _with_response_format(conversation: Conversation, wanted: Any) -> Conversation:
    """Declares it to the model, if it is one that the model reads."""
    if not isinstance(wanted, ResponseFormat):
        return conversation

    def declared(content: DeveloperContent) -> DeveloperContent:
        return replace(content, response_formats=(*content.response_formats, wanted))

    return _with_developer(conversation, declared)


def _with_developer(
    conversation: Conversation, change: Callable[[DeveloperContent], DeveloperContent]
) -> Conversation:
    """The first developer message changed; one is put behind the system message if there is
    none.
    """
    if not conversation.contents(DeveloperContent):
        developer = Message(Role.DEVELOPER, DeveloperContent())
        conversation = Conversation(
            (conversation.messages[0], developer, *conversation.messages[1:])
        )
    return conversation.with_first(DeveloperContent, change)


def _completed(
    messages: tuple[Message, ...], system: SystemContent, developer: DeveloperContent
) -> Conversation:
    """Harmony messages with what is not said or declared in them yet."""
    if messages[0].role is not Role.SYSTEM:
        messages = (Message(Role.SYSTEM, system), *messages)
    conversation = Conversation(messages).with_first(
        SystemContent, lambda first: _declaring(first, system.namespaces)
    )
    developers = conversation.contents(DeveloperContent)
    missing = _missing(developer, developers)
    if missing == DeveloperContent():
        return conversation
    if any(m.role is Role.DEVELOPER for m in messages):
        raise RequestError(
            "the conversation has a developer message of its own; declare tools and "
            "instructions there, "
            "or give chat messages instead"
        )
    first, *rest = conversation.messages
    return Conversation((first, Message(Role.DEVELOPER, missing), *rest))


def _declaring(system: SystemContent, spaces: Sequence[ToolNamespace]) -> SystemContent:
    names = {space.name for space in system.namespaces}
    more = tuple(space for space in spaces if space.name not in names)
    return replace(system, namespaces=(*system.namespaces, *more)) if more else system


def _missing(wanted: DeveloperContent, developers: Sequence[DeveloperContent]) -> DeveloperContent:
    """What none of these says or declares."""
    functions = {tool.name for developer in developers for tool in developer.tools}
    spaces = {space.name for developer in developers for space in developer.namespaces}
    said = [developer.instructions for developer in developers]
    return DeveloperContent(
        None if wanted.instructions in said else wanted.instructions,
        tuple(tool for tool in wanted.tools if tool.name not in functions),
        tuple(space for space in wanted.namespaces if space.name not in spaces),
    )


def _checked_ids(tokens: Sequence[int], config: ModelConfig) -> list[int]:
    try:
        ids = [operator.index(t) for t in tokens]
    except TypeError as error:
        raise RequestError(f"expected token ids, whole numbers in one row: {error}") from error
    if not ids:
        raise RequestError("no tokens were given; a model needs at least one")
    if wrong := [t for t in ids if not 0 <= t < config.vocab_size]:
        raise RequestError(f"token id {wrong[0]} is outside the vocabulary of {config.vocab_size}")
    return ids


def _row(row: int, count: int) -> int:
    if not -count <= row < count:
        raise RequestError(f"row {row} is outside the {count} tokens given")
    return row % count
