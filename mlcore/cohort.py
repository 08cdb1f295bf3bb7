"""The words a whole group of cases goes by, beside those of calibration (paper, appendix C.1, stage 4; Figures 2 and C1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

LEAST_CASES = 5
SHOWN = 20
TOWARD, AWAY, MIXED, HATCH = "#c2570c", "#2563a8", "#59626b", "#8a9199"
ONE_WAY = 0.2
# Articles, prepositions, conjunctions, pronouns and auxiliaries; words that negate or compare are not among them.
FUNCTION = """a al ante aquel aquella aquellos bajo cada como con cual cuando cuya cuyo de del desde donde durante e el ella
    ellas ellos en entre era eran es esa ese eso esos esta estas este esto estos está están fue fueron ha han hacia
    hasta haber había habían hay he la las le les lo los mas me mi mientras muy nos o os otra otras otro otros para
    pero por porque pues que quien se sea según ser si sido sobre son su sus también tan te tiene tienen tras tu u un
    una unas uno unos y ya
    an and are as at be been being but by can could did do does for from had has have her him his i if in into is it
    its may might must my of on or our she should so such than that the their them then there these they this those
    to was we were what when where which while who will with would you your"""
FUNCTION_WORDS = frozenset(FUNCTION.split())


@dataclass(frozen=True)
class Term:
    """One word in one case, its places taken together.

    importance: attention times window weight, summed (stage 2). margin, distance: sums of what hiding each place does.
    """

    importance: float
    margin: float
    distance: float


@dataclass(frozen=True)
class Row:
    """One word in a group of cases.

    score: sqrt-damped importance, averaged and weighted for consistency, see `aggregate`. baseline: the same in
    calibration, 0 where it has none. direction: -1 (against the targets in every case) to 1, weighted by importance.
    cases: in how many it counts. margin, distance: means over those cases.
    """

    word: str
    score: float
    baseline: float
    direction: float
    cases: int
    margin: float
    distance: float


def placeholder(text: str, start: int, end: int) -> bool:
    """Whether the word [start, end) is what de-identification left in place of another: «[EDAD]»."""
    return text[max(start - 1, 0) : start] == "[" and text[end : end + 1] == "]"


def terms(words: Iterable[tuple[str, float, float, float]]) -> dict[str, Term]:
    """One case's words (text, importance, margin, distance), in lower case; words without meaning of their own left out."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for text, *figures in words:
        word = text.lower()
        if meaningful(word):
            found[word] = [a + b for a, b in zip(found[word], figures, strict=True)]
    return {word: Term(*figures) for word, figures in found.items()}


def meaningful(word: str) -> bool:
    """Whether a word in lower case can stand in a figure: it has two letters or more and is no function word."""
    return sum(c.isalpha() for c in word) > 1 and word not in FUNCTION_WORDS


def aggregate(cases: Sequence[Mapping[str, Term]], weights: Sequence[float] | None = None) -> list[Row]:
    """The words of N cases, the weightiest first. weights: (N,), alike without them; only their ratios count.

    score(w) = log2(1 + df(w)) · Σ_i v_i sqrt(I_i(w)), with v_i the case's share of the weights, I_i(w) the importance of
    w in case i (0 where it is not among the explained words) and df(w) the share of the cases where it is. The root
    keeps one document that looks at nothing else from outweighing the rest. The first factor is the paper's modified IDF:
    where the usual one favours rare words, it «upweights consistently important terms», from nearly 0 for a word of
    one case to 1 for a word of all. It depends on shares alone, so that a group of 17 compares with a calibration of 600.
    """
    shares = np.ones(len(cases)) if weights is None else np.asarray(weights, dtype=np.float64)
    held: dict[str, list[tuple[Term, float]]] = defaultdict(list)
    for case, share in zip(cases, (shares / (shares.sum() or 1.0)).tolist(), strict=True):
        for word, term in case.items():
            held[word].append((term, share))
    return sorted((_row(word, found) for word, found in held.items()), key=lambda row: (-row.score, row.word))


def _row(word: str, found: Sequence[tuple[Term, float]]) -> Row:
    importance, margin, distance, share = np.array(
        [(term.importance, term.margin, term.distance, share) for term, share in found]
    ).T
    weight = share * np.sqrt(importance)
    direction = float(weight @ np.sign(margin) / weight.sum()) if weight.any() else 0.0
    score = float(np.log2(1 + share.sum()) * weight.sum())
    means = (float(share @ values / share.sum()) for values in (margin, distance))
    return Row(word, score, 0.0, direction, len(found), *means)


def against(rows: Sequence[Row], baseline: Mapping[str, float]) -> list[Row]:
    """The rows with the score each word has in calibration."""
    return [replace(row, baseline=float(baseline.get(row.word, 0.0))) for row in rows]


def kept(rows: Iterable[Row], least: int = LEAST_CASES) -> list[Row]:
    """Rows that may leave the house: words that stand in `least` cases or more name nobody."""
    return [row for row in rows if row.cases >= least]


def figure(
    rows: Sequence[Row], names: Mapping[str, str], has_baseline: bool, shown: int = SHOWN
) -> dict[str, Any]:
    """Solid bars of the group over the hatched bars of calibration, as Plotly reads it.

    names: what to call "group", "baseline" and the axis "score".
    """
    top = list(rows[:shown])[::-1]
    words = [_plain(row.word) for row in top]
    common = {"type": "bar", "orientation": "h", "y": words}
    hatched = {
        "color": "#eceded",
        "line": {"color": HATCH, "width": 1},
        "pattern": {"shape": "/", "fgcolor": "#30363c"},
    }
    solid = {"color": [_colour(row.direction) for row in top]}
    bars = [
        {**common, "x": [row.score for row in top], "width": 0.44, "marker": solid, "name": names["group"]}
    ]
    if has_baseline:
        usual = [row.baseline for row in top]
        bars.insert(0, {**common, "x": usual, "width": 0.84, "marker": hatched, "name": names["baseline"]})
    axis = {"title": {"text": names["score"]}, "rangemode": "tozero"}
    return {
        "data": bars,
        "layout": {"barmode": "overlay", "xaxis": axis, "height": 80 + 24 * max(len(top), 4)},
    }


def _plain(word: str) -> str:
    """Plotly reads a little HTML in its labels; a word of a note is none."""
    return word.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _colour(direction: float) -> str:
    if abs(direction) < ONE_WAY:
        return MIXED
    return TOWARD if direction > 0 else AWAY
