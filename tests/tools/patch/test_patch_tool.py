"""apply_patch on a folder: scenarios, all or nothing, and nothing outside of the folder."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ossia
from ossia.errors import PatchError
from ossia.harmony import Conversation, LarkFormat
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey, Sessions, Toolbox, ToolResult
from ossia.tools.patch import ApplyPatch, jail, writing
from ossia.tools.patch.declaration import GRAMMAR
from ossia.tools.toolbox import TextFunction


def apply(tool: ApplyPatch | Path, sections: str) -> ToolResult:
    tool = ApplyPatch(tool) if isinstance(tool, Path) else tool
    text = f"*** Begin Patch\n{sections}*** End Patch\n"
    (result,) = Sessions(SessionKey()).call_all([(tool, "apply_patch", text)])
    return result


def refused(root: Path, sections: str) -> str:
    """What the model is told; nothing has changed."""
    before = files(root)
    result = apply(root, sections)
    assert result.failed, result.text
    assert files(root) == before
    return result.text


def files(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes().decode()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def lay(root: Path, **contents: str) -> Path:
    for name, text in contents.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


CHANGE = "@@\n-one\n+two\n"


def test_one_of_each(tmp_path: Path) -> None:
    lay(tmp_path, a_txt="one\n", b_txt="gone\n", dir__c_txt="one\nkept\n")
    result = apply(
        tmp_path,
        f"*** Update File: a.txt\n{CHANGE}*** Delete File: b.txt\n*** Add File: new/d.txt\n+x\n"
        f"*** Update File: dir/c.txt\n*** Move to: moved/deep/c.txt\n{CHANGE}",
    )
    assert result.text == (
        "Success. Updated the following files:\nA new/d.txt\nM a.txt\nM moved/deep/c.txt\nD b.txt"
    )
    assert result.outputs[0]["files"][0] == {"change": "A", "path": "new/d.txt"}
    assert files(tmp_path) == {
        "a.txt": "two\n",
        "moved/deep/c.txt": "two\nkept\n",
        "new/d.txt": "x\n",
    }


@pytest.mark.parametrize(
    ("sections", "made"),
    [
        ("*** Add File: b\n+one\n*** Update File: b\n" + CHANGE, {"a": "one\n", "b": "two\n"}),
        (
            "*** Add File: b\n+one\n*** Update File: b\n*** Move to: c\n" + CHANGE,
            {"a": "one\n", "c": "two\n"},
        ),
        ("*** Update File: a\n*** Move to: ./a\n" + CHANGE, {"a": "two\n"}),
        ("*** Update File: a\n*** Move to: b\n", {"b": "one\n"}),
        ("*** Add File: empty\n", {"a": "one\n", "empty": ""}),
        ("*** Update File: .//a\n" + CHANGE, {"a": "two\n"}),
        ("*** Add File: ünïcode 名前\n+x\n", {"a": "one\n", "ünïcode 名前": "x\n"}),
    ],
)
def test_what_a_patch_makes(tmp_path: Path, sections: str, made: dict[str, str]) -> None:
    lay(tmp_path, a="one\n")
    assert not apply(tmp_path, sections).failed
    assert files(tmp_path) == made


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ("*** Add File: a\n+x\n", "a exists: write `*** Update File:`"),
        ("*** Add File: dir\n+x\n", "dir exists, and is a folder"),
        ("*** Add File: a/b\n+x\n", "a is a file, not a folder"),
        ("*** Add File: n\n+x\n*** Add File: n/b\n+x\n", "n cannot be a file and a folder"),
        ("*** Delete File: dir\n", "dir is a folder, not a file"),
        ("*** Delete File: none\n", "there is no file none"),
        ("*** Update File: dir/flie\n" + CHANGE, "no file dir/flie; there is dir/file"),
        ("*** Update File: no/file\n" + CHANGE, "no file no/file: its folder is missing"),
        ("*** Update File: a\n*** Move to: dir/file\n" + CHANGE, "dir/file exists"),
        ("*** Update File: a\n*** Move to: n\n" + CHANGE + "*** Add File: n\n+x\n", "another"),
        ("*** Add File: n\n+x\n*** Update File: a\n*** Move to: n\n" + CHANGE, "has a section"),
        ("*** Update File: a\n" + CHANGE + "*** Update File: ./a\n" + CHANGE, "another section"),
        ("*** Delete File: a\n*** Add File: a\n+x\n", "another section"),
        ("*** Add File: n\n+x\n*** Update File: none\n" + CHANGE, "there is no file none"),
        ("*** Add File: n\n+x\n*** Update File: a\n@@\n-three\n", "expected: `three`"),
        ("*** Add File: ../out\n+x\n", "leads out of the folder"),
        ("*** Add File: dir/../../out\n+x\n", "leads out of the folder"),
        ("*** Add File: /tmp/out\n+x\n", "is absolute"),
        ("*** Add File: dir/\n+x\n", "names a folder"),
        ("*** Add File: .\n+x\n", "names no file"),
        ("*** Add File: a\x1b[2Jb\n+x\n", "control characters"),
        ("*** Add File: a\0b\n+x\n", "control characters"),
        ("*** Add File: " + "a/" * 3000 + "b\n+x\n", "longer than 4096"),
        ("*** Add File: " + "a" * 300 + "\n+x\n", "ile name too long"),
        ("*** Add File: .git/hooks/pre-commit\n+x\n", "inside of `.git`"),
        ("*** Add File: dir/.GIT/config\n+x\n", "inside of `.git`"),
        ("*** Update File: a\n*** Move to: .git/hooks/post-merge\n" + CHANGE, "inside of `.git`"),
        ("*** Add File: n\n+\ud800\n", "UTF-8"),
        ("*** Add File: \ud800\n+x\n", "UTF-8"),
    ],
)
def test_what_is_refused(tmp_path: Path, sections: str, said: str) -> None:
    lay(tmp_path, a="one\n", dir__file="x\n")
    assert said in refused(tmp_path, sections)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "dir"]


def test_an_error_names_section_and_line(tmp_path: Path) -> None:
    lay(tmp_path, a="one\nthree\n")
    said = refused(tmp_path, "*** Add File: n\n+x\n*** Update File: a\n@@\n one\n-four\n+two\n")
    assert said.startswith("error: Update File: a (line 4 of the patch): hunk 1, line 5")
    assert "expected: `four`\nfound at line 2: `three`" in said
    assert said.endswith("Nothing was written.")


def test_links_lead_nowhere(tmp_path: Path) -> None:
    outside = lay(tmp_path / "outside", secret="one\n")
    root = lay(tmp_path / "root", a="one\n")
    (root / "dir").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "loop").symlink_to("loop")
    (root / "broken").symlink_to("nowhere")
    for path in ("dir/secret", "file", "loop"):
        assert "is a symbolic link" in refused(root, f"*** Update File: {path}\n{CHANGE}")
        assert "is a symbolic link" in refused(root, f"*** Delete File: {path}\n")
    for path in ("dir/new", "file", "loop/new", "broken"):
        assert "is a symbolic link" in refused(root, f"*** Add File: {path}\n+x\n")
        moved = f"*** Update File: a\n*** Move to: {path}\n{CHANGE}"
        assert "is a symbolic link" in refused(root, moved)
    assert files(outside) == {"secret": "one\n"}


def test_devices_and_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is a pipe, not a file" in refused(tmp_path, f"*** Update File: pipe\n{CHANGE}")
    assert "pipe is a pipe, not a file" in refused(tmp_path, "*** Delete File: pipe\n")


def test_large_files(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"one\n" + bytes(10 << 20))
    assert "more than 10,485,760 bytes" in refused(tmp_path, f"*** Update File: large\n{CHANGE}")
    (tmp_path / "binary").write_bytes(b"one\n\xff\n")
    result = apply(tmp_path, f"*** Update File: binary\n{CHANGE}")
    assert "no text in UTF-8 (at byte 4)" in result.text
    assert not apply(tmp_path, "*** Delete File: binary\n").failed


def test_rights_stay_and_privileges_go(tmp_path: Path) -> None:
    lay(tmp_path, script="one\n", program="one\n")
    (tmp_path / "script").chmod(0o750)
    (tmp_path / "program").chmod(0o4755)
    moved = f"*** Update File: script\n*** Move to: tool\n{CHANGE}"
    assert not apply(tmp_path, f"{moved}*** Update File: program\n{CHANGE}").failed
    assert stat.S_IMODE((tmp_path / "tool").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "program").stat().st_mode) == 0o755


def test_other_names_of_a_file_keep_the_old_one(tmp_path: Path) -> None:
    """A hard link may lead out of the folder: what it names is not written into."""
    lay(tmp_path, out="one\n", root__a="one\n")
    (tmp_path / "root/a").unlink()
    (tmp_path / "root/a").hardlink_to(tmp_path / "out")
    assert not apply(tmp_path / "root", f"*** Update File: a\n{CHANGE}").failed
    assert files(tmp_path) == {"out": "one\n", "root/a": "two\n"}


PATCH_OF_ALL = (
    f"*** Update File: a\n{CHANGE}*** Delete File: b\n*** Add File: n/m/c\n+x\n"
    f"*** Update File: d\n*** Move to: n/d\n{CHANGE}*** Update File: e\n{CHANGE}"
)


@pytest.mark.parametrize("can_link", [True, False])
@pytest.mark.parametrize("name", ["open", "link", "rename", "unlink", "fsync", "mkdir"])
def test_what_fails_half_way_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, can_link: bool
) -> None:
    """Whichever call of the system fails first: the folder is as before, or as it should be."""
    done = {"a": "two\n", "e": "two\n", "n/d": "two\n", "n/m/c": "x\n"}
    real: Callable[..., object] = getattr(os, name)
    for nth in range(40):
        root = tmp_path / f"{nth}"
        lay(root, a="one\n", b="b\n", d="one\n", e="one\n")
        before = files(root)
        tool = ApplyPatch(root)
        count = nth

        def failing(*args: object, **named: object) -> object:
            nonlocal count
            count -= 1
            if count == -1:
                raise OSError(28, "No space left on device")
            return real(*args, **named)

        def linkless(*args: object, **named: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        with monkeypatch.context() as patching:
            patching.setattr(writing.os, name, failing)
            if not can_link and name != "link":
                patching.setattr(writing.os, "link", linkless)
            result = apply(tool, PATCH_OF_ALL)
        left = {path: text for path, text in files(root).items() if ".ossia-" not in path}
        if name != "unlink":  # by which temporary names go
            assert left == files(root)
            assert (root / "n").exists() is not result.failed
        assert left == (before if result.failed else done), (nth, result.text)
        if not result.failed and count >= 0:
            break
    assert nth


def test_a_file_that_changed_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, a="one\n", b="one\n")
    real = writing._Work.prepare

    def meanwhile(work: writing._Work, planned: writing.Planned) -> Callable[[], None]:
        (tmp_path / "b").write_text("another's\n")
        return real(work, planned)

    monkeypatch.setattr(writing._Work, "prepare", meanwhile)
    result = apply(tmp_path, f"*** Update File: a\n{CHANGE}*** Update File: b\n{CHANGE}")
    assert "b was changed meanwhile" in result.text and "Nothing was changed" in result.text
    assert files(tmp_path) == {"a": "one\n", "b": "another's\n"}


def test_folders_that_are_replaced_by_links_meanwhile(tmp_path: Path) -> None:
    """Another process swaps a folder and a link without end: nothing gets out."""
    outside = lay(tmp_path / "outside", file="one\n")
    root = lay(tmp_path / "root", dir__file="one\n")
    (root / "link").symlink_to(outside)
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None:
        pytest.skip("the system cannot exchange two names")
    stop = threading.Event()
    names = [os.fsencode(root / name) for name in ("dir", "link")]

    def swap() -> None:
        while not stop.is_set():
            assert exchange(-100, names[0], -100, names[1], 2) == 0

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(100):
            apply(root, f"*** Update File: dir/file\n{CHANGE}")
            apply(root, "*** Update File: dir/file\n@@\n-two\n+one\n")
            apply(root, "*** Add File: dir/new\n+x\n")
            apply(root, "*** Delete File: dir/new\n")
    finally:
        stop.set()
        swapping.join()
    assert files(outside) == {"file": "one\n"}
    assert [path.name for path in outside.iterdir()] == ["file"]


KILLED = """
import sys
from pathlib import Path
from ossia.tools.patch.jail import Jail
from ossia.tools.patch.planning import plan
from ossia.tools.patch.reading import read_patch
from ossia.tools.patch.writing import write
jail = Jail(sys.argv[1])
print("ready", flush=True)
while True:
    for old, new in (("one", "two"), ("two", "one")):
        hunks = "".join(f"*** Update File: {n}\\n@@\\n-{old}\\n+{new}\\n" for n in range(4))
        write(plan(read_patch(f"*** Begin Patch\\n{hunks}*** End Patch"), jail), jail)
"""


def test_a_kill_leaves_old_or_new_files(tmp_path: Path) -> None:
    rest = "line\n" * 20_000
    for number in range(4):
        (tmp_path / str(number)).write_text("one\n" + rest)
    for attempt in range(3):
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout and child.stdout.readline() == b"ready\n"
            time.sleep(0.05 + 0.03 * attempt)
            child.send_signal(signal.SIGKILL)
        texts = [(tmp_path / str(number)).read_text() for number in range(4)]
        assert all(text in ("one\n" + rest, "two\n" + rest) for text in texts)
        for number in range(4):
            (tmp_path / str(number)).write_text("one\n" + rest)


def test_the_folder_is_the_one_that_was_opened(tmp_path: Path) -> None:
    root = lay(tmp_path / "root", a="one\n")
    tool = ApplyPatch(root)
    root.rename(tmp_path / "moved")
    lay(tmp_path / "root", a="one\n")
    assert not apply(tool, f"*** Update File: a\n{CHANGE}").failed
    assert files(tmp_path) == {"moved/a": "two\n", "root/a": "one\n"}


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="cannot be opened as a folder"):
        ApplyPatch(tmp_path / "none")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_descriptors_are_closed(tmp_path: Path) -> None:
    lay(tmp_path, a__b__c="one\n")
    for number in range(5):
        apply(tmp_path, f"*** Update File: a/b/c\n{CHANGE}*** Update File: x/y\n{CHANGE}")
        apply(tmp_path, f"*** Update File: a/b/c\n{CHANGE}*** Add File: n/{number}\n+x\n")
        apply(tmp_path, "*** Update File: a/b/c\n@@\n-two\n+one\n")
    gc.collect()
    assert open_below(tmp_path) == []


def open_below(folder: Path) -> list[str]:
    """What this process holds open in a folder: other tests' servers open and close theirs."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # closed meanwhile
            continue
    return [path for path in found if path.startswith(str(folder))]


def test_what_clients_are_shown(tmp_path: Path) -> None:
    session = ApplyPatch(tmp_path).session(SessionKey())
    text = "*** Begin Patch\n*** Add File: a\n+x\n*** End Patch"
    assert session.action("apply_patch", text) == {
        "type": "apply_patch",
        "operations": [{"type": "create_file", "path": "a", "diff": "+x\n"}],
    }
    assert session.action("apply_patch", "hello") is None


def test_how_it_is_declared(tmp_path: Path) -> None:
    """A function of text: the model reads the instructions, and is held to the grammar."""
    tool = ApplyPatch(tmp_path)
    toolbox = Toolbox(builtin=(tool,))
    target = toolbox.by_recipient["functions.apply_patch"]
    assert target.takes_text and target.tool is tool
    developer = toolbox.developer(None)
    assert developer and [each.name for each in developer.tools] == ["apply_patch"]
    assert "*** Begin Patch" in developer.tools[0].description
    (function,) = tool.namespace.tools
    assert isinstance(function, TextFunction) and function.format == LarkFormat(GRAMMAR)
    assert Toolbox.of(Conversation(()), (tool,)).by_recipient.keys() == {"functions.apply_patch"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(Path(ossia.__file__).parent / "assets" / "nano")


def may_say(tokenizer: Tokenizer, toolbox: Toolbox, text: str) -> bool:
    sampled = toolbox.grammar(tokenizer, None, None).start()
    for token in tokenizer.encode_with_specials(text):
        if sampled.is_done or not (int(sampled.mask()[token // 32]) >> (token % 32)) & 1:
            return False
        sampled.advance(token)
    return True


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        ("*** Begin Patch\n*** Add File: a\n+x\n+\n*** End Patch", True),
        ("*** Begin Patch\n*** Delete File: a b\n*** End Patch\n", True),
        (
            "*** Begin Patch\n*** Update File: a\n*** Move to: b\n*** Delete File: c\n"
            "*** End Patch",
            True,
        ),
        (
            "*** Begin Patch\n*** Update File: a\n-x\n@@ f\n@@ g\n \n+y\n*** End of File\n"
            "*** End Patch",
            True,
        ),
        ("*** Begin Patch\n*** End Patch", False),
        ("*** Begin Patch\n*** Update File: a\n*** End Patch", False),
        ("*** Begin Patch\n*** Update File: a\n@@\n*** End Patch", False),
        ("*** Begin Patch\n*** Add File: a\nx\n*** End Patch", False),
        ('{"input": "x"}', False),
    ],
)
def test_the_grammar(tmp_path: Path, tokenizer: Tokenizer, body: str, fits: bool) -> None:
    toolbox = Toolbox(builtin=(ApplyPatch(tmp_path),))
    call = f"<|channel|>commentary to=functions.apply_patch code<|message|>{body}<|call|>"
    assert may_say(tokenizer, toolbox, call) is fits


def test_a_call_that_is_given_up_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, a="one\n")
    tool = ApplyPatch(tmp_path)
    opened = threading.Event()
    real = jail.Jail.read

    def slowly(self: jail.Jail, parts: jail.Parts) -> jail.Found:
        opened.wait(10)
        return real(self, parts)

    monkeypatch.setattr(jail.Jail, "read", slowly)
    sessions = Sessions(SessionKey(), call_seconds=0.05)
    text = f"*** Begin Patch\n*** Update File: a\n{CHANGE}*** End Patch"
    (result,) = sessions.call_all([(tool, "apply_patch", text)])
    assert "did not answer" in result.text
    opened.set()
    with tool._lock:  # the thread is done
        assert files(tmp_path) == {"a": "one\n"}
