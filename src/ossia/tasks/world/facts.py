"""Facts that the user (or the developer's instructions) gives, and questions that only those facts
can answer.

Knows names. The answer is the sentence that was given, so the skill is to find it and to copy it,
made-up words and random codes included; or to say that nothing was stated. What is held out is the
pair (who or what, value).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random

from ossia.harmony import Effort
from ossia.tasks.problem import Expect, Problem, Split, Turn, split_of
from ossia.tasks.words import below, pick
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
        return _capital(self.relation.fact.format(e=self.subject, v=self.value))


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def draw_facts(rng: Random, count: int, split: Split) -> list[Fact]:
    """`count` facts with different values, sometimes several on one subject. All but the last are
    of the training split.
    """
    one_relation = rng.random() < 0.35
    relations = [rng.choice(RELATIONS) for _ in range(1 if one_relation else count)]
    facts: list[Fact] = []
    tries = 0
    while len(facts) < count:
        tries += 1
        if tries > 5 * count:  # too few values: another relation
            relations.append(rng.choice(RELATIONS))
        relation = pick(rng, relations)
        subject = relation.subject(rng)
        value = relation.value(rng)
        if facts and rng.random() < 0.25 and facts[0].relation.subject is relation.subject:
            subject = facts[0].subject
        wanted = split if len(facts) == count - 1 else "train"
        if split_of(f"{subject}|{value}") != wanted or not _fits(facts, relation, subject, value):
            continue
        facts.append(Fact(relation, subject, value, _draw_telling(rng, relation, subject, value)))
    return facts


def _fits(facts: list[Fact], relation: Relation, subject: str, value: str) -> bool:
    """Whether a new fact can be told beside the others: nothing that is asked for has two
    answers.
    """
    if subject == value:
        return False
    for fact in facts:
        if fact.value in (subject, value) or fact.subject == value:
            return False
        if _clashes(fact, subject, relation):
            return False
    return True


def _draw_telling(rng: Random, relation: Relation, subject: str, value: str) -> str:
    """Another way to tell a fact, or "" for the usual one."""
    if rng.random() < 0.72 or not relation.told:
        return ""
    return _capital(rng.choice(relation.told).format(e=subject, v=value))


def _clashes(fact: Fact, subject: str, relation: Relation) -> bool:
    """Whether `relation` of `subject` would ask for what `fact` already says."""
    return fact.subject == subject and _alike(fact.relation, relation)


def fact_thoughts(about: str, found: str, quote: str, effort: Effort) -> str:
    """The analysis: what is asked for, and the sentence of the text that says it ("" if none
    does).
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
    return said if effort is Effort.MEDIUM else said + more


def ask_fact(rng: Random, fact: Fact) -> tuple[str, str]:
    """(the question, what it names): by its subject, or by its value where the relation can be
    asked backwards.
    """
    if fact.relation.reverse and rng.random() < 0.2:
        about, frames = fact.value, fact.relation.reverse
    else:
        about, frames = fact.relation.article + fact.subject, fact.relation.questions
    question = rng.choice(frames).format(e=fact.subject, v=fact.value)
    return (_capital(question) if rng.random() < 0.92 else question), about


def _joined(before: str, question: str) -> str:
    """`before` and the question, which goes on in lower case after a comma."""
    if before.endswith(", ") and question[1:2] != " ":
        question = question[0].lower() + question[1:]
    return before + question


def fact_turn(rng: Random, fact: Fact, before: str = "") -> tuple[Turn, Expect]:
    """A turn that asks for a fact that was told, `before` being what stands in front of the
    question.
    """
    question, about = ask_fact(rng, fact)
    backwards = about == fact.value
    found = fact.relation.article + fact.subject if backwards else fact.value
    quote = fact.told or fact.sentence
    think = partial(fact_thoughts, about, found, quote)
    turn = Turn(_joined(before, question), fact.sentence, think)
    wanted = fact.subject if backwards else fact.value
    return turn, Expect(contains=wanted, excludes=(NOT_STATED,))


def unknown_turn(rng: Random, facts: list[Fact], before: str = "") -> tuple[Turn, Expect]:
    """A turn that asks for something that no fact states: another subject, or something else about
    a known one.
    """
    names = {fact.subject for fact in facts}
    relation = rng.choice(facts).relation
    subject = relation.subject(rng)
    while subject in names:
        subject = relation.subject(rng)
    if rng.random() < 0.3:
        known = rng.choice(facts)
        other = rng.choice(RELATIONS)
        told = [fact.relation for fact in facts if fact.subject == known.subject]
        if other.subject is known.relation.subject and not any(_alike(other, one) for one in told):
            relation, subject = other, known.subject
    question = _capital(rng.choice(relation.questions).format(e=subject, v=""))
    thoughts = partial(fact_thoughts, relation.article + subject, "", "")
    return Turn(_joined(before, question), NOT_STATED, thoughts), Expect(contains=NOT_STATED)


def _alike(a: Relation, b: Relation) -> bool:
    """Whether one's facts could be read as an answer to the other's question."""
    if a is b:
        return True
    topics = {_topic(a), _topic(b)}
    return len(topics) == 1 or topics <= _LIKING


_LIKING = frozenset(("like", "love", "eat", "want", "colour"))


def _topic(relation: Relation) -> str:
    """The last words of the relation's first question, which tell what it is about: `{e} live`,
    `age`.
    """
    question = relation.questions[0].replace("{e}", "")
    return question.rstrip(" ?").rsplit(" ", 1)[-1]


def list_of_facts(rng: Random, split: Split) -> tuple[str, list[Fact]]:
    """A small table or list such as `Anna: 12`, and its rows as facts (subject, value)."""
    what, relation = pick(rng, TABLES)
    head, row, between = rng.choice(TABLE_STYLES)
    facts: list[Fact] = []
    used: set[str] = set()
    count = rng.randrange(2, 6)
    while len(facts) < count:
        e = relation.subject(rng)
        v = relation.value(rng)
        wanted = split if len(facts) == count - 1 else "train"
        if e not in used and v not in used and split_of(f"{e}|{v}") == wanted:
            used |= {e, v}
            facts.append(Fact(relation, e, v, row.format(e=e, v=v)))
    rows = [fact.told for fact in facts]
    rng.shuffle(rows)
    return head.format(what=what) + between.join(rows), facts


def facts_given(rng: Random, split: Split) -> Problem:
    """Facts, then a question about one of them or about something that was not stated."""
    if rng.random() < 0.15:
        told, facts = list_of_facts(rng, split)
        between = "\n" if rng.random() < 0.7 else "\n\n"
    else:
        facts = draw_facts(rng, 1 + below(rng, 4), split)
        told = story_of(rng, facts)
        between = rng.choice(WORDS["between"])
    instructions = None
    before = ""
    if rng.random() < 0.16:
        instructions = f"{rng.choice(WORDS['rules'])}\n{told}"
    else:
        before = rng.choice(WORDS["before"]) + told + between
    if rng.random() < 0.85:
        turn, expect = fact_turn(rng, facts[-1], before)
    else:
        turn, expect = unknown_turn(rng, facts, before)
    return Problem("facts", split, (turn,), expect, instructions=instructions)


def story_of(rng: Random, facts: list[Fact]) -> str:
    """The facts in any order, as one paragraph or one per line."""
    sentences = [fact.told or fact.sentence for fact in facts]
    rng.shuffle(sentences)
    return ("\n" if rng.random() < 0.1 else " ").join(sentences)
