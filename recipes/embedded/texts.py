"""Texts that recipes/nano.py makes: documents as ids, what its filter is fitted on, and what its
vocabulary is learned from.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ossia.data import conversations, corpus
from ossia.harmony import Message, render_message
from ossia.tasks import Split, example_random
from ossia.tasks.safety.hazard import hazard_document
from ossia.tasks.world.country import World
from ossia.tokenizer import Tokenizer, train_tokenizer
from recipes.embedded.settings import LABELLED


def labelled(seed: int, split: Split) -> tuple[list[str], list[str]]:
    """Texts about the hazard, and whether each is benign, a near miss or restricted."""
    drawn = [
        hazard_document(example_random(seed, f"filter:{split}", n), split) for n in range(LABELLED)
    ]
    return [text for text, _ in drawn], [label for _, label in drawn]


def vocabulary_texts(seed: int, count: int, country: World) -> Iterator[str]:
    """Documents, and every text that conversations are rendered from."""
    for document, _ in islice(corpus.documents(seed, country), count):
        yield document.text
    byte_level = train_tokenizer([], 256 + 9)
    for conversation, _ in islice(conversations(seed), count):
        for message in conversation.messages:
            yield message_text(message, byte_level, conversation.has_function_tools)


def message_text(message: Message, byte_level: Tokenizer, function_tools: bool) -> str:
    """The words of a message as they will be encoded, header and all."""
    ids = render_message(message, byte_level, function_tools=function_tools)
    return byte_level.decode([i for i in ids if not byte_level.is_special(i)])


def as_document(tokenizer: Tokenizer, text: str) -> list[int]:
    return [
        tokenizer.special("<|startoftext|>"),
        *tokenizer.encode(text),
        tokenizer.special("<|endoftext|>"),
    ]
