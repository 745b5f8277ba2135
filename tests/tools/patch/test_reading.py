"""The text of a patch to its sections: what is accepted around it, what is refused and where."""

from __future__ import annotations

import json

import pytest

from ossia.errors import PatchError
from ossia.tools.patch import operations, patch_of, read_patch
from ossia.tools.patch.reading import AddFile, DeleteFile, UpdateFile

PATCH = """\
*** Begin Patch
*** Add File: a/new.txt
+one
+
+*** End Patch
*** Delete File: old.txt
*** Update File: app.py
*** Move to: main.py
@@ class A
@@     def f(self):
     x = 1
-    y = 2
+    y = 3

@@
-last
*** End of File
*** End Patch"""


def test_all_sections() -> None:
    added, deleted, changed = read_patch(PATCH).sections
    assert added == AddFile("a/new.txt", ("one", "", "*** End Patch"), 2)
    assert deleted == DeleteFile("old.txt", 6)
    assert isinstance(changed, UpdateFile)
    assert (changed.path, changed.move_to, changed.line) == ("app.py", "main.py", 7)
    first, last = changed.hunks
    assert first.contexts == ("class A", "    def f(self):")
    assert first.lines == ((" ", "    x = 1"), ("-", "    y = 2"), ("+", "    y = 3"), (" ", ""))
    assert (first.at_end, first.blank, first.line) == (False, 1, 9)
    assert (last.contexts, last.lines, last.at_end) == ((), (("-", "last"),), True)


@pytest.mark.parametrize(
    ("around", "note"),
    [
        ("{}", None),
        ("\n\n{}\n", "empty lines around the patch"),
        ("<<'EOF'\n{}\nEOF\n", "a here-document around the patch"),
        ("apply_patch <<EOF\n{}\nEOF", "a here-document around the patch"),
        ("```diff\n{}\n```", "a code fence around the patch"),
        ('```\napply_patch <<"PATCH"\n{}\nPATCH\n```', "a here-document around the patch"),
    ],
)
def test_what_stands_around_a_patch(around: str, note: str | None) -> None:
    read = read_patch(around.format(PATCH))
    assert read.sections == read_patch(PATCH).sections
    assert note is None or note in read.notes


@pytest.mark.parametrize(
    "value",
    [
        {"input": PATCH},
        {"patch": PATCH},
        {"command": PATCH},
        {"command": ["apply_patch", PATCH]},
        {"command": ["bash", "-lc", f"apply_patch <<'EOF'\n{PATCH}\nEOF"]},
        ["apply_patch", PATCH],
        PATCH,
    ],
)
def test_json_around_a_patch(value: object) -> None:
    read = read_patch(json.dumps(value))
    assert read.sections == read_patch(PATCH).sections
    assert "JSON around the patch" in read.notes


def test_stars_and_blanks_at_markers() -> None:
    starred = PATCH.replace("*** Begin Patch", "*** Begin Patch ***", 1)
    assert read_patch(starred + " ***").sections == read_patch(PATCH).sections
    assert read_patch(starred).notes == ("stars at the end of a marker",)
    padded = " *** Begin Patch \n  *** Update File: a\n@@\n-x\n *** End Patch\n"
    (section,) = read_patch(padded).sections
    assert section.path == "a"


def test_a_padded_marker_within_a_hunk_is_a_line_of_the_file() -> None:
    text = "*** Begin Patch\n*** Update File: a\n@@\n *** End Patch\n-x\n*** End Patch"
    (section,) = read_patch(text).sections
    assert isinstance(section, UpdateFile)
    assert section.hunks[0].old == ["*** End Patch", "x"]


def test_lines_end_at_newlines_only() -> None:
    odd = "a\u2028b\x0bc\x0cd\x85e\rf"
    (section,) = read_patch(f"*** Begin Patch\n*** Add File: x\n+{odd}\n*** End Patch").sections
    assert section == AddFile("x", (odd,), 2)


def test_a_patch_whose_lines_end_with_returns() -> None:
    read = read_patch(PATCH.replace("\n", "\r\n"))
    assert (read.sections, read.newline) == (read_patch(PATCH).sections, "\r\n")
    some = "*** Begin Patch\n*** Update File: a\n@@\n-x\r\n*** End Patch"
    (section,) = read_patch(some).sections
    assert isinstance(section, UpdateFile)
    assert section.hunks[0].old == ["x\r"]


def test_what_diffs_have_and_patches_do_not() -> None:
    text = (
        "*** Begin Patch\n*** Update File: a\n@@ -1,2 +1,2 @@ def f():\n-x\n+y\n"
        "\\ No newline at end of file\n*** End Patch"
    )
    read = read_patch(text)
    (section,) = read.sections
    assert isinstance(section, UpdateFile)
    assert (section.hunks[0].contexts, len(section.hunks[0].lines)) == ((), 2)
    assert len(read.notes) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must begin with the line `*** Begin Patch`, found nothing"),
        ("hello", "found `hello`"),
        ("*** Begin Patch\n*** Delete File: a", "it may have been cut off"),
        ("*** Begin Patch", "it may have been cut off"),
        ("*** Begin Patch\n*** End Patch\nand more", "ends with `and more`"),
        ("*** Begin Patch\n*** End Patch\n*** Begin Patch\n*** End Patch", "line 2 of the patch"),
        ("*** Begin Patch\n\n*** End Patch", "has no sections"),
        ("*** Begin Patch\n*** Frob File: a\n*** End Patch", "line 2 of the patch: `*** Frob File"),
        ("*** Begin Patch\n*** Add File:  \n*** End Patch", "names no file"),
        ("*** Begin Patch\n*** Add File: a\n+x\ny\n*** End Patch", "line 4 of the patch"),
        ("*** Begin Patch\n*** Update File: a\n*** End Patch", "changes nothing"),
        ("*** Begin Patch\n*** Update File: a\n@@ f\n*** End Patch", "the hunk has no lines"),
        ("*** Begin Patch\n*** Update File: a\n@@\n-x\ny\n*** End Patch", "line 5 of the patch"),
        ("*** Begin Patch\n*** Update File: a\n*** Move to:\n@@\n-x\n*** End Patch", "no file"),
        (
            "*** Begin Patch\n*** Update File: a\n@@\n-x\n*** End of File\n-y\n*** End Patch",
            "line 6 of the patch: a hunk begins with `@@`",
        ),
        ('{"input": 3}', "must begin with"),
        ("[" * 100_000, "must begin with"),
        ("*** Begin Patch\n" + "*** Delete File: a\n" * 201 + "*** End Patch", "more than 200"),
        ("x" * (4 << 20) + "x", "4,194,305 characters"),
    ],
)
def test_what_is_no_patch(text: str, said: str) -> None:
    with pytest.raises(PatchError) as raised:
        read_patch(text)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_a_move_alone_is_a_section() -> None:
    text = "*** Begin Patch\n*** Update File: a\n*** Move to: b\n*** End Patch"
    (section,) = read_patch(text).sections
    assert section == UpdateFile("a", (), 2, "b")


def test_sections_as_items_describe_them_and_back() -> None:
    read = read_patch(PATCH)
    described = operations(read)
    assert described[0] == {
        "type": "create_file",
        "path": "a/new.txt",
        "diff": "+one\n+\n+*** End Patch\n",
    }
    assert described[1] == {"type": "delete_file", "path": "old.txt"}
    assert (described[2]["move_to"], described[2]["diff"][:11]) == ("main.py", "@@ class A\n")
    assert read_patch(patch_of(described)).sections == read.sections


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"type": "explode", "path": "a"},
        {"type": "create_file", "path": 3, "diff": ""},
        {"type": "update_file", "path": "a", "diff": None},
        {"type": "delete_file", "path": "a\n*** Delete File: b"},
    ],
)
def test_operations_of_another_form(described: dict[str, object]) -> None:
    with pytest.raises(PatchError):
        patch_of([described])
