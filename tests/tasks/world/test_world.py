"""The fictional country: consistent, told in enough words, and nothing held out in any training
text.
"""

from __future__ import annotations

import re
from itertools import islice, pairwise
from random import Random

import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.data import world as data
from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.tasks import Split, grade, of_kind, problems
from ossia.tasks.problem import chosen, example_random, split_of
from ossia.tasks.world.country import (
    RELATIONS_OF,
    Fact,
    World,
    bare,
    hop_split,
    reserved_words,
    sentence,
    world,
)
from ossia.tasks.world.facts import NOT_STATED
from ossia.tasks.world.facts import Fact as GivenFact
from ossia.tasks.world.questions import choice_question
from ossia.tasks.world.reading import draw_story, questions, reading_document, reading_question
from ossia.tasks.world.texts import ASKED_HELD_OUT, BACK_HELD_OUT, KINDS, RELATIONS, TOLD_HELD_OUT

BOTH: tuple[Split, ...] = ("train", "held_out")
QUESTION = re.compile(r"(?:^|(?<=[.?] ))(?:Q: |Question: )?([^.?\n]+\?)", re.MULTILINE)
SMALL = World(3, 120)


WORLD = list(of_kind("world"))


def texts_of(of: World, count: int) -> list[str]:
    return [text for text, _ in islice(data.documents(7, of=of), count)]


# ---- the knowledge base --------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), size=st.integers(40, 400))
@settings(max_examples=examples(25), deadline=None)
def test_a_world_is_consistent(seed: int, size: int) -> None:
    of = World(seed, size)
    assert (
        len(of.names) == size == len({name.lower() for name in of.names})
        and len(of.facts) == 6 * size
    )
    for kind in KINDS:
        assert len(of.entities[kind]) >= 4
        for entity in of.entities[kind]:
            facts = of.about(entity)
            assert list(facts) == [relation.name for relation in RELATIONS_OF[kind]]
            for fact in facts.values():
                leads_to = fact.relation.leads_to
                assert fact.value in (of.entities[leads_to] if leads_to else fact.relation.values)
    for town in of.entities["town"]:
        assert of.value(of.value(town, "mayor"), "home") == town
    for company in of.entities["company"]:
        assert of.value(of.value(company, "owner"), "company") == company
        assert int(of.value(of.value(company, "seat"), "founded")) < int(
            of.value(company, "opened")
        )
    for river in of.entities["river"]:
        assert of.value(of.value(river, "source"), "river") == river
    for person in of.entities["person"]:
        friend = of.value(person, "friend")
        assert friend != person and of.value(friend, "friend") == person


def test_a_world_is_a_function_of_its_seed_and_size() -> None:
    assert World(3, 120).facts == SMALL.facts != World(4, 120).facts
    assert World(3, 120).hops == SMALL.hops
    assert len(world().names) == 2000 and len(world().facts) == 12_000 and world() is world()
    for size in (39, 8001):
        with pytest.raises(ConfigError, match="40 to 8000"):
            World(0, size)


def test_names_are_simple_and_no_other_words() -> None:
    for name in world().names:
        assert name.isascii() and re.fullmatch(r"(the )?[A-Za-z]+( river)?", name)
        assert bare(name).split()[0].lower() not in reserved_words()


def test_values_that_only_one_subject_has() -> None:
    for relation in RELATIONS:
        by_value: dict[str, int] = {}
        facts = [fact for fact in SMALL.facts if fact.relation is relation]
        for fact in facts:
            by_value[fact.value] = by_value.get(fact.value, 0) + 1
        assert all(SMALL.is_only(fact) == (by_value[fact.value] == 1) for fact in facts)


# ---- wordings ------------------------------------------------------------------------------------


def test_there_are_enough_wordings_and_all_are_ascii() -> None:
    assert len(RELATIONS) == 30
    for relation in RELATIONS:
        assert len(relation.told) - TOLD_HELD_OUT >= 6 and len(relation.asked) >= 3 + ASKED_HELD_OUT
        for wordings, parts in ((relation.told, "ev"), (relation.asked, "e"), (relation.back, "v")):
            assert len(set(wordings)) == len(wordings)
            for text in wordings:
                assert text.isascii() and text[-1] in ".?"
                assert set(re.findall(r"{(\w)}", text)) == set(parts)
        assert bool(relation.phrase) == bool(relation.leads_to)


def held_out_fragments() -> list[str]:
    """The longest piece of every held-out template, in lower case."""
    held = [text for relation in RELATIONS for text in relation.told[-TOLD_HELD_OUT:]]
    held += [text for relation in RELATIONS for text in relation.asked[-ASKED_HELD_OUT:]]
    held += [text for relation in RELATIONS for text in relation.back[-BACK_HELD_OUT:]]
    return [max(re.split(r"{\w}", text.lower()), key=len) for text in held]


def test_no_held_out_wording_in_training_text() -> None:
    """By construction: no training template holds such a piece. And indeed: no document does."""
    fragments = held_out_fragments()
    trained = [text for relation in RELATIONS for text in relation.told[:-TOLD_HELD_OUT]]
    trained += [text for relation in RELATIONS for text in relation.asked[:-ASKED_HELD_OUT]]
    trained += [text for relation in RELATIONS for text in relation.back[:-BACK_HELD_OUT]]
    told = "\n".join([*trained, *texts_of(world(), 5000)]).lower()
    assert len(fragments) == 120
    assert [piece for piece in fragments if piece in told] == []


def test_held_out_wordings_are_used_when_asked_for() -> None:
    rng, fact = Random(1), SMALL.facts[0]
    told = {fact.tell(rng, "held_out") for _ in range(50)}
    assert told == {
        text.format(e=fact.subject, v=fact.value) for text in fact.relation.told[-TOLD_HELD_OUT:]
    }
    assert not told & {fact.tell(rng) for _ in range(200)}


# ---- documents -----------------------------------------------------------------------------------


def test_documents_resume_exactly() -> None:
    whole = list(islice(data.documents(5, of=SMALL), 60))
    assert list(islice(data.documents(5, start=whole[24][1], of=SMALL), 35)) == whole[25:]
    assert list(islice(data.documents(6, of=SMALL), 60)) != whole
    assert all(text.strip() and text.isascii() for text, _ in whole)


@pytest.mark.parametrize("of", [SMALL, world()], ids=["small", "usual"])
def test_documents_never_ask_for_a_held_out_fact_or_hop(of: World) -> None:
    rng = Random(0)
    facts = {fact.ask(rng) for fact in of.asked["held_out"] for _ in range(12)}
    hops = {hop.ask(rng) for hop in of.hops["held_out"] for _ in range(6)}
    asked = {question for text in texts_of(of, 4000) for question in QUESTION.findall(text)}
    assert len(asked) > 2000
    assert not asked & facts and not asked & hops
    backwards = {
        fact.ask_back(rng) for fact in of.asked["held_out"] if of.is_only(fact) for _ in range(8)
    }
    there = {
        q
        for i in range(1500)
        for q in QUESTION.findall(data.questions(example_random(1, "b", i), of))
    }
    assert backwards and not there & backwards


def test_training_tells_facts_that_it_does_not_ask_for() -> None:
    told = "\n".join([data.portrait(example_random(0, "p", i), SMALL) for i in range(1500)])
    missing = [fact for fact in SMALL.asked["held_out"] if not any(
        sentence(wording.format(e=fact.subject,
            v=fact.value)) in told for wording in fact.relation.told
    )]  # fmt: skip
    assert SMALL.asked["held_out"] and not missing


def facts_in(text: str, known: dict[str, Fact]) -> list[Fact]:
    """The facts that a story tells, in its order: a sentence may begin with words that only report
    them.
    """
    found = []
    for said in re.split(r"(?<=\.) ", text):
        words = said.lower().split()
        found += [known[rest] for n in range(len(words)) if (rest := " ".join(words[n:])) in known][
            :1
        ]
    return found


def test_stories_never_go_over_a_held_out_hop() -> None:
    known = {
        wording.format(e=fact.subject, v=fact.value).lower(): fact
        for fact in SMALL.facts
        for wording in fact.relation.told
    }
    steps = 0
    for i in range(600):
        told = facts_in(data.story(example_random(0, "s", i), SMALL), known)
        came: Fact | None = None
        for before, fact in pairwise(told):
            if fact.subject != before.subject:
                assert before.value == fact.subject
                came, steps = before, steps + 1
            assert came is None or hop_split(came, fact) == "train", (came, fact)
    assert steps > 300


def test_two_hops_have_one_answer_that_is_not_in_the_question() -> None:
    rng = Random(2)
    for split in BOTH:
        assert SMALL.hops[split]
        for hop in SMALL.hops[split]:
            assert SMALL.value(
                SMALL.value(hop.first.subject, hop.first.relation.name), hop.second.relation.name
            ) == (hop.second.value)
            asked = hop.ask(rng)
            assert hop.second.value not in asked.split() and hop.first.value not in asked
            assert bare(hop.first.subject).lower() in asked.lower()
            assert {hop.first, hop.second} <= set(SMALL.asked["train"])
    assert not set(SMALL.hops["train"]) & set(SMALL.hops["held_out"])


# ---- reading -------------------------------------------------------------------------------------


def test_reading_is_about_nobody_that_the_world_knows() -> None:
    names = {bare(name).split()[0].lower() for name in world().names}
    for i in range(1500):
        words = set(
            re.findall(r"[a-z]+", reading_document(example_random(0, "r", i), world()).lower())
        )
        assert not words & names


def test_reading_has_many_questions_that_the_text_alone_answers() -> None:
    forward = backward = absent = 0
    for i in range(1500):
        rng = example_random(0, "story", i)
        story = draw_story(rng, SMALL)
        asked = questions(rng, story, SMALL, 6)
        told = story.text.lower()
        assert all(quote in story.text for quote in story.quotes)
        for one in asked:
            if one.short == NOT_STATED:
                absent += 1
                assert not re.search(rf"\b{re.escape(bare(one.about).lower())}\b", told)
            else:
                assert one.quote in story.text and bare(one.short).lower() in one.quote.lower()
                forward += one.short.lower() not in one.question.lower()
                backward += one.short in {getattr(fact, "subject", "") for fact in story.facts}
                assert bare(one.about).lower() in one.question.lower()
    assert min(absent, backward) > 500 and forward > 5000


def test_facts_of_a_story_differ_in_subject_and_in_value() -> None:
    for i in range(1500):
        facts = [
            fact
            for fact in draw_story(example_random(0, "d", i), SMALL).facts
            if isinstance(fact, Fact)
        ]
        assert len({(f.relation.name, f.subject) for f in facts}) == len(facts) != 1
        assert len({(f.relation.name, f.value) for f in facts}) == len(facts)


def test_told_pairs_keep_to_their_split() -> None:
    def pair(fact: Fact | GivenFact) -> Split:
        return split_of(f"{fact.subject}|{fact.value}")

    for i in range(1000):
        assert {pair(fact) for fact in draw_story(example_random(0, "t", i), SMALL).facts} == {
            "train"
        }
        *others, last = draw_story(example_random(0, "h", i), SMALL, "held_out").facts
        assert pair(last) == "held_out" and {pair(fact) for fact in others} <= {"train"}


def test_a_reading_problem_asks_for_what_its_text_says() -> None:
    for i in range(500):
        problem = reading_question(SMALL, example_random(0, "q", i), "held_out")
        wanted = str(problem.expect.contains)
        assert wanted == NOT_STATED or wanted.lower() in problem.turns[0].user.lower()


# ---- problems ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", WORLD)
@pytest.mark.parametrize("split", BOTH)
def test_gold_scores_one_and_nothing_else(task: str, split: Split) -> None:
    for problem in problems(task, 300, seed=1, split=split):
        for effort in Effort:
            messages = problem.solution(effort)
            assert messages[0].text and messages[-1].text == problem.answer
            assert grade(problem, messages[-1].text, ()) == 1.0
        for wrong in ("", "I do not know.", "The answer is 123456789.", "That is wrong."):
            assert grade(problem, wrong, ()) == 0.0
        assert problem.turns[0].user.isascii() and problem.answer.isascii()


@pytest.mark.parametrize("task", ["world choice", "world hops choice"])
def test_of_four_choices_one_is_right_by_letter_and_by_text(task: str) -> None:
    places = set()
    for problem in problems(task, 400, seed=2):
        choices = problem.expect.choices
        assert len(set(choices)) == 4
        right = [n for n, text in enumerate(choices) if text == problem.expect.contains]
        assert len(right) == 1
        places.add(right[0])
        for n, text in enumerate(choices):
            letter = "ABCD"[n]
            for said in (
                letter,
                f"{letter}.",
                f"({letter})",
                f"{letter}) {text}",
                text,
                f"The answer is {letter}.",
            ):
                assert grade(problem, said, ()) == float(n in right), (said, problem)
        assert grade(problem, f"{choices[0]} or {choices[1]}", ()) == 0.0
        assert grade(problem, "A) or B)", ()) == 0.0
    assert places == {0, 1, 2, 3}


def test_right_choices_are_true_and_wrong_ones_are_not() -> None:
    asked = {fact.ask(Random(n)): fact for fact in SMALL.facts for n in range(12)}
    for i in range(500):
        problem = choice_question(SMALL, example_random(0, "c", i), "train")
        fact = asked[problem.turns[0].user.split("\n")[0]]
        assert (
            problem.expect.contains == fact.value == SMALL.value(fact.subject, fact.relation.name)
        )


@pytest.mark.parametrize("task", [task for task in WORLD if task != "reading"])
def test_splits_ask_different_questions(task: str) -> None:
    train, held_out = (
        {p.turns[0].user.split("\n")[0] for p in problems(task, 1500, split=split)}
        for split in BOTH
    )
    assert len(train) > 1000 and len(held_out) > 500 and not train & held_out


@pytest.mark.parametrize("task", WORLD)
def test_problems_are_functions_of_their_index(task: str) -> None:
    first = [p.prompt() + p.solution(Effort.HIGH) for p in problems(task, 40, seed=3)]
    assert first[20:] == [
        p.prompt() + p.solution(Effort.HIGH) for p in problems(task, 20, seed=3, start=20)
    ]
    assert first != [p.prompt() + p.solution(Effort.HIGH) for p in problems(task, 40, seed=4)]


def test_chosen_reads_letters_and_texts() -> None:
    choices = ("a red hat", "red", "12", "112")
    assert chosen("A baker came.", choices) == set()
    assert chosen("B, because it is.", choices) == {1}
    assert chosen("**C**", choices) == {2}
    assert chosen("It is 112.", choices) == {3}
    assert chosen("I choose D", choices) == {3}
    assert chosen("E) none", choices) == set()
    assert chosen("A) or (C)", choices) == {0, 2}
