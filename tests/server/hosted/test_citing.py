"""Citations in an answer's events: links or marks, deltas that add up, and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from responses_wire import Browser, Python

from ossia.server.hosted.citing import Citing, flat_annotations, with_marks
from ossia.tools import SessionKey, Sessions
from ossia.turn.events import ItemDelta, ItemEnd, ItemStart, MessageItem, TurnEvent

SAID = "Old【0†L5-L9】, new【1†L2】; unknown【7†L1】, broken【0†L"
LINK = " ([page.example](https://page.example/)) "
SHOWN = f"Old{LINK}, new{LINK}; unknown【7†L1】, broken【0†L"


class Files(Python):
    def filed(self, path: str) -> Mapping[str, str] | None:
        if path != "my plot.png":
            return None
        return {"container_id": "cntr_1", "file_id": "cfile_1", "filename": path}


def citing(*, keep_marks: bool = False) -> Citing:
    browser = Browser()
    browser.runs = 2
    return Citing(Sessions(SessionKey()), [browser, Files()], keep_marks=keep_marks)


def said(pieces: Iterable[str], made: Citing) -> tuple[list[ItemDelta], MessageItem]:
    """The deltas of a message that comes in pieces, and the item that ends."""
    item = MessageItem("msg_1", "final_answer")
    given: list[TurnEvent] = [ItemStart(0, item)]
    given += [ItemDelta(0, piece) for piece in pieces]
    text = "".join(event.text for event in given if isinstance(event, ItemDelta))
    given.append(ItemEnd(0, MessageItem("msg_1", "final_answer", text)))
    found = [event for each in given for event in made.events([each])]
    end = found[-1]
    assert isinstance(end, ItemEnd) and isinstance(end.item, MessageItem)
    return [event for event in found if isinstance(event, ItemDelta)], end.item


def test_marks_become_links_wherever_the_text_is_cut() -> None:
    for at in range(len(SAID)):
        deltas, item = said([SAID[:at], SAID[at:]], citing())
        assert "".join(delta.text for delta in deltas) == item.text == SHOWN
        assert tuple(each for delta in deltas for each in delta.citations) == item.citations
        assert [item.text[each.start : each.end] for each in item.citations] == [LINK, LINK]
    first, second = (each.placed() for each in item.citations)
    assert first == {
        "type": "url_citation",
        "url": "https://page.example/",
        "title": "A page",
        "cursor": 0,
        "lines": [5, 9],
        "start_index": 3,
        "end_index": 3 + len(LINK),
    }
    assert second["lines"] == [2, 2]


def test_marks_stay_if_that_is_wished() -> None:
    deltas, item = said(SAID, citing(keep_marks=True))
    assert "".join(delta.text for delta in deltas) == item.text == SAID
    assert [item.text[each.start : each.end] for each in item.citations] == [
        "【0†L5-L9】",
        "【1†L2】",
    ]


def test_a_citation_comes_with_its_text() -> None:
    deltas, _ = said(["A【0†", "L1】 b", " c"], citing())
    assert [len(delta.citations) for delta in deltas] == [0, 1, 0]


@pytest.mark.parametrize("keep_marks", [False, True])
def test_the_model_reads_its_own_marks_again(keep_marks: bool) -> None:
    _, item = said(SAID, citing(keep_marks=keep_marks))
    annotations = [each.placed() for each in item.citations]
    assert with_marks(item.text, annotations) == SAID
    nested = [{"type": "url_citation", "url_citation": each} for each in annotations]
    assert with_marks(item.text, flat_annotations(nested)) == SAID


def place(**changed: Any) -> dict[str, Any]:
    place = {"type": "url_citation", "cursor": 0, "lines": [5, 9]}
    return {**place, "start_index": 3, "end_index": 3 + len(LINK), **changed}


@pytest.mark.parametrize(
    "annotations",
    [
        None,
        "x",
        [None, 3, {}],
        [place(cursor="0")],
        [place(cursor=-1)],
        [place(cursor=10**12)],
        [place(start_index=-4)],
        [place(end_index=10**9)],
        [place(start_index="3")],
        [place(start_index=2)],  # not a link
        [place(type="file_citation")],
        [place(start_index=30, end_index=3)],
    ],
)
def test_annotations_that_make_no_sense_change_nothing(annotations: Any) -> None:
    assert with_marks(SHOWN, annotations) == SHOWN


def test_annotations_that_overlap_are_taken_once() -> None:
    assert with_marks(SHOWN, [place(), place()]).startswith("Old【0†L5-L9】, new (")
    assert with_marks(SHOWN, [place(lines=None)]).startswith("Old【0†source】, new (")


def test_files_are_cited() -> None:
    text = "See [it](sandbox:/mnt/data/my%20plot.png), not sandbox:/mnt/data/no.png."
    deltas, item = said([text], citing())
    (cited,) = item.citations
    assert item.text == text
    assert text[cited.start : cited.end] == "sandbox:/mnt/data/my%20plot.png"
    assert cited.placed()["type"] == "container_file_citation"
    assert deltas[-1].citations == (cited,) and not deltas[-1].text


def test_without_such_tools_nothing_is_looked_at() -> None:
    events: list[TurnEvent] = [ItemDelta(0, SAID)]
    assert Citing(Sessions(SessionKey()), [], keep_marks=False).events(events) is events


def test_many_annotations_of_a_long_text_are_read_once() -> None:
    link = " ([a](https://a.example/)) "
    count = 20_000
    cite = {"type": "url_citation", "cursor": 1}
    places = [n * len(link) for n in range(count)]
    cites = [cite | {"start_index": at, "end_index": at + len(link)} for at in places]
    assert with_marks(link * count, cites) == "【1†source】" * count
    # an end that no link has is not looked for in all of the text
    longest = cite | {"start_index": 0, "end_index": 2_000_000}
    text = " ([" + "a" * 2_000_000
    assert with_marks(text, [longest] * 100_000) == text
