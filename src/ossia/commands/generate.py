"""`ossia generate`: a text or ids go to the model as they are, and what it adds is printed."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossia.commands.options import Command, Computing, Sampling, TokenIds, model, option
from ossia.errors import RequestError, TokenizerError

if TYPE_CHECKING:
    from ossia.llm import LLM, Generation
    from ossia.tokenizer import Tokenizer

EPILOG = """\
examples:
  ossia generate --prompt 'Tom has 3 apples.' --temperature 0
  ossia generate gpt-oss-20b < story.txt
  ossia generate nano --ids 5,17,42 --max-tokens 20 --json
  ossia generate --specials --prompt '<|start|>user<|message|>Hi<|end|><|start|>assistant'

The text goes to the model as it is, nothing before it. Sampling ends at <|return|>, <|call|>,
<|endoftext|> or --max-tokens. --json prints one object: prompt_ids, ids, text, finish_reason
("stop" or "length") and logprobs, the natural logarithms of the probabilities before temperature
and filters.
"""


@dataclass(frozen=True)
class Options:
    """What `ossia generate` takes."""

    model: str = model()
    prompt: str | None = option(
        None, "text to go on from", "TEXT", shown="what stdin holds", one_of="prompt"
    )
    prompt_file: str | None = option(None, "a text file to go on from", "FILE", one_of="prompt")
    ids: TokenIds | None = option(None, "token ids to go on from", "1,2,3", one_of="prompt")
    specials: bool = option(
        False, "names such as <|start|> in the text are special tokens; specials are printed too"
    )
    json: bool = option(False, "print one JSON object, at the end")
    computing: Computing = Computing()
    sampling: Sampling = Sampling(max_tokens=256)


def run(options: Options) -> None:
    text = None if options.ids is not None else _prompt(options)
    llm = options.computing.load_model(options.model)
    ids = list(options.ids or ())
    if text is not None and options.specials:
        ids = llm.tokenizer.encode_with_specials(text)
    elif text is not None:
        ids = llm.tokenizer.encode(text)
    from ossia.commands.display import progress

    with progress("reading the prompt", "tokens") as tell:
        generation = llm.generate(ids, progress=tell, **options.sampling.given())
        if options.json:
            _print_json(generation, llm, ids, options.specials)
        else:
            _print_text(generation, llm.maybe_tokenizer, options.specials)


def _prompt(options: Options) -> str:
    if options.prompt is not None:
        return options.prompt
    if options.prompt_file is not None:
        try:
            return Path(options.prompt_file).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise RequestError(f"--prompt-file {options.prompt_file}: {error.strerror}") from error
    if sys.stdin.isatty():
        print("reading the prompt from the terminal; Ctrl-D ends it", file=sys.stderr)
    return sys.stdin.read()


def _print_json(generation: Generation, llm: LLM, ids: list[int], specials: bool) -> None:
    new = list(generation)
    text = None
    if llm.maybe_tokenizer is not None:
        text = "".join(_pieces(new, llm.maybe_tokenizer, specials))
    answer: dict[str, Any] = {
        "prompt_ids": ids,
        "ids": new,
        "text": text,
        "finish_reason": generation.finish_reason,
        "logprobs": generation.logprobs,
    }
    print(json.dumps(answer))


def _print_text(generation: Generation, tokenizer: Tokenizer | None, specials: bool) -> None:
    """As it comes. A model without a tokenizer answers in ids."""
    from ossia.commands.display import visible

    pieces: Iterator[str] = (f"{token} " for token in generation)
    if tokenizer is not None:
        pieces = _pieces(generation, tokenizer, specials)
    for piece in pieces:
        print(visible(piece) if sys.stdout.isatty() else piece, end="", flush=True)
    print()


def _pieces(ids: Iterable[int], tokenizer: Tokenizer, specials: bool) -> Iterator[str]:
    """Text as soon as it is certain: the first bytes of a character wait for the rest of it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        if not specials and tokenizer.is_special(token):
            continue
        try:
            yield decoder.decode(tokenizer.token_bytes(token))
        except TokenizerError:  # models have more rows than their tokenizer has tokens
            yield decoder.decode(b"\xff")
    yield decoder.decode(b"", final=True)


COMMAND = Command(Options, run, EPILOG)
