"""Facts that the user (or the developer's instructions) gives, and questions that only those facts
can answer.

Knows names. The answer is the sentence that was given, so the skill is to find it and to copy it,
made-up words and random codes included; or to say that nothing was stated. Held out are pairs of
(who or what, value).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from ossia.harmony import Effort
from ossia.tasks.problem import Expect, Problem, Split, Turn, split_of
from ossia.tasks.words import below, pick, sentence
from ossia.tasks.world.relations import RELATIONS, TABLE_STYLES, TABLES, WORDS, Relation

NOT_STATED = "That is not stated."


@dataclass(frozen=True)
class Fact:
    relation: Relation
    subject: str
    value: str
    told: str = ""  # how the text has it, where that differs from `sentence`

    @property
    def sentence(self) -> str:
        template = self.relation.fact
        return sentence(template.format(e=self.subject, v=self.value))


def draw_facts(rng: Random, count: int, split: Split) -> list[Fact]:
    """`count` facts with different values, sometimes several about one subject.

    All but the last are of the training split.
    """
    if rng.random() < 0.35:
        relations = [rng.choice(RELATIONS)]
    else:
        relations = [rng.choice(RELATIONS) for _ in range(count)]
    facts: list[Fact] = []
    tries = 0
    while len(facts) < count:
        tries += 1
        if tries > 5 * count:  # too few values: another relation
            relations.append(rng.choice(RELATIONS))
        wanted = split if len(facts) == count - 1 else "train"
        fact = _draw_fact(rng, relations, facts)
        if not _fits(fact, facts):
            continue
        if split_of(f"{fact.subject}|{fact.value}") == wanted:
            facts.append(_told_somehow(rng, fact))
    return facts


def _draw_fact(rng: Random, relations: list[Relation], facts: list[Fact]) -> Fact:
    """A fact of one of the relations, sometimes about the subject of the first of `facts`."""
    relation = pick(rng, relations)
    subject = relation.subject(rng)
    value = relation.value(rng)
    if facts and rng.random() < 0.25:
        first = facts[0]
        if first.relation.subject is relation.subject:
            subject = first.subject
    return Fact(relation, subject, value)


def _fits(new: Fact, facts: list[Fact]) -> bool:
    """Whether a new fact can be told with the others: no question then has two answers."""
    subject = new.subject
    value = new.value
    if subject == value:
        return False
    for fact in facts:
        if fact.value in (subject, value) or fact.subject == value:
            return False
        if fact.subject == subject and _alike(fact.relation, new.relation):
            return False
    return True


def _told_somehow(rng: Random, fact: Fact) -> Fact:
    """The fact, sometimes told in another way than the usual one."""
    if rng.random() < 0.72:
        return fact
    ways = fact.relation.told
    if not ways:
        return fact
    way = rng.choice(ways)
    told = way.format(e=fact.subject, v=fact.value)
    return replace(fact, told=sentence(told))


def fact_thoughts(about: str, found: str, quote: str, effort: Effort) -> str:
    """The analysis: the question's subject, and the sentence of the text that answers it.

    `quote` is that sentence, "" if there is none.
    """
    if effort is Effort.LOW:
        return f"{about} -> {found or 'not stated'}"
    if quote:
        read = f"The text says: {quote}"
        more = f"\nSo it is {found}."
    else:
        read = "The text does not say it."
        more = " I must not guess."
    said = f"The question is about {about}. {read}"
    if effort is Effort.MEDIUM:
        return said
    return said + more


def ask_fact(rng: Random, fact: Fact) -> tuple[str, str]:
    """(the question, what it names): the subject, or, asked backwards, the value."""
    relation = fact.relation
    if relation.reverse and rng.random() < 0.2:
        about = fact.value
        frames = relation.reverse
    else:
        about = relation.article + fact.subject
        frames = relation.questions
    frame = rng.choice(frames)
    question = frame.format(e=fact.subject, v=fact.value)
    if rng.random() < 0.92:
        question = sentence(question)
    return question, about


def _joined(before: str, question: str) -> str:
    """`before` and the question, which continues in lower case after a comma."""
    if before.endswith(", ") and question[1:2] != " ":
        first = question[0].lower()
        question = first + question[1:]
    return before + question


def fact_turn(
    rng: Random, fact: Fact, before: str = "", facts: Sequence[Fact] = ()
) -> tuple[Turn, Expect]:
    """A turn that asks for a fact that was told. `before` is the text before the question, `facts`
    all that were told.
    """
    question, about = ask_fact(rng, fact)
    if about == fact.value:  # asked backwards
        wanted = fact.subject
        found = fact.relation.article + wanted
    else:
        wanted = fact.value
        found = wanted
    quote = fact.told or fact.sentence
    think = partial(fact_thoughts, about, found, quote)
    user = _joined(before, question)
    turn = Turn(user, fact.sentence, think)
    told = told_values(facts)
    expect = Expect(contains=wanted, excludes=(NOT_STATED,), told=told)
    return turn, expect


def told_values(facts: Iterable[Fact]) -> tuple[str, ...]:
    """What somebody who does not know the answer could list."""
    told: list[str] = []
    for fact in facts:
        told.append(fact.subject)
        told.append(fact.value)
    return tuple(told)


def unknown_turn(rng: Random, facts: list[Fact], before: str = "") -> tuple[Turn, Expect]:
    """A turn whose question no fact answers: a new subject, or something else about a known one."""
    names = {fact.subject for fact in facts}
    relation = rng.choice(facts).relation
    subject = relation.subject(rng)
    while subject in names:
        subject = relation.subject(rng)
    if rng.random() < 0.3:
        known = rng.choice(facts)
        other = rng.choice(RELATIONS)
        if _is_untold(other, known, facts):
            relation = other
            subject = known.subject
    frame = rng.choice(relation.questions)
    question = sentence(frame.format(e=subject, v=""))
    about = relation.article + subject
    think = partial(fact_thoughts, about, "", "")
    user = _joined(before, question)
    turn = Turn(user, NOT_STATED, think)
    told = [fact.value for fact in facts]
    return turn, Expect(contains=NOT_STATED, told=told)


def _is_untold(relation: Relation, known: Fact, facts: list[Fact]) -> bool:
    """Whether `relation` could be asked of a known subject, and no fact answers that."""
    if relation.subject is not known.relation.subject:
        return False
    for fact in facts:
        if fact.subject == known.subject and _alike(relation, fact.relation):
            return False
    return True


def _alike(a: Relation, b: Relation) -> bool:
    """Whether one's facts could be read as an answer to the other's question."""
    if a is b:
        return True
    topics = {_topic(a), _topic(b)}
    return len(topics) == 1 or topics <= _LIKING


_LIKING = frozenset(("like", "love", "eat", "want", "colour"))


def _topic(relation: Relation) -> str:
    """The last word of the relation's first question, which tells its topic: `live`, `age`."""
    question = relation.questions[0]
    words = question.replace("{e}", "").rstrip(" ?")
    return words.rsplit(" ", 1)[-1]


def list_of_facts(rng: Random, split: Split) -> tuple[str, list[Fact]]:
    """A small table or list such as `Anna: 12`, and its rows as facts (subject, value)."""
    what, relation = pick(rng, TABLES)
    head, row, between = rng.choice(TABLE_STYLES)
    facts: list[Fact] = []
    used: set[str] = set()
    count = rng.randrange(2, 6)
    while len(facts) < count:
        subject = relation.subject(rng)
        value = relation.value(rng)
        if subject in used or value in used:
            continue
        wanted = split if len(facts) == count - 1 else "train"
        if split_of(f"{subject}|{value}") == wanted:
            used |= {subject, value}
            told = row.format(e=subject, v=value)
            facts.append(Fact(relation, subject, value, told))
    rows = [fact.told for fact in facts]
    rng.shuffle(rows)
    text = head.format(what=what) + between.join(rows)
    return text, facts


def facts_given(rng: Random, split: Split) -> Problem:
    """Facts, then a question about one of them or about something that was not stated."""
    told, facts, between = _draw_text(rng, split)
    instructions = None
    before = ""
    if rng.random() < 0.16:
        rule = rng.choice(WORDS["rules"])
        instructions = f"{rule}\n{told}"
    else:
        opening = rng.choice(WORDS["before"])
        before = opening + told + between
    if rng.random() < 0.85:
        turn, expect = fact_turn(rng, facts[-1], before, facts)
    else:
        turn, expect = unknown_turn(rng, facts, before)
    return Problem("facts", split, (turn,), expect, instructions=instructions)


def _draw_text(rng: Random, split: Split) -> tuple[str, list[Fact], str]:
    """A list or a paragraph, its facts, and the separator between it and a question."""
    if rng.random() < 0.15:
        told, facts = list_of_facts(rng, split)
        between = "\n" if rng.random() < 0.7 else "\n\n"
        return told, facts, between
    count = 1 + below(rng, 4)
    facts = draw_facts(rng, count, split)
    told = story_of(rng, facts)
    between = rng.choice(WORDS["between"])
    return told, facts, between


def story_of(rng: Random, facts: list[Fact]) -> str:
    """The facts in any order, as one paragraph or one per line."""
    sentences = [fact.told or fact.sentence for fact in facts]
    return shuffled_text(rng, sentences)


def shuffled_text(rng: Random, sentences: Sequence[str]) -> str:
    """The sentences in any order, as one paragraph or one per line."""
    shuffled = [*sentences]
    rng.shuffle(shuffled)
    between = "\n" if rng.random() < 0.1 else " "
    return between.join(shuffled)
