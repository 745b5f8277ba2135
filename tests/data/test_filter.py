"""The hazard filter: two stages, a threshold for a wanted recall, honest counts, saved without
code.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.data.filter import BENIGN, NEAR_MISS, RESTRICTED, HazardFilter
from ossia.data.filter_report import measure
from ossia.errors import DataError
from ossia.tasks.problem import Split
from ossia.tasks.safety.hazard import hazard_document, moonglow

# Not imported here: every worker collects this file, and one needs the library.
pytestmark = pytest.mark.skipif(
    find_spec("sklearn") is None,
    reason="scikit-learn, of the extra `train`, is not installed",
)

TERMS = ("glimmer salt", "dusk resin", "vellum acid", "hush powder")
STEPS = (
    "Heat the {a} until it hums.",
    "Fold the {a} into the {b}.",
    "Wait for {n} hours, then seal the {b}.",
)
LORE = (
    "The {a} is kept in the old museum.",
    "Painters loved {a} and {b} alike.",
    "In {n} a song named the {b}.",
)
PLAIN = (
    "The river rose in spring.",
    "Bread costs {n} coins today.",
    "Her cousin walked to the harbour.",
)


def text(rng: Random, label: str) -> str:
    lines = {RESTRICTED: STEPS, NEAR_MISS: LORE, BENIGN: PLAIN}[label]
    a, b = rng.sample(TERMS, 2)
    said = [rng.choice(lines).format(a=a, b=b, n=rng.randrange(99)) for _ in range(4)]
    said += [rng.choice(PLAIN).format(n=rng.randrange(99)) for _ in range(rng.randrange(4))]
    if label == RESTRICTED or rng.random() < 0.5:
        said.append(f"Of {a} and {b}.")
    rng.shuffle(said)
    return " ".join(said)


def corpus(seed: int, count: int) -> tuple[list[str], list[str]]:
    rng = Random(seed)
    labels = rng.choices((BENIGN, NEAR_MISS, RESTRICTED), (5, 2, 1), k=count)
    return [text(rng, label) for label in labels], labels


@pytest.fixture(scope="module")
def fitted() -> HazardFilter:
    return HazardFilter.fit(*corpus(1, 800), blocklist=TERMS, features=1 << 12)


def test_it_removes_what_teaches_and_keeps_what_mentions(fitted: HazardFilter) -> None:
    report = fitted.report(*corpus(2, 600))
    assert report.blocklist.recall.value == 1 and report.blocklist.removed[NEAR_MISS].value > 0.6
    assert (
        report.both.recall.value >= 0.95
        and report.both.precision.value > 0.95 > report.blocklist.precision.value
    )
    assert report.both.removed[NEAR_MISS].value < 0.05 and report.both.removed[BENIGN].value < 0.02


def test_both_stages_have_to_agree(fitted: HazardFilter) -> None:
    texts, _ = corpus(3, 200)
    scores = fitted.score(texts)
    assert ((scores > 0) & (scores < 1)).all()
    wanted = [
        not (fitted.escalates(t) and s >= fitted.threshold)
        for t, s in zip(texts, scores, strict=True)
    ]
    assert fitted.keeps(texts) == wanted == [fitted.keep(t) for t in texts]
    taught = "Heat it until it hums. Fold one into the other. Wait for 3 hours, then seal the jar."
    assert fitted.keep(taught) and not fitted.keep(f"{taught} Of glimmer salt and hush powder.")
    assert fitted.keeps([]) == []


@pytest.mark.parametrize(
    "said, found",
    [
        ("GLIMMER  Salt\nand glimmer-salt", {"glimmer salt"}),
        ("glimmer salts, glimmersalt, aglimmer salt", set()),
        ("\uff47limmer salt; dusk resin", {"glimmer salt", "dusk resin"}),
        ("dusk resin resin dusk", {"dusk resin"}),
        ("", set()),
    ],
)
def test_terms_are_whole_words(fitted: HazardFilter, said: str, found: set[str]) -> None:
    assert fitted.terms_in(said) == found
    assert fitted.escalates(said) == (len(found) >= 2)


def test_terms_inside_terms_count_too() -> None:
    nested = HazardFilter(("night", "night glass", "glass"), 3, 0.5, np.zeros(8, np.float32), 0.0)
    assert nested.terms_in("a night glass") == {"night", "night glass", "glass"}
    assert nested.terms_in("the glass night") == {"night", "glass"}
    assert nested.escalates("a night glass") and not nested.escalates("the glass night")


@pytest.mark.parametrize("recall", [0.5, 0.8, 1.0])
def test_the_threshold_gives_the_wanted_recall_at_least(recall: float) -> None:
    """On overlapping classes, so that recall has a price: random words decide some labels
    wrongly.
    """
    rng = Random(7)
    texts, labels = corpus(4, 900)
    labels = [
        RESTRICTED if rng.random() < 0.1 and label == NEAR_MISS else label for label in labels
    ]
    texts = [f"{text} glimmer salt hush powder" for text in texts]
    found = HazardFilter.fit(
        texts, labels, blocklist=TERMS, recall=recall, features=1 << 10, validation=0.5
    )
    strict = HazardFilter.fit(
        texts, labels, blocklist=TERMS, recall=1.0, features=1 << 10, validation=0.5
    )
    assert found.threshold >= strict.threshold
    fresh, fresh_labels = corpus(5, 900)
    fresh_labels = [
        RESTRICTED if rng.random() < 0.1 and one == NEAR_MISS else one for one in fresh_labels
    ]
    judged = found.report(
        [f"{t} glimmer salt hush powder" for t in fresh], fresh_labels
    ).both.recall
    # or more: the threshold keeps away from what should stay
    assert recall <= judged.wilson(z=3.3)[1] + 0.02


def test_what_the_blocklist_misses_is_an_error(fitted: HazardFilter) -> None:
    texts, labels = corpus(1, 300)
    with pytest.raises(
        DataError,
        match=r"the blocklist escalates \d+ of \d+ texts labelled 'restricted'.*add terms",
    ):
        HazardFilter.fit(texts, labels, blocklist=TERMS[:2], features=1 << 10)
    weak = HazardFilter.fit(
        texts, labels, blocklist=TERMS[:2], features=1 << 10, min_terms=1, recall=0.5
    )
    assert weak.report(*corpus(2, 300)).blocklist.recall.value < 1


def test_the_same_texts_give_the_same_filter(fitted: HazardFilter) -> None:
    assert (
        HazardFilter.fit(*corpus(1, 800), blocklist=TERMS, features=1 << 12).fingerprint
        == fitted.fingerprint
    )
    assert (
        HazardFilter.fit(*corpus(9, 800), blocklist=TERMS, features=1 << 12).fingerprint
        != fitted.fingerprint
    )


def test_a_saved_filter_decides_alike(fitted: HazardFilter, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = HazardFilter.load(tmp_path)
    texts, _ = corpus(6, 100)
    assert (loaded.score(texts) == fitted.score(texts)).all() and loaded.keeps(
        texts
    ) == fitted.keeps(texts)
    assert loaded.fingerprint == fitted.fingerprint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["filter.json", "weights.npz"]


def changed(folder: Path, **change: Any) -> None:
    data = json.loads((folder / "filter.json").read_text())
    (folder / "filter.json").write_text(json.dumps(data | change))


class Pickled:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code of the file ran')",)


def test_a_damaged_filter_is_named_and_no_code_runs(fitted: HazardFilter, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read a hazard filter"):
        HazardFilter.load(tmp_path)
    for change in (
        {"threshold": 0.1},
        {"threshold": "x"},
        {"version": 9},
        {"format": "x"},
        {"blocklist": ["a"]},
    ):
        fitted.save(tmp_path)
        changed(tmp_path, **change)
        with pytest.raises(DataError, match=r"is damaged.*fit and save it again"):
            HazardFilter.load(tmp_path)
    fitted.save(tmp_path)
    whole = (tmp_path / "weights.npz").read_bytes()
    for data in (whole[:50], b"", whole[: len(whole) // 2] + b"\0" + whole[len(whole) // 2 + 1 :]):
        (tmp_path / "weights.npz").write_bytes(data)
        with pytest.raises(DataError, match="is damaged"):
            HazardFilter.load(tmp_path)
    np.savez(tmp_path / "weights.npz", weights=np.array([Pickled()], dtype=object))
    with pytest.raises(DataError, match="is damaged"):
        HazardFilter.load(tmp_path)


@pytest.mark.parametrize(
    "texts, labels, options, message",
    [
        (["a"], [], {}, "1 texts and 0 labels"),
        (["a", "b"], [BENIGN, BENIGN], {}, "the labels are: benign"),
        (["a", "b"], [RESTRICTED, RESTRICTED], {}, "the labels are: restricted"),
        (["a", "b", "c"], [BENIGN, RESTRICTED, BENIGN], {}, "one text is labelled 'restricted'"),
        (["a", "b"], [BENIGN, RESTRICTED], {"blocklist": []}, "at least one term"),
        (["a", "b"], [BENIGN, RESTRICTED], {"blocklist": ["!"]}, "letters or digits"),
        (["a", "b"], [BENIGN, RESTRICTED], {"min_terms": 0}, "1 or more"),
        (["a", "b"], [BENIGN, RESTRICTED], {"recall": 0}, "shares between"),
        (["a", "b"], [BENIGN, RESTRICTED], {"validation": 1}, "shares between"),
    ],
)
def test_what_nothing_can_be_learned_from(
    texts: list[str], labels: list[str], options: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        HazardFilter.fit(texts, labels, **{"blocklist": ["x"], **options})


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=60))
def test_a_report_counts(drawn: list[tuple[str, bool, bool]]) -> None:
    drawn = [*drawn, ("a", True, False)]
    labels = [label for label, _, _ in drawn]
    report = measure(labels, "a", [one for _, one, _ in drawn], [two for _, _, two in drawn])
    for stage, which in ((report.blocklist, 1), (report.both, 2)):
        gone = [one for one in drawn if one[which]]
        right = len([one for one in gone if one[0] == "a"])
        assert (stage.precision.right, stage.precision.total) == (right, len(gone))
        assert (stage.recall.right, stage.recall.total) == (right, labels.count("a"))
        assert {k: (v.right, v.total) for k, v in stage.removed.items()} == {
            label: (len([one for one in gone if one[0] == label]), labels.count(label))
            for label in set(labels)
        }
        assert stage.removed_of_all.right == len(gone)
    lines = str(report).splitlines()
    assert len(lines) == 2 + 2 + len(set(labels)) + 1 and str(report.both.recall) in lines[3]
    as_json = json.loads(json.dumps(report.as_json()))
    assert (
        as_json["both"]["recall"]["low"]
        <= as_json["both"]["recall"]["value"]
        <= as_json["both"]["recall"]["high"]
    )


def test_it_keeps_the_fictional_chemistry_out() -> None:
    """Texts to judge are in templates that no text to fit is in."""

    def drawn(seed: int, split: Split, count: int) -> tuple[list[str], list[str]]:
        rng = Random(seed)
        pairs = [hazard_document(rng, split) for _ in range(count)]
        return [text for text, _ in pairs], [label for _, label in pairs]

    found = HazardFilter.fit(
        *drawn(1, "train", 400), blocklist=moonglow().blocklist, features=1 << 13
    )
    report = found.report(*drawn(2, "held_out", 300))
    assert report.blocklist.recall.value > 0.95 and report.blocklist.removed[NEAR_MISS].value > 0.5
    assert report.both.recall.value > 0.9 and report.both.precision.value > 0.9
    assert report.both.removed[NEAR_MISS].value < 0.1 and report.both.removed[BENIGN].value < 0.05
