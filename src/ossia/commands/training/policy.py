"""`ossia policy`: a policy's file checked, shown as prompts see it, written in its other form.

What a policy is, is for `tasks/safety` to say. Loads no model.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ossia.commands.options import Command, argument, option
from ossia.errors import RequestError

if TYPE_CHECKING:
    from ossia.tasks.safety.specs import Category, Policy

EPILOG = """\
examples:
  ossia policy policy.md                           read it, count, and say what a run would miss
  ossia policy policy.md --prompts prompts.jsonl   whether prompts fit it, and do not hold its text
  ossia policy policy.md --section loans           what a prompt of this category is shown
  ossia policy policy.toml --out policy.md         the same policy in Markdown, and back

A file whose name ends in .md is Markdown, any other TOML. docs/alignment.md has an example of both.
"""


@dataclass(frozen=True)
class Options:
    """What `ossia policy` takes."""

    file: str = argument("a policy, in Markdown or TOML; moonglow is the built-in one", "FILE")
    prompts: Path | None = option(None, "a JSONL file of prompts under it, to be checked", "FILE")
    section: str | None = option(None, "print the section of this category, examples too", "NAME")
    out: Path | None = option(None, "write it here, as .md or .toml", "FILE")
    overwrite: bool = option(False, "replace what --out names")


def run(options: Options) -> None:
    """Raises `DataError` for what is wrong in a file, `RequestError` for an --out that exists."""
    policy = _policy(options.file)
    if options.section is not None:
        print(policy.section(options.section, examples=True))
        return
    print(_table(policy))
    for note in _notes(policy):
        print(f"\n{note}")
    if options.prompts is not None:
        print(f"\n{_prompts(policy, options.prompts)}")
    if options.out is not None:
        _write(policy, options.out, options.overwrite)


def _policy(file: str) -> Policy:
    from ossia.tasks.safety.policy_texts import BUILT_IN, POLICY
    from ossia.tasks.safety.spec_files import read_policy

    return POLICY if file == BUILT_IN else read_policy(Path(file))


def _table(policy: Policy) -> str:
    from ossia.figures import markdown_table

    rows = []
    for category in policy.categories:
        for rule in category.rules:
            row = [str(rule.number), category.name, rule.verdict]
            row += map(str, map(len, (rule.unless, rule.examples, rule.near_misses)))
            rows.append(row)
    head = f"{policy.name} policy: {len(rows)} rules in {len(policy.categories)} categories"
    columns = ["rule", "category", "verdict", "exceptions", "examples", "near misses"]
    return f"{head}\n\n{markdown_table(columns, rows)}"


def _notes(policy: Policy) -> Iterator[str]:
    """What is no error, and will be missed."""
    without = [repr(category.name) for category in policy.categories if category.case is None]
    if without:
        yield (
            f"no case in {', '.join(without)}: a judge is tried on a prompt with a good and a bad "
            "answer, so judge=URL needs one in each category that has prompts"
        )
    if not any(map(_answers, policy.categories)):
        yield (
            "no rule or exception complies, and no rule has near misses: a model that is only "
            "shown what to refuse refuses everything"
        )


def _answers(category: Category) -> bool:
    for rule in category.rules:
        verdicts = [rule.verdict, *(exception.verdict for exception in rule.unless)]
        if "comply" in verdicts or rule.near_misses:
            return True
    return False


def _prompts(policy: Policy, path: Path) -> str:
    """Raises `DataError` for prompts that are not under this policy, `TrainingError` for one that
    holds its text.
    """
    from ossia.tasks.safety.requests import read_requests
    from ossia.train.align.grading import shown
    from ossia.train.align.prompts import by_verdict, distinct
    from ossia.train.align.removal import Removal

    found = read_requests(path, policy)
    removal = Removal(policy)
    for number, request in enumerate(found, 1):
        removal.check(shown(request), f"{path}, row {number}")
    once = distinct(found)
    verdicts = [f"{len(each):,} {name}" for name, each in by_verdict(once).items()]
    categories = Counter(request.category for request in once)
    where = [f"{count:,} of {name!r}" for name, count in categories.items()]
    twice = len(found) - len(once)
    said = f"; {twice:,} more are the same as others and left out" if twice else ""
    return (
        f"{path}: {len(once):,} prompts ({', '.join(verdicts)}; {', '.join(where)}){said}; none "
        "holds the policy's text"
    )


def _write(policy: Policy, out: Path, overwrite: bool) -> None:
    from ossia.files import replace_file
    from ossia.tasks.safety.spec_files import written

    text = written(policy, out.suffix)
    if out.exists() and not overwrite:
        raise RequestError(f"{out} exists; choose another name, or give --overwrite", "out")
    replace_file(out, text)
    print(f"wrote {out}", file=sys.stderr)


COMMAND = Command(Options, run, EPILOG)
