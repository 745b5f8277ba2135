"""What a text commits itself to: where it states its answer, what it takes back, what it leaves
open.

The same for numbers, letters and words, which a `Reader` finds. In order of strength:

    stated    "the answer is B", "Final answer: 25", "(C) is correct"
    boxed     the last \\boxed{...} that holds an answer
    bold      **B**
    lone      "So m + n = 25.", "Among the options, B"

Not an answer is what a text denies ("not A but B", "A is wrong"), asks, or only wonders about
("could be C"). A text that commits itself to two different things commits itself to nothing,
unless it says that it corrects itself, or calls one of them final.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ossia.evals.reading.clauses import DENIES, HEDGES, NOTHING, Said, decide
from ossia.evals.reading.plain import (
    BOLD,
    BOLD_END,
    BOX,
    BOX_END,
    BROKEN_BOX,
    without_marks,
)
from ossia.evals.reading.sentences import between, sentences_of

BEFORE_CUE = 40  # characters before "answer" that are looked at
LONGEST_PREFIX = 100  # between "answer" and "is"


class Reader(Protocol):
    """Finds answers in a clause, in order; two that differ say that the clause leaves it open."""

    def stated(self, clause: str, strict: bool) -> Sequence[Any]:
        """After a cue. `strict`: only at the beginning of the clause."""

    def lone(self, clause: str, strict: bool) -> Sequence[Any]:
        """Without a cue."""

    def whole(self, text: str) -> Sequence[Any]:
        """Of a box, or of a word in bold."""

    def speaks(self, sentence: str) -> bool:
        """Whether there may be an answer in a sentence at all."""

    def is_lone(self, sentence: str, is_last: bool) -> bool:
        """Whether a sentence may hold a lone answer."""


@dataclass(frozen=True)
class _Stated:
    place: int  # of the sentence
    said: Said
    is_final: bool


# ---- words ---------------------------------------------------------------------------------------

_CUE_WORDS = (
    r"(?:\b|_)(?:answers?|ans|antwort|lösung|respuesta|réponse|reponse|resposta|risposta|"
    r"jawaban(?:nya)?|"
    r"jibu|ìdáhùn|idahun|ответ|antwoord|svar|cevap|yan\u0131t|odpowiedź|vastaus|απάντηση|"
    r"đáp\s+án|"
    r"(?:opci[oó]n|alternativa|opção|opzione)\s+(?:correcta|correta|corretta)|richtige\s+option)\b|"
    r"答案|答え|回答|正解|正确选项|正確選項|选择|故选|应选|答|정답|답변|답|الإجابة|الاجابة|الجواب|उत्तर|উত্তর"
)
_CUE = re.compile(_CUE_WORDS, re.IGNORECASE)
_NO_CUE = re.compile(r"\s*(?:choices?|options?|keys?|sheets?|format|form)\b", re.IGNORECASE)
# Before "answer": a wrong one, or what others do.
_OTHERS = re.compile(
    r"\b(?:incorrect|wrong|false|tempting|common|typical|naive|often|usually|sometimes|commonly|"
    r"students|people|many|some|others|to|would|might|could|not)\s+$|"
    r"\b(?:not\s+(?:true|the\s+case|likely|clear)|untrue|false|doubt\w*|den(?:y|ies|ied)|"
    r"don't\s+(?:think|believe)|thought|believed|assumed|guessed|expected)"
    r"(?:\s+(?:that|whether|if|the|my|our|correct|right|final))*\s+$",
    re.IGNORECASE,
)
_HEARSAY = re.compile(
    r"\A\W*(?:(?:many|most|some)\s+)?(?:students|people|candidates|others|many|some)\s+(?:\w+\s+)?"
    r"(?:answer|choose|pick|select|say|think|believe|guess)\b(?!.*\b(?:but|however|correct)\b)",
    re.IGNORECASE,
)
# A list of what can be chosen, which chooses nothing.
_OFFERS = re.compile(
    r"\A\W*(?:the\s+|my\s+|possible\s+|answer\s+|four\s+)*(?:choices|options|alternatives|"
    r"possibilities|candidates|answers)\s*(?:are|were|include|:)",
    re.IGNORECASE,
)
# "Suppose x = 73", "If it rains, C"
_SUPPOSES = re.compile(
    r"\A\W*(?:(?:suppose|supposing|assume|assuming)\b|if\b[^,]{1,200},\s*\W?\w{1,9}\W*$)",
    re.IGNORECASE,
)
_CONNECTOR = re.compile(r"(?:\(s\))?[\s\"')\]]*(?::|=>|=|≈|[-–—](?=\s)|是|为|は|는|은)[\s\"']*")
_VERB = re.compile(
    r"\b(?:is|are|be|was|equals?|comes? out (?:to|as)|turns? out to be|ist|lautet|es|est|é|è|"
    r"adalah|ni|ndio)\b|[:=≈]|=>|是|为|は",
    re.IGNORECASE,
)
_FINAL = re.compile(r"\b(?:final|finally|finale?|definitive|endgültige|最终|最終)\b", re.IGNORECASE)
_RETRACTS = re.compile(
    r"\b(?:wait|actually|correction|corrected|recheck\w*|re-check\w*|reconsider\w*|revis\w*|"
    r"mistake\w*|scratch that|on second thought|sorry|i was wrong|that is wrong|that's wrong)\b",
    re.IGNORECASE,
)
_GAVE_UP = re.compile(
    r"\b(?:ran out|run out|could ?n[o']t|couldn't|unable|cannot|can't|did ?n[o']t finish|no answer|"
    r"incomplete|give up|gave up|stopped|truncated|interrupted|tokens)\b",
    re.IGNORECASE,
)

# ---- what a text says ----------------------------------------------------------------------------


def commitment(text: str, reader: Reader) -> Said:
    """Of a text as `plain.marked` gives it."""
    sentences = list(sentences_of(text))
    plain = [without_marks(sentence) for sentence in sentences]
    turns = [n for n, sentence in enumerate(plain) if _RETRACTS.search(sentence)]
    last_turn = turns[-1] if turns else -1
    stated = list(_all_stated(plain, reader))
    said = _agreed(stated, last_turn)
    where = max((one.place for one in stated if not one.said.why), default=-1)
    boxed, box_place = _boxed(sentences, reader)
    if not boxed.why and _side_by_side(text, reader):
        boxed = Said(why="several")
    if boxed.why == "broken" and box_place > where:
        return boxed
    if said.why == "nothing":
        said = boxed
        where = box_place
    elif not said.why and not boxed.why and box_place > where and boxed.value != said.value:
        return boxed if last_turn > where else Said(why="several")
    if said.why != "nothing":
        if not said.why and last_turn > max(where, box_place):
            return _turned(plain[last_turn], reader) or said
        return said
    said = _bold(sentences, plain, reader)
    if said.why != "nothing":
        return said
    return _lone(plain, reader)


def _turned(sentence: str, reader: Reader) -> Said | None:
    """What a correction without the word "answer" puts in place of what was said."""
    begin = _CORRECTS.match(sentence)
    if begin is None or sentence.rstrip().endswith("?"):
        return None
    said = decide(sentence[begin.end() :], lambda clause, _: reader.stated(clause, True))
    return None if said.why == "nothing" else said


# "Wait, it should be D", "Actually, B"
_CORRECTS = re.compile(
    r"\W*(?:(?:oh|hmm|no|but|sorry)\W+)*(?:wait|actually|correction|sorry|scratch that|"
    r"on second thought)\W+"
    r"(?:(?:no|actually|sorry)\W+)*"
    r"(?:(?:it|that|this)(?:'s|\s+is|\s+(?:should|must|has\s+to|would)\s+be)\s+|make\s+(?:that|"
    r"it)\s+|"
    r"i\s+mean[t]?\s+)?",
    re.IGNORECASE,
)


def _agreed(stated: Sequence[_Stated], last_turn: int) -> Said:
    """What the statements of an answer come to."""
    firm = [one for one in stated if not one.said.why]
    if not firm:
        return next((one.said for one in stated if one.said.why != "nothing"), NOTHING)
    values = {one.said.value for one in firm}
    if len(values) > 1:
        firm = [one for one in firm if one.place >= last_turn] or firm
    if len({one.said.value for one in firm}) > 1 and firm[-1].is_final:
        firm = [one for one in firm if one.is_final]
    if len({one.said.value for one in firm}) > 1:
        return Said(why="several")
    last = stated[-1]
    if last.said.why == "several" and last.place > firm[-1].place:
        return last.said
    return firm[-1].said


def _all_stated(plain: Sequence[str], reader: Reader) -> Iterator[_Stated]:
    for place, sentence in enumerate(plain):
        if sentence.rstrip().endswith("?"):
            continue
        for region, is_final in _regions(place, plain):
            said = _stated_in(region, reader)
            if said.why != "nothing":
                yield _Stated(place, said, is_final)


def _stated_in(region: str, reader: Reader) -> Said:
    label = _LABEL.match(region)
    if label is not None and not _NO_REASON.match(region, label.end()):
        said = decide(label[0].rstrip(": "), reader.stated)
        if not said.why:
            return said  # what follows is its reason, or its own text
    return decide(region, reader.stated)


# "C: A and B fail", "D) none of A, B or C"
_LABEL = re.compile(
    r"\s*[\"'(\[]{0,3}[^\s:()\[\]\"']{1,12}[)\]\"']{0,3}"
    r"(?::\s+(?=\D)|(?<=[.)])\s+(?=(?:none|all|both|neither|only)\b))",
    re.IGNORECASE,
)
_NO_REASON = re.compile(
    r"\W*(?:(?:it|that|this|which)\s+)?(?:is\s+)?(?:wrong|incorrect|false|no|not|wait|or|maybe|"
    r"perhaps)\b",
    re.I,
)


def _regions(place: int, plain: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """What follows each cue of a sentence, and whether it is called final."""
    sentence = plain[place]
    cues = list(_CUE.finditer(sentence))
    ends = [cue.start() for cue in cues[1:]] + [len(sentence)]
    for cue, end in zip(cues, ends, strict=False):
        before = sentence[max(0, cue.start() - BEFORE_CUE) : cue.start()]
        if _NO_CUE.match(sentence, cue.end()) or _OTHERS.search(before):
            continue
        is_final = _FINAL.search(before) is not None
        region = _region(before, sentence[cue.end() : end])
        if region is not None and not region.strip(_EMPTY):
            region = next((one for one in plain[place + 1 :] if one.strip(_EMPTY)), region)
        if region is not None:
            yield region, is_final


_EMPTY = " \t.*_\"'()[]"


def _region(before: str, after: str) -> str | None:
    direct = _CONNECTOR.match(after)
    if direct is not None:
        return after[direct.end() :]
    verb = _VERB.search(after, 0, LONGEST_PREFIX)
    if verb is not None and "?" not in after[: verb.start()]:
        prefix = after[: verb.start()]
        region = after[verb.end() :]
        if DENIES.search(prefix):
            return f"not {region}"
        if HEDGES.search(prefix):
            return f"maybe {region}"
        return region
    if len(before.split()) <= 2:  # "Final answer 25", or a heading
        return after
    return None


def _boxed(sentences: Sequence[str], reader: Reader) -> tuple[Said, int]:
    """The last box that holds an answer, and where it stands."""
    last: tuple[Said, int] = (NOTHING, -1)
    for place, sentence in enumerate(sentences):
        for inside in between(sentence, BOX, BOX_END):
            said = _one_of(reader.whole(inside))
            if said.why != "nothing":
                last = (said, place)
        if sentence.rfind(BROKEN_BOX) > sentence.rfind(BOX_END):
            last = (Said(why="broken"), place)
    return last


def _side_by_side(text: str, reader: Reader) -> bool:
    """Whether the last two boxes are a list of two answers: "[24] or [25]"."""
    boxes = deque(_WHOLE_BOX.finditer(text), 2)
    if len(boxes) < 2:
        return False
    first, last = boxes
    values = (set(reader.whole(first[1])), set(reader.whole(last[1])))
    if not all(values) or values[0] == values[1]:
        return False
    amid = without_marks(text[first.end() : last.start()]).strip()
    return _LISTED.fullmatch(amid) is not None  # with a blank alone the last one counts


_WHOLE_BOX = re.compile(f"{BOX}([^{BOX}{BOX_END}]*){BOX_END}")
_LISTED = re.compile(r"(?:[\s,;/|&-]|\band\b|\bor\b)++", re.IGNORECASE)


def _bold(
    sentences: Sequence[str],
    plain: Sequence[str],
    reader: Reader,
) -> Said:
    found: list[Said] = []
    for place, sentence in enumerate(sentences):
        spans = list(between(sentence, BOLD, BOLD_END))
        if not any(reader.whole(span) for span in spans):
            continue
        if plain[place].rstrip().endswith("?"):
            continue
        wanted = {value for span in spans for value in reader.whole(span)}
        said = decide(plain[place], reader.stated)
        if said.why == "nothing" and not DENIES.search(plain[place]):
            said = _one_of(list(wanted))
        if said.why or said.value in wanted:
            found.append(said)
    return _together(found)


def _lone(plain: Sequence[str], reader: Reader) -> Said:
    found: list[Said] = []
    solid = [sentence for sentence in plain if sentence.strip(" .*_-\t")]
    speaking = [n for n, sentence in enumerate(solid) if reader.speaks(sentence)]
    gave_up = max((n for n, one in enumerate(solid) if _GAVE_UP.search(one)), default=-1)
    for place in speaking:
        sentence = solid[place]
        if any(one.match(sentence) for one in (_HEARSAY, _OFFERS, _SUPPOSES)):
            continue
        is_last = place == speaking[-1]
        if place == gave_up or not reader.is_lone(sentence, is_last):
            continue
        if is_last and gave_up > place:
            return NOTHING
        said = decide(sentence, reader.lone)
        if sentence.rstrip().endswith("?") and not said.why:
            said = Said(why="hedged")
        if said.why != "nothing":
            found.append(said)
    if found and not found[-1].why and _concludes(solid[-1]) and len(solid) > 1:
        last = decide(solid[-1], reader.lone)
        if not last.why:
            return last
    return _together(found)


def _concludes(sentence: str) -> bool:
    first = sentence.split(maxsplit=1)[0].lower().strip(",:")
    return first in ("so", "therefore", "thus", "hence", "finally", "overall")


def _together(found: Sequence[Said]) -> Said:
    firm = {said.value for said in found if not said.why}
    if firm and found[-1].why == "several":
        return found[-1]
    if len(firm) == 1:
        return Said(firm.pop(), "")
    if firm:
        return Said(why="several")
    return found[-1] if found else NOTHING


def _one_of(values: Sequence[Any]) -> Said:
    different = set(values)
    if not different:
        return NOTHING
    return Said(values[0], "") if len(different) == 1 else Said(why="several")
