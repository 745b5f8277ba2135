"""The words of the fictional country: what its people, towns, rivers, companies and animals can be
and have, and how each fact is told and asked for.

Plain data and one dataclass. Knows neither which facts are true (`world`) nor messages. In
templates {e} is the fact's subject and {v} its value. Of every list of templates the last ones are
held out: `Relation` knows how many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ossia.tasks.world.names import COLORS, DAYS

Kind = Literal["person", "town", "river", "company", "animal"]
KINDS: tuple[Kind, ...] = ("person", "town", "river", "company", "animal")
TOLD_HELD_OUT, ASKED_HELD_OUT, BACK_HELD_OUT = 2, 1, 1  # templates at the end of a list

SYLLABLES = tuple(c + v for c in "bdfghjklmnprstvwz" for v in "aeiou")
ENDINGS: dict[
    Kind, tuple[str, ...]
] = {  # what names of a kind end in, so that a name shows its kind
    "person": ("",),
    "town": ("ton", "ford", "field", "burg"),
    "river": ("n", "r"),
    "company": ("corp", "works"),
    "animal": ("bird", "fox", "mouse", "fish"),
}
FORMS: dict[Kind, str] = {  # a name as it stands in a text
    "person": "{}", "town": "{}", "river": "the {} river", "company": "{}", "animal": "the {}",
}  # fmt: skip

JOBS = (
    "baker", "teacher", "doctor", "farmer", "painter", "pilot", "nurse", "singer", "writer", "driver", "cook",
    "lawyer", "gardener", "miner", "sailor", "tailor", "weaver", "potter", "judge", "dancer", "hunter", "fisher",
    "builder", "dentist", "barber", "waiter", "poet", "guard", "clerk", "jeweller",
)  # fmt: skip
FOODS = (
    "pizza", "soup", "rice", "bread", "cheese", "cake", "pasta", "salad", "honey", "nuts", "grapes", "plums",
    "beans", "berries", "corn", "pears", "onions", "leaves", "roots", "seeds", "moss", "grass", "melons", "pie",
)  # fmt: skip
GOODS = (
    "ropes", "lamps", "boats", "hats", "bells", "clocks", "shoes", "carpets", "kites", "drums", "jars", "toys",
    "bricks", "sails", "gloves", "candles", "baskets", "spoons", "mirrors", "ladders", "chairs", "coats", "flutes",
    "wheels",
)  # fmt: skip
PLACES = (
    "the hills", "the woods", "the caves", "the swamp", "the fields", "the dunes", "the cliffs", "the gardens",
    "the meadows", "the rocks",
)  # fmt: skip
SEAS = (
    "the quiet sea", "the long sea", "the cold sea", "the wide sea", "the bright sea", "the young sea", "the old sea",
    "the warm sea",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def _numbers(low: int, high: int, step: int = 1) -> tuple[str, ...]:
    return tuple(map(str, range(low, high, step)))


@dataclass(frozen=True)
class Relation:
    """A kind of fact. Its values are entities of the kind `leads_to`, or else one of `values`.

    told: statements. asked: questions for the value; the first two also take a phrase for {e}, such
    as `the mayor of Kelaton`. back: questions for the subject. phrase: what stands for the value in
    questions of two hops.
    """

    name: str
    kind: Kind
    told: tuple[str, ...]
    asked: tuple[str, ...]
    back: tuple[str, ...]
    values: tuple[str, ...] = ()
    leads_to: Kind | None = None
    phrase: str = ""


_PERSON = (
    Relation("home", "person", (
        "{e} lives in {v}.", "{e} has a house in {v}.", "the home of {e} is in {v}.", "in {v} lives {e}.",
        "{e} is from {v}.", "you can visit {e} in {v}.", "{e} wakes up in {v} every day.",
        "{v} is where {e} spends the nights.",
    ), ("where does {e} live?", "in which town does {e} live?", "in which town is the house of {e}?",
        "what is the home town of {e}?"),
        ("who lives in {v}?", "which person lives in {v}?", "who has a home in {v}?"),
        leads_to="town", phrase="the town where {e} lives"),
    Relation("job", "person", (
        "{e} is a {v}.", "{e} works as a {v}.", "the job of {e} is {v}.", "{e} earns money as a {v}.",
        "{e} became a {v}.", "people know {e} as a {v}.", "{e} has always wanted to be a {v}, and is one now.",
        "for a living, {e} is a {v}.",
    ), ("what is the job of {e}?", "what does {e} work as?", "which job does {e} have?", "how does {e} earn money?"),
        ("who is a {v}?", "who works as a {v}?", "whose job is {v}?"), values=JOBS),
    Relation("company", "person", (
        "{e} works for {v}.", "{e} has a desk at {v}.", "{v} pays {e}.", "{e} goes to work at {v}.",
        "the employer of {e} is {v}.", "at {v} works {e}.", "every month {v} sends {e} some money.",
        "{e} is on the staff of {v}.",
    ), ("which company does {e} work for?", "where does {e} work?", "what is the employer of {e}?",
        "from which company does {e} get money?"),
        ("who works for {v}?", "which person works at {v}?", "who is paid by {v}?"),
        leads_to="company", phrase="the company where {e} works"),
    Relation("friend", "person", (
        "the best friend of {e} is {v}.", "{e} and {v} are best friends.", "{v} is the best friend of {e}.",
        "{e} likes {v} more than anyone.", "{e} tells {v} everything.", "{e} has a good friend called {v}.",
        "nobody is closer to {e} than {v}.", "{e} and {v} have been friends since school.",
    ), ("who is the best friend of {e}?", "who is the friend of {e}?", "whom does {e} like most?",
        "who is closest to {e}?"),
        ("whose best friend is {v}?", "who has the best friend {v}?", "whose closest friend is {v}?"),
        leads_to="person", phrase="the best friend of {e}"),
    Relation("pet", "person", (
        "{e} keeps {v}.", "{e} has a pet: {v}.", "the favourite animal of {e} is {v}.", "{e} loves {v}.",
        "in the garden of {e} lives {v}.", "{e} feeds {v} every morning.", "{v} sleeps at the feet of {e}.",
        "{e} shares the house with {v}.",
    ), ("which animal does {e} keep?", "which pet does {e} have?", "what is the favourite animal of {e}?",
        "which animal sleeps at the feet of {e}?"),
        ("who keeps {v}?", "who has {v} as a pet?", "who feeds {v}?"),
        leads_to="animal", phrase="the animal that {e} keeps"),
    Relation("food", "person", (
        "{e} likes {v}.", "{e} likes to eat {v}.", "the favourite food of {e} is {v}.", "{e} always asks for {v}.",
        "{e} eats {v} for dinner.", "{e} cooks {v} very well.", "nothing tastes better to {e} than {v}.",
        "{e} would walk far for some {v}.",
    ), ("what does {e} like to eat?", "what is the favourite food of {e}?", "which food does {e} like?",
        "what tastes best to {e}?"),
        ("who likes {v}?", "who likes to eat {v}?", "who finds that {v} tastes best?"), values=FOODS),
)  # fmt: skip
_TOWN = (
    Relation("river", "town", (
        "{e} lies on {v}.", "{v} flows through {e}.", "the river at {e} is {v}.", "{e} was built beside {v}.",
        "from {e} you can see {v}.", "the people of {e} swim in {v}.", "{e} gets its water from {v}.",
        "the houses of {e} stand along {v}.",
    ), ("which river flows through {e}?", "on which river does {e} lie?", "what is the river at {e}?",
        "out of which river do the people of {e} drink?"),
        ("which town lies on {v}?", "which town does {v} flow through?", "which town was built beside {v}?"),
        leads_to="river", phrase="the river at {e}"),
    Relation("mayor", "town", (
        "the mayor of {e} is {v}.", "{v} is the mayor of {e}.", "{e} has a mayor called {v}.", "{v} rules {e}.",
        "in {e} the mayor is called {v}.", "the people of {e} chose {v} as mayor.",
        "the town hall of {e} belongs to {v}.", "{v} holds the keys of {e}.",
    ), ("who is the mayor of {e}?", "who rules {e}?", "what is the mayor of {e} called?", "who holds the keys of {e}?"),
        ("of which town is {v} the mayor?", "which town does {v} rule?", "the keys of which town does {v} hold?"),
        leads_to="person", phrase="the mayor of {e}"),
    Relation("founded", "town", (
        "{e} was founded in {v}.", "{e} began in {v}.", "the first house of {e} was built in {v}.",
        "in {v} the town {e} was founded.", "the history of {e} begins in {v}.", "{e} has stood since {v}.",
        "the oldest stone of {e} says {v}.", "nobody lived in {e} before {v}.",
    ), ("when was {e} founded?", "in which year was {e} founded?", "since when has {e} stood?",
        "when was the first stone of {e} laid?"),
        ("which town was founded in {v}?", "which town began in {v}?", "which town has stood since {v}?"),
        values=_numbers(1000, 1800)),
    Relation("goods", "town", (
        "{e} is known for its {v}.", "people buy {v} in {e}.", "the best {v} come from {e}.", "{e} makes {v}.",
        "everybody in {e} sells {v}.", "{e} is proud of its {v}.", "the shops of {e} are full of {v}.",
        "whoever needs {v} goes to {e}.",
    ), ("what is {e} known for?", "what do people buy in {e}?", "which goods come from {e}?",
        "what are the shops of {e} full of?"),
        ("which town is known for its {v}?", "which town makes {v}?",
        "where are the shops full of {v}?"), values=GOODS),
    Relation("flag", "town", (
        "the flag of {e} is {v}.", "{e} has a {v} flag.", "over {e} flies a {v} flag.", "{v} is the colour of {e}.",
        "the colour of the flag of {e} is {v}.", "on feast days {e} hangs out {v} flags.",
        "the children of {e} paint flags, all of them {v}.", "look for a {v} flag, and you have found {e}.",
    ), ("what colour is the flag of {e}?", "which colour does the flag of {e} have?", "what is the colour of {e}?",
        "which flag flies over {e}?"),
        ("which town has a {v} flag?", "the flag of which town is {v}?", "over which town flies a {v} flag?"),
        values=COLORS),
    Relation("market", "town", (
        "{e} has its market on {v}.", "market day in {e} is {v}.", "on {v} there is a market in {e}.",
        "the market of {e} is held on {v}.", "every {v} people go to the market of {e}.",
        "on {v} the square of {e} is full.", "farmers come to {e} each {v}.", "in {e} you buy fruit on {v}.",
    ), ("on which day is the market of {e}?", "when is market day in {e}?", "when is the market of {e} held?",
        "when do farmers come to {e}?"),
        ("which town has its market on {v}?", "where is market day on {v}?", "where do farmers come on {v}?"),
        values=DAYS),
)  # fmt: skip
_RIVER = (
    Relation("sea", "river", (
        "{e} flows into {v}.", "{e} ends in {v}.", "{v} takes the water of {e}.", "the water of {e} reaches {v}.",
        "boats on {e} can go to {v}.", "{e} runs down to {v}.", "follow {e}, and you will come to {v}.",
        "{e} is swallowed by {v}.",
    ), ("into which sea does {e} flow?", "where does {e} end?", "which sea takes the water of {e}?",
        "which sea swallows {e}?"),
        ("which river flows into {v}?", "which river ends in {v}?", "which river is swallowed by {v}?"), values=SEAS),
    Relation("length", "river", (
        "{e} is {v} miles long.", "the length of {e} is {v} miles.", "{e} runs for {v} miles.",
        "from end to end {e} has {v} miles.", "{v} miles is the length of {e}.", "{e} has a length of {v} miles.",
        "a boat must go {v} miles to see all of {e}.", "someone measured {e}: {v} miles.",
    ), ("how long is {e}?", "what is the length of {e}?", "for how many miles does {e} run?",
        "how many miles of {e} are there?"),
        ("which river is {v} miles long?", "which river has a length of {v} miles?", "which river runs {v} miles?"),
        values=_numbers(20, 900)),
    Relation("bridges", "river", (
        "{e} has {v} bridges.", "there are {v} bridges over {e}.", "{v} bridges cross {e}.",
        "you can cross {e} on {v} bridges.", "over {e} lead {v} bridges.", "the bridges over {e} are {v} in number.",
        "whoever counts the bridges of {e} comes to {v}.", "builders have put {v} bridges over {e}.",
    ), ("how many bridges does {e} have?", "how many bridges cross {e}?", "how many bridges are there over {e}?",
        "what is the number of bridges over {e}?"),
        ("which river has {v} bridges?", "over which river are {v} bridges?", "which river do {v} bridges cross?"),
        values=_numbers(2, 61)),
    Relation("water", "river", (
        "the water of {e} is {v}.", "{e} is {v} all year.", "{e} has {v} water.", "the colour of {e} is {v}.",
        "from above {e} looks {v}.", "in the sun {e} is {v}.", "painters paint {e} in {v}.",
        "a cup from {e} is full of {v} water.",
    ), ("what colour is the water of {e}?", "what is the colour of {e}?", "how does {e} look from above?",
        "in which colour do painters paint {e}?"),
        ("which river is {v}?", "which river has {v} water?", "which river do painters paint in {v}?"), values=COLORS),
    Relation("source", "river", (
        "{e} begins near {v}.", "the source of {e} is near {v}.", "near {v} lies the source of {e}.",
        "{e} comes from the hills of {v}.", "{e} rises at {v}.", "the first town on {e} is {v}.",
        "where {v} stands, {e} is still a brook.", "above {v} there is no {e}.",
    ), ("near which town does {e} begin?", "where is the source of {e}?", "what is the first town on {e}?",
        "at which town is {e} still a brook?"),
        ("which river begins near {v}?", "which river rises at {v}?", "which river is still a brook at {v}?"),
        leads_to="town", phrase="the town where {e} begins"),
    Relation("ferry", "river", (
        "the ferry on {e} belongs to {v}.", "{v} owns the ferry on {e}.", "the owner of the ferry on {e} is {v}.",
        "{v} takes people across {e}.", "on {e} there is a ferry of {v}.", "the ferry of {v} crosses {e}.",
        "call {v} if you must get over {e}.", "whoever crosses {e} pays {v}.",
    ), ("who owns the ferry on {e}?", "who takes people across {e}?", "to whom does the ferry on {e} belong?",
        "whom do you pay to cross {e}?"),
        ("on which river does {v} own a ferry?", "across which river does {v} take people?",
         "which river do you cross with {v}?"),
        leads_to="person", phrase="the owner of the ferry on {e}"),
)  # fmt: skip
_COMPANY = (
    Relation("seat", "company", (
        "{e} is in {v}.", "the office of {e} is in {v}.", "{e} has its office in {v}.",
        "in {v} stands the office of {e}.",
        "letters to {e} go to {v}.", "{e} was built in {v}.", "to see {e} you must travel to {v}.",
        "the doors of {e} open on a street of {v}.",
    ), ("in which town is {e}?", "where is the office of {e}?", "in which town does {e} have its office?",
        "to which town must you travel to see {e}?"),
        ("which company is in {v}?", "which company has its office in {v}?", "which company do you see in {v}?"),
        leads_to="town", phrase="the town where {e} has its office"),
    Relation("owner", "company", (
        "{e} belongs to {v}.", "the owner of {e} is {v}.", "{v} owns {e}.", "{v} is the owner of {e}.",
        "the boss at {e} is {v}.", "{v} leads {e}.", "at {e} everybody listens to {v}.",
        "the name on the door of {e} is {v}.",
    ), ("who owns {e}?", "who is the owner of {e}?", "to whom does {e} belong?", "which name is on the door of {e}?"),
        ("which company does {v} own?", "which company belongs to {v}?", "at which company is {v} the boss?"),
        leads_to="person", phrase="the owner of {e}"),
    Relation("product", "company", (
        "{e} makes {v}.", "{e} sells {v}.", "the {v} of {e} are famous.", "{e} is a maker of {v}.",
        "you can buy {v} from {e}.", "the product of {e} is {v}.", "day and night {e} turns out {v}.",
        "the stores of {e} are piled with {v}.",
    ), ("what does {e} make?", "what does {e} sell?", "what is the product of {e}?",
        "what are the stores of {e} piled with?"),
        ("which company makes {v}?", "which company sells {v}?", "which company turns out {v}?"), values=GOODS),
    Relation("opened", "company", (
        "{e} opened in {v}.", "{e} started work in {v}.", "{e} has been open since {v}.",
        "in {v} {e} opened its doors.",
        "{e} goes back to {v}.", "the first year of {e} was {v}.", "{e} wrote its first bill in {v}.",
        "before {v} nobody had heard of {e}.",
    ), ("when did {e} open?", "in which year did {e} open?", "since when has {e} been open?",
        "in which year did {e} write its first bill?"),
        ("which company opened in {v}?", "which company has been open since {v}?", "which company goes back to {v}?"),
        values=_numbers(1850, 2020)),
    Relation("workers", "company", (
        "{e} has {v} workers.", "{v} people work for {e}.", "there are {v} workers at {e}.", "{e} pays {v} workers.",
        "at {e} you find {v} workers.", "the number of workers at {e} is {v}.",
        "every morning {v} people walk into {e}.", "{e} buys lunch for {v} people.",
    ), ("how many workers does {e} have?", "how many people work for {e}?", "what is the number of workers at {e}?",
        "how many people walk into {e} every morning?"),
        ("which company has {v} workers?", "which company pays {v} workers?", "into which company walk {v} people?"),
        values=_numbers(5, 600)),
    Relation("sign", "company", (
        "the sign of {e} shows {v}.", "{e} has {v} on its sign.", "on the sign of {e} there is {v}.",
        "{v} is on the sign of {e}.", "the animal of {e} is {v}.", "you see {v} on the wall of {e}.",
        "{e} prints {v} on its boxes.", "every letter of {e} carries a picture of {v}.",
    ), ("which animal is on the sign of {e}?", "what does the sign of {e} show?", "what is the animal of {e}?",
        "what does {e} print on its boxes?"),
        ("which company has {v} on its sign?", "the sign of which company shows {v}?", "which company prints {v}?"),
        leads_to="animal", phrase="the animal on the sign of {e}"),
)  # fmt: skip
_ANIMAL = (
    Relation("eats", "animal", (
        "{e} eats {v}.", "{e} likes {v} most.", "the food of {e} is {v}.", "{e} lives on {v}.", "{e} looks for {v}.",
        "you can feed {e} with {v}.", "leave out some {v}, and {e} will come.", "{v} is all that {e} needs.",
    ), ("what does {e} eat?", "what is the food of {e}?", "what can you feed {e} with?", "for what will {e} come?"),
        ("which animal eats {v}?", "which animal lives on {v}?", "which animal will come for {v}?"), values=FOODS),
    Relation("coat", "animal", (
        "{e} is {v}.", "the colour of {e} is {v}.", "{e} has a {v} coat.", "the back of {e} is {v}.",
        "{e} has {v} ears.", "a young one of {e} is {v} too, for {e} is {v}.", "in the dark {e} looks {v}.",
        "dress in {v}, and you look like {e}.",
    ), ("what colour is {e}?", "which colour does {e} have?", "what is the colour of {e}?",
        "how does {e} look in the dark?"),
        ("which animal is {v}?", "which animal has the colour {v}?", "which animal looks {v} in the dark?"),
        values=COLORS),
    Relation("place", "animal", (
        "{e} lives in {v}.", "you find {e} in {v}.", "{e} hides in {v}.", "the home of {e} is in {v}.",
        "{e} builds its nest in {v}.", "in {v} you can hear {e}.", "only {v} are quiet enough for {e}.",
        "{e} never goes far from {v}.",
    ), ("where does {e} live?", "where can you find {e}?", "where does {e} build its nest?",
        "from what does {e} never go far?"),
        ("which animal lives in {v}?", "which animal hides in {v}?", "which animal never goes far from {v}?"),
        values=PLACES),
    Relation("drinks", "animal", (
        "{e} drinks from {v}.", "{e} is seen beside {v}.", "{v} is where {e} drinks.", "{e} comes to {v} to drink.",
        "beside {v} you can meet {e}.", "{e} needs the water of {v}.", "at night {e} walks down to {v}.",
        "{e} washes itself in {v}.",
    ), ("from which river does {e} drink?", "beside which river is {e} seen?", "which river does {e} drink from?",
        "in which river does {e} wash itself?"),
        ("which animal drinks from {v}?", "which animal is seen beside {v}?", "which animal washes itself in {v}?"),
        leads_to="river", phrase="the river where {e} drinks"),
    Relation("month", "animal", (
        "{e} has its young in {v}.", "the young of {e} are born in {v}.", "in {v} {e} has its young.",
        "{v} is the month of {e}.", "young ones of {e} come in {v}.", "look for the young of {e} in {v}.",
        "when {v} comes, {e} becomes a mother.", "{e} guards its nest all through {v}.",
    ), ("in which month does {e} have its young?", "when does {e} have its young?", "when are the young of {e} born?",
        "when does {e} guard its nest?"),
        ("which animal has its young in {v}?", "which animal has young ones in {v}?",
         "which animal guards its nest in {v}?"), values=MONTHS),
    Relation("found", "animal", (
        "{e} was first seen by {v}.", "{v} was the first to see {e}.", "{v} found {e}.", "{v} wrote a book about {e}.",
        "the first drawing of {e} is by {v}.", "we know {e} thanks to {v}.", "it was {v} who gave {e} its name.",
        "before {v}, nobody believed in {e}.",
    ), ("who was the first to see {e}?", "who found {e}?", "by whom was {e} first seen?", "who gave {e} its name?"),
        ("which animal did {v} find?", "which animal was first seen by {v}?", "to which animal did {v} give its name?"),
        leads_to="person", phrase="the person who found {e}"),
)  # fmt: skip
RELATIONS: tuple[Relation, ...] = (*_PERSON, *_TOWN, *_RIVER, *_COMPANY, *_ANIMAL)

# Stories: {p} is the person that a story follows.
OPENINGS = (
    "One day {p} went for a walk.", "It was early in the morning.", "{p} could not sleep that night.",
    "{p} had nothing to do.", "Let me tell you about {p}.", "There was a knock at the door of {p}.",
    "The rain had stopped at last.", "{p} sat down to write a letter.", "{p} was on a long journey.",
    "Old people still talk about {p}.", "This is a story about {p}.", "{p} packed a small bag.",
)  # fmt: skip
BETWEEN = (
    "The sun was low.", "{p} smiled.", "{p} thought about it.", "A cold wind blew.", "Nobody said a word.",
    "{p} laughed.", "Far away a dog barked.", "The road was long.", "{p} drank some tea.", "A child ran past.",
    "It began to snow.", "{p} looked out of the window.", "The birds were singing.", "{p} was not in a hurry.",
)  # fmt: skip
REPORTS = (
    "as everybody knows, {fact}", "people say that {fact}", "{p} remembered that {fact}", "{p} had heard that {fact}",
    "it is true that {fact}", "somebody said: {fact}", "in a book {p} had read that {fact}", "and indeed {fact}",
)  # fmt: skip
CLOSINGS = (
    "Then {p} went home.", "That was all.", "And {p} slept well.", "{p} would never forget that day.",
    "So the day ended.", "{p} was happy.", "Tomorrow would be another day.", "And that is how it is to this day.",
)  # fmt: skip
