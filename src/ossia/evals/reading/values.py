"""Numbers as people write them: `25`, `1,024`, `((50)/(2))`, `5^2`, `256+37 = 293`, `25 units`.

Reads plain text (`plain.marked`, without marks). What it works out is exact, a `Fraction`, except
after a root that is not whole, or π. Numbers too large to be anybody's answer have no value, so a
tower of powers takes no time. Does not know where in a text an answer stands.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from ossia.evals.reading.characters import MIXED, THIN
from ossia.evals.reading.plain import words_of

Number = Fraction | float
BITS = 512  # of a value's numerator and denominator
DIGITS = 60
DEEPEST = 40  # parentheses inside parentheses
TOLERANCE = 1e-9  # of two values that are not both exact

_NUMBER = re.compile(
    rf"\d{{1,3}}(?:(?:,{THIN}?|[ {THIN}'])\d{{3}})+(?![\d,])(?:\.\d+)?"
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])(?:\.\d+)?"
    r"|\d{1,3}(?:\.\d{3}){2,}(?![\d.])"  # no number has two decimal points
    r"|\d+(?:\.\d+)?|\.\d+"
)
_EXPONENT = re.compile(r"[eE][+-]?\d{1,3}(?![\w.])")
_BLANKS = re.compile(rf"[ \t{THIN}]*")
_EQUALS = re.compile(r"=|≈|≡|=>")
_WORDS = re.compile(r"[A-Za-z]+")
_FUNCTIONS = words_of("gcd lcm mod floor ceil sqrt log ln max min sin cos tan")
_MATHS = re.compile(r"[\s\w.,+\-*/^()|\[\]°%π√!&:;\\'±…<>≤≥" + MIXED + THIN + "]*")
# Words that multiply the number before them.
SIZES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_SHORT_UNITS = frozenset("msgNJKVWACLhbBFTHM")  # a single letter after a number that is a unit
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)
_TEXT_AFTER = re.compile(
    r"[(\[](?=\s*$|[A-Za-z]{2}|\\pmod)|[-–—]{1,3}(?=\s*(?:[A-Za-z]{2}|[aAI]\s|$))|[–—]\s|"
    r"/(?=[A-Za-z]{3})"
)
_NAME_AFTER = re.compile(r"\W*([A-Za-z]+)")
# What begins a factor or an operation, and no unit.
_OPERATIONS = words_of(
    "choose mod modulo sqrt log ln exp sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan "
    "gcd lcm ceil floor factorial squared cubed pi binom"
)
_SECANT = re.compile(r"sec\s*[(\\]")
_OPERANDS = re.compile(
    r"(?:plus|minus|times|over|divided\s+by|multiplied\s+by)\s+(?:[\d\\(√π]|[A-Za-z](?![A-Za-z]))",
    re.IGNORECASE,
)
_COMMANDS = re.compile(
    r"\\(?:pmod|Omega|ohm|mu|AA|square|blacksquare|Box|qed|checkmark|euro|pounds?|units?|si|SI)"
    r"(?![A-Za-z])"
)
# Words of two letters that stand after a number; any other two are factors.
_PAIRS = words_of(
    "is in as at by if of on or so to we it be do no up us an am he me my go cm mm km kg mg ml mL "
    "cL dL nm pm um fm dm ft yd mi lb oz hr Hz eV kJ kW kV mV mA mW MW GW kN kA Pa ms ns ps fs Ci "
    "Bq Gy Sv mM nM pM uM cc px KB MB GB TB dB VA Wh Ah Nm Ns lx lm cd ha yr wk qt pt gr"
)
_TRIPLES = words_of(
    "mol kHz MHz GHz keV MeV GeV kPa MPa atm bar psi rad deg sec min hrs mph rpm kWh ppm"
)
# After a number and its blanks: more of the same quantity, a comparison, or a bound.
_GOES_ON = re.compile(
    r"(?:more|less|fewer|greater|larger|smaller|higher|lower)\s+than\b|times\s+as\b"
    r"|(?:(?:per\s*cent\s+)?of|by|remainder|rem|r)\s+-?\d"
    r"|(?:hours?|hrs?|h|minutes?|mins?|days?|weeks?|feet|foot|ft|pounds?|lbs?|yards?|yd|miles?|"
    r"degrees?|dollars?|euros?)\s*(?:,|and)?\s*\d"
    r"|and\s+(?:a|one)\s+(?:half|third|quarter)\b"
    r"|(?:at\s+(?:least|most|(?:a\s+)?(?:minimum|maximum))|minimum|maximum|tops)\b"
    r"|or\s+(?:more|less|fewer|greater|higher|lower|so)\b"
    r"|\(\s*[-+]?\d[\d.]*\s*\)",
    re.IGNORECASE,
)
_AGAIN = re.compile(r"\s*\(\s*([-+]?\d{1,40}(?:\.\d{1,40})?)\s*\)")
_LIST = re.compile(r"(?:[,;]|\s*\||\s+:)\s*[-+(√]?\d")
_PROOF_ENDS = "∎"
_PRODUCT = re.compile(r"\(\s*(?:\\(?!pmod)|[A-Za-z]\s*[-+*/^])")
_ENDS = ".,;:!?)]}|\"'°%‰€£¥…"
_OTHER = re.compile(
    r"\s*(?:or|and|to|/|through|until)\s+(?:maybe\s+|perhaps\s+|possibly\s+)?[^\w\n]{0,3}\d"
)
_DASH_BEFORE = re.compile(rf"[ \t{THIN}]*[–—](?=[\d.√(])")


class Percent(Fraction):
    """So many percent. What is worked out from it is a plain number."""


def _percent(value: Number) -> Number:
    return Percent(value) if isinstance(value, Fraction) else value


def equal(found: Number, gold: Number) -> bool:
    """Exactly, where both are exact. Percent are parts of a hundred if the right answer is a share
    below 1, else a unit: "5%" is 0.05, and 25 is "25%".
    """
    if isinstance(found, Percent) and -1 < gold < 1:
        found = Fraction(found) / 100
    if isinstance(found, Fraction) and isinstance(gold, Fraction):
        return found == gold
    return math.isclose(found, gold, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def shown(value: Number) -> str:
    """As short text: the same for equal values."""
    if isinstance(value, Percent):
        return f"{Fraction(value)}%"
    if isinstance(value, Fraction):
        return str(value)
    return f"{value:.9g}"


@dataclass(frozen=True)
class Read:
    """A number that stands at the beginning of a text. `end`: what follows it. `clean`: what
    follows belongs to no other number and to no formula, so that this is all of it.
    """

    value: Number
    end: int
    clean: bool


def value_of(text: str) -> Number | None:
    """Of a text that is a number and nothing else, units aside; None if it is anything else."""
    read = read_chain(text)
    if read is None or not read.clean:
        return None
    return read.value


def parts_of(text: str) -> tuple[Number, str] | None:
    """The number that a text begins with, and all that follows it, without blanks."""
    read = read_chain(text)
    return None if read is None else (read.value, "".join(text[read.end :].split()))


def read_chain(text: str) -> Read | None:
    """The number that a text begins with; of equations the last side that has one."""
    begin = 0
    best: Read | None = None
    while True:
        sign = _EQUALS.search(text, begin)
        end = sign.start() if sign else len(text)
        side = text[begin:end]
        read = _read_side(side)
        if read is not None:
            is_whole = not side[read.end :].strip(" .")
            clean = (is_whole and sign is not None) or read.clean
            best = Read(read.value, begin + read.end, clean)
        if sign is None or not _is_formula(side):
            return best
        begin = sign.end()


def _is_formula(side: str) -> bool:
    """Whether all of it is part of an equation: numbers, signs, names of one letter or in
    capitals.
    """
    if not _MATHS.fullmatch(side):
        return False
    for word in _WORDS.findall(side):
        if len(word) > 1 and not word.isupper() and word.lower() not in _FUNCTIONS:
            return False
    return True


def _read_side(text: str) -> Read | None:
    parser = _Parser(text)
    value = parser.sum(0)
    if value is None:
        return None
    value, end = _sized(text, value, parser.at)
    again = _AGAIN.match(text, end)
    if again is not None and Fraction(again[1]) == value:
        end = again.end()  # 25 (25.0)
    return Read(value, end, _is_clean(text, end))


def _sized(
    text: str,
    value: Number,
    at: int,
) -> tuple[Number, int]:
    """With a word such as "thousand"."""
    start = _skip(text, at)
    word = _WORDS.match(text, start)
    if word is not None and word[0].lower() in ("percent", "percents"):
        return _percent(value), word.end()
    size = SIZES.get(word[0].lower()) if word else None
    if word is None or size is None:
        return value, at
    return value * size, word.end()


def _is_clean(text: str, end: int) -> bool:
    """Whether a number may end here: with the text, or before punctuation, a unit, a reason."""
    rest = text[end:]
    solid = rest.lstrip(f" \t\n{THIN}")
    if not solid:
        return True
    if _OTHER.match(rest) or solid[0].isdigit():
        return False
    if solid[0] in ".:'" and rest[:1] == solid[0] and rest[1:2].isdigit():
        return False  # 25:26 and 6'2"
    if _LIST.match(rest) or _GOES_ON.match(solid):
        return False
    if rest.startswith(("..", "…")):
        return False  # digits are left out
    if solid[0] in _ENDS:
        return True
    if solid[0] == "\\":
        return _COMMANDS.match(solid) is not None
    if not solid[0].isascii() and solid[0] not in "–—":
        return _is_no_factor(solid[0])
    if solid[0].isalpha():
        return _is_unit(solid, rest[0] == solid[0])
    if solid[0] == "(" and rest[0] != "(":
        return _PRODUCT.match(solid) is None
    name = _NAME_AFTER.match(solid)
    if name is not None and name[1] in _OPERATIONS and solid[0] not in "([":
        return False
    return _TEXT_AFTER.match(solid) is not None


def _is_no_factor(sign: str) -> bool:
    """Of what is not ASCII: √, ± and θ go on with a formula, ✓ and words do not."""
    is_greek = "\u0370" <= sign <= "\u03ff" and sign not in "\u03a9\u03bc"
    return sign == _PROOF_ENDS or not (is_greek or unicodedata.category(sign) == "Sm")


def _is_unit(text: str, touches: bool) -> bool:
    """Whether the word that a text begins with may stand after a number without changing it."""
    found = _WORDS.match(text)
    if found is None:
        return True
    word = found[0]
    if word.lower() in _OPERATIONS and (word != "sec" or _SECANT.match(text)):
        return False
    if _OPERANDS.match(text) or (touches and _ORDINAL.match(text)):
        return False
    if len(word) == 1:
        return word in _SHORT_UNITS or (word == "a" and not touches)
    if len(word) == 2:
        return word in _PAIRS or word.isupper()
    return len(word) > 3 or not touches or word in _TRIPLES


def _skip(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    assert found is not None
    return found.end()


class _Parser:
    """A sum of products of powers, as far as it goes. Where a part cannot be read, `at` stays
    before the sign that announced it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def sum(self, depth: int) -> Number | None:
        value = self._product(depth)
        while value is not None:
            before = self.at
            sign = self._sign("+-")
            if sign is None:
                break
            other = self._product(depth)
            if other is None:
                self.at = before
                break
            value = _checked(value + other if sign == "+" else value - other)
        return value

    def _product(self, depth: int) -> Number | None:
        value = self._signed(depth)
        while value is not None:
            before = self.at
            sign = self._sign("*/÷")
            if sign is None and not self._is_factor():
                break
            other = self._signed(depth) if sign else self._power(depth)
            if other is None or (sign in ("/", "÷") and other == 0):
                self.at = before
                break
            value = _checked(value / other if sign in ("/", "÷") else value * other)
        return value

    def _is_factor(self) -> bool:
        """A factor without a sign: `2(3)`, `2√(3)`, `2π`; it must touch what is before it."""
        here = self.text[self.at : self.at + 1]
        if here == "(":
            after = self.text[self.at + 1 : self.at + 2]
            return after.isdigit() or after in ("(", "-", "√", ".")
        return self.text[_skip(self.text, self.at) :][:1] in ("√", "π")

    def _signed(self, depth: int) -> Number | None:
        negative = False
        before = self.at
        if before == 0 and (dash := _DASH_BEFORE.match(self.text)):
            negative = True  # a dash that touches a number is written for a minus
            self.at = dash.end()
        while (sign := self._sign("+-")) is not None:
            negative ^= sign == "-"
            if self.at - before > DEEPEST:
                return None
        value = self._power(depth)
        if value is None:
            self.at = before
            return None
        return -value if negative else value

    def _power(self, depth: int) -> Number | None:
        value = self._after(self._atom(depth))
        if value is None:
            return None
        before = self.at
        if self._sign("^") is None:
            return value
        if depth >= DEEPEST:
            return None
        exponent = self._exponent(depth + 1)
        if exponent is None:
            self.at = before
            return value
        return _raised(value, exponent)

    def _exponent(self, depth: int) -> Number | None:
        sign = self._sign("+-")
        value = self._power(depth)
        if value is None:
            return None
        return -value if sign == "-" else value

    def _after(self, value: Number | None) -> Number | None:
        """With a factorial; degrees and percent are units."""
        while value is not None and self.text[self.at : self.at + 1] in ("°", "%"):
            if self.text[self.at] == "%":
                value = _percent(value)
            self.at += 1
        if value is None or self.text[self.at : self.at + 1] != "!" or not self._is_maths():
            return value
        if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 90:
            return value
        self.at += 1
        return Fraction(math.factorial(int(value)))

    def _is_maths(self) -> bool:
        """Whether a `!` is a factorial: a sign follows, or a parenthesis closes."""
        following = self.text[_skip(self.text, self.at + 1) :][:1]
        return following in ("+", "*", "/", "^", ")", "=") and following != ""

    def _atom(self, depth: int) -> Number | None:
        self.at = _skip(self.text, self.at)
        if self.text.startswith(MIXED, self.at):
            self.at += 1
        here = self.text[self.at : self.at + 1]
        if here == "(":
            return self._grouped(depth)
        if here == "|":
            return self._absolute(depth)
        if here == "√":
            before = self.at
            self.at += 1
            inside = self._atom(depth + 1) if depth < DEEPEST else None
            if inside is None or inside < 0:
                self.at = before
                return None
            return _root(inside)
        if here == "π":
            self.at += 1
            return math.pi
        return self._number()

    def _grouped(self, depth: int) -> Number | None:
        before = self.at
        if depth >= DEEPEST:
            return None
        self.at += 1
        value = self.sum(depth + 1)
        if value is None or self._sign(")") is None:
            self.at = before
            return None
        return value

    def _absolute(self, depth: int) -> Number | None:
        before = self.at
        if depth >= DEEPEST or self.text[before + 1 : before + 2].isspace():
            return None
        self.at += 1
        value = self.sum(depth + 1)
        if value is None or self._sign("|") is None:
            self.at = before
            return None
        return -value if value < 0 else value

    def _number(self) -> Number | None:
        found = _NUMBER.match(self.text, self.at)
        if found is None or len(found[0]) > DIGITS:
            return None
        plain = found[0].translate(_SEPARATORS)
        if plain.count(".") > 1:
            plain = plain.replace(".", "")
        self.at = found.end()
        value = Fraction(plain)
        if power := _EXPONENT.match(self.text, self.at):
            self.at = power.end()
            value *= Fraction(10) ** int(power[0][1:])
            if _checked(value) is None:
                return None
        part = self._fraction_after(value)
        return value if part is None else value + part

    def _fraction_after(self, whole: Fraction) -> Fraction | None:
        """Of a mixed number: `2 1/2`, or a fraction that was written beside the whole part."""
        before = self.at
        if self.text.startswith(MIXED, before):
            self.at += 1
            part = self._grouped(0)
            if isinstance(part, Fraction) and whole.denominator == 1:
                return part
            self.at = before
            return None
        found = _PART.match(self.text, before)
        if found is None or whole.denominator != 1 or int(found[2]) == 0:
            return None
        if int(found[1]) >= int(found[2]):
            return None
        self.at = found.end()
        return Fraction(int(found[1]), int(found[2]))

    def _sign(self, signs: str) -> str | None:
        """One of these, and where to go on."""
        at = _skip(self.text, self.at)
        here = self.text[at : at + 1]
        if not here or here not in signs:
            return None
        self.at = at + 1
        return here


_SEPARATORS = str.maketrans("", "", f", '{THIN}")
_PART = re.compile(r" (\d{1,4})/(\d{1,4})(?![\d/.])")


def _checked(value: Number) -> Number | None:
    """None for what is too large to go on with."""
    if isinstance(value, Fraction):
        size = max(value.numerator.bit_length(), value.denominator.bit_length())
        return value if size <= BITS else None
    return value if math.isfinite(value) else None


def _raised(base: Number, exponent: Number) -> Number | None:
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and isinstance(base, Fraction):
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(exponent) * size > 2 * BITS or (base == 0 and exponent < 0):
            return None
        return _checked(Fraction(base) ** int(exponent))
    if base <= 0:
        return None
    try:
        value = float(base) ** float(exponent)
    except OverflowError:
        return None
    near = Fraction(round(value)) if math.isfinite(value) and abs(value) < 1e15 else None
    is_exact = near is not None and isinstance(base, Fraction) and isinstance(exponent, Fraction)
    if not is_exact:
        return _checked(value)
    assert near is not None and isinstance(exponent, Fraction)
    if exponent.denominator * near.numerator.bit_length() > 2 * BITS:
        return _checked(value)  # no power of `base` has so many
    is_whole = near**exponent.denominator == _raised(base, Fraction(exponent.numerator))
    return near if is_whole else _checked(value)


def _root(inside: Number) -> Number:
    if isinstance(inside, Fraction):
        top, below = math.isqrt(inside.numerator), math.isqrt(inside.denominator)
        if top * top == inside.numerator and below * below == inside.denominator:
            return Fraction(top, below)
    return math.sqrt(inside)
