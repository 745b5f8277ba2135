"""Word problems of one or two steps: a small story, a question, and a sentence that answers it.

Knows expressions and names. Stories are templates over people, things and numbers; what is held out
is the operation. In the templates {a} {b} {c} are the numbers, {p} {q} people, {t} a plural thing,
{r} the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from ossia.harmony import Effort
from ossia.tasks.numbers.expressions import Expr, Op, in_split, value
from ossia.tasks.numbers.working import working
from ossia.tasks.problem import Expect, Problem, Split, Turn
from ossia.tasks.world.names import COUNTABLE, MEN, NAMES, person

Numbers = Callable[[Random], tuple[int, int, int]]


@dataclass(frozen=True)
class Story:
    """One kind of word problem. `hint` is what high effort notes before it works the expression
    out.
    """

    shape: str  # the expression, over a, b and c
    numbers: Numbers
    texts: tuple[str, ...]
    questions: tuple[str, ...]
    final: str
    hint: str


def _whole(rng: Random) -> int:
    kind = rng.random()
    if kind < 0.3:
        return int(rng.random() * 11) + 2
    return int(rng.random() * 98) + 2 if kind < 0.85 else int(rng.random() * 900) + 100


def _gain(rng: Random) -> tuple[int, int, int]:
    return _whole(rng), _whole(rng), _whole(rng)


def _loss(rng: Random) -> tuple[int, int, int]:
    a, b = _whole(rng), _whole(rng)
    return (a, b, _whole(rng)) if a >= b else (b, a, _whole(rng))


def _ages(rng: Random) -> tuple[int, int, int]:
    b = rng.randrange(1, 40)
    return b + rng.randrange(2, 50), b, 0


def _crowd(rng: Random) -> tuple[int, int, int]:
    b = rng.randrange(2, 50)
    return b + rng.randrange(1, 60), b, 0


def _two_losses(rng: Random) -> tuple[int, int, int]:
    b, c = rng.randrange(1, 40), rng.randrange(1, 40)
    return b + c + rng.randrange(0, 60), b, c


def _groups(rng: Random) -> tuple[int, int, int]:
    a, b = (
        rng.randrange(2, 13),
        rng.randrange(2, 13) if rng.random() < 0.5 else rng.randrange(10, 60),
    )
    return a, b, rng.randrange(1, min(a * b, 60) + 1)


def _shares(rng: Random) -> tuple[int, int, int]:
    b = rng.randrange(2, 13)
    return (
        b * (rng.randrange(1, 13) if rng.random() < 0.6 else rng.randrange(2, 60)),
        b,
        rng.randrange(1, 40),
    )


_HAVE_NOW = (
    "How many {t} does {p} have now?", "How many {t} does {p} have?", "How many {t} has {p} now?",
    "How many {t} does {p} have in total?", "Now how many {t} does {p} have?",
    "What is the number of {t} {p} has now?", "How many are there now?", "How many does {p} have now?",
)  # fmt: skip
_LEFT = (
    "How many {t} does {p} have left?", "How many {t} are left?", "How many {t} does {p} have now?",
    "How many are left?", "How many {t} remain?", "What is left?", "How many does {p} still have?",
    "How many {t} does {p} have?",
)  # fmt: skip
_ALTOGETHER = (
    "How many {t} are there in total?", "How many {t} are there?", "How many {t} is that?",
    "How many {t} altogether?", "How many are there altogether?", "What is the total number of {t}?",
    "How many {t} do they have in all?", "How many in total?",
)  # fmt: skip

STORIES = (
    Story("a+b", _gain, (
        "{p} has {a} {t}. {q} gives {p} {b} more.", "{p} has {a} {t} and gets {b} more from {q}.",
        "{p} had {a} {t} and bought {b} more.", "{p} had {a} {t}. Then {p} found {b} more {t}.",
        "{p} has {a} {t}. {p} buys {b} more {t}.", "{p} collects {a} {t}, then {b} more.",
        "Yesterday {p} picked {a} {t}. Today {p} picked {b} {t}.",
        "{p} owns {a} {t} and receives another {b}.",
        "There were {a} {t} in {p}'s bag. {p} put in {b} more.", "{p} starts with {a} {t} and wins {b} {t}.",
        "I gave {p} {b} {t}. Before that, {p} had {a} {t}.",
    ), _HAVE_NOW, "{p} has {r} {t}.", "more: add"),
    Story("a+b", _gain, (
        "{p} has {a} {t} and {q} has {b} {t}.", "{p} has {a} {t}. {q} has {b} {t}.",
        "{p} found {a} {t} and {q} found {b}.", "There are {a} {t} on the table and {b} {t} on the chair.",
        "One box holds {a} {t}. Another box holds {b} {t}.",
        "A shop sold {a} {t} on Monday and {b} {t} on Tuesday.", "{p} made {a} {t} and {q} made {b} {t}.",
        "In a class there are {a} red {t} and {b} blue {t}.",
    ), _ALTOGETHER, "There are {r} {t} in total.", "together: add"),
    Story("a-b", _loss, (
        "{p} has {a} {t}. {p} gives {b} to {q}.", "{p} has {a} {t} and gives {b} of them to {q}.",
        "{p} had {a} {t} and lost {b}.", "{p} has {a} {t}. {p} eats {b} of them.",
        "{p} had {a} {t} and sold {b} of them.", "{p} had {a} {t}. {b} of them broke.",
        "{p} had {a} {t}, but {q} took {b}.", "{p} bakes {a} {t} and {q} eats {b}.",
        "{p} has {a} {t} and uses {b} {t}.", "There were {a} {t} in the box. {p} took out {b}.",
        "Out of {a} {t}, {p} throws away {b}.", "{p} has {a} {t}. {p} drops {b} {t}.",
    ), _LEFT, "{p} has {r} {t} left.", "fewer: subtract"),
    Story("a-b", _loss, (
        "{p} has {a} {t} and {q} has {b} {t}.", "{p} has {a} {t}. {q} has {b} {t}.",
        "{p} has {a} {t}, {q} only {b}.",
    ), ("How many more {t} does {p} have than {q}?", "How many more {t} than {q} does {p} have?",
        "How many fewer {t} does {q} have than {p}?", "What is the difference?"),
        "The difference is {r} {t}.", "compare: subtract"),
    Story("a-b", _loss, (
        "{p} wants to read {a} pages and has read {b}.", "A book has {a} pages. {p} has read {b} pages.",
        "{p} is reading a book of {a} pages and is on page {b}.",
    ), ("How many pages are left?", "How many pages does {p} still have to read?",
        "How many more pages are there?"),
        "There are {r} pages left.", "left: subtract"),
    Story("a-b", _loss, (
        "{p} has {a} coins and buys a hat for {b} coins.", "{p} has {a} coins. A toy costs {b} coins.",
        "{p} pays for a book of {b} coins with {a} coins.", "{p} had {a} dollars and spent {b} dollars.",
    ), ("How much is left?", "How much money does {p} have left?", "How much does {p} have after paying?",
        "How much money is left?"), "{p} has {r} left.", "spent: subtract"),
    Story("a*b", _groups, (
        "{p} has {a} boxes with {b} {t} in each box.", "There are {a} bags. Each bag holds {b} {t}.",
        "{p} buys {a} packs of {b} {t}.", "{p} puts {b} {t} into each of {a} boxes.",
        "{p} has {a} bags of {b} {t} each.", "{a} children have {b} {t} each.",
        "Each of {a} friends brings {b} {t}.", "There are {a} rows with {b} {t} in each row.",
        "{p} plants {a} rows of {b} {t}.", "A box holds {b} {t}. {p} has {a} boxes.",
    ), _ALTOGETHER, "There are {r} {t} in total.", "each: multiply"),
    Story("a*b", _groups, (
        "{p} works {a} hours a day for {b} days.", "{p} reads {a} pages a day for {b} days.",
        "{p} earns {a} coins a day and works {b} days.", "One ticket costs {a} coins. {p} buys {b} tickets.",
        "A pen costs {a} coins and {p} buys {b} pens.", "{p} runs {a} km every day for {b} days.",
    ), ("How much is that in total?", "How much is it altogether?", "What is the total?", "How much in all?"),
        "The total is {r}.", "every: multiply"),
    Story("a/b", _shares, (
        "{p} has {a} {t} and shares them equally among {b} friends.",
        "{a} {t} are shared equally by {b} children.", "{p} divides {a} {t} among {b} people.",
        "{p} puts {a} {t} equally into {b} boxes.",
        "There are {a} {t} for {b} children, and everyone gets the same.",
        "{p} splits {a} {t} into {b} equal groups.",
    ), ("How many {t} does each get?", "How many {t} does each one get?", "How many {t} are in each part?",
        "How many for each?"), "Each gets {r} {t}.", "equal parts: divide"),
    Story("a/b", _shares, (
        "{p} has {a} {t} and packs {b} in each bag.", "{p} fills bags with {b} {t} each and has {a} {t}.",
        "There are {a} {t}. A bag holds {b} {t}.",
    ), ("How many bags are needed?", "How many bags does {p} need?", "How many bags can {p} fill?",
        "How many bags is that?"),
        "{r} bags are needed.", "how often: divide"),
    Story("a/b", _shares, (
        "{p} puts {a} {t} into boxes of {b}.", "{p} packs {a} {t} into boxes. Each box holds {b} {t}.",
        "There are {a} {t} and {b} fit into a box.",
    ), ("How many boxes are needed?", "How many boxes does {p} need?", "How many boxes does {p} fill?"),
        "{r} boxes are needed.", "how often: divide"),
    Story("a+b+c", _gain, (
        "{p} has {a} {t}, gets {b} from {q} and buys {c} more.",
        "{p} finds {a} {t}, then {b} and then {c} more.",
        "{p} had {a} {t}. {q} gave {p} {b}, and later {c} more.",
    ), _HAVE_NOW, "{p} has {r} {t}.", "more and more: add twice"),
    Story("a+b-c", _groups, (
        "{p} has {a} {t}, buys {b} more and gives {c} to {q}.", "{p} had {a} {t}, got {b} more and lost {c}.",
        "{p} has {a} {t}. {q} brings {b} more. Then {p} eats {c}.",
        "There were {a} {t}. {p} added {b} {t} and took away {c}.",
    ), (*_HAVE_NOW, *_LEFT), "{p} has {r} {t}.", "more, then fewer: add, subtract"),
    Story("a-b+c", _loss, (
        "{p} has {a} {t}, gives {b} to {q} and buys {c} more.", "{p} had {a} {t}, lost {b} and found {c}.",
        "{p} has {a} {t}. {q} takes {b} but brings back {c}.",
    ), _HAVE_NOW, "{p} has {r} {t}.", "fewer, then more: subtract, add"),
    Story("a-b-c", _two_losses, (
        "{p} has {a} {t}, eats {b} and gives {c} to {q}.", "{p} had {a} {t}. {b} broke and {c} got lost.",
        "{p} has {a} {t}. {p} sells {b} in the morning and {c} in the evening.",
    ), _LEFT, "{p} has {r} {t} left.", "fewer twice: subtract twice"),
    Story("a*b+c", _groups, (
        "{p} has {a} boxes of {b} {t} and {c} single {t}.",
        "{p} buys {a} packs of {b} {t} and gets {c} more from {q}.",
        "There are {a} bags with {b} {t} each, and {c} {t} on the table.",
    ), _ALTOGETHER, "There are {r} {t} in total.", "each, then more: multiply, add"),
    Story("a*b-c", _groups, (
        "{p} has {a} boxes of {b} {t} and gives {c} {t} to {q}.",
        "{p} buys {a} packs of {b} {t} and loses {c} of them.",
        "There are {a} bags with {b} {t} each. {p} takes {c} {t} out.",
    ), _LEFT, "There are {r} {t} left.", "each, then fewer: multiply, subtract"),
    Story("a/b+c", _shares, (
        "{a} {t} are shared equally among {b} children. Then each child gets {c} more.",
        "{p} and friends, {b} people in all, share {a} {t} equally. Then {p} finds {c} more.",
    ), ("How many {t} does {p} have now, if {p} is one of them?",
        "How many {t} does each of them with the extra ones have?"),
        "That makes {r} {t}.", "equal parts, then more: divide, add"),
    Story("a+b", _ages, (
        "{p} is {a} years old. {q} is {b} years older.", "{p} is {a}. {q} is {b} years older than {p}.",
    ), ("How old is {q}?", "What is {q}'s age?"), "{q} is {r} years old.", "older: add"),
    Story("a-b", _ages, (
        "{p} is {a} years old. {q} is {b} years younger.", "{p} is {a}. {q} is {b} years younger than {p}.",
    ), ("How old is {q}?", "What is {q}'s age?"), "{q} is {r} years old.", "younger: subtract"),
    Story("a+b", _gain, (
        "{p} drives {a} km and then {b} km.", "A train goes {a} km before lunch and {b} km after lunch.",
        "{p} walks {a} steps, stops, and walks {b} more.",
    ), ("How far is that in total?", "How far is it altogether?", "What is the total?"), "The total is {r}.",
        "together: add"),
    Story("a-b", _crowd, (
        "There are {a} people on the bus. {b} get off.", "{a} birds sit in a tree. {b} fly away.",
        "{a} children play in the garden. {b} go home.", "A hall has {a} seats and {b} are taken.",
    ), ("How many are left?", "How many remain?", "How many are there now?", "How many are still there?"),
        "{r} are left.", "leaving: subtract"),
    Story("a+b", _crowd, (
        "There are {a} people on the bus. {b} more get on.", "{a} birds sit in a tree. {b} more come.",
        "{a} children play in the garden. {b} more join them.",
    ), ("How many are there now?", "How many are there in total?", "How many is that?"),
        "There are {r} now.", "coming: add"),
)  # fmt: skip

_EXPRESSIONS: dict[str, Callable[[int, int, int], Op]] = {
    "a+b": lambda a, b, c: Op("+", a, b), "a-b": lambda a, b, c: Op("-", a, b),
    "a*b": lambda a, b, c: Op("*", a, b), "a/b": lambda a, b, c: Op("/", a, b),
    "a+b+c": lambda a, b, c: Op("+", Op("+", a, b), c), "a+b-c": lambda a, b, c: Op("-", Op("+", a, b), c),
    "a-b+c": lambda a, b, c: Op("+", Op("-", a, b), c), "a-b-c": lambda a, b, c: Op("-", Op("-", a, b), c),
    "a*b+c": lambda a, b, c: Op("+", Op("*", a, b), c), "a*b-c": lambda a, b, c: Op("-", Op("*", a, b), c),
    "a/b+c": lambda a, b, c: Op("+", Op("/", a, b), c),
}  # fmt: skip


def story_working(expr: Expr, hint: str, effort: Effort) -> str:
    """The working of `expr`; high effort first says why these operations."""
    steps = working(expr, effort)
    return f"{hint}\n{steps}" if effort is Effort.HIGH else steps


def draw_story(rng: Random, split: Split) -> tuple[str, Op, str, str]:
    """(the user's text, the expression, the final sentence with {r} for the result, the hint)."""
    while True:
        story = rng.choice(STORIES)
        a, b, c = story.numbers(rng)
        expr = _EXPRESSIONS[story.shape](a, b, c)
        if a != b and 0 <= value(expr) <= 1998 and in_split(expr, split):
            break
    p = person(rng, 0.12)
    q = person(rng, 0.12)
    while q == p:
        q = person(rng, 0.12)
    words = {"a": a, "b": b, "c": c, "p": p, "q": q, "t": rng.choice(COUNTABLE), "r": "{r}"}
    told, question = rng.choice(story.texts), rng.choice(story.questions)
    if rng.random() < 0.4:
        told, question = _with_pronouns(
            p in MEN if p in NAMES else rng.random() < 0.5, told, question
        )
    told = _arranged(rng, told.format(**words), question.format(**words))
    return told, expr, story.final.format(**words), story.hint


def _with_pronouns(he: bool, told: str, question: str) -> tuple[str, str]:
    """{p} as he or she where a second mention is the subject of its clause."""
    she = "he" if he else "she"
    for before in (". ", "Then ", "Today ", "So far "):
        told = told.replace(
            f"{before}{{p}} ", f"{before}{she.capitalize() if before == '. ' else she} "
        )
    mentioned = "{p}" in told
    return told, question.replace("does {p} ", f"does {she} ").replace(
        "has {p} ", f"has {she} "
    ) if mentioned else question


def _arranged(rng: Random, told: str, question: str) -> str:
    """The story and its question in one of the orders and forms that people use."""
    luck = rng.random()
    if luck < 0.05:
        told = f"{question} {told}"
    elif luck < 0.09:
        told = f"{told}\n{question}"
    elif luck < 0.13:
        told = f"{told} {question} {rng.choice(('Thanks!', 'Please help.', 'Thank you.', 'Show your work.'))}"
    elif luck < 0.17:
        told = f"{rng.choice(('Hi!', 'Hello.', 'A question:', 'Problem:', 'Please help me.'))} {told} {question}"
    elif luck < 0.3 and told.count(". ") < 2:
        told = _as_condition(told, question)
    else:
        told = f"{told} {question}"
    return told.lower() if rng.random() < 0.06 else told


def _as_condition(told: str, question: str) -> str:
    """`If Tom has 5 apples and buys 3 more, how many apples does he have?`"""
    first, _, second = told.removesuffix(".").partition(". ")
    condition = " and ".join([_mid_sentence(part) for part in (first, second) if part])
    return f"If {condition}, {question[0].lower()}{question[1:]}"


def _mid_sentence(part: str) -> str:
    """A sentence that stands after others: its first word in lower case, unless it is a name or I."""
    word = part.split(" ", 1)[0]
    return part[0].lower() + part[1:] if word in _COMMON else part


_COMMON = frozenset(
    [
        "There",
        "One",
        "A",
        "An",
        "In",
        "Out",
        "Each",
        "The",
        "Yesterday",
        "Today",
        "Then",
        "My",
        "He",
        "She",
        "Before",
    ]
)


def story_turn(rng: Random, split: Split) -> tuple[Turn, Op]:
    """A turn that tells a story and asks, and the expression that answers it."""
    told, expr, final, hint = draw_story(rng, split)
    return Turn(told, final.format(r=value(expr)), partial(story_working, expr, hint)), expr


def word_problem(rng: Random, split: Split) -> Problem:
    """A story whose question is answered by one or two operations."""
    turn, expr = story_turn(rng, split)
    return Problem("word problems", split, (turn,), Expect(number=value(expr)))
