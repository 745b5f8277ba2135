"""Policies as Markdown: the same policy as in TOML, whatever its texts hold, and errors by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ossia.commands.main import main
from ossia.errors import DataError
from ossia.tasks.safety.policy_texts import POLICY
from ossia.tasks.safety.spec_checks import policy_of
from ossia.tasks.safety.spec_files import read_policy, written
from ossia.tasks.safety.spec_markdown import FORM, tables_of
from ossia.tasks.safety.specs import VERDICTS, Case, Category, Policy, Rule, Unless

EXAMPLE = Path(__file__).parents[3] / "recipes" / "aligning" / "library_desk.md"
DOCUMENT = EXAMPLE.read_text(encoding="utf-8")


def read(text: str) -> Policy:
    return policy_of(tables_of(text, "policy.md"), "policy.md", FORM)


# ---- both forms are one policy ----

# lines that mean something in Markdown, or to its reader, and what may stand before them
MARKS = (
    "# a", "#", "## loans", "\\# a", "```", "``` py", "~~~~", "\\```", "<!-- a", "a -->", "-->",
    "---", "===", "\\---", "- a", "* ", "1. ```", "> ~~~", "a: b", "comply: a", "", "  ", "\t",
    "Rule 1: refuse", '"""', "\\", "\x7f", "\u2028", "a\u0085b",
)  # fmt: skip
LINE = st.tuples(st.sampled_from(("", "  ", "    ", "- ", "\t")), st.sampled_from(MARKS))
TEXT = (
    st.one_of(st.lists(LINE.map("".join), min_size=1, max_size=6).map("\n".join), st.text())
    .filter(lambda text: "\r" not in text)
    .map(str.strip)
    .filter(bool)
)
NAME = st.one_of(st.sampled_from(("loans", "C #", "# a", "a: b", "Case")), st.text()).filter(
    lambda text: text.strip() == text != "" and text.isprintable()
)
VERDICT = st.sampled_from(VERDICTS)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    categories = []
    number = 0
    for name in draw(st.lists(NAME, min_size=1, max_size=2, unique=True)):
        rules = []
        for _ in range(draw(st.integers(1, 2))):
            number += draw(st.integers(1, 9))
            texts = draw(st.lists(TEXT, max_size=3, unique=True))
            examples = draw(st.integers(0, len(texts)))
            unless = draw(st.lists(st.builds(Unless, TEXT, VERDICT), max_size=2))
            rules.append(
                Rule(
                    number,
                    name,
                    draw(VERDICT),
                    draw(TEXT),
                    tuple(unless),
                    tuple(texts[:examples]),
                    tuple(texts[examples:]),
                )
            )
        of_rule = st.sampled_from((None, number))
        case = draw(st.none() | st.builds(Case, TEXT, TEXT, TEXT, of_rule))
        categories.append(Category(name, tuple(rules), draw(st.just("") | TEXT), case))
    names = draw(st.lists(TEXT, min_size=1, max_size=2))
    name = draw(NAME)
    return Policy(
        name, tuple(categories), draw(st.sampled_from(((f"{name} policy",), tuple(names))))
    )


@settings(max_examples=50, deadline=None)
@given(policies())
@example(POLICY)
def test_what_is_written_is_read_as_the_same_policy(policy: Policy) -> None:
    assert read(written(policy, ".md")) == policy
    again = written(read(written(policy, ".md")), ".md")
    assert again == written(policy, ".md")


@settings(max_examples=20, deadline=None)
@given(policies())
@example(POLICY)
def test_toml_holds_the_same(tmp_path_factory: pytest.TempPathFactory, policy: Policy) -> None:
    folder = tmp_path_factory.getbasetemp()
    for suffix in (".toml", ".md"):
        path = folder / f"policy{suffix}"
        path.write_text(written(policy, suffix), encoding="utf-8")
        policy = read_policy(path)
    assert read_policy(folder / "policy.toml") == policy
    assert read_policy(folder / "policy.md").digest == policy.digest


@pytest.mark.parametrize("change", [str.upper, lambda text: text.replace("\n", "\r\n")])
def test_headings_in_any_case_and_lines_that_end_as_on_windows(
    tmp_path: Path, change: object
) -> None:
    assert callable(change)
    path = tmp_path / "policy.MD"
    text = DOCUMENT
    for heading in ("### Rule", "#### Examples", "#### Near misses", "### Case", "#### Good"):
        text = text.replace(heading, change(heading))
    path.write_bytes("\N{BYTE ORDER MARK}".encode() + change("\n").join(text.split("\n")).encode())
    assert read_policy(path) == read_policy(EXAMPLE)


def test_texts_are_kept_to_the_letter_and_comments_are_not() -> None:
    text = (
        "# P\n## c\n<!-- a\n```\n## not a heading -->\nAbout  \n\n```sh\n# a comment\n```\n"
        "\\# five\n### Rule 1: comply\nOne.\n\n---\n\n- ```\n  # code\n  ```\n#### Examples\n"
        "* one\n\n  \\# two\n+ three\n"
    )
    (category,) = read(text).categories
    assert category.about == "About  \n\n```sh\n# a comment\n```\n# five"
    (rule,) = category.rules
    assert rule.text == "One.\n\n---\n\n- ```\n  # code\n  ```"
    assert rule.examples == ("one\n\n# two", "three")


# ---- what is wrong ----


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("# Library desk", "", "line 5: a policy begins with '# ' and its name"),
        ("# Library desk", "---\nx: 1\n---\n# Library desk", "line 1: a policy begins with '# '"),
        ("## money", "# money", "line 48: a policy has one name: write '## ' for a category"),
        ("## money", "##money", "line 48: ##money is no heading: '#' begins a line, with a blank"),
        ("## money", "  ## money", "line 48: ## money is no heading"),
        ("## money", "money\n-----", "line 49: money is underlined: write '## ' before a heading"),
        ("## money", "## loans", "line 48, category 'loans': two categories are called loans"),
        ("Rule 3: safe-complete", "Rule 1: comply", "line 50, category 'money', rule 1: two rules"),
        ("Rule 3: safe-complete", "Rule 3: deny", "rule 3: verdict must be one of comply, refuse"),
        ("Rule 3: safe-complete", "Rule 3", "line 50, category 'money', rule 3: verdict must be"),
        ("Rule 3: safe-complete", "Rule x: refuse", "category 'money', rule no. 1: number"),
        ("Rule 3: safe-complete", "3. refuse", "line 50: the heading '### 3. refuse' means"),
        ("### Rule 3: safe-complete\n", "", "line 48, category 'money': has no rule: write '### "),
        ("Of fines say nothing but that", "<!--", "line 52: the comment that begins here has no"),
        ("Of fines say nothing but that the people at the desk know them and will tell.", "",
         "line 50, category 'money', rule 3: has no text: write the rule in the lines below"),
        ("### Rule 2", "#### Rule 2", "line 26: the heading '#### Rule 2: comply' means nothing"),
        ("#### Near misses", "#### Near-misses", "there may be '#### Unless', '#### Examples' or"),
        ("#### Near misses", "##### Near misses", "no heading of more than four #"),
        ("#### Near misses", "#### Examples", "stands here a second time, after line 17"),
        ("- Who wrote", "- Who has the atlas?\n- Who wrote", "line 22, category 'loans', rule 1:"),
        ("- Who wrote", "1. Who wrote", "line 24: 1. Who wrote the atlas? is not of a list: begin"),
        ("- Who wrote the atlas?", "", "line 22: there is no list below 'Near misses'"),
        ("- Who wrote the atlas?", "-", "line 24: the item says nothing"),
        ("- comply: the", "- comply when the", "has no verdict: write '- comply: when"),
        ("- comply: the", "- allow: the", "rule 1, unless no. 1: verdict must be one of comply"),
        ("- comply: the developer names a permit code and the user gives it", "- comply:",
         "line 15, category 'loans', rule 1, unless no. 1: has no when: write it behind"),
        ("### Case: rule 1", "### Case: rule 3", "line 34, category 'loans', case: rule 3 is not"),
        ("#### Bad\n\nMira has it.", "", "line 34, category 'loans', case: has no bad: write '#"),
        ("### Case\n", "### Case\n\nA try.\n", "line 56: A try. stands below 'Case', where there"),
        ("# Library desk", "# Library desk\n\nOurs.", "line 3: Ours. stands below 'Library desk'"),
        ("## loans", "### Rule 9: refuse\n\nNo.\n\n## loans", "line 5: the heading '### Rule 9"),
        ("Mira has it.", "```\nMira", "line 46: the block that begins with ``` has no end"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_line(old: str, new: str, says: str) -> None:
    assert old in DOCUMENT
    with pytest.raises(DataError, match=r"policy\.md, line \d+") as error:
        read(DOCUMENT.replace(old, new, 1))
    assert says in str(error.value)


def test_nothing_is_no_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.md"
    for text in (b"", b"\n<!-- -->\n", b"Library"):
        path.write_bytes(text)
        with pytest.raises(DataError, match=r"policy\.md, line 1: a policy begins with"):
            read_policy(path)
    path.write_bytes(b"# Library")
    with pytest.raises(DataError, match="line 1: has no category: write '## NAME'"):
        read_policy(path)
    path.write_bytes("# Library".encode("utf-16"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        read_policy(path)


# ---- the command ----


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = tmp_path / "policy.toml"
    back = tmp_path / "policy.md"
    prompts = tmp_path / "prompts.jsonl"
    row = '{"prompt": "Who has the atlas?", "category": "loans", "rule": 1}\n'
    prompts.write_text(row * 2)
    assert main(["policy", str(EXAMPLE), "--out", str(toml), "--prompts", str(prompts)]) == 0
    said = capsys.readouterr().out
    assert "3 rules in 2 categories" in said and "| 1    | loans    | refuse        | 1" in said
    assert "1 prompts (1 refuse; 1 of 'loans'); 1 more are the same" in said
    assert main(["policy", str(toml), "--out", str(back)]) == 0
    assert read_policy(back) == read_policy(EXAMPLE)
    assert main(["policy", str(toml), "--out", str(back)]) == 2
    assert "exists; choose another name, or give --overwrite" in capsys.readouterr().err
    assert main(["policy", str(toml), "--out", str(tmp_path / "policy.txt")]) == 2
    assert "ends in .md or .toml, not in '.txt'" in capsys.readouterr().err
    assert main(["policy", str(toml), "--section", "money"]) == 0
    assert capsys.readouterr().out.startswith("Library desk policy, money:\n3. Of fines")
    prompts.write_text(row.replace("Who has", "of fines say nothing but that: who has"))
    assert main(["policy", str(toml), "--prompts", str(prompts)]) == 2
    assert "row 1: its prompt holds 'of fines say nothing but that'" in capsys.readouterr().err
