"""Policies in files: TOML or Markdown, whose texts are Markdown in both.

    policy = read_policy(Path("policy.md"))
    text = written(policy, ".toml")             # which is read as the same policy

Knows how both are called and written; what a policy must have is in `spec_checks.py`. The built-in
policy is such a file (`texts/moonglow.toml`), and docs/alignment.md has another one in both forms.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ossia.errors import DataError, RequestError
from ossia.tasks.safety import spec_markdown
from ossia.tasks.safety.spec_checks import Form, names_of, policy_of
from ossia.tasks.safety.specs import Category, Policy, Rule

MARKDOWN = (".md", ".markdown")
TOML = ".toml"
TOML_FORM: Form = {
    "category": "[[category]] before each, with a name and at least one rule",
    "rule": "[[category.rule]] before each, with number, verdict and text",
    "case": "[category.case]",
    "unless": "unless = [{ when = '...', verdict = '...' }]",
}


def read_policy(path: Path) -> Policy:
    """By the name of the file. Raises `DataError` with the file, the line (of Markdown), the
    category, the rule and what to write instead.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(f"{path}: cannot be read: {error}{what}") from error
    if path.suffix.lower() in MARKDOWN:
        tables = spec_markdown.tables_of(text, str(path))
        return policy_of(tables, str(path), spec_markdown.FORM)
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(
            f"{path}: is not TOML: {error}; mend that line. A policy in Markdown has a name that "
            "ends in .md (docs/alignment.md has both)"
        ) from error
    return policy_of(data, str(path), TOML_FORM)


def written(policy: Policy, suffix: str) -> str:
    """As a file whose name ends so. Raises `RequestError` for one that is no policy's."""
    if suffix.lower() in MARKDOWN:
        return spec_markdown.markdown_of(policy)
    if suffix.lower() == TOML:
        return _toml_of(policy)
    raise RequestError(f"a policy's name ends in .md or .toml, not in {suffix!r}", "out")


# ---- TOML ----------------------------------------------------------------------------------------


def _toml_of(policy: Policy) -> str:
    lines = [f"name = {_quoted(policy.name)}"]
    if policy.names != names_of(policy.name):
        lines.append(f"names = {_list(policy.names)}")
    for category in policy.categories:
        lines += ["", *_category(category)]
    return "\n".join(lines) + "\n"


def _category(category: Category) -> Iterator[str]:
    yield "[[category]]"
    yield f"name = {_quoted(category.name)}"
    if category.about:
        yield f"about = {_text(category.about)}"
    case = category.case
    if case is not None:
        yield "\n[category.case]"
        yield f"prompt = {_text(case.prompt)}"
        yield f"good = {_text(case.good)}"
        yield f"bad = {_text(case.bad)}"
        if case.rule is not None:
            yield f"rule = {case.rule}"
    for rule in category.rules:
        yield ""
        yield from _rule(rule)


def _rule(rule: Rule) -> Iterator[str]:
    yield "[[category.rule]]"
    yield f"number = {rule.number}"
    yield f'verdict = "{rule.verdict}"'
    yield f"text = {_text(rule.text)}"
    if rule.examples:
        yield f"examples = {_list(rule.examples)}"
    if rule.near_misses:
        yield f"near_misses = {_list(rule.near_misses)}"
    if rule.unless:
        yield "unless = ["
        for exception in rule.unless:
            when = _quoted(exception.when)
            yield f'    {{ when = {when}, verdict = "{exception.verdict}" }},'
        yield "]"


def _quoted(text: str) -> str:
    """JSON's escapes are TOML's, but for DEL, which JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _text(text: str) -> str:
    """On lines of its own where it has several."""
    if "\n" not in text:
        return _quoted(text)
    lines = [_quoted(line)[1:-1] for line in text.split("\n")]
    return '"""\n' + "\n".join(lines) + '\n"""'


def _list(texts: Sequence[str]) -> str:
    if len(texts) == 1:
        return f"[{_quoted(texts[0])}]"
    lines = [f"    {_quoted(text)}," for text in texts]
    return "\n".join(["[", *lines, "]"])
