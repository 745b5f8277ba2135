"""A policy as a Markdown document, read line by line, and written.

    # Library desk                     the policy's name
    ### Names                          a list of other names that answers must not use
    ## loans                           a category; below it what its rules have in common
    ### Rule 1: refuse                 a rule, its number and its verdict; below it its text
    #### Unless                        a list of exceptions: `- comply: when`
    #### Examples                      a list
    #### Near misses                   a list
    ### Case: rule 1                   what a judge is tried on
    #### Prompt, #### Good, #### Bad   a text each

A document of a fixed shape and no more of Markdown than that: headings have its structure, texts
are kept to the letter. In a text, a line that would be taken for structure (a heading, a comment, a
fence without an end) begins with a backslash, as Markdown has it. What is missing or wrong in a
rule is for `spec_checks.py` to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ossia.errors import DataError
from ossia.tasks.safety.spec_checks import Form, Table, names_of
from ossia.tasks.safety.specs import Case, Category, Policy, Rule

FORM: Form = {
    "name": "it behind the #",
    "category": "'## NAME', and below it at least one '### Rule 1: refuse'",
    "rule": "'### Rule 1: refuse', with its number and verdict, and the rule below that",
    "text": "the rule in the lines below its heading",
    "prompt": "'#### Prompt', and below it what a user says",
    "good": "'#### Good', and below it an answer that follows the rule",
    "bad": "'#### Bad', and below it an answer that does not",
    "when": "it behind the verdict, as in '- comply: the user gives a permit code'",
}
NAMES = "names"
# The lists of a rule, and the texts of a case, by heading.
LISTS = {"unless": "unless", "examples": "examples", "near misses": "near_misses"}
TEXTS = {"prompt": "prompt", "good": "good", "bad": "bad"}
HEADINGS = {
    1: "'# NAME' once, at the top",
    2: "'## NAME' for a category",
    3: "'### Rule 1: refuse', '### Case' or '### Case: rule 1' in a category, '### Names' before",
    4: "'#### Unless', '#### Examples' or '#### Near misses' below a rule, '#### Prompt', "
    "'#### Good' or '#### Bad' below a case",
}
_HEADING = re.compile(r"(#{1,6})[ \t]+(\S.*?)[ \t]*")
_RULE = re.compile(r"rule[ \t]+([^:]*?)[ \t]*(?::[ \t]*(.*))?", re.IGNORECASE)
_CASE = re.compile(r"case(?:[ \t]*:[ \t]*rule[ \t]+(.*))?", re.IGNORECASE)
_ITEM = re.compile(r"[-*+](?:[ \t]+(.*))?")
_UNDERLINE = re.compile(r"[ \t]*(={2,}|-{2,})[ \t]*")
_LEAD = r"(?:[ \t]|[-*+>] |\d{1,9}[.)] )*"  # what may stand before a fence: blanks, items, quotes
_FENCE = re.compile(rf"{_LEAD}(`{{3,}}(?=[^`]*$)|~{{3,}}).*")
_STRUCTURE = re.compile(rf"({_LEAD})(\\*)(#|```|~~~|<!--).*|([ \t]*)(\\*)(={{2,}}|-{{2,}})[ \t]*")


@dataclass
class _Part:
    """A heading, and the lines below it."""

    level: int
    title: str
    line: int
    body: list[tuple[int, str]] = field(default_factory=list)


# ---- reading -------------------------------------------------------------------------------------


def tables_of(text: str, file: str) -> Table:
    """Raises `DataError` with the line, for what is no such document."""
    return _Reader(file).tables(text)


@dataclass(frozen=True)
class _Reader:
    file: str

    def wrong(self, line: int, what: str) -> DataError:
        return DataError(f"{self.file}, line {line}: {what}")

    def tables(self, text: str) -> Table:
        first, *others = self._parts(text.split("\n"))
        policy = Table(first.line)
        policy["name"] = first.title
        policy["category"] = []
        self._nothing(first)
        holder: Table | None = None  # the rule or the case that '####' belongs to
        for part in others:
            if part.level == 1:
                raise self.wrong(part.line, "a policy has one name: write '## ' for a category")
            if part.level == 2:
                policy["category"].append(self._category(part))
                holder = None
            elif part.level == 3:
                holder = self._third(policy, part)
            else:
                self._fourth(holder, part)
        return policy

    def _category(self, part: _Part) -> Table:
        category = Table(part.line)
        category["name"] = part.title
        category["rule"] = []
        self._put(category, "about", part)
        return category

    def _third(self, policy: Table, part: _Part) -> Table | None:
        """A rule, a case, or the names of the policy, to which nothing belongs."""
        if not policy["category"]:
            if part.title.casefold() != NAMES:
                raise self._no_heading(part)
            self._once(policy, "names", part)
            policy["names"] = [text for _, text in self._items(part)]
            return None
        category: Table = policy["category"][-1]
        rule = _RULE.fullmatch(part.title)
        if rule is not None:
            made = Table(part.line)
            made["number"] = _number(rule[1])
            made["verdict"] = rule[2] or ""
            self._put(made, "text", part)
            category["rule"].append(made)
            return made
        case = _CASE.fullmatch(part.title)
        if case is None:
            raise self._no_heading(part)
        self._once(category, "case", part)
        self._nothing(part)
        made = Table(part.line)
        if case[1]:
            made["rule"] = _number(case[1])
        category["case"] = made
        return made

    def _fourth(self, holder: Table | None, part: _Part) -> None:
        title = part.title.casefold()
        is_rule = holder is not None and "number" in holder
        key = (LISTS if is_rule else TEXTS).get(title)
        if holder is None or key is None or part.level > 4:
            raise self._no_heading(part)
        self._once(holder, key, part)
        if not is_rule:
            self._put(holder, key, part)
        elif key == "unless":
            holder[key] = [self._exception(*item) for item in self._items(part)]
        else:
            holder[key] = [text for _, text in self._items(part)]

    def _once(self, table: Table, key: str, part: _Part) -> None:
        if key in table:
            raise self.wrong(
                part.line,
                f"{part.title!r} stands here a second time, after line {table.lines[key]}: leave "
                "one of them",
            )
        table.lines[key] = part.line

    def _no_heading(self, part: _Part) -> DataError:
        marks = "#" * part.level
        may = HEADINGS.get(part.level, "no heading of more than four #")
        return self.wrong(
            part.line,
            f"the heading {f'{marks} {part.title}'!r:.80} means nothing here; there may be {may}. "
            f"If it is a part of a text, write \\{marks}",
        )

    def _nothing(self, part: _Part) -> None:
        for line, text in part.body:
            if text.strip():
                raise self.wrong(
                    line,
                    f"{text.strip():.40} stands below {part.title!r}, where there may be no text: "
                    "move it below the heading that it belongs to, or put it in a comment, "
                    "<!-- like this -->",
                )

    def _put(self, table: Table, key: str, part: _Part) -> None:
        """The text below a heading, if there is one."""
        text = _unescaped([text for _, text in part.body])
        if text.strip():
            table[key] = text
            table.lines[key] = next(line for line, text in part.body if text.strip())

    def _exception(self, line: int, item: str) -> Table:
        made = Table(line)
        verdict, colon, when = item.partition(":")
        if not colon:
            raise self.wrong(
                line, f"{item!r:.60} has no verdict: write '- comply: when the rule does not hold'"
            )
        made["verdict"] = verdict.strip()
        if when.strip():
            made["when"] = when
        return made

    def _items(self, part: _Part) -> list[tuple[int, str]]:
        """The items of a list, with the lines on which they begin."""
        found: list[tuple[int, list[str]]] = []
        for line, text in part.body:
            item = _ITEM.fullmatch(text)
            if item is not None:
                found.append((line, [item[1] or ""]))
            elif not text.strip():
                if found:
                    found[-1][1].append(text[2:])
            elif found and text.startswith("  "):
                found[-1][1].append(text[2:])
            elif found and text.startswith("\t"):
                found[-1][1].append(text[1:])
            else:
                raise self.wrong(
                    line,
                    f"{text.strip():.40} is not of a list: begin each item with '- ', and the "
                    "lines in which it goes on with two blanks",
                )
        if not found:
            raise self.wrong(
                part.line, f"there is no list below {part.title!r}: begin each item with '- '"
            )
        items = [(line, _unescaped(texts)) for line, texts in found]
        for line, text in items:
            if not text.strip():
                raise self.wrong(line, "the item says nothing: write something, or remove it")
        return items

    # ---- lines

    def _parts(self, lines: Sequence[str]) -> list[_Part]:
        """At least one, which is the name of the policy."""
        found: list[_Part] = []
        before = ""  # the line before, "" if it is no text that could be underlined
        for number, text, is_code in self._told(lines):
            heading = None if is_code else _HEADING.fullmatch(text)
            if heading is not None:
                found.append(_Part(len(heading[1]), heading[2], number))
                before = ""
                continue
            if not is_code:
                self._see(number, text, before)
            if found:
                found[-1].body.append((number, text))
            elif text.strip():
                break
            before = text.strip()
        if not found or found[0].level != 1:
            line = found[0].line if found else 1
            raise self.wrong(line, "a policy begins with '# ' and its name; write that first")
        return found

    def _see(self, number: int, text: str, before: str) -> None:
        """Raises for a line that other readers of Markdown would take for a heading."""
        if text.lstrip(" \t").startswith("#"):
            raise self.wrong(
                number,
                f"{text.strip():.40} is no heading: '#' begins a line, with a blank behind it and "
                "words behind that. If it is a part of a text, write \\#",
            )
        if before and _UNDERLINE.fullmatch(text):
            raise self.wrong(
                number,
                f"{before:.40} is underlined: write '## ' before a heading instead. If it is a "
                "part of a text, leave a line empty in between",
            )

    def _told(self, lines: Sequence[str]) -> Iterator[tuple[int, str, bool]]:
        """The lines with their numbers, and whether they are code; no comments."""
        n = 0
        while n < len(lines):
            if lines[n].lstrip(" \t").startswith("<!--"):
                n = self._end_of_comment(lines, n) + 1
                continue
            end = n
            is_code = _FENCE.fullmatch(lines[n]) is not None
            if is_code:
                end = _end_of_code(lines, n)
                if not end:
                    raise self.wrong(
                        n + 1,
                        f"the block that begins with {lines[n].strip():.20} has no end: close it "
                        "with the same marks on a line of their own",
                    )
            for place in range(n, end + 1):
                yield place + 1, lines[place], is_code
            n = end + 1

    def _end_of_comment(self, lines: Sequence[str], first: int) -> int:
        for n in range(first, len(lines)):
            if "-->" not in lines[n]:
                continue
            if not lines[n].rstrip().endswith("-->"):
                raise self.wrong(n + 1, "a comment has its lines for itself: break this one at -->")
            return n
        raise self.wrong(first + 1, "the comment that begins here has no end: write -->")


def _number(text: str) -> int | str:
    """What is no number is for the checks to name."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else text


def _end_of_code(lines: Sequence[str], first: int) -> int:
    """Of a fence: the line that closes it, 0 if there is none."""
    fence = _FENCE.fullmatch(lines[first])
    if fence is None:
        return 0
    closing = re.compile(rf"{_LEAD}{fence[1][0]}{{{len(fence[1])},}}[ \t]*")
    for n in range(first + 1, len(lines)):
        if closing.fullmatch(lines[n]):
            return n
    return 0


# ---- backslashes ---------------------------------------------------------------------------------


def _unescaped(lines: Sequence[str]) -> str:
    return _with_backslashes(lines, -1)


def _escaped(text: str) -> str:
    return _with_backslashes(text.split("\n"), 1)


def _with_backslashes(lines: Sequence[str], more: int) -> str:
    """With one more, or one less, before what would be structure; code stays as it is."""
    found: list[str] = []
    n = 0
    while n < len(lines):
        end = _end_of_code(lines, n)
        if end:
            found += lines[n : end + 1]
            n = end + 1
            continue
        found.append(_with_backslash(lines[n], more))
        n += 1
    return "\n".join(found)


def _with_backslash(line: str, more: int) -> str:
    match = _STRUCTURE.fullmatch(line)
    if match is None:
        return line
    group = 2 if match[1] is not None else 5
    count = max(0, len(match[group]) + more)
    return line[: match.start(group)] + "\\" * count + line[match.end(group) :]


# ---- writing -------------------------------------------------------------------------------------


def markdown_of(policy: Policy) -> str:
    """A document that is read as this policy."""
    parts = [f"# {policy.name}"]
    if policy.names != names_of(policy.name):
        parts += ["### Names", _listed(policy.names)]
    for category in policy.categories:
        parts.append(f"## {category.name}")
        if category.about:
            parts.append(_escaped(category.about))
        for rule in category.rules:
            parts += _rule(rule)
        parts += _case(category)
    return "\n\n".join(parts) + "\n"


def _rule(rule: Rule) -> list[str]:
    parts = [f"### Rule {rule.number}: {rule.verdict}", _escaped(rule.text)]
    unless = [f"{exception.verdict}: {exception.when}" for exception in rule.unless]
    lists = {"Unless": unless, "Examples": rule.examples, "Near misses": rule.near_misses}
    for title, items in lists.items():
        if items:
            parts += [f"#### {title}", _listed(items)]
    return parts


def _case(category: Category) -> list[str]:
    case: Case | None = category.case
    if case is None:
        return []
    title = "Case" if case.rule is None else f"Case: rule {case.rule}"
    parts = [f"### {title}"]
    for name, text in {"Prompt": case.prompt, "Good": case.good, "Bad": case.bad}.items():
        parts += [f"#### {name}", _escaped(text)]
    return parts


def _listed(texts: Sequence[str]) -> str:
    items = []
    for text in texts:
        first, *others = _escaped(text).split("\n")
        lines = [f"- {first}", *(f"  {line}" if line else "" for line in others)]
        items.append("\n".join(lines))
    return "\n".join(items)
