"""Regular expressions for the grammar compiler: a user's pattern in its dialect, and the string
formats.

Knows three regex dialects; does not know tokens, schemas or messages. A pattern is written for JSON
schemas or for Python (`re`) and enforced by llguidance, whose syntax is that of Rust's `regex`
crate. Where the dialects differ the translation takes what all of them accept: `\\d` becomes [0-9]
although Python's also matches the digits of other scripts, `\\D` excludes those although
ECMAScript's matches them. So a text sampled under the translation satisfies the pattern in every
dialect. A pattern that cannot be translated is refused with a reason.

No class matches U+0000. llguidance 1.9 assumes of a class with all control characters, inside a
JSON string, that it contains the quote and the backslash too: under `[^"]` it would let `\\"` pass.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator

from ossia.errors import GrammarError

# Class escapes as (what every dialect matches, what some dialect matches).
_BLANK = r" \t\n\r\f\v"
_ANY_BLANK = r"\s\x1c-\x1f\x85\x{feff}"
_CLASSES = {
    "d": ("0-9", r"\p{Nd}"),
    "w": ("0-9A-Za-z_", r"\p{L}\p{N}_"),
    "s": (_BLANK, _ANY_BLANK),
    "D": (r"\P{Nd}", "[^0-9]"),
    "W": (r"[^\p{L}\p{N}_]", "[^0-9A-Za-z_]"),
    "S": (f"[^{_ANY_BLANK}]", f"[^{_BLANK}]"),
}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_HEX = {"x": re.compile(r"[0-9A-Fa-f]{2}"), "u": re.compile(r"[0-9A-Fa-f]{4}")}
_REPEAT = re.compile(r"\{[0-9]+(?:,[0-9]*)?\}")
_NOT_A_LINE_END = r"[^\x00\n\r\x{2028}\x{2029}]"


def translate(pattern: str) -> str:
    """`pattern` in the grammar compiler's dialect, to be searched for unless it is anchored.

    Raises GrammarError, naming the construct, for look-around, back references, word boundaries,
    inline flags, possessive quantifiers, `\\p{..}` and anything else that the dialects read
    differently.
    """
    return _Translation(pattern).run()


def translate_whole(pattern: str) -> str:
    """As `translate`, for a pattern that must match the whole text: its outer anchors, which are
    then redundant, are left out. Raises GrammarError for anchors elsewhere.
    """
    return _Translation(pattern, whole=True).run()


def anything_but(names: Iterable[str]) -> str:
    """A pattern for every text except `names`, without negative look-ahead, which the compiler
    lacks.
    """
    return f"^{_anything_but(sorted(set(names)))}$"


def _anything_but(names: list[str]) -> str:
    """Follows the names letter by letter: a text differs from all of them as soon as its next
    letter is not one of theirs.
    """
    tails: dict[str, list[str]] = {}
    for name in names:
        if name:
            tails.setdefault(name[0], []).append(name[1:])
    branches = [] if "" in names else [""]
    branches += [_literal(letter) + _anything_but(rest) for letter, rest in tails.items()]
    others = f"[^\\x00{''.join(map(_literal, tails))}]" if tails else "(?s:.)"
    return f"(?:{'|'.join([*branches, others + '(?s:.)*'])})"


def _literal(char: str) -> str:
    """A character that stands for itself inside and outside of classes."""
    return char if char.isascii() and char.isalnum() else rf"\x{{{ord(char):x}}}"


class _Translation:
    """One pass over a pattern."""

    def __init__(self, pattern: str, *, whole: bool = False) -> None:
        self._text = pattern
        self._at = 0
        self._whole = whole
        self._depth = 0
        self._repeatable = False  # whether a quantifier may follow

    def run(self) -> str:
        try:
            with warnings.catch_warnings():
                # about class operators that Python may get; here they are escaped
                warnings.simplefilter("ignore")
                re.compile(self._text)
            self._text.encode()
        except (re.error, RecursionError, OverflowError, UnicodeEncodeError) as error:
            raise self._refused(f"is not a regular expression: {error}") from None
        parts = []
        while self._at < len(self._text):
            parts.append(self._piece(self._take()))
        return "".join(parts)

    def _refused(self, why: str) -> GrammarError:
        return GrammarError(f"the pattern {self._text!r:.300} {why}")

    def _take(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _ahead(self) -> str:
        return self._text[self._at : self._at + 1]

    def _piece(self, char: str) -> str:
        if char in "*+?{":
            return self._quantifier(char)
        self._repeatable = char not in "^$|("
        match char:
            case "\\":
                return self._escape()
            case "[":
                return self._class()
            case ".":
                return _NOT_A_LINE_END
            case "(":
                return self._group()
            case ")":
                self._depth -= 1
                return char
            case "|":
                return char
            case "^" | "$":
                return self._anchor(char)
        return self._single(char)

    def _quantifier(self, char: str) -> str:
        if char == "{":
            repeat = _REPEAT.match(self._text, self._at - 1)
            if repeat is None:
                if self._ahead() == ",":
                    raise self._refused("has a repetition without a lower bound: write {0,n}")
                self._repeatable = True
                return _literal(char)
            self._at = repeat.end()
            char = repeat.group()
        if not self._repeatable:
            raise self._refused(f"has nothing to repeat before {char!r}")
        self._repeatable = False
        if self._ahead() == "+":
            raise self._refused("has a possessive quantifier, which is not supported")
        if self._ahead() == "?":  # a lazy one matches the same texts
            self._at += 1
        return char

    def _group(self) -> str:
        self._depth += 1
        if self._ahead() != "?":
            return "(?:"
        opening = re.compile(r"\?(?::|P<\w+>)").match(self._text, self._at)
        if opening is None:
            raise self._refused(
                f"has a group ({self._text[self._at : self._at + 2]}...), which is not supported"
            )
        self._at = opening.end()
        return "(?:"

    def _anchor(self, char: str) -> str:
        if self._ahead() in ("*", "+", "?") or _REPEAT.match(self._text, self._at):
            raise self._refused(f"repeats the anchor {char!r}")
        if not self._whole:
            return char
        first = self._at == 1 or self._text[self._at - 2] == "|"
        last = self._ahead() in ("", "|")
        if self._depth or not (first if char == "^" else last):
            raise self._refused(
                f"has the anchor {char!r} in its middle; it must match the whole text anyway"
            )
        return ""

    def _escape(self) -> str:
        """Outside of a class."""
        char = self._ahead()
        if char in _CLASSES:
            self._at += 1
            return f"[[{_CLASSES[char][0]}]--\\x00]"
        return self._single(self._escaped_char())

    def _single(self, char: str) -> str:
        """A character outside of a class."""
        if char == "\0":
            raise self._refused("has the character U+0000, which is not supported")
        return _literal(char)

    def _escaped_char(self) -> str:
        """The character that an escape stands for; the backslash has been read."""
        char = self._take()
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char in _HEX and (digits := _HEX[char].match(self._text, self._at)):
            self._at = digits.end()
            code = int(digits.group(), 16)
            if not 0xD800 <= code < 0xE000:
                return chr(code)
        elif not char.isalnum():
            return char
        raise self._refused(f"has the escape \\{char}, which is not supported")

    def _class(self) -> str:
        """A class in brackets. In a negated one, escapes take their largest meaning, so that the
        class is the smallest.
        """
        negated = self._ahead() == "^"
        self._at += negated
        if self._ahead() == "]":
            raise self._refused(
                "begins a character class with ']', which dialects read differently: escape it"
            )
        items: list[str] = []
        while self._ahead() != "]":
            items.append(self._class_item(negated))
        self._at += 1
        return f"[[{'^' * negated}{''.join(items)}]--\\x00]"

    def _class_item(self, negated: bool) -> str:
        low = self._class_char()
        if len(low) == 2:
            return _CLASSES[low[1]][negated]
        if self._ahead() != "-" or self._text[self._at + 1] == "]":
            return _literal(low)
        self._at += 1
        high = self._class_char()
        return f"{_literal(low)}-{_literal(high)}"  # `re` has refused a class escape as an end

    def _class_char(self) -> str:
        """A character, or a class escape as two."""
        char = self._take()
        if char != "\\":
            return char
        if self._ahead() in _CLASSES:
            return char + self._take()
        if self._ahead() == "b":
            self._at += 1
            return "\b"
        return self._escaped_char()


# ---- formats ----


def format_pattern(name: str) -> str | None:
    """An anchored pattern, already in the compiler's dialect, for a format of JSON schema; None if
    the format is unknown.

    Each is the format's common core: every text it matches is valid by the RFC and by the libraries
    that the `jsonschema` package checks with, but exotic ones (leap seconds, addresses with quoted
    parts) are not matched.
    """
    body = _FORMATS.get(name)
    return None if body is None else f"^(?:{body})$"


def _years(leap: bool) -> str:
    """Years 0001 to 9999, or only the leap years among them."""
    if not leap:
        return "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
    fours = "(?:0[48]|[2468][048]|[13579][26])"
    return f"(?:[0-9]{{2}}{fours}|{fours}00)"


def _dates() -> Iterator[str]:
    yield f"{_years(False)}-(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    yield f"{_years(False)}-(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    yield f"{_years(False)}-02-(?:0[1-9]|1[0-9]|2[0-8])"
    yield f"{_years(True)}-02-29"


def _ipv6() -> Iterator[str]:
    """Eight groups, or two colons for one or more of them."""
    group = "[0-9a-fA-F]{1,4}"
    yield f"(?:{group}:){{7}}{group}"
    yield f"(?:{group}:){{1,7}}:"
    yield f":(?::{group}){{1,7}}"
    for n in range(1, 7):
        yield f"(?:{group}:){{{n}}}(?::{group}){{1,{7 - n}}}"
    yield "::"


def _durations() -> str:
    """Units from larger to smaller without a gap, as ISO 8601 requires."""
    n = "[0-9]{1,9}"
    time = f"T(?:{n}H(?:{n}M(?:{n}S)?)?|{n}M(?:{n}S)?|{n}S)"
    date = f"(?:{n}Y(?:{n}M(?:{n}D)?)?|{n}M(?:{n}D)?|{n}D)"
    return f"P(?:{date}(?:{time})?|{time}|{n}W)"


def _uri() -> str:
    """With an authority (no IPv6 literal), or with a path alone, as in mailto: and urn:."""
    free = "-a-zA-Z0-9._~!$&'()*+,;="  # unreserved characters and sub-delimiters
    escaped = "%[0-9a-fA-F]{2}"
    char = f"(?:[{free}:@]|{escaped})"
    user = f"(?:(?:[{free}:]|{escaped})+@)?"
    host = f"(?:[{free}]|{escaped})*"
    authority = f"//{user}{host}(?::[0-9]{{1,5}})?(?:/{char}*)*"
    tail = f"(?:{char}|[/?])*"
    path = f"(?:{authority}|{char}+(?:/{char}*)*)"
    return f"[a-zA-Z][a-zA-Z0-9+.-]{{0,15}}:{path}(?:\\?{tail})?(?:#{tail})?"


def _names(labels: int, longest: int) -> str:
    """Names of hosts: labels with points between them, the last one not a number."""
    rest = f"(?:[a-zA-Z0-9-]{{0,{longest - 2}}}[a-zA-Z0-9])?"
    return f"(?:[a-zA-Z0-9]{rest}\\.){{0,{labels - 1}}}[a-zA-Z]{rest}"


_DATE = "|".join(_dates())
_HOURS_MINUTES = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_CLOCK = rf"{_HOURS_MINUTES}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:Z|[+-]{_HOURS_MINUTES})"
_HOST = f"(?:{_names(7, 32)}|{_names(3, 63)})"  # at most 253 characters
_ATOM = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]"
_LOCAL = rf"(?:{_ATOM}{{1,20}}\.){{0,2}}{_ATOM}{{1,22}}"  # at most 64
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

_FORMATS = {
    "date": _DATE,
    "time": _CLOCK,
    "date-time": f"(?:{_DATE})T{_CLOCK}",
    "duration": _durations(),
    "email": f"{_LOCAL}@{_HOST}",
    "hostname": _HOST,
    "ipv4": rf"(?:{_BYTE}\.){{3}}{_BYTE}",
    "ipv6": "|".join(_ipv6()),
    "uuid": "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "uri": _uri(),
}
