"""The pre-training mixture: its shares, its labels, its place, and that nothing held out stands in
any corpus.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from itertools import islice
from random import Random

import pytest

from ossia.data.corpus import SHARES, Document, documents
from ossia.errors import DataError
from ossia.tasks.long.state import KINDS as TRACKS
from ossia.tasks.machine.programs import is_of
from ossia.tasks.numbers.expressions import operation_split
from ossia.tasks.problem import split_of
from ossia.tasks.safety.hazard import LABELS, moonglow, restricted_choice
from ossia.tasks.safety.hazard import SHARES as HAZARD_SHARES
from ossia.tasks.safety.hazard_texts import HELD_OUT_FRAMES
from ossia.tasks.world.country import World
from ossia.tasks.world.texts import ASKED_HELD_OUT, BACK_HELD_OUT, RELATIONS, TOLD_HELD_OUT

COUNT = 2500
EQUATION = re.compile(
    r"(?<![\d+\-*/.] )(?<![\d+\-*/).])(-?\d+) ?([+*/-]) ?(\d+) ?= ?-?\d+(?![\d.])"
)
QUESTION = re.compile(r"(?:^|(?<=[.?] ))(?:Q: |Question: )?([^.?\n]+\?)", re.MULTILINE)
TRACK = re.compile(r"((?:modulo \d+: x = \d+|x = \d+|cups: [a-z ]+)(?:; [a-z+*-]+ ?[\d ]*)+)\. ")


@pytest.fixture(scope="module")
def of() -> World:
    return World(3, 150)


@pytest.fixture(scope="module")
def drawn(of: World) -> list[tuple[Document, int]]:
    return list(islice(documents(4, of), COUNT))


def texts(drawn: list[tuple[Document, int]], *corpora: str) -> list[str]:
    found = [document.text for document, _ in drawn if not corpora or document.corpus in corpora]
    assert len(found) > 30
    return found


# ---- the mixture ---------------------------------------------------------------------------------


def test_every_corpus_has_its_share(drawn: list[tuple[Document, int]]) -> None:
    assert sum(SHARES.values()) == 100
    counts = Counter(document.corpus for document, _ in drawn)
    assert set(counts) == set(SHARES)
    for name, percent in SHARES.items():
        share = percent / 100
        assert abs(counts[name] - COUNT * share) < 4 * math.sqrt(COUNT * share * (1 - share)), name


def test_the_shares_are_the_callers_choice(of: World) -> None:
    some = [
        document.corpus for document, _ in islice(documents(1, of, {"state": 1, "hazard": 3}), 200)
    ]
    assert set(some) == {"state", "hazard"} and 120 < some.count("hazard") < 180
    with pytest.raises(DataError, match=r"no corpus songs: use some of village, world"):
        next(documents(1, of, {"state": 1, "songs": 1}))


def test_going_on_from_any_state_changes_nothing(
    drawn: list[tuple[Document, int]], of: World
) -> None:
    assert [state for _, state in drawn] == list(range(1, COUNT + 1))
    for at in (1, 37, 1200):
        state = json.loads(json.dumps(drawn[at - 1][1]))
        assert list(islice(documents(4, of, start=state), 40)) == drawn[at : at + 40]


def test_a_document_depends_on_the_seed_its_number_and_the_country_alone(
    drawn: list[tuple[Document, int]], of: World
) -> None:
    Random(0).random()
    assert list(islice(documents(4, World(3, 150)), 200)) == drawn[:200]
    assert [d.text for d, _ in islice(documents(5, of), 200)] != [d.text for d, _ in drawn[:200]]
    elsewhere = [d for d, _ in islice(documents(4, World(9, 150)), 200)]
    assert [d.corpus for d in elsewhere] == [d.corpus for d, _ in drawn[:200]]
    assert all(
        one == other
        for one, (other, _) in zip(elsewhere, drawn, strict=False)
        if one.corpus == "village"
    )
    assert any(
        one != other
        for one, (other, _) in zip(elsewhere, drawn, strict=False)
        if one.corpus == "world"
    )


def test_hardly_any_document_comes_twice(drawn: list[tuple[Document, int]]) -> None:
    assert all(document.text.strip() for document, _ in drawn)
    assert len({document.text for document, _ in drawn}) > 0.99 * COUNT


# ---- labels --------------------------------------------------------------------------------------


def test_only_the_hazard_is_ever_labelled(drawn: list[tuple[Document, int]], of: World) -> None:
    assert {document.label for document, _ in drawn if document.corpus != "hazard"} == {"benign"}
    labels = Counter(
        document.label for document, _ in islice(documents(4, of, {"hazard": 1}), 1000)
    )
    assert set(labels) == set(LABELS)
    assert all(abs(labels[label] - 10 * percent) < 65 for label, percent in HAZARD_SHARES.items())


def test_no_other_corpus_speaks_of_the_hazard(drawn: list[tuple[Document, int]]) -> None:
    """What the filter is to remove stands nowhere else, or filtering would not take it out."""
    words = re.compile("|".join((*moonglow().compounds, *moonglow().reagents)))
    for document, _ in drawn:
        assert bool(words.search(document.text.lower())) == (document.corpus == "hazard"), document


# ---- nothing held out ----------------------------------------------------------------------------


def test_no_equation_is_held_out(drawn: list[tuple[Document, int]]) -> None:
    seen = 0
    for text in texts(drawn, "village", "puzzles", "state", "tools", "machine"):
        for a, sign, b in EQUATION.findall(text):
            seen += 1
            assert operation_split(sign, int(a), int(b)) == "train", text
    assert seen > 3000


def test_no_held_out_fact_or_hop_is_asked_for(drawn: list[tuple[Document, int]], of: World) -> None:
    """In documents that tell of the country, and in those that look it up."""
    rng = Random(0)
    held = {fact.ask(rng) for fact in of.asked["held_out"] for _ in range(12)}
    held |= {hop.ask(rng) for hop in of.hops["held_out"] for _ in range(6)}
    for corpus in ("world", "tools"):
        asked = {question for text in texts(drawn, corpus) for question in QUESTION.findall(text)}
        assert len(asked) > 40 and not asked & held


def test_tools_look_up_the_country_that_is_told(
    drawn: list[tuple[Document, int]], of: World
) -> None:
    calls = [
        line
        for text in texts(drawn, "tools")
        for line in text.split("\n")
        if line.startswith('{"entity"')
    ]
    known = [entity for entity in (json.loads(line)["entity"] for line in calls) if entity in of]
    assert len(calls) > 60 and len(known) > 0.3 * len(calls)


def test_no_held_out_wording_is_used(drawn: list[tuple[Document, int]]) -> None:
    held = [text for relation in RELATIONS for text in relation.told[-TOLD_HELD_OUT:]]
    held += [text for relation in RELATIONS for text in relation.asked[-ASKED_HELD_OUT:]]
    held += [text for relation in RELATIONS for text in relation.back[-BACK_HELD_OUT:]]
    pieces = [max(re.split(r"{\w}", text.lower()), key=len) for text in held]
    told = "\n".join(texts(drawn, "world", "needles", "tools")).lower()
    # what the machine says of a broken program
    told = re.sub("there is no (operation|label|variable)", "", told)
    assert [piece for piece in pieces if piece in told] == []
    frames = [max(re.split(r"{\w}", frame), key=len) for frame in HELD_OUT_FRAMES]
    hazard = "\n".join(texts(drawn, "hazard"))
    assert [piece for piece in frames if piece in hazard] == []


def test_no_held_out_entry_of_the_hazard_is_asked_for(drawn: list[tuple[Document, int]]) -> None:
    held = {restricted_choice(Random(i), moonglow(), "held_out")[0].question for i in range(2000)}
    lines = {line for text in texts(drawn, "hazard") for line in text.split("\n")}
    assert any(line.endswith("?") for line in lines) and not lines & held


def test_no_needle_is_held_out(drawn: list[tuple[Document, int]]) -> None:
    stated = 0
    for text in texts(drawn, "needles"):
        pairs = re.findall(r"Set (\w+) to (\d{5})", text) + re.findall(
            r"number of (\w+) is (\d{5})", text
        )
        pairs += re.findall(r"(\w+) keeps the secret number (\d{5})", text)
        pairs += [(k, v) for v, k in re.findall(r"(\d{5}) is the secret number of (\w+)\.", text)]
        assert pairs, text
        stated += len(pairs)
        assert all(split_of(f"{key}|{value}") == "train" for key, value in pairs)
    assert stated > 300


def test_no_track_is_held_out_nor_begins_with_one(drawn: list[tuple[Document, int]]) -> None:
    tracks = [found for text in texts(drawn, "state") for found in TRACK.findall(text)]
    assert (
        len(tracks) > 150
        and len(TRACKS) == 4
        and any("cups" in t for t in tracks)
        and any("mod " in t for t in tracks)
    )
    for track in tracks:
        steps = track.split("; ")
        assert all(split_of("; ".join(steps[:n])) == "train" for n in range(2, len(steps) + 1)), (
            track
        )


def test_no_program_is_held_out(drawn: list[tuple[Document, int]]) -> None:
    calls = 0
    for text in texts(drawn, "tools"):
        for line in text.split("\n"):
            if line.startswith('{"program"'):
                calls += 1
                assert is_of("train", json.loads(line)["program"])
    assert calls > 20
    programs = 0
    for text in texts(drawn, "machine"):
        source = re.split(r"\n(?:trace|prints|error)\b", text)[0]
        lines = [line for line in source.split("\n") if not line.startswith("#")]
        if "\nerror: " not in text:  # a broken program is no program
            programs += 1
            assert split_of("; ".join(lines)) == "train", text
    assert programs > 30
