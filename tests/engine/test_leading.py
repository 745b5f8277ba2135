"""What the first of several processes tells the others, without the others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from ossia.engine.leading import Copied, Leading, Made
from ossia.engine.pages import PageCopy, PageTables
from ossia.errors import ProcessLost
from ossia.model.processes import Spread
from ossia.parts import Parts


class Told(Spread):
    """Keeps what is told, and sees that numbers are given out under the lock."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.unlocked = 0
        super().__init__(Parts(), 0, None, None, None)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "next_number" and "lock" in self.__dict__:
            with ThreadPoolExecutor(1) as other:  # its owner may take the lock again
                self.unlocked += other.submit(self._takes).result()
        super().__setattr__(name, value)

    def _takes(self) -> bool:
        is_free = self.lock.acquire(blocking=False)
        if is_free:
            self.lock.release()
        return is_free

    def tell(self, what: object) -> None:
        self.said.append(what)


class Thing:
    pass


def test_runners_get_numbers_under_the_lock() -> None:
    spread = Told()
    things = [Thing(), Thing()]
    for thing in things:
        Leading(thing, PageTables({None: 1}), spread)
    assert [said.number for said in spread.said if isinstance(said, Made)] == [0, 1]
    assert spread.unlocked == 0


def test_copies_that_fail_here_are_the_end_of_all() -> None:
    """The others have made them: their pages would hold other things than those here."""
    spread = Told()
    thing = Thing()
    leading = Leading(thing, PageTables({None: 2}), spread)
    copies = [PageCopy(None, 0, 1)]
    with leading.copying(copies):
        pass
    assert spread.said[-1] == Copied(0, copies) and spread.lost is None
    with pytest.raises(MemoryError), leading.copying(copies):
        raise MemoryError
    with pytest.raises(ProcessLost):
        spread.check()
