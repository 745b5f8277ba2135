"""Where hunks stand in a file, what becomes of it, and what is said of those that do not fit."""

from __future__ import annotations

import difflib
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.errors import PatchError
from ossia.tools.patch import matching, read_patch
from ossia.tools.patch.matching import updated
from ossia.tools.patch.reading import UpdateFile
from ossia.tools.patch.text import FileText
from tests.amounts import examples


def patched(text: str, hunks: str) -> str:
    section = f"*** Begin Patch\n*** Update File: f\n{hunks}*** End Patch\n"
    (read,) = read_patch(section).sections
    assert isinstance(read, UpdateFile)
    return updated(FileText.of(text.encode()), read.hunks).data.decode()


def refused(text: str, hunks: str) -> str:
    with pytest.raises(PatchError) as raised:
        patched(text, hunks)
    return str(raised.value)


CLASSES = textwrap.dedent(
    """\
    class A:
        def f(self):
            return 1

    class B:
        def f(self):
            return 1

        def g(self):
            return 1
    """
)


def test_several_contexts_narrow_down() -> None:
    hunk = "@@ class B:\n@@     def g(self):\n-        return 1\n+        return 2\n"
    lines = CLASSES.splitlines()
    assert patched(CLASSES, hunk).splitlines() == [*lines[:-1], "        return 2"]
    assert patched(CLASSES, hunk.replace("@@     def g(self):\n", "")).splitlines()[6].endswith("2")


def test_a_context_may_be_repeated_as_the_first_line() -> None:
    hunk = "@@ class B:\n class B:\n     def f(self):\n-        return 1\n+        return 2\n"
    assert patched(CLASSES, hunk).splitlines()[6] == "        return 2"


def test_a_context_that_stands_before_the_last_hunk() -> None:
    hunks = (
        "@@ class B:\n-        return 1\n+        return 2\n"
        "@@ class B:\n         def g(self):\n-        return 1\n+        return 3\n"
    )
    assert patched(CLASSES, hunks).splitlines()[6:] == [
        "        return 2",
        "",
        "    def g(self):",
        "        return 3",
    ]


def test_hunks_without_old_lines() -> None:
    assert patched("a\nb\n", "@@\n+c\n") == "a\nb\nc\n"
    assert patched("a\nb\n", "@@ a\n+c\n") == "a\nc\nb\n"
    assert patched("a\nb\n", "@@ a\n+c\n*** End of File\n") == "a\nb\nc\n"
    assert patched("", "+c\n") == "c\n"
    assert patched("a", "+c\n") == "a\nc"


def test_the_end_of_the_file() -> None:
    assert patched("a\nb\na\n", "@@\n-a\n+c\n*** End of File\n") == "a\nb\nc\n"
    assert "at the end of the file" in refused("a\nb\n", "@@\n-a\n*** End of File\n")


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("x = 1", "x = 1"),
        ("x = 1   ", "x = 1"),
        ("\tx = 1", "    x = 1"),
        ("say(“it’s – fine”)", 'say("it\'s - fine")'),
        ("a\u00a0b\u202fc", "a b c"),
    ],
)
def test_blanks_and_typography_may_differ(line: str, written: str) -> None:
    text = f"first\n{line}\nlast\n"
    assert patched(text, f"@@\n {written}\n-last\n+end\n") == f"first\n{line}\nend\n"
    assert patched(text, f"@@\n-{written}\n+new\n") == "first\nnew\nlast\n"


def test_the_strictest_comparison_comes_first() -> None:
    assert patched("  a\na \na\n", "@@\n-a\n+b\n") == "  a\na \nb\n"


def test_line_ends_stay_as_they_are() -> None:
    assert patched("a\r\nb\r\nc\r\n", "@@\n a\n-b\n+x\n+y\n") == "a\r\nx\r\ny\r\nc\r\n"
    assert patched("a\r\nb\r\n", "@@\n a\r\n-b\r\n+x\r\n") == "a\r\nx\r\n"
    assert patched("a\nb\r\nc\n", "@@\n-b\n+x\n c\n+d\n") == "a\nx\r\nc\nd\n"
    assert patched("a\nb", "@@\n-b\n+x\n") == "a\nx"
    assert patched("a\r\nb", "@@\n b\n+c\n") == "a\r\nb\r\nc"
    assert patched("a\r\r\nb\r\n", "@@\n-b\n+c\n") == "a\r\r\nc\r\n"
    assert patched("\ufeffa\nb\n", "@@\n-a\n+x\n") == "\ufeffx\nb\n"
    assert patched("a\u2028b\nc\n", "@@\n a\u2028b\n-c\n+d\n") == "a\u2028b\nd\n"
    assert patched("a\n\n\n", "@@\n-a\n+b\n") == "b\n\n\n"


def test_empty_lines_that_only_separate() -> None:
    hunks = "@@\n-a\n+x\n\n@@\n-c\n+z\n"
    assert patched("a\nb\nc\n", hunks) == "x\nb\nz\n"
    assert patched("a\n\nc\n", hunks) == "x\n\nz\n"
    assert patched("a\nb\n", "\n@@\n-a\n+x\n") == "x\nb\n"


def test_an_empty_line_is_context() -> None:
    assert patched("a\n\nb\n", "@@\n a\n\n-b\n+c\n") == "a\n\nc\n"


def test_an_error_shows_the_first_line_that_differs() -> None:
    said = refused(
        CLASSES, "@@\n class B:\n     def f(self):\n-        return 7\n+        return 2\n"
    )
    assert "hunk 1, line 3 of the patch: its lines do not stand in the file" in said
    assert "expected: `        return 7`\nfound at line 7: `        return 1`" in said


def test_an_error_names_the_other_places() -> None:
    text = "".join(f"begin\n  do {n}\nend\n" for n in range(8))
    said = refused(text, "@@\n begin\n-  do x\n end\n")
    assert "expected: `  do x`\nfound at line 2: `  do 0`" in said
    assert "similar lines begin at line 4, 7, 10, 13, 16, too" in said


def test_an_error_of_a_hunk_that_comes_too_late() -> None:
    said = refused("a\nb\nc\n", "@@\n-c\n@@\n-a\n")
    assert "hunk 2" in said and "but before, at line 1" in said


def test_an_error_of_a_context() -> None:
    said = refused(CLASSES, "@@ class Bee:\n+x\n")
    assert "expected: `class Bee:`\nfound at line 5: `class B:`" in said


def test_an_error_of_lines_that_are_nowhere() -> None:
    said = refused("total = compute(x)\n", "@@\n-total = compute(y)\n")
    assert "none of them does\nexpected: `total = compute(y)`\nfound at line 1" in said
    assert refused("", "@@\n-a\n").endswith("expected: `a`")
    assert "found at the end of the file" in refused("a\n", "@@\n a\n-b\n")


def test_an_error_is_short() -> None:
    assert len(refused("x" * 10_000 + "\n", "@@\n-" + "y" * 10_000 + "\n")) < 1000


def test_the_steps_of_a_search_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "MOST_STEPS", 10_000)
    assert "occur too often" in refused("a\n" * 2000, "@@\n" + " a\n" * 100 + "-b\n")


def test_only_text_is_updated() -> None:
    with pytest.raises(PatchError, match="no text in UTF-8"):
        FileText.of(b"a\xff\n")
    with pytest.raises(PatchError, match="too large"):
        FileText.of(b"\n" * 1_000_001)


def as_hunks(old: list[str], new: list[str], context: int) -> str:
    """The difference as hunks. One without old lines is told where it stands."""
    made = []
    for line in list(difflib.unified_diff(old, new, n=context, lineterm=""))[2:]:
        made.append("@@" if line.startswith("@@") else line)
    return "".join(line + "\n" for line in made)


TEXTS = st.lists(st.sampled_from(["", " ", "a", "b", "a ", "@@", "*** End Patch", "+x", "-"]))


@settings(max_examples=examples(400), deadline=None)
@given(TEXTS, TEXTS, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_whole_difference_makes_the_second_text(
    old: list[str], new: list[str], end: str, is_open: bool
) -> None:
    """With all lines as context there is one hunk, which fits in one place only."""
    if old == new:
        return
    if is_open and (not old or not old[-1] or not new or not new[-1]):
        is_open = False  # an empty last line without an end is none
    before, after = (
        end.join(lines) + ("" if is_open or not lines else end) for lines in (old, new)
    )
    if end not in before:
        after = after.replace(end, "\n")  # a file that ends no line does not say how
    assert patched(before, as_hunks(old, new, 1000)) == after


@settings(max_examples=examples(400), deadline=None)
@given(st.data(), st.integers(0, 60), st.integers(1, 4))
def test_a_difference_makes_the_second_text(data: st.DataObject, count: int, context: int) -> None:
    """Lines that occur once tell every place apart, with the usual few lines of context."""
    old = [f"line {n}" for n in range(count)]
    kept = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    new: list[str] = []
    for line, is_kept in zip(old, kept, strict=True):
        new += [line] if is_kept else []
        new += [f"new {len(new)}"] * data.draw(st.integers(0, 2))
    if old != new:
        before, after = ("".join(f"{line}\n" for line in lines) for lines in (old, new))
        assert patched(before, as_hunks(old, new, context)) == after
