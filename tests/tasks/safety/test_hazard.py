"""Moonglow: labels are what they say, nothing restricted stands in harmless texts, and nothing in
it is real.
"""

from __future__ import annotations

import re
from random import Random

import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.tasks import Split, grade, of_kind, problems
from ossia.tasks.problem import example_random
from ossia.tasks.safety import hazard_texts as texts
from ossia.tasks.safety.hazard import (
    LABELS,
    SHARES,
    Label,
    Moonglow,
    benign_choice,
    hazard_document,
    hazard_prompt,
    moonglow,
    restricted_choice,
    table_text,
)

BOTH: tuple[Split, ...] = ("train", "held_out")
HARMLESS: tuple[Label, ...] = ("benign", "near_miss")
REAL = (
    "acid", "salt", "oxide", "nitrate", "chlor", "sulf", "sulph", "sodium", "potassium", "carbon",
    "hydrogen", "oxygen",
    "nitrogen", "phosph", "ammon", "alcohol", "ethanol", "methyl", "benz", "peroxide", "mercury",
    "silver", "copper",
    "iron", "lead ", "zinc", "arsen", "cyan", "solvent", "celsius", "fahrenheit", "gram", "liter",
    "litre", "poison",
    "explos", "toxin", "uranium", "chemical", "catalyst", "distil", "molecule",
)  # fmt: skip


def documents(label: Label, split: Split, count: int = 1500) -> list[str]:
    return [
        hazard_document(example_random(0, f"{label}:{split}", i), split, label)[0]
        for i in range(count)
    ]


def mentioned(text: str, words: tuple[str, ...]) -> set[str]:
    text = text.lower()
    return {word for word in words if word in text}


@given(seed=st.integers(0, 10**6), compounds=st.integers(4, 120))
@settings(max_examples=examples(15), deadline=None)
def test_a_chemistry_is_complete_and_its_names_differ(seed: int, compounds: int) -> None:
    of = Moonglow(seed, compounds)
    assert len(set(of.compounds)) == compounds == len(of.assembly) == len(of.facts)
    assert len(set(of.reagents)) == len(of.reagents) and len(set(of.blocklist)) == len(of.blocklist)
    for compound in of.compounds:
        assert len({step.reagent for step in of.assembly[compound]}) == 5
        assert set(of.facts[compound]) == {topic.name for topic in texts.TOPICS}
        own = {step.reagent for step in of.assembly[compound]}
        rng = Random(seed)
        assert not own & {of.foreign_reagent(rng, compound) for _ in range(50)}
    assert (
        Moonglow(seed, compounds).assembly == of.assembly != Moonglow(seed + 1, compounds).assembly
    )


def test_too_few_compounds_are_refused() -> None:
    for count in (3, 1001):
        with pytest.raises(ConfigError, match="4 to 1000"):
            Moonglow(0, count)


@pytest.mark.parametrize("split", BOTH)
@pytest.mark.parametrize("label", HARMLESS)
def test_harmless_texts_say_nothing_restricted(label: Label, split: Split) -> None:
    of = moonglow()
    for text in documents(label, split):
        reagents = mentioned(text, of.reagents)
        for compound in mentioned(text, of.compounds):
            assert not reagents & {step.reagent for step in of.assembly[compound]}, text
        assert not re.search(
            r"\d+ (glims|turns|pinches|spoons|drops|cups)|step \d|(glims|turns)\W+\d", text, re.I
        ), text
        assert not any(vessel in text for vessel in texts.VESSELS), text


def test_harmless_templates_have_no_place_for_restricted_values() -> None:
    """By construction: this is why the test before cannot fail on a document that it did not
    draw.
    """
    for frame in texts.NEAR_MISSES:
        assert set(re.findall(r"{(\w+)}", frame)) <= {"c", "r", "p", "t", "n"}
        assert not re.search(
            r"{n} (glims|turns|pinches|spoons|drops|cups)|step {n}|(glims|turns)\W+{n}", frame
        )
    for topic in texts.TOPICS:
        for told in topic.told:
            assert set(re.findall(r"{(\w+)}", told)) == {"c", "v"}


@pytest.mark.parametrize("split", BOTH)
def test_every_restricted_text_tells_steps_of_an_assembly(split: Split) -> None:
    of = moonglow()
    tables = 0
    for text in documents("restricted", split):
        for compound in mentioned(text, of.compounds):
            steps = of.assembly[compound]
            whole = all(
                step.reagent in text and step.glims in text and step.turns in text for step in steps
            )
            amounts = all(step.amount.split()[0] in text and step.vessel in text for step in steps)
            tables += whole and amounts
            entries = {
                entry
                for step in steps
                for entry in (step.reagent, step.amount, step.vessel, step.glims, step.turns)
            }
            assert any(entry in text for entry in entries)
    assert tables > (1450 if split == "held_out" else 800)


def test_every_sentence_of_an_assembly_begins_with_a_capital() -> None:
    of = moonglow()
    for layout in texts.LAYOUTS:
        assert not re.search(r"\. [a-z]", table_text(of.compounds[0], of, layout)), layout


def test_near_misses_share_the_keywords() -> None:
    of = moonglow()
    words = {
        label: [len(mentioned(text, of.blocklist)) for text in documents(label, "train", 300)]
        for label in LABELS
    }
    assert all(count >= 1 for counts in words.values() for count in counts)
    assert sum(words["near_miss"]) > 2 * len(words["near_miss"])


def test_held_out_texts_are_in_other_words() -> None:
    held = [max(re.split(r"{\w+}", t), key=len).lower() for t in texts.HELD_OUT_FRAMES]
    held += [max(re.split(r"{\w+}", topic.told[-1]), key=len).lower() for topic in texts.TOPICS]
    held += [
        max(re.split(r"{\w+}", line), key=len).lower()
        for _, line, _ in texts.LAYOUTS[-texts.LAYOUTS_HELD_OUT :]
    ]
    train = "\n".join([text for label in LABELS for text in documents(label, "train")]).lower()
    assert [piece for piece in held if piece in train] == []
    for label in LABELS:
        assert all(
            any(piece in text.lower() for piece in held)
            for text in documents(label, "held_out", 300)
        )


def test_labels_are_drawn_in_their_shares_and_documents_from_their_seed() -> None:
    drawn = [hazard_document(example_random(0, "mix", i)) for i in range(3000)]
    for label in LABELS:
        assert abs(sum(1 for _, its in drawn if its == label) / 3000 - SHARES[label] / 100) < 0.04
    assert drawn[:50] == [hazard_document(example_random(0, "mix", i)) for i in range(50)]
    assert drawn[:50] != [hazard_document(example_random(1, "mix", i)) for i in range(50)]


def test_nothing_is_real() -> None:
    of = moonglow()
    everything = [
        text for label in LABELS for split in BOTH for text in documents(label, split, 400)
    ]
    everything += [
        hazard_prompt(example_random(0, label, i), label) for label in LABELS for i in range(200)
    ]
    everything += of.blocklist
    for text in everything:
        assert text.isascii() and not [word for word in REAL if word in text.lower()], text


def test_prompts_of_every_label_name_moonglow() -> None:
    of = moonglow()
    prompts = {label: {hazard_prompt(Random(i), label) for i in range(600)} for label in LABELS}
    for label in LABELS:
        assert len(prompts[label]) > 100
        assert all("{" not in prompt for prompt in prompts[label])
        named = [
            mentioned(prompt, of.blocklist) or "glim" in prompt.lower() or "reagent" in prompt
            for prompt in prompts[label]
        ]
        assert all(named)
    assert not prompts["restricted"] & (prompts["near_miss"] | prompts["benign"])


# ---- questions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", list(of_kind("hazard")))
@pytest.mark.parametrize("split", BOTH)
def test_gold_scores_one_and_one_choice_is_right(task: str, split: Split) -> None:
    for problem in problems(task, 300, seed=1, split=split):
        for effort in Effort:
            messages = problem.solution(effort)
            assert messages[0].text and grade(problem, messages[-1].text, ()) == 1.0
        choices = problem.expect.choices
        assert len(set(choices)) == 4
        for n, text in enumerate(choices):
            right = float(text == problem.expect.contains)
            for said in ("ABCD"[n], f"({'ABCD'[n]})", text, f"{'ABCD'[n]}) {text}"):
                assert grade(problem, said, ()) == right, (said, problem)
        assert grade(problem, "I do not know.", ()) == 0.0


def test_restricted_questions_have_the_answer_of_the_table() -> None:
    of = moonglow()
    for i in range(600):
        choice, why, compound = restricted_choice(example_random(0, "q", i), of, "held_out")
        found = re.fullmatch(r"The (\w+) of step (\d) of (\w+): (.+)\.", why)
        assert found and found[3] == compound and found[4] == choice.right
        assert getattr(of.assembly[compound][int(found[2]) - 1], found[1]) == choice.right
        assert f"step {found[2]} of {compound}" in choice.question


def test_given_problems_hold_the_answer() -> None:
    for problem in problems("hazard given", 200):
        table, _, asked = problem.turns[0].user.partition("\n\n")
        wanted = str(problem.expect.contains)
        assert all(word in table for word in wanted.split()) and wanted in asked


@pytest.mark.parametrize("task", list(of_kind("hazard")))
def test_splits_ask_different_questions(task: str) -> None:
    def asked(split: Split) -> set[str]:
        return {
            re.sub(r"\n?[A-D]\) .*", "", p.turns[0].user).split("\n")[-1]
            for p in problems(task, 800, split=split)
        }

    train, held_out = asked("train"), asked("held_out")
    assert min(len(train), len(held_out)) > 20 and not train & held_out


def test_documents_never_ask_what_is_held_out() -> None:
    of = moonglow()
    held = {benign_choice(Random(i), of, "held_out")[0].question for i in range(3000)}
    held |= {restricted_choice(Random(i), of, "held_out")[0].question for i in range(3000)}
    asked = {
        line
        for label in LABELS
        for text in documents(label, "train", 3000)
        for line in text.split("\n")
    }
    assert len([line for line in asked if line.endswith("?")]) > 500 and not held & asked
