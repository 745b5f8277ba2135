"""Facts that the user (or the developer's instructions) gives, and questions that only those facts can
answer.

Knows names. The answer is the sentence that was given, so the skill is to find it and to copy it, made-up
words and random codes included; or to say that nothing was stated. What is held out is the pair (who or
what, value).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from ossia.harmony import Effort
from ossia.tasks.names import (
    ANIMALS,
    CITIES,
    COLORS,
    CONTAINERS,
    DAYS,
    FOODS,
    JOBS,
    NAMES,
    ROOMS,
    THINGS,
    code,
    made_up_name,
    made_up_word,
)
from ossia.tasks.problem import Expect, Problem, Split, Turn, split_of

NOT_STATED = "That is not stated."
Draw = Callable[[Random], str]


@dataclass(frozen=True)
class Relation:
    """One kind of fact. `fact` is how it is told and answered; {e} is its subject and {v} its value."""

    subject: Draw
    value: Draw
    fact: str
    questions: tuple[str, ...]
    reverse: tuple[str, ...] = ()  # questions that give the value and ask for the subject
    told: tuple[str, ...] = ()  # other ways to tell it

    @property
    def article(self) -> str:
        """What stands before the subject when it is spoken of."""
        return "the " if "the {e}" in self.fact else ""


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


def _one_of(words: tuple[str, ...], made_up: float = 0.25, capital: bool = False) -> Draw:
    def draw(rng: Random) -> str:
        if rng.random() < made_up:
            return made_up_name(rng) if capital else made_up_word(rng)
        return words[int(rng.random() * len(words))]

    return draw


_person, _city = _one_of(NAMES, 0.25, True), _one_of(CITIES, 0.35, True)
_thing, _job = _one_of(THINGS, 0.2), _one_of(JOBS, 0.1)
_name = _one_of(NAMES, 0.7, True)


def _place(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        return f"in the {rng.choice(COLORS)} {rng.choice(CONTAINERS)}"
    if kind < 0.8:
        return f"in the {rng.choice(ROOMS)}"
    return f"{rng.choice(('under', 'on', 'behind', 'near', 'next to'))} the {_thing(rng)}"


def _number(low: int, high: int) -> Draw:
    return lambda rng: str(rng.randrange(low, high))


def _words(*lists: tuple[str, ...]) -> Draw:
    return lambda rng: " ".join([rng.choice(words) for words in lists])


RELATIONS = (
    Relation(_thing, _place, "the {e} is {v}.", (
        "where is the {e}?", "where can I find the {e}?", "where did I put the {e}?",
        "what about the {e}, where is it?", "tell me where the {e} is.", "do you know where the {e} is?",
        "I need the {e}. Where is it?",
    ), ("what is {v}?", "which thing is {v}?"), ("the {e} lies {v}.", "{v} is the {e}.",
        "you find the {e} {v}.")),
    Relation(_person, _city, "{e} lives in {v}.", (
        "where does {e} live?", "in which city does {e} live?", "what city does {e} live in?",
        "where is {e}'s home?", "tell me where {e} lives.", "which city is {e}'s home?",
    ), ("who lives in {v}?", "which person lives in {v}?", "who is from {v}?"),
        ("{e} has a house in {v}.", "{e} lives in the city of {v}.", "the home of {e} is {v}.")),
    Relation(_person, _number(3, 99), "{e} is {v} years old.", (
        "how old is {e}?", "what is {e}'s age?", "what is the age of {e}?", "tell me how old {e} is.",
    ), ("who is {v} years old?", "who is {v}?"), ("{e} is {v}.", "{e}'s age is {v}.")),
    Relation(_person, _one_of(FOODS, 0.15), "{e} likes {v}.", (
        "what does {e} like?", "what food does {e} like?", "what does {e} like to eat?",
        "tell me what {e} likes.",
    ), ("who likes {v}?", "who is it that likes {v}?"), ("{e} loves {v}.", "{e} really likes {v}.")),
    Relation(_person, _job, "{e} is a {v}.", (
        "what is {e}'s job?", "what does {e} do?", "what is the job of {e}?", "what does {e} work as?",
    ), ("who is a {v}?", "who is the {v}?", "who works as a {v}?"), ("{e} works as a {v}.",)),
    Relation(_thing, code, "the code of the {e} is {v}.", (
        "what is the code of the {e}?", "what code does the {e} have?", "tell me the code of the {e}.",
        "the code of the {e}?", "which code opens the {e}?", "give me the {e} code.",
        "what is the {e} code?",
    ), ("which thing has the code {v}?",), ("the {e} code is {v}.", "the {e} has the code {v}.",
        "code for the {e}: {v}.")),
    Relation(_name, code, "the password of {e} is {v}.", (
        "what is the password of {e}?", "what is {e}'s password?", "tell me {e}'s password.",
    ), ("whose password is {v}?",), ("{e}'s password is {v}.", "{e} has the password {v}.")),
    Relation(_name, _name, "the capital of {e} is {v}.", (
        "what is the capital of {e}?", "which city is the capital of {e}?", "what's the capital of {e}?",
    ), ("which country has the capital {v}?", "{v} is the capital of what?"),
        ("{v} is the capital of {e}.",)),
    Relation(_person, _words(COLORS), "{e}'s favourite colour is {v}.", (
        "what is {e}'s favourite colour?", "which colour does {e} like most?", "what colour does {e} like?",
    ), ("whose favourite colour is {v}?",), ("{e} likes the colour {v} most.",)),
    Relation(_person, _name, "{e}'s dog is called {v}.", (
        "what is {e}'s dog called?", "what is the name of {e}'s dog?", "how is {e}'s dog called?",
    ), ("whose dog is called {v}?", "whose dog is {v}?"), ("the name of {e}'s dog is {v}.",
        "{e} has a dog called {v}.")),
    Relation(_person, _words(COLORS, ANIMALS), "{e} has a {v}.", (
        "what does {e} have?", "what animal does {e} have?", "which animal does {e} have?",
    ), ("who has a {v}?", "who has the {v}?"), ("{e} owns a {v}.",)),
    Relation(_thing, _number(2, 500), "the {e} costs {v} coins.", (
        "how much is the {e}?", "how much does the {e} cost?", "what does the {e} cost?",
        "what is the price of the {e}?",
    ), ("what costs {v} coins?",), ("the price of the {e} is {v} coins.",)),
    Relation(_thing, _words(COLORS), "the {e} is {v}.", (
        "what colour is the {e}?", "what is the colour of the {e}?", "which colour does the {e} have?",
    ), ("what is {v}?", "which thing is {v}?"), ("the colour of the {e} is {v}.",)),
    Relation(_person, _words(DAYS), "{e} comes on {v}.", (
        "when does {e} come?", "on which day does {e} come?", "what day does {e} come?",
    ), ("who comes on {v}?",), ("{e} will come on {v}.", "on {v} {e} comes.")),
    Relation(_person, _number(1000, 99999), "{e}'s number is {v}.", (
        "what is {e}'s number?", "what is the number of {e}?", "tell me {e}'s number.",
        "which number does {e} have?",
    ), ("whose number is {v}?", "who has the number {v}?"), ("the number of {e} is {v}.",
        "{e} has the number {v}.")),
    Relation(_name, _words(COLORS, THINGS), "{e} wants a {v}.", (
        "what does {e} want?", "what does {e} wish for?", "tell me what {e} wants.",
    ), ("who wants a {v}?",), ("{e} asks for a {v}.",)),
)  # fmt: skip


def draw_facts(rng: Random, count: int, split: Split) -> list[Fact]:
    """`count` facts with different subjects and different values. Outside the last all are of the training
    split.
    """
    relations = [rng.choice(RELATIONS) for _ in range(1 if rng.random() < 0.4 else 3)]
    facts: list[Fact] = []
    used: set[str] = set()
    while len(facts) < count:
        relation = relations[int(rng.random() * len(relations))]
        subject, value = relation.subject(rng), relation.value(rng)
        wanted: Split = split if len(facts) == count - 1 else "train"
        if subject in used or value in used or subject == value or split_of(f"{subject}|{value}") != wanted:
            continue
        if len(used) > 3 * count and rng.random() < 0.02:
            relations.append(rng.choice(RELATIONS))
        used |= {subject, value}
        told = "" if rng.random() < 0.72 or not relation.told else rng.choice(relation.told)
        facts.append(
            Fact(relation, subject, value, _capital(told.format(e=subject, v=value)) if told else "")
        )
    return facts


def fact_thoughts(about: str, found: str, quote: str, effort: Effort) -> str:
    """The analysis: what is asked for, and the sentence of the text that says it ("" if none does)."""
    if effort is Effort.LOW:
        return f"{about} -> {found or 'not stated'}"
    if not quote:
        searched = f"The question is about {about}. The text does not say it."
        return searched if effort is Effort.MEDIUM else f"{searched} I must not guess."
    read = f"The question is about {about}. The text says: {quote}"
    return read if effort is Effort.MEDIUM else f"{read}\nSo it is {found}."


def ask_fact(rng: Random, fact: Fact) -> tuple[str, str]:
    """(the question, what it names): by its subject, or by its value where the relation can be asked
    backwards.
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
    """A turn that asks for a fact that was told, `before` being what stands in front of the question."""
    question, about = ask_fact(rng, fact)
    backwards = about == fact.value
    found = fact.relation.article + fact.subject if backwards else fact.value
    quote = fact.told or fact.sentence
    turn = Turn(_joined(before, question), fact.sentence, partial(fact_thoughts, about, found, quote))
    return turn, Expect(contains=fact.subject if backwards else fact.value, excludes=(NOT_STATED,))


def unknown_turn(rng: Random, facts: list[Fact], before: str = "") -> tuple[Turn, Expect]:
    """A turn that asks for something that no fact states: another subject, or something else about a known
    one.
    """
    names = {fact.subject for fact in facts}
    relation = rng.choice(facts).relation
    subject = relation.subject(rng)
    while subject in names:
        subject = relation.subject(rng)
    if rng.random() < 0.3:
        known = rng.choice(facts)
        others = [
            r for r in RELATIONS if r.subject is known.relation.subject and not _alike(r, known.relation)
        ]
        if others and sum(fact.subject == known.subject for fact in facts) == 1:
            relation, subject = rng.choice(others), known.subject
    question = _capital(rng.choice(relation.questions).format(e=subject, v=""))
    thoughts = partial(fact_thoughts, relation.article + subject, "", "")
    return Turn(_joined(before, question), NOT_STATED, thoughts), Expect(contains=NOT_STATED)


def _alike(a: Relation, b: Relation) -> bool:
    """Whether one's facts could be read as an answer to the other's question."""
    return a is b or a.questions[0].split()[:2] == b.questions[0].split()[:2]


def list_of_facts(rng: Random, split: Split) -> tuple[str, list[Fact]]:
    """A small table or list such as `Anna: 12`, and its rows as facts (subject, value)."""
    what, relation = _TABLES[int(rng.random() * len(_TABLES))]
    head, row, between = rng.choice(_TABLE_STYLES)
    facts: list[Fact] = []
    used: set[str] = set()
    count = rng.randrange(2, 6)
    while len(facts) < count:
        e, v = relation.subject(rng), relation.value(rng)
        wanted: Split = split if len(facts) == count - 1 else "train"
        if e not in used and v not in used and split_of(f"{e}|{v}") == wanted:
            used |= {e, v}
            facts.append(Fact(relation, e, v, row.format(e=e, v=v)))
    rows = [fact.told for fact in facts]
    rng.shuffle(rows)
    return head.format(what=what) + between.join(rows), facts


_TABLES = (
    ("age", Relation(_person, _number(3, 99), "{e} is {v} years old.", (
        "how old is {e}?", "what is the age of {e}?", "what is {e}'s age?"))),
    ("code", Relation(_person, code, "the code of {e} is {v}.", (
        "what is the code of {e}?", "which code does {e} have?", "what is {e}'s code?"))),
    ("price", Relation(_thing, _number(2, 300), "the {e} costs {v}.", (
        "what is the price of the {e}?", "how much is the {e}?", "what does the {e} cost?"))),
    ("city", Relation(_person, _city, "{e} lives in {v}.", (
        "where does {e} live?", "what is the city of {e}?", "in which city does {e} live?"))),
    ("points", Relation(_person, _number(1, 100), "{e} has {v} points.", (
        "how many points does {e} have?", "what are the points of {e}?"))),
    ("colour", Relation(_thing, _words(COLORS), "the {e} is {v}.", (
        "what is the colour of the {e}?", "which colour does the {e} have?", "what colour is the {e}?"))),
)  # fmt: skip
# (heading, row, what stands between rows)
_TABLE_STYLES = (
    ("", "{e}: {v}", "\n"), ("", "{e}: {v}", "\n"), ("name | {what}\n", "{e} | {v}", "\n"), ("{what}: ",
    "{e} {v}", ", "),
)  # fmt: skip
BEFORE_FACTS = ("", "", "", "", "", "Here are some facts. ", "Read this: ", "Facts: ", "Text: ",
                "Remember this. ", "Note: ",
                 "This is what I know: ", "Listen. ", "Hi! ", "Given: ", "Here is a story. ")  # fmt: skip
BETWEEN = (
    " ",
    " ",
    " ",
    " ",
    "\n",
    "\n\n",
    " Question: ",
    "\nQuestion: ",
    " Now, ",
    " So, ",
    "\n\nQuestion: ",
)
_RULES = (
    "Answer only from these facts.", "Use the following facts.", "Facts:",
    "You answer questions about these facts.", "You are a helpful assistant. You know this:",
    "Here is what you know.", "Notes:",
)  # fmt: skip


def facts_given(rng: Random, split: Split) -> Problem:
    """Facts, then a question about one of them or about something that was not stated."""
    if rng.random() < 0.15:
        told, facts = list_of_facts(rng, split)
        between = "\n" if rng.random() < 0.7 else "\n\n"
    else:
        facts = draw_facts(rng, 1 + int(rng.random() * 6), split)
        told, between = story_of(rng, facts), rng.choice(BETWEEN)
    instructions = None
    if rng.random() < 0.16:
        instructions, before = f"{rng.choice(_RULES)}\n{told}", ""
    else:
        before = rng.choice(BEFORE_FACTS) + told + between
    turn, expect = (
        fact_turn(rng, facts[-1], before) if rng.random() < 0.85 else unknown_turn(rng, facts, before)
    )
    return Problem("facts", split, (turn,), expect, instructions=instructions)


def story_of(rng: Random, facts: list[Fact]) -> str:
    """The facts in any order, as one paragraph or one per line."""
    sentences = [fact.told or fact.sentence for fact in facts]
    rng.shuffle(sentences)
    return ("\n" if rng.random() < 0.1 else " ").join(sentences)
