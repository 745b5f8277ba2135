"""A filter that keeps a topic out of the training text: a blocklist of terms, then a trained
classifier.

Two stages as in Deep Ignorance (arXiv 2508.06601): terms are cheap and are looked for in every
document; only a document with several of them is escalated to the classifier, which tells those
that teach from those that merely mention. The classifier here is a logistic regression on hashed
word and character n-grams (scikit-learn, extra `train`), where the paper has a fine-tuned
ModernBERT. Knows texts and labels; does not know tokens or how files are read. A saved filter is
numbers and JSON: loading one runs no code of its author's.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ossia.data.filter_report import FilterReport, measure
from ossia.errors import DataError
from ossia.files import replace_file, replacing

BENIGN, NEAR_MISS, RESTRICTED = "benign", "near_miss", "restricted"
FORMAT, VERSION = "ossia hazard filter", 1
FEATURES = 1 << 16  # hash buckets for words, and as many for characters
_WORD = re.compile(r"\w+")
_LOWEST = 1e-6  # score of a text that should stay, where none is below
_AT_ONCE = 1024  # texts that are hashed together


@dataclass(frozen=True, eq=False)
class HazardFilter:
    """A text is removed if it holds `min_terms` different terms of `blocklist` and scores
    `threshold` or more.

    `weights` float32 [2 * features], `bias`: the logistic regression. Made by `fit`, kept by `save`
    and `load`.
    """

    blocklist: tuple[str, ...]
    min_terms: int
    threshold: float
    weights: NDArray[np.float32] = field(repr=False)
    bias: float
    removes: str = RESTRICTED

    @property
    def features(self) -> int:
        return len(self.weights) // 2

    @cached_property
    def _terms(self) -> tuple[frozenset[str], int]:
        """The terms as words with one space between, and how many words the longest has."""
        terms = frozenset(" ".join(_words(term)) for term in self.blocklist)
        return terms, max((term.count(" ") + 1 for term in terms), default=0)

    def terms_in(self, text: str) -> set[str]:
        """The different terms of the blocklist in `text`, as whole words in any case or spacing."""
        terms, longest = self._terms
        words = _words(text)
        found: set[str] = set()
        for length in range(1, longest + 1):
            spans = (" ".join(words[n : n + length]) for n in range(len(words) - length + 1))
            found |= terms.intersection(spans if length > 1 else words)
        return found

    def escalates(self, text: str) -> bool:
        """Whether the blocklist hands the text to the classifier; alone, it would remove it."""
        return len(self.terms_in(text)) >= self.min_terms

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The classifier's score of each text, escalated or not: 0 (harmless) to 1 (remove it)."""
        vectorizer = _vectorizer(self.features)
        weights = self.weights.astype(np.float64)
        out = np.empty(len(texts))
        for begin in range(0, len(texts), _AT_ONCE):
            part = texts[begin : begin + _AT_ONCE]
            logits = vectorizer.transform(part) @ weights + self.bias
            # the sigmoid, without overflow
            out[begin : begin + len(part)] = 0.5 * (1 + np.tanh(0.5 * logits))
        return out

    def keep(self, text: str) -> bool:
        return self.keeps([text])[0]

    def keeps(self, texts: Sequence[str]) -> list[bool]:
        """For each text, whether it stays."""
        return self.decide(texts)[1]

    def decide(self, texts: Sequence[str]) -> tuple[list[bool], list[bool]]:
        """For each text, whether the blocklist escalates it, and whether it stays."""
        escalated = [self.escalates(text) for text in texts]
        kept = [not one for one in escalated]
        numbers = [n for n, one in enumerate(escalated) if one]
        if numbers:
            scores = self.score([texts[n] for n in numbers]).tolist()
            for n, score in zip(numbers, scores, strict=True):
                kept[n] = score < self.threshold
        return escalated, kept

    def report(self, texts: Sequence[str], labels: Sequence[str]) -> FilterReport:
        """Precision, recall and removed shares on labelled texts other than the fitted ones."""
        _check_labels(texts, labels, self.removes)
        escalated, kept = self.decide(texts)
        return measure(labels, self.removes, escalated, [not one for one in kept])

    @staticmethod
    def fit(
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        blocklist: Iterable[str],
        min_terms: int = 2,
        removes: str = RESTRICTED,
        recall: float = 0.98,
        validation: float = 0.25,
        features: int = FEATURES,
        seed: int = 0,
    ) -> HazardFilter:
        """A filter that removes texts labelled `removes` and keeps the others.

        A share `validation` of each label is held back from the classifier; at the threshold both
        stages together remove `recall` or more of what should be removed there, and as little as
        possible of the rest. The same input gives the same filter. Raises `DataError` for labels
        that leave nothing to learn from, and where the blocklist alone misses too much for `recall`
        to be reached: what it does not escalate, no classifier sees.
        """
        blocklist = tuple(dict.fromkeys(blocklist))
        if not blocklist or not all(_words(term) for term in blocklist) or min_terms < 1:
            raise DataError(
                "a blocklist has at least one term, terms have letters or digits, and min_terms is "
                "1 or more"
            )
        if not 0 < recall <= 1 or not 0 < validation < 1:
            raise DataError(
                f"recall {recall} and validation {validation} are shares between 0 and 1"
            )
        _check_labels(texts, labels, removes)
        fitted, held_back = _parts(labels, validation, seed)
        weights, bias = _fit(
            [texts[n] for n in fitted],
            [labels[n] == removes for n in fitted],
            _vectorizer(features),
        )
        unset = HazardFilter(blocklist, min_terms, 0.5, weights, bias, removes)
        threshold = _threshold(
            unset, [texts[n] for n in held_back], [labels[n] for n in held_back], recall
        )
        return HazardFilter(blocklist, min_terms, threshold, weights, bias, removes)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that decides."""
        hashed = blake2b(json.dumps(self._as_json(), sort_keys=True).encode(), digest_size=16)
        hashed.update(self.weights.astype("<f4").tobytes())
        return hashed.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write `filter.json` and `weights.npz` to `folder`, each in one step."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "weights.npz") as file:
            np.savez_compressed(file, weights=self.weights.astype("<f4"))
        data = self._as_json() | {"fingerprint": self.fingerprint}
        text = json.dumps(data, indent=1, ensure_ascii=False)
        replace_file(folder / "filter.json", text + "\n")

    @staticmethod
    def load(folder: str | Path) -> HazardFilter:
        """Raises `DataError` if the two files are missing, damaged or not of one filter."""
        folder = Path(folder)
        try:
            data = json.loads((folder / "filter.json").read_bytes())
            if data["format"] != FORMAT or data["version"] != VERSION:
                raise ValueError(f"it is of format {data['format']!r}, version {data['version']}")
            with (
                (folder / "weights.npz").open("rb") as file,
                np.load(file, allow_pickle=False) as arrays,
            ):
                weights = arrays["weights"].astype(np.float32)
            terms, removes = tuple(map(str, data["blocklist"])), str(data["removes"])
            loaded = HazardFilter(
                terms,
                int(data["min_terms"]),
                float(data["threshold"]),
                weights,
                float(data["bias"]),
                removes,
            )
            if weights.ndim != 1 or loaded.fingerprint != data["fingerprint"]:
                raise ValueError("weights.npz and filter.json are not of one filter")
        except OSError as error:
            raise DataError(
                f"cannot read a hazard filter from {folder}: {error}; fit and save one there"
            ) from error
        except (ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
            raise DataError(
                f"the hazard filter in {folder} is damaged: {error!r}; fit and save it again"
            ) from error
        return loaded

    def _as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "removes": self.removes,
            "min_terms": self.min_terms,
            "threshold": self.threshold,
            "bias": self.bias,
            "features": self.features,
            "blocklist": list(self.blocklist),
        }


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _check_labels(texts: Sequence[str], labels: Sequence[str], removes: str) -> None:
    if len(texts) != len(labels):
        raise DataError(f"{len(texts)} texts and {len(labels)} labels: each text has one")
    if not 0 < labels.count(removes) < len(labels):
        known = ", ".join(sorted(set(labels))) or "none"
        raise DataError(
            f"a filter needs texts labelled {removes!r} and others; the labels are: {known}"
        )


def _parts(labels: Sequence[str], validation: float, seed: int) -> tuple[list[int], list[int]]:
    """(to fit, to validate): of every label its share, at least one text in each part."""
    fitted: list[int] = []
    held_back: list[int] = []
    for label in dict.fromkeys(labels):
        numbers = [n for n, one in enumerate(labels) if one == label]
        if len(numbers) < 2:
            raise DataError(
                f"one text is labelled {label!r}: give at least two, one to fit and one to validate"
            )
        Random(f"{seed}:{label}").shuffle(numbers)
        cut = min(len(numbers) - 1, max(1, round(validation * len(numbers))))
        held_back += numbers[:cut]
        fitted += numbers[cut:]
    return sorted(fitted), sorted(held_back)


def _threshold(unset: HazardFilter, texts: list[str], labels: list[str], recall: float) -> float:
    """Halfway, in log-odds, between the lowest score that must be removed for `recall` and the
    highest below it of a text that should stay. A higher one would keep no more of those, and trust
    more in texts that are like these.
    """
    wanted = math.ceil(recall * labels.count(unset.removes) - 1e-9)
    escalated = [n for n, text in enumerate(texts) if unset.escalates(text)]
    scores = unset.score([texts[n] for n in escalated])
    is_hit = np.array([labels[n] == unset.removes for n in escalated], dtype=np.bool_)
    hits = np.sort(scores[is_hit])[::-1]
    if len(hits) < wanted:
        raise DataError(
            f"the blocklist escalates {len(hits)} of {labels.count(unset.removes)} texts labelled "
            f"{unset.removes!r}, too few for a recall of {recall}: add terms, ask for fewer of "
            f"them (min_terms is {unset.min_terms}), or want less recall"
        )
    lowest = float(hits[wanted - 1])
    stays = scores[~is_hit & (scores < lowest)].max(initial=_LOWEST)
    odds = math.sqrt(lowest / (1 - min(lowest, 1 - _LOWEST)) * stays / (1 - stays))
    return min(odds / (1 + odds), lowest)


def _fit(
    texts: list[str], positive: list[bool], vectorizer: Any
) -> tuple[NDArray[np.float32], float]:
    # that it is installed, `_vectorizer` has seen
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
    model.fit(vectorizer.transform(texts), np.array(positive))
    return model.coef_[0].astype(np.float32), float(model.intercept_[0])


def _vectorizer(features: int) -> Any:
    """Texts to hashed counts, each half of unit length: words and pairs, then 3 to 5 characters."""
    try:
        import sklearn.feature_extraction.text as features_of  # type: ignore[import-untyped]
        from sklearn.pipeline import make_union  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            "the hazard filter needs scikit-learn: pip install 'ossia[train]'"
        ) from error
    common = {"n_features": features, "alternate_sign": False, "norm": "l2", "lowercase": True}
    words = features_of.HashingVectorizer(
        analyzer="word", ngram_range=(1, 2), token_pattern=r"\w+", **common
    )
    return make_union(
        words, features_of.HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **common)
    )
