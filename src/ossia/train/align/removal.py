"""The proof that the policy is not in a prompt that is trained on: no run of its words stands
there.

Every run of `RUN` words of what the reasoner was shown is hashed, and prompts are looked through
run by run. Words and not a tokenizer's tokens, whose boundaries move with what stands around them;
case, punctuation, accents and what is not seen (soft hyphens) do not hide a run, nor does a tool's
way of writing it down: as JSON, as HTML, in an address, broken at the ends of lines. A rule of
fewer words is looked for as a whole. Knows texts; nothing of models.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote_plus

from ossia.errors import TrainingError
from ossia.tasks.safety.specs import Category, Policy

RUN = 6  # words
SHORTEST = 4  # words of a rule that is looked for as a whole: fewer are anybody's
UNSEEN = ("Mn", "Mc", "Me", "Cf")  # marks on letters; soft hyphens, joiners
_ALONE = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # no blanks between words: a letter is one
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")  # _so_ is Markdown for "so"
_ESCAPE = re.compile(r"(?<!\\)\\+(?:u([0-9a-fA-F]{4})|[nrtbf])")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_BROKEN = re.compile(r"-[ \t]*\r?\n[ \t]*")  # a word at the end of a line


class Removal:
    """`run`: words in a row that count as a part of the policy. `examples`: whether the reasoner
    was shown them, too. `checked`: texts so far.
    """

    def __init__(self, policy: Policy, run: int = RUN, examples: bool = False) -> None:
        self.checked = 0
        self._run = run
        self._where: dict[tuple[str, ...], str] = {}
        for category in policy.categories:
            for found in _runs(_words(policy.section(category.name, examples)), run):
                self._where.setdefault(found, category.name)
            for text in _texts(category):
                words = tuple(_words(text))
                if SHORTEST <= len(words) < run:
                    self._where.setdefault(words, category.name)
        self._lengths = sorted({len(found) for found in self._where})

    def check(self, text: str, whose: str) -> None:
        """Raises `TrainingError` that names the prompt and what of the policy is in it."""
        self.checked += 1
        for reading in _readings(text):
            found = self._found(_words(reading))
            if found is not None:
                raise TrainingError(
                    f"{whose}: its prompt holds {' '.join(found)!r} of the policy's section "
                    f"{self._where[found]!r} ({len(found)} words in a row): the model would be "
                    "trained to read the policy instead of knowing it. Reword the prompt or the "
                    "rule, or set longest_run"
                )

    def _found(self, words: list[str]) -> tuple[str, ...] | None:
        for length in self._lengths:
            for run in _runs(words, length):
                if run in self._where:
                    return run
        return None


def _readings(text: str) -> Iterator[str]:
    """The text, and what stands in it if it is a tool's result in one of their ways."""
    yield text
    unquoted = unquote_plus(text) if "%" in text else text
    shown = html.unescape(text)  # with what stands in tags
    page = html.unescape(_TAG.sub(" ", text))
    for other in (_of_json(text), shown, page, unquoted, _BROKEN.sub("", text)):
        if other != text:
            yield other


def _of_json(text: str) -> str:
    """Also of JSON within JSON, whose backslashes are doubled."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else " ", text)


def _texts(category: Category) -> Iterator[str]:
    for rule in category.rules:
        yield rule.text
        for exception in rule.unless:
            yield exception.when


def _words(text: str) -> list[str]:
    """Without marks: a letter is the same however its accent is written."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    plain = [char for char in parts if unicodedata.category(char) not in UNSEEN]
    return _WORD.findall("".join(plain))


def _runs(words: list[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[n : n + length]) for n in range(len(words) - length + 1)]
