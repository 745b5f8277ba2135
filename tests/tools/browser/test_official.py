"""The displays are those of the official tool, text for text; where ours are better, by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser_dialogues import DIALOGUES
from browser_pages import FakeWeb, dialogue

pytestmark = pytest.mark.anyio
OFFICIAL = json.loads(Path(__file__).with_name("official_displays.json").read_text("utf-8"))


@pytest.mark.parametrize("number", range(len(DIALOGUES)))
async def test_every_text_of_a_dialogue_is_the_official_one(number: int) -> None:
    texts = await dialogue(FakeWeb(), DIALOGUES[number])
    assert texts == OFFICIAL[number]


def test_there_are_forty() -> None:
    assert len(DIALOGUES) == len(OFFICIAL) == 40
