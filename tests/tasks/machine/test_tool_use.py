"""Tools: lookups of any mapping and of the fictional country, failures, orders inside results, run
programs.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ossia.errors import ConfigError
from ossia.harmony import Effort, Role
from ossia.tasks import Call, Problem, grade, problems
from ossia.tasks.machine.programs import is_of
from ossia.tasks.machine.tool_use import INJECTIONS, KINDS, LOOKUP_FAILED, tool_use, tools_text
from ossia.tasks.problem import example_random, split_of
from ossia.tasks.world.country import RELATIONS, World, asked_split, hop_split, world
from ossia.tasks.world.lookup import (
    NOUNS,
    Knowledge,
    LookupTool,
    draw_query,
    lookup_arguments,
    world_knowledge,
)

FACTS = {
    ("Ann", "age"): "30",
    ("Ann", "town"): "Ulm",
    ("Ulm", "mayor"): "Bob",
    ("the Rill", "length"): "7",
}


def some(kind: str, count: int = 150, split: str = "train") -> list[Problem]:
    return [
        tool_use(example_random(1, kind, i), "train" if split == "train" else "held_out", kind)
        for i in range(count)
    ]


def test_lookup_answers_from_any_mapping() -> None:
    tool = LookupTool(Knowledge.of(FACTS))
    assert tool(lookup_arguments(("Ann", "age"))) == "30"
    assert (
        tool(lookup_arguments((" ann ", "AGE"))) == "30"
        and tool(lookup_arguments(("Rill", "length"))) == "7"
    )
    assert tool(lookup_arguments(("Cid", "age"))) == "error: nothing is known of Cid"
    assert tool(lookup_arguments(("Ann", "job"))) == "error: Ann has no job, only age, town"
    assert tool("{") == "error: the arguments are not JSON"
    assert tool('{"entity": "Ann"}') == "error: lookup needs an entity and a relation"


@given(st.text())
@example("[" * 100_000)
def test_no_arguments_raise(arguments: str) -> None:
    assert LookupTool(Knowledge.of(FACTS))(arguments).startswith("error: ")


def test_faults() -> None:
    plain, again = lookup_arguments(("Ann", "age")), lookup_arguments(("Ann", "age"), retry=True)
    busy, down = LookupTool(Knowledge.of(FACTS), "busy"), LookupTool(Knowledge.of(FACTS), "down")
    assert busy(plain) == "error: busy, call again with retry true" and busy(again) == "30"
    assert down(plain) == down(again) == "error: not available"
    assert busy.asked(plain) == "ann|age failed" and busy.asked(again) == "ann|age"


def test_questions_follow_the_mapping() -> None:
    values = {(f"P{n}", "town"): f"T{n % 7}" for n in range(200)} | {
        (f"T{n}", "mayor"): f"M{n}" for n in range(7)
    }
    knowledge = Knowledge.of(values)
    for i in range(200):
        rng = example_random(2, "", i)
        query = knowledge.draw(rng, "held_out" if i % 2 else "train", 2)
        assert query is not None
        (first, second), (middle, end) = query.keys, query.values
        assert values[first] == middle == second[0] and values[second] == end
        assert first[0] in query.ask(rng) and middle not in query.ask(rng) and end in query.final


def test_knowledge_that_is_too_small_says_so() -> None:
    with pytest.raises(ConfigError, match="2 facts"):
        draw_query(example_random(0, "", 0), "train", 2, Knowledge.of({("Ann", "age"): "30"}))
    words = Knowledge.of({(name, "flag"): "red" for name in ("Ann", "Bob", "Cleo", "Dan")})
    with pytest.raises(ConfigError, match="a number to go on with"):
        tool_use(example_random(0, "", 0), "train", "fact and run", words)


def test_no_program_that_training_runs_is_asked_for_in_a_held_out_problem() -> None:
    ran = set()
    for problem in problems("tools", 3000, split="train"):
        ran |= {
            json.loads(call.arguments)["program"]
            for call in problem.gold_calls
            if call.name == "run"
        }
    assert len(ran) > 800 and not any(is_of("held_out", program) for program in ran)
    pairs = [problem.gold_calls[1].arguments for problem in some("fact and run")]
    assert {split_of(json.loads(arguments)["program"]) for arguments in pairs} == {"train"}
    for kind in ("run", "write"):
        for i in range(200):
            problem = tool_use(example_random(5, kind, i), "held_out", kind)
            assert is_of("held_out", json.loads(problem.gold_calls[0].arguments)["program"])


def test_the_countrys_own_splits_hold() -> None:
    country = world()
    kept = {
        split: world_knowledge().draw(example_random(0, "", 0), split)
        for split in ("train", "held_out")
    }
    assert all(kept.values())
    by_key = {(fact.subject, fact.relation.name): fact for fact in country.facts}
    for split in ("train", "held_out"):
        for i in range(300):
            rng = example_random(3, split, i)
            one, two = (
                world_knowledge().draw(rng, "train" if split == "train" else "held_out", n)
                for n in (1, 2)
            )
            assert one is not None and two is not None
            fact, (first, second) = by_key[one.keys[0]], (by_key[key] for key in two.keys)
            assert asked_split(fact.subject, fact.relation) == split and fact.value == one.value
            assert hop_split(first, second) == split and first.value == second.subject


def test_documents_look_up_the_country_they_are_given() -> None:
    """In about half of their lookups; the others are of made-up entities, none of the usual
    country.
    """
    of = World(3, 150)
    asked = []
    for i in range(300):
        lines = tools_text(example_random(1, "text", i), of).split("\n")
        asked += [json.loads(line)["entity"] for line in lines if line.startswith('{"entity"')]
    known = [entity for entity in asked if entity in of]
    assert 0.35 < len(known) / len(asked) < 0.75
    # a made-up name may be one by chance
    assert sum(entity in world() and entity not in of for entity in asked) < 5


def test_a_relation_is_named_so_that_it_can_be_told_from_the_others() -> None:
    names = {relation.name for relation in RELATIONS}
    assert (
        set(NOUNS) <= names
        and not names & set(NOUNS.values())
        and len(set(NOUNS.values())) == len(NOUNS)
    )
    country = world_knowledge()
    assert country.phrase(("the sagomouse", "found")) == "the discoverer of the sagomouse"
    assert country.phrase(("Fuwu", "job")) == "the job of Fuwu"
    others = Knowledge.of({("Ann", "market"): "fish"})
    assert others.phrase(("Ann", "market")) == "the market of Ann"  # what callers call it stays


def test_kinds_and_numbers_of_calls() -> None:
    drawn = problems("tools", 2500, split="train")
    kinds = Counter(problem.about["kind"] for problem in drawn)
    assert set(kinds) == set(KINDS)
    assert all(abs(kinds[kind] / 2500 - share / 100) < 0.03 for kind, share in KINDS.items())
    assert Counter(len(problem.gold_calls) for problem in drawn).keys() >= {1, 2, 3}
    injected = Counter(problem.about["injection"] for problem in drawn)
    assert injected.keys() == {"none", *INJECTIONS} and 0.05 < 1 - injected["none"] / 2500 < 0.2


def test_two_facts_need_both_calls_in_order() -> None:
    for problem in some("two facts"):
        first, second = problem.gold_calls
        assert json.loads(second.arguments)["entity"] == first.result.split(". ")[0].split(" (")[0]
        for calls in ((first,), (second,), (second, first)):
            assert grade(problem, problem.answer, calls) == 0.0
        assert grade(problem, problem.answer, (first, first, second)) == 1.0


def test_a_busy_tool_is_called_again_and_a_broken_one_is_named() -> None:
    for problem in some("busy"):
        calls = problem.gold_calls
        assert calls[0].result.startswith("error: busy") and "true" in calls[1].arguments
        assert not any(call.result.startswith("error") for call in calls[1:])
        # whoever says retry at once needs no second call
        assert grade(problem, problem.answer, calls[1:]) == 1.0
        assert (
            grade(problem, problem.answer, calls[:1]) == 0.0
            and grade(problem, LOOKUP_FAILED, calls[:1]) == 0.0
        )
    for problem in some("down"):
        assert (
            problem.answer == LOOKUP_FAILED
            and problem.gold_calls[-1].result == "error: not available"
        )
    for problem in some("limit", 40):
        assert problem.gold_calls[0].result.startswith("error: not finished")
        assert json.loads(problem.gold_calls[1].arguments)["limit"] > 200
    for problem in some("broken", 60):
        assert problem.gold_calls[0].result.removeprefix("error: ") in problem.answer


@pytest.mark.parametrize("injection", list(INJECTIONS))
def test_orders_in_results_are_ignored(injection: str) -> None:
    """The gold answer neither says the word nor makes the call; an answer that does scores
    nothing.
    """
    found = [
        p
        for p in some("one fact", 400) + some("two facts", 300)
        if p.about["injection"] == injection
    ]
    assert len(found) > 8
    for problem in found:
        word = problem.expect.excludes[0]
        assert (
            any(word in call.result for call in problem.gold_calls) and word not in problem.answer
        )
        assert word not in "".join(
            m.text for m in problem.solution(Effort.HIGH) if m.role is Role.ASSISTANT
        )
        for obeyed in (word, f"{problem.answer} {word}."):
            assert grade(problem, obeyed, problem.gold_calls) == 0.0
        if injection == "call":
            assert "send_note" in {tool.function.name for tool in problem.tools}
            note = Call("send_note", json.dumps({"text": word}), "sent")
            assert grade(problem, problem.answer, (*problem.gold_calls, note)) == 0.0


def test_written_programs_may_differ_in_order_but_must_do_the_work() -> None:
    for problem in some("write"):
        call = problem.gold_calls[0]
        spaced = replace(
            call,
            arguments=json.dumps(
                {"program": json.loads(call.arguments)["program"].replace("; ", "\n")}
            ),
        )
        assert grade(problem, problem.answer, (spaced,)) == 1.0
        cheat = json.dumps({"program": f"push {call.result}; print"})
        assert grade(problem, problem.answer, (replace(call, arguments=cheat),)) == 0.0


def test_a_run_program_is_the_one_that_was_given() -> None:
    for problem in some("run"):
        program = json.loads(problem.gold_calls[0].arguments)["program"]
        assert program in problem.turns[0].user
        other = json.dumps({"program": f"{program}; push 1; drop"})
        assert (
            grade(problem, problem.answer, (replace(problem.gold_calls[0], arguments=other),))
            == 0.0
        )


def test_facts_of_a_drawn_knowledge_are_not_in_the_prompt() -> None:
    for problem in some("one fact"):
        assert problem.gold_calls[0].result.split(".")[0] not in problem.turns[0].user.split()
