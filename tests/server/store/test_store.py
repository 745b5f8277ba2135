"""The store: what comes back, when it goes, whose it is, and files that are not what they should
be.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from amounts import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from waited_store import Waited, waited

from ossia.harmony import Message, Role
from ossia.server.hosted.approvals import LASTS
from ossia.server.store.approved import GONE
from ossia.server.store.protocol import StoreError, StoreFull
from ossia.server.store.tables import OVERHEAD, SHORT, StoredResponse
from ossia.server.store.thoughts import Thoughts
from ossia.server.wire.errors import ApiError
from ossia.tools import ToolResult

DAY = 24 * 3600.0
Make = Callable[..., Waited]


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(make: Callable[..., Waited], clock: Clock) -> Waited:
    return make(DAY, 1 << 20, clock=clock)


def stored(id: str = "resp_1", owner: str = "ann", **fields: Any) -> StoredResponse:
    return StoredResponse(
        id, owner, {"id": id, "status": "completed"} | fields, [{"id": "a"}], [{"id": "b"}]
    )


def message(text: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": text}],
    } | fields


def test_response_comes_back_until_it_is_deleted(store: Waited, clock: Clock) -> None:
    assert store.get("ann", "resp_1") is None
    store.put(stored(status="in_progress", text="é\u2028\0"))
    found = store.get("ann", "resp_1")
    assert found is not None and found.response == {
        "id": "resp_1",
        "status": "in_progress",
        "text": "é\u2028\0",
    }
    assert (found.history, found.input, found.expires) == (
        [{"id": "a"}],
        [{"id": "b"}],
        clock.now + DAY,
    )
    assert store.unfinished() == [found]
    store.put(stored())
    again = store.get("ann", "resp_1")
    assert (
        again is not None and again.response["status"] == "completed" and store.unfinished() == []
    )
    assert store.delete("ann", "resp_1") and not store.delete("ann", "resp_1")
    assert store.get("ann", "resp_1") is None and store.used() == 0


def test_nobody_sees_anothers(store: Waited) -> None:
    store.put(stored())
    store.put(stored(owner="bob", status="failed"))
    conversation = store.new_conversation("ann", {}, [message("hi", id="msg_1")])["id"]
    assert store.get("eve", "resp_1") is None and not store.delete("eve", "resp_1")
    assert (
        store.conversation("bob", conversation) is None and store.items("bob", conversation) == []
    )
    assert store.item("bob", conversation, "msg_1") is None and not store.delete_item(
        "bob", conversation, "msg_1"
    )
    assert store.update_conversation("bob", conversation, {"a": "b"}) is None
    assert not store.delete_conversation("bob", conversation)
    with pytest.raises(KeyError):
        store.add_items("bob", conversation, [message("mine")])
    assert store.delete("bob", "resp_1")
    found = store.get("ann", "resp_1")
    assert found is not None and found.response["status"] == "completed"
    assert [item["id"] for item in store.items("ann", conversation)] == ["msg_1"]


def test_a_response_is_no_conversation(store: Waited) -> None:
    store.put(stored())
    assert store.conversation("ann", "resp_1") is None and not store.delete_conversation(
        "ann", "resp_1"
    )
    conversation = store.new_conversation("ann", {})["id"]
    assert store.get("ann", conversation) is None and not store.delete("ann", conversation)


def test_items_that_are_added_again_because_nobody_was_told(store: Waited) -> None:
    conversation = store.new_conversation("ann", {})["id"]
    turn = [message("one", id="msg_1"), message("two", id="msg_2")]
    added = store.add_items("ann", conversation, turn)
    assert store.add_items("ann", conversation, turn, again=True) == []
    assert store.items("ann", conversation) == added == turn
    more = [*turn, message("other", id="msg_2"), message("three", id="msg_3")]
    added += store.add_items("ann", conversation, more, again=True)
    texts = [item["content"][0]["text"] for item in store.items("ann", conversation)]
    assert texts == ["one", "two", "other", "three"]
    assert store.items("ann", conversation) == added  # another text under a taken id is another


def test_items_of_a_conversation(store: Waited, clock: Clock) -> None:
    made = store.new_conversation("ann", {"k": "v"}, [message("one", id="msg_1")])
    id = made["id"]
    assert made == {
        "id": id,
        "object": "conversation",
        "created_at": int(clock.now),
        "metadata": {"k": "v"},
    }
    assert store.conversation("ann", id) == made
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    added = store.add_items("ann", id, [call, message("again", id="msg_1"), {**call, "id": None}])
    ids = [item["id"] for item in added]
    assert (
        ids[0].startswith("fc_")
        and ids[1].startswith("msg_")
        and ids[1] != "msg_1"
        and len({*ids}) == 3
    )
    assert store.items("ann", id) == [message("one", id="msg_1"), *added]
    assert store.item("ann", id, ids[1]) == message("again", id=ids[1])
    assert store.delete_item("ann", id, "msg_1") and not store.delete_item("ann", id, "msg_1")
    assert store.items("ann", id) == added
    assert store.update_conversation("ann", id, {"new": "x"}) == made | {"metadata": {"new": "x"}}
    assert store.conversation("ann", id) == made | {"metadata": {"new": "x"}}
    assert (
        store.delete_conversation("ann", id) and store.items("ann", id) == [] and store.used() == 0
    )


def test_a_new_store_in_the_same_file_has_everything(tmp_path: Path) -> None:
    first = waited(tmp_path / "deep" / "s.db", DAY, 1 << 20)
    first.put(stored(status="queued"))
    conversation = first.new_conversation("ann", {"k": "v"}, [message("one")])["id"]
    before = (
        first.get("ann", "resp_1"),
        first.conversation("ann", conversation),
        first.items("ann", conversation),
    )
    used = first.used()
    first.close()
    second = waited(tmp_path / "deep" / "s.db", DAY, 1 << 20)
    after = (
        second.get("ann", "resp_1"),
        second.conversation("ann", conversation),
        second.items("ann", conversation),
    )
    assert after == before and None not in before and second.used() == used
    assert [each.id for each in second.unfinished()] == ["resp_1"]
    second.close()


def test_what_was_written_is_there_after_a_crash(tmp_path: Path) -> None:
    store = waited(tmp_path / "s.db", DAY, 1 << 20)
    store.put(stored())
    for name in ("s.db", "s.db-wal"):  # as they are on the disk, without a close
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_bytes((tmp_path / name).read_bytes())
    store.close()
    copy = waited(tmp_path / "copy" / "s.db", DAY, 1 << 20)
    assert copy.get("ann", "resp_1") is not None
    copy.close()


def test_only_the_owner_of_the_file_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = waited(path, DAY, 1 << 20)
    store.put(stored())
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
    assert (tmp_path / "s.db-wal").exists()
    store.close()
    path.chmod(0o644)
    waited(path, DAY, 1 << 20).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_has_ended_stays_as_it_ended(store: Waited) -> None:
    """A cancel wins over an answer that comes late, whoever writes it."""
    assert store.put(stored(status="in_progress"))
    assert store.put(stored(status="cancelled"))
    assert not store.put(stored(status="completed", late=True))
    assert not store.put(stored(status="in_progress", late=True))
    found = store.get("ann", "resp_1")
    assert found.response == {"id": "resp_1", "status": "cancelled"}
    assert store.put(stored(status="failed"), again=True)
    assert store.get("ann", "resp_1").response["status"] == "failed"
    assert store.put(stored(owner="bob", status="in_progress")), "it is another's"


def test_unfinished_of_a_home(store: Waited) -> None:
    for n, home in enumerate(("http://a", "http://b", "")):
        store.put(replace(stored(f"resp_{n}", status="in_progress"), home=home))
    assert [each.id for each in store.unfinished("http://b")] == ["resp_1"]
    assert [each.home for each in store.unfinished()] == ["http://a", "http://b", ""]


def test_thoughts_are_kept_in_every_kind(store: Waited, clock: Clock) -> None:
    kept = store.of(Thoughts)
    said = [Message(Role.ASSISTANT, "because \ud800", channel="analysis")]
    kept.remember("ann", "call\0", [*said, *said])
    kept.remember("ann", "call\0", said)
    assert kept.before("ann", ["x", "call\0"]) == {"call\0": tuple(said)}
    assert kept.before("bob", ["call\0"]) == {} and kept.before("ann", []) == {}
    assert store.used() == 0, "they take no room of responses"
    clock.now += 3600
    assert kept.before("ann", ["call\0"]) == {}


# Time and room


def test_everything_goes_at_its_time(store: Waited, clock: Clock) -> None:
    store.put(stored("old"))
    store.put(StoredResponse("own", "ann", {"status": "completed"}, [], [], expires=clock.now + 10))
    kept = store.new_conversation("ann", {})["id"]
    left = store.new_conversation("ann", {}, [message("one", id="m")])["id"]
    clock.now += 10
    assert store.get("ann", "own") is None and store.get("ann", "old") is not None
    clock.now += DAY - 20
    store.add_items("ann", kept, [message("still used")])
    clock.now += 10
    assert store.get("ann", "old") is None and not store.delete("ann", "old")
    assert store.conversation("ann", left) is None and store.items("ann", left) == []
    assert (
        store.item("ann", left, "m") is None and store.update_conversation("ann", left, {}) is None
    )
    with pytest.raises(KeyError):
        store.add_items("ann", left, [message("late")])
    assert store.conversation("ann", kept) is not None
    store.delete_conversation("ann", kept)
    assert store.used() == 0  # what had expired is gone from the file, too


def test_the_oldest_make_room(make: Make, clock: Clock) -> None:
    store = make(DAY, 10_000, clock=clock)
    for n in range(30):
        store.put(stored(f"resp_{n}", text="x" * 500))
        if n == 10:
            store.put(stored("resp_5", text="x" * 500), again=True)  # written again: young again
        assert store.used() <= 10_000
    left = [n for n in range(30) if store.get("ann", f"resp_{n}") is not None]
    assert 10 < len(left) < 20 and left == list(range(30 - len(left), 30))
    conversation = store.new_conversation("ann", {})["id"]
    store.add_items("ann", conversation, [message("y" * 8000)])
    assert (
        store.conversation("ann", conversation) is not None
        and store.get("ann", "resp_29") is not None
    )
    assert store.get("ann", "resp_27") is None
    store.put(stored("big", text="x" * 8000))
    assert (
        store.conversation("ann", conversation) is None and store.items("ann", conversation) == []
    )


def test_what_is_larger_than_all_room(
    make: Make, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = make(DAY, 5_000, clock=clock)
    failures = []
    store.made.observe = lambda operation, seconds, failed: failures.append(failed)
    store.put(stored("other"))
    store.put(stored("grows", status="in_progress"))
    store.put(stored("grows", text="x" * 5_000))
    assert store.get("ann", "grows") is None, "what it was is not what it is"
    assert store.get("ann", "other") is not None and "grows is not kept" in caplog.text
    conversation = store.new_conversation("ann", {}, [message("one")])["id"]
    before = store.used()
    with pytest.raises(StoreFull):
        store.add_items("ann", conversation, [message("ok"), message("x" * 5_000)])
    with pytest.raises(StoreFull):
        store.update_conversation("ann", conversation, {"k": "x" * 5_000})
    with pytest.raises(StoreFull):
        store.new_conversation("ann", {}, [message("x" * 5_000)])
    assert len(store.items("ann", conversation)) == 1 and store.used() == before
    assert store.get("ann", "other") is not None
    assert len(failures) > 5 and not any(failures), "the database is well: nobody is to be woken"


# Files


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.write_text("notes, longer than a header of SQLite " * 30), "damaged"),
        (lambda path: _tables(path, "CREATE TABLE theirs (x)"), "another program"),
        (lambda path: _tables(path, "CREATE TABLE theirs (x); PRAGMA application_id = 7"),
            "another program"),
        (lambda path: _tables(path, "PRAGMA application_id = 7"), "another program"),
        (lambda path: _tables(path, "CREATE TABLE t (x); PRAGMA application_id = 0x6F737369;"
                                    "PRAGMA user_version = 99"), "another version"),
        (lambda path: path.mkdir(), "cannot be used"),
        (lambda path: _torn(path), "damaged"),
    ],
    ids=["text", "foreign", "foreign id", "foreign empty", "newer", "directory", "torn"],
)  # fmt: skip
def test_files_that_are_no_store(tmp_path: Path, make: Any, told: str) -> None:
    path = tmp_path / "s.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    mode = path.stat().st_mode
    with pytest.raises(StoreError, match=told) as caught:
        waited(path, DAY, 1 << 20)
    assert str(path) in str(caught.value)
    if told != "damaged":
        assert (
            before == (path.read_bytes() if path.is_file() else None)
            and path.stat().st_mode == mode
        )


def _tables(path: Path, script: str) -> None:
    db = sqlite3.connect(path)
    db.executescript(script)
    db.close()


def _torn(path: Path) -> None:
    """A store in which a page of the middle is overwritten."""
    store = waited(path, DAY, 1 << 20)
    for n in range(200):
        store.put(stored(f"resp_{n}", text="x" * 300))
    store.close()
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(data)


def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    (tmp_path / "s.db").touch()
    store = waited(tmp_path / "s.db", DAY, 1 << 20)
    store.put(stored())
    assert store.get("ann", "resp_1") is not None
    store.close()


def test_one_server_a_file(tmp_path: Path) -> None:
    store = waited(tmp_path / "s.db", DAY, 1 << 20)
    with pytest.raises(StoreError, match="in use by another server"):
        waited(tmp_path / "s.db", DAY, 1 << 20)
    store.put(stored())
    store.close()
    waited(tmp_path / "s.db", DAY, 1 << 20).close()


def test_a_disk_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = waited(tmp_path / "s.db", DAY, 1 << 20)
    store.put(stored())
    store.db.execute("PRAGMA query_only = ON")  # every write fails from here on
    store.put(stored("resp_2"))
    assert "resp_2 is not kept" in caplog.text
    with pytest.raises(StoreError, match="readonly"):
        store.new_conversation("ann", {})
    store.db.execute("PRAGMA query_only = OFF")
    assert store.get("ann", "resp_1") is not None and store.get("ann", "resp_2") is None
    store.put(stored("resp_3"))
    assert store.get("ann", "resp_3") is not None
    store.close()


def test_many_at_once(store: Waited) -> None:
    conversation = store.new_conversation("ann", {})["id"]
    made = store.made

    async def work(n: int) -> None:
        for k in range(25):
            await made.put(stored(f"resp_{n}_{k}", owner=f"owner {n}"))
            await made.add_items("ann", conversation, [message(f"{n} {k}"), message("more")])
            assert await made.get(f"owner {n}", f"resp_{n}_{k}") is not None

    async def all_of_them() -> None:
        await asyncio.gather(*map(work, range(8)))

    store.loop.run_until_complete(all_of_them())
    items = store.items("ann", conversation)
    assert len({item["id"] for item in items}) == len(items) == 400
    texts = [item["content"][0]["text"] for item in items]
    assert texts[1::2] == ["more"] * 200  # items that are added together stay together
    assert all(
        [t for t in texts if t.startswith(f"{n} ")] == [f"{n} {k}" for k in range(25)]
        for n in range(8)
    )


# Against a model: what a dictionary would hold

OWNERS, IDS = st.sampled_from(["ann", "bob"]), st.sampled_from([f"id{n}" for n in range(4)])
SIZES = st.integers(0, 600)
LIMIT = 4_000


class StoreMachine(RuleBasedStateMachine):
    """The model: entries in the order in which they were written last, with their sizes and
    times.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.store = self.open()
        self.model: dict[tuple[str, str, str], dict[str, Any]] = {}

    def open(self) -> Waited:
        return waited(self.directory / "s.db", 100.0, LIMIT, clock=self.clock)

    def teardown(self) -> None:
        self.store.close()
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()

    def size(self, entry: dict[str, Any]) -> int:
        if "response" in entry:
            return (
                sum(len(orjson.dumps(entry[part])) for part in ("response", "history", "input"))
                + OVERHEAD
            )
        return sum(len(orjson.dumps(each)) + OVERHEAD for each in [entry["wire"], *entry["items"]])

    def write(self, key: tuple[str, str, str], entry: dict[str, Any] | None) -> None:
        self.model.pop(key, None)
        if entry is not None:
            self.model[key] = entry | {"expires": self.clock.now + 100.0}
        self.purge()
        while sum(self.size(each) for each in self.model.values()) > LIMIT:
            del self.model[next(iter(self.model))]

    def purge(self) -> None:
        self.model = {
            key: each for key, each in self.model.items() if each["expires"] > self.clock.now
        }

    def conversations(self, owner: str) -> list[str]:
        return [id for kind, of, id in self.model if kind == "conversation" and of == owner]

    @rule(owner=OWNERS, id=IDS, size=SIZES)
    def put(self, owner: str, id: str, size: int) -> None:
        entry: dict[str, Any] = {
            "response": {"status": "completed", "x": "x" * size},
            "history": [],
            "input": [{}],
        }
        self.store.put(StoredResponse(id, owner, **entry), again=True)
        self.write(("response", owner, id), entry)

    @rule(owner=OWNERS, id=IDS)
    def put_too_much(self, owner: str, id: str) -> None:
        self.store.put(StoredResponse(id, owner, {"status": "completed", "x": "x" * LIMIT}, [], []))
        self.write(("response", owner, id), None)

    @rule(owner=OWNERS, id=IDS)
    def delete(self, owner: str, id: str) -> None:
        assert self.store.delete(owner, id) == (("response", owner, id) in self.model)
        self.write(("response", owner, id), None)

    @rule(owner=OWNERS, sizes=st.lists(SIZES, max_size=3))
    def converse(self, owner: str, sizes: list[int]) -> None:
        items = [message("x" * size, id=f"m{n}") for n, size in enumerate(sizes)]
        wire = self.store.new_conversation(owner, {"n": "1"}, items)
        self.write(("conversation", owner, wire["id"]), {"wire": wire, "items": items})

    @precondition(lambda self: any(key[0] == "conversation" for key in self.model))
    @rule(
        data=st.data(),
        what=st.sampled_from(["add", "add", "remove", "rename", "delete"]),
        size=SIZES,
    )
    def change(self, data: st.DataObject, what: str, size: int) -> None:
        key = data.draw(st.sampled_from([key for key in self.model if key[0] == "conversation"]))
        _, owner, id = key
        entry = self.model[key]
        if what == "add":
            wanted = [message("x" * size, id=data.draw(st.sampled_from(["m0", "m7", ""])))]
            try:
                entry = entry | {"items": entry["items"] + self.store.add_items(owner, id, wanted)}
            except StoreFull:
                added = wanted[0] | {
                    "id": "msg_" + "0" * 32 if wanted[0]["id"] in ("m0", "") else wanted[0]["id"]
                }
                assert self.size(entry | {"items": [*entry["items"], added]}) > LIMIT - 40
                return
        elif what == "remove":
            gone = data.draw(st.sampled_from([*(item["id"] for item in entry["items"]), "nothing"]))
            assert self.store.delete_item(owner, id, gone) == (gone != "nothing")
            if gone == "nothing":
                return
            entry = entry | {"items": [item for item in entry["items"] if item["id"] != gone]}
        elif what == "rename":
            metadata = {"n": "y" * (size % 100)}
            try:
                wire = self.store.update_conversation(owner, id, metadata)
            except StoreFull:
                assert self.size(entry | {"wire": entry["wire"] | {"metadata": metadata}}) > LIMIT
                return
            entry = entry | {"wire": wire}
        else:
            assert self.store.delete_conversation(owner, id)
        self.write(key, None if what == "delete" else entry)

    @rule(seconds=st.sampled_from([1.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.purge()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.open()

    @invariant()
    def holds_the_same(self) -> None:
        assert self.store.used() <= LIMIT
        for owner in ("ann", "bob"):
            for id in [f"id{n}" for n in range(4)]:
                found, entry = self.store.get(owner, id), self.model.get(("response", owner, id))
                assert (found is None) == (entry is None)
                if found is not None and entry is not None:
                    assert (found.response, found.expires) == (entry["response"], entry["expires"])
            for id in self.conversations(owner):
                entry = self.model["conversation", owner, id]
                assert self.store.conversation(owner, id) == entry["wire"]
                assert self.store.items(owner, id) == entry["items"]
        rows = self.store.ask("SELECT expires > $1 FROM entry", self.clock.now)
        assert sum(bool(alive) for (alive,) in rows) == len(self.model)
        if len(rows) == len(self.model):  # nothing that expired waits for the next write
            assert self.store.used() == sum(self.size(each) for each in self.model.values())


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=examples(60), stateful_step_count=30, deadline=None
)


@pytest.mark.slow
def test_postgres_holds_what_a_dictionary_would(new_database: str) -> None:
    class InPostgres(StoreMachine):
        def __init__(self) -> None:
            super().__init__()
            for table in ("entry", "thought", "approved"):
                self.store.ask(f"DELETE FROM {table} WHERE true RETURNING size")

        def open(self) -> Waited:
            return waited(new_database, 100.0, LIMIT, clock=self.clock)

    few = settings(max_examples=examples(60), stateful_step_count=20, deadline=None)
    run_state_machine_as_test(InPostgres, settings=few)  # type: ignore[no-untyped-call]


def test_a_response_is_found_by_its_items(tmp_path: Path) -> None:
    """By the newest that has one, for its owner alone, while it lives, also after a restart."""
    path = tmp_path / "responses.db"
    store = waited(path, DAY, 1 << 20)
    store.put(stored("resp_1"))
    store.put(stored("resp_2"))
    store.close()
    store = waited(path, DAY, 1 << 20)
    for expected in ("resp_2", "resp_1"):
        found = store.with_item("ann", "b")
        assert found is not None and found.id == expected
        assert store.with_item("bob", "b") is None and store.with_item("ann", "c") is None
        store.delete("ann", expected)
    assert store.with_item("ann", "b") is None
    store.close()


def test_approved_calls_are_begun_once_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    now = [1e9]
    result = ToolResult("done \ud800", failed=True)
    for opening in range(3):
        store = waited(path, DAY, 1 << 20, clock=lambda: now[0])
        table = store.table()
        assert table.begin_call("ann", "mcpr_1") == (opening == 0)
        assert table.begin_call("ann", f"mcpr_x{opening}")
        if opening == 1:
            table.end_call("ann", "mcpr_1", result)
        kept = table.ended_call("ann", "mcpr_1")
        assert kept == (ToolResult("done ?", failed=True) if opening else None)
        assert table.begin_call("bob", f"{opening}")
        store.close()
    now[0] += LASTS
    store = waited(path, DAY, 1 << 20, clock=lambda: now[0])
    assert not store.table().begin_call("ann", "mcpr_1"), "its id can still be answered"
    now[0] += 2 * 3600
    assert store.table().begin_call("ann", "mcpr_1")
    store.close()


def test_in_memory_responses_take_less_than_their_json() -> None:
    store = waited(None, DAY, 1 << 20)
    for n in range(300):
        store.put(stored(f"resp_{n}", text=f"What is {n} + {n}? It is {2 * n}. " * 50))
    pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    size = store.db.execute("PRAGMA page_size").fetchone()[0]
    assert pages * size < store.used() / 2
    found = store.get("ann", "resp_7")
    assert found is not None and found.response["text"].startswith("What is 7 + 7?")
    long = os.urandom(SHORT).hex()
    store.put(stored("resp_long", text=long))
    found = store.get("ann", "resp_long")
    assert found is not None and found.response["text"] == long


def test_in_memory_what_responses_have_in_common_is_kept_once() -> None:
    store = waited(None, DAY, 1 << 21)
    common = os.urandom(2000).hex()
    for n in range(300):
        store.put(stored(f"resp_{n}", text=f"{common} {n}"))
    pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    size = store.db.execute("PRAGMA page_size").fetchone()[0]
    assert pages * size < store.used() / 5
    for n in (0, 1, 299):
        found = store.get("ann", f"resp_{n}")
        assert found is not None and found.response["text"] == f"{common} {n}"


def test_approved_calls_count_in_the_quota(make: Make) -> None:
    """They have a share of it, in which the oldest results go first; responses make room."""
    store = make(DAY, 1 << 18)
    table = store.table()
    empty = store.used()
    for n in range(40):
        store.put(stored(f"resp_{n}", text="x" * 8000))
        assert table.begin_call("ann", f"mcpr_{n}")
        table.end_call("ann", f"mcpr_{n}", ToolResult("y" * 6000))
        assert store.used() <= store.limit
    assert store.used() > empty + store.limit // 2
    results = [table.ended_call("ann", f"mcpr_{n}") for n in range(40)]
    gone = [result == ToolResult(GONE, failed=True) for result in results]
    assert gone == sorted(gone, reverse=True) and gone[0] and not gone[-1]
    assert results[-1] == ToolResult("y" * 6000)
    assert not table.begin_call("ann", "mcpr_0"), "it is not run again"


def test_a_result_that_is_cut_says_so(make: Make) -> None:
    table = make(DAY, 1 << 18).table()
    table.begin_call("ann", "mcpr_1")
    table.end_call("ann", "mcpr_1", ToolResult("z" * 50_000, failed=True))
    kept = table.ended_call("ann", "mcpr_1")
    assert kept is not None and kept.failed
    said = re.search(r"(\d+) more characters of this result were not kept", kept.text)
    assert said is not None and kept.text.count("z") + int(said[1]) == 50_000


def test_a_call_that_could_not_be_remembered_is_not_begun(make: Make) -> None:
    store = make(DAY, 1 << 14)
    table = store.table()
    with pytest.raises(StoreFull, match="--store-bytes"):
        for n in range(1000):
            assert table.begin_call("ann", f"mcpr_{n}")
            table.end_call("ann", f"mcpr_{n}", ToolResult("y" * 100))
    assert n > 10 and table.ended_call("ann", f"mcpr_{n}") is None
    assert ApiError.of(StoreFull("")).status == 507
    assert store.used() <= store.limit
    assert not table.begin_call("ann", "mcpr_0")
    store.put(stored("resp_1"))  # nothing else is in the way
    assert store.get("ann", "resp_1") is not None


UNDONE = {  # what a version has less than the next
    6: ("DROP TABLE forgotten", "ALTER TABLE approved DROP COLUMN home"),
    5: ("DROP TABLE thought", "DROP TABLE replica", "DROP TABLE account",
        "ALTER TABLE used DROP COLUMN thoughts", "ALTER TABLE entry DROP COLUMN home"),
    4: ("DROP TRIGGER call_begun", "DROP TRIGGER call_ended", "DROP TRIGGER call_gone",
        "DROP INDEX approved_begun", "ALTER TABLE approved DROP COLUMN size",
        "ALTER TABLE used DROP COLUMN calls"),
    3: ("DROP TABLE approved",),
    2: ("DROP TABLE part",),
    1: ("ALTER TABLE entry DROP COLUMN thread",),
}  # fmt: skip


def as_before(db: sqlite3.Connection, version: int) -> None:
    for undone, statements in UNDONE.items():
        for statement in statements if undone >= version else ():
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {version}")


def test_calls_of_an_earlier_version_count(tmp_path: Path) -> None:
    """Also where they are more than the store may be now."""
    path = tmp_path / "old.db"
    waited(path, DAY, 1 << 20).close()
    with sqlite3.connect(path) as db:
        as_before(db, 4)
        result = orjson.dumps({"text": "a" * 50_000, "failed": False})
        db.execute("INSERT INTO approved VALUES ('ann', 'mcpr_1', ?, ?)", (result, time.time()))
    db.close()
    store = waited(path, DAY, 1 << 20)
    assert store.used() > 50_000
    assert store.table().ended_call("ann", "mcpr_1") == ToolResult("a" * 50_000)
    store.close()
    store = waited(path, DAY, 1 << 14)
    table = store.table()
    assert store.used() < store.limit
    assert table.ended_call("ann", "mcpr_1") == ToolResult(GONE, failed=True)
    assert not table.begin_call("ann", "mcpr_1") and table.begin_call("ann", "mcpr_2")
    store.put(stored(), must=True)  # responses have room beside them
    assert store.get(stored().owner, stored().id) is not None
    store.close()


def test_a_response_that_calls_leave_no_room_for_is_refused(make: Make) -> None:
    store = make(DAY, 1 << 16)
    table = store.table()
    for name in "abcd":
        table.begin_call("ann", name)
        table.end_call("ann", name, ToolResult("x" * 3_500))
    old = stored()
    store.put(old)
    large = replace(stored(), id="resp_large", response={"text": "y" * 55_000})
    with pytest.raises(StoreError, match="responses may have"):
        store.put(large, must=True)
    store.put(large)  # is logged
    assert store.get(old.owner, old.id) is not None and store.get(old.owner, large.id) is None
    store.close()


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_a_file_of_an_earlier_version_is_read(tmp_path: Path, version: int) -> None:
    """The items of its responses are not known by themselves; in the oldest, responses know no
    thread: each begins one.
    """
    path = tmp_path / "old.db"
    first = waited(path, DAY, 1 << 20)
    first.put(replace(stored(), thread="resp_0"))
    first.close()
    with sqlite3.connect(path) as db:
        as_before(db, version)
    db.close()
    for _ in range(2):
        opened = waited(path, DAY, 1 << 20)
        found = opened.get("ann", "resp_1")
        assert found is not None and found.input == [{"id": "b"}]
        assert found.thread == ("" if version == 1 else "resp_0")
        assert (opened.with_item("ann", "b") is None) == (version < 3)
        assert opened.table().ended_call("ann", "mcpr_1") is None
        assert found.home == ""
        opened.put(stored("resp_2"))
        known = opened.with_item("ann", "b")
        assert known is not None and known.id == "resp_2"
        opened.delete("ann", "resp_2")
        opened.close()
