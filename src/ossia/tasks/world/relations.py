"""The kinds of facts of the little world: how each is told, asked for and answered.

Data, and the draws of its subjects and values. Knows names; nothing of messages or problems.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from ossia.tasks.world.names import (
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

Draw = Callable[[Random], str]


@dataclass(frozen=True)
class Relation:
    """One kind of fact. `fact` is how it is told and answered; {e} is its subject and {v} its
    value.
    """

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


def _one_of(words: tuple[str, ...], made_up: float = 0.08, capital: bool = False) -> Draw:
    def draw(rng: Random) -> str:
        if rng.random() < made_up:
            return made_up_name(rng) if capital else made_up_word(rng)
        return words[int(rng.random() * len(words))]

    return draw


_person, _city = _one_of(NAMES, 0.08, True), _one_of(CITIES, 0.1, True)
_thing, _job = _one_of(THINGS, 0.08), _one_of(JOBS, 0.05)
_name = _one_of(NAMES, 0.3, True)


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


_COMMON = (
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
    ), ("whose favourite colour is {v}?",), ("the favourite colour of {e} is {v}.",)),
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

# {e} does something with {v}: (third person, infinitive)
_VERBS = (
    ("eats", "eat"), ("drinks", "drink"), ("buys", "buy"), ("sells", "sell"), ("draws", "draw"), ("sees",
    "see"),
    ("reads", "read"), ("plays", "play"), ("sings", "sing"), ("makes", "make"), ("keeps", "keep"), ("needs",
    "need"),
    ("hates", "hate"), ("wears", "wear"), ("carries", "carry"), ("grows", "grow"), ("cooks", "cook"),
    ("knows", "know"), ("teaches", "teach"), ("studies", "study"), ("collects", "collect"), ("paints",
    "paint"),
    ("builds", "build"), ("loves", "love"), ("finds", "find"), ("uses", "use"),
)  # fmt: skip
# what a person or a place can have one of
_ATTRIBUTES = (
    "car", "house", "hat", "team", "boss", "teacher", "school", "hobby", "sister", "brother", "mother",
    "friend", "room", "address", "email", "last name", "birthday", "seat", "ticket number", "account",
    "doctor", "neighbour", "cat", "horse",
)  # fmt: skip
# what there is one of in a text
_SINGLE = (
    "secret word", "magic word", "door code", "wifi password", "room number", "lucky number", "team name",
    "project name", "boss", "owner", "winner", "password", "order number", "flight number", "meeting room",
    "file name", "user name", "company", "answer", "key word", "invoice number", "train", "street",
    "secret number", "captain", "code word",
)  # fmt: skip

_EVENTS = (
    "meeting",
    "lesson",
    "party",
    "concert",
    "train",
    "film",
    "dinner",
    "game",
    "bus",
    "show",
    "match",
)


def _anything(rng: Random) -> str:
    """A word, a name, a code or a coloured thing: whatever can be copied."""
    return _name(rng) if rng.random() < 0.2 else _object(rng)


def _object(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.1:
        return made_up_word(rng)
    if kind < 0.2:
        return code(rng)
    thing = rng.choice(THINGS)
    if kind > 0.8:
        return f"a {rng.choice(COLORS)} {thing}"
    return f"an {thing}" if thing[0] in "aeiou" else f"a {thing}"


def _time(rng: Random) -> str:
    hour, luck = rng.randrange(1, 13), rng.random()
    return (
        f"{hour} o'clock"
        if luck < 0.3
        else f"{hour}:{rng.randrange(0, 60, 5):02}"
        if luck < 0.7
        else f"{hour} pm"
    )


def _with_verb(third: str, plain: str) -> Relation:
    questions = (
        f"what does {{e}} {plain}?",
        f"what does {{e}} {plain}?",
        f"tell me what {{e}} {third}.",
    )
    return Relation(_person, _object, f"{{e}} {third} {{v}}.", questions, (f"who {third} {{v}}?",))


def _with_attribute(noun: str) -> Relation:
    questions = (
        f"what is {{e}}'s {noun}?",
        f"what is the {noun} of {{e}}?",
        f"tell me {{e}}'s {noun}.",
    )
    told = (f"the {noun} of {{e}} is {{v}}.",)
    return Relation(
        _person,
        _anything,
        f"{{e}}'s {noun} is {{v}}.",
        questions,
        (f"whose {noun} is {{v}}?",),
        told,
    )


_OTHERS = (
    Relation(_one_of(_SINGLE, 0.05), _anything, "the {e} is {v}.", (
        "what is the {e}?", "what's the {e}?", "tell me the {e}.", "what is the {e}, please?", "the {e}?",
        "do you know the {e}?", "give me the {e}.",
    ), (), ("our {e} is {v}.", "{v} is the {e}.", "remember that the {e} is {v}.")),
    Relation(_thing, _person, "the {e} belongs to {v}.", (
        "who does the {e} belong to?", "whose is the {e}?", "who owns the {e}?", "who has the {e}?",
    ), ("what belongs to {v}?", "what does {v} own?"), ("{v} owns the {e}.", "{v} has the {e}.")),
    Relation(_person, _number(1900, 2024), "{e} was born in {v}.", (
        "when was {e} born?", "in which year was {e} born?", "what year was {e} born?",
    ), ("who was born in {v}?",), ("{e}'s year of birth is {v}.",)),
    Relation(_one_of(_EVENTS, 0.05), _time, "the {e} starts at {v}.", (
        "when does the {e} start?", "what time does the {e} start?", "when is the {e}?",
        "at what time is the {e}?",
    ), ("what starts at {v}?",), ("the {e} is at {v}.", "at {v} the {e} starts.")),
    Relation(_person, _number(1, 300), "{e} has {v} points.", (
        "how many points does {e} have?", "what is {e}'s score?", "how many points has {e}?",
    ), ("who has {v} points?",), ("{e} scored {v} points.", "the score of {e} is {v}.")),
    Relation(_person, _words(ROOMS), "{e} is in the {v}.", (
        "where is {e}?", "in which room is {e}?", "tell me where {e} is.", "where can I find {e}?",
    ), ("who is in the {v}?",), ("{e} went to the {v}.", "you can find {e} in the {v}.")),
)  # fmt: skip
RELATIONS = (
    *_COMMON * 5,
    *_OTHERS * 3,
    *[_with_verb(third, plain) for third, plain in _VERBS],
    *[_with_attribute(noun) for noun in _ATTRIBUTES],
)


TABLES = (
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
TABLE_STYLES = (
    ("", "{e}: {v}", "\n"), ("", "{e}: {v}", "\n"), ("", "- {e}: {v}", "\n"), ("name | {what}\n",
    "{e} | {v}", "\n"),
    ("{what}: ", "{e} {v}", ", "), ("| name | {what} |\n", "| {e} | {v} |", "\n"),
)  # fmt: skip
