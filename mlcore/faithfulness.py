"""Whether the words that are named move the model more than others: deletion and insertion curves (Petsiuk et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcore import metrics
from mlcore.attribution import (
    DEFAULT,
    TOP,
    Case,
    Span,
    choose,
    gives_attentions,
    hide,
    occlude,
    outcome,
    read,
)
from mlcore.errors import DataError
from mlcore.scorer import Floats, Scorer

STEPS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 50)
ORDERS = ("occlusion", "attention", "random")
LEAST_WORDS = 10


def faithfulness(
    scorer: Scorer,
    records: Sequence[Sequence[str]],
    n: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, metrics.Interval]:
    """Areas under both curves of n records drawn from these, by three orders of their words, with 95 % intervals.

    records: the notes of each; those under LEAST_WORDS words are passed over. Margins are in logits, towards the label the
    record has. "deletion.occlusion" and so on: mean area; the better order lets it fall faster, so lower. "insertion.…":
    higher. "deletion.occlusion - attention": mean of the differences within a record. Intervals by resampling records.
    Raises DataError when no record has words enough.
    """
    draw = np.random.default_rng(seed)
    found: list[Floats] = []
    for i in draw.permutation(len(records)).tolist():
        case = read(scorer, records[i])
        if len(case.places) >= LEAST_WORDS:
            found.append(areas(scorer, case, draw))
            progress(len(found))
        if len(found) == n:
            break
    if not found:
        raise DataError(f"No record has {LEAST_WORDS} words: give records of patients.")
    return _intervals(np.stack(found), seed)


def _intervals(found: NDArray[np.float64], seed: int) -> dict[str, metrics.Interval]:
    """found: (n, 2, 3) areas of deletion and insertion, by order."""
    columns: dict[str, Floats] = {}
    for c, curve in enumerate(("deletion", "insertion")):
        for o, order in enumerate(ORDERS):
            columns[f"{curve}.{order}"] = found[:, c, o]
        for o, order in enumerate(ORDERS[1:], start=1):
            columns[f"{curve}.{ORDERS[0]} - {order}"] = found[:, c, 0] - found[:, c, o]
    everyone = np.ones(len(found), dtype=bool)

    def mean(values: Floats) -> Callable[[Floats], Any]:
        return lambda weights: weights @ values / weights.sum(-1)

    named = {name: (mean(values), everyone) for name, values in columns.items()}
    return metrics.bootstrap(named, len(found), seed=seed)


def areas(scorer: Scorer, case: Case, draw: np.random.Generator) -> Floats:
    """(2, 3) areas under the deletion and the insertion curve of one record, by ORDERS, over the first TOP words."""
    ordered = orders(scorer, case, draw)
    most = min(TOP, len(case.places))
    steps = sorted({min(step, most) for step in STEPS})
    everything = set(case.places)
    hidden = [set(order[:k]) for order in ordered for k in steps]
    hidden += [everything - set(order[:k]) for order in ordered for k in steps]
    margins = _leaning(scorer, case, hidden).reshape(2, len(ORDERS), len(steps))
    under: Floats = np.asarray(np.trapezoid(margins, steps, axis=-1)) / most
    return under


def orders(scorer: Scorer, case: Case, draw: np.random.Generator) -> list[list[Span]]:
    """TOP words in three orders: those that carry the label most by occlusion first, by attention, and at random."""
    by_attention = list(choose(scorer, case, DEFAULT, TOP, gives_attentions(scorer.encoder)))
    falls = _side(scorer, case) * occlude(scorer, case, [(span,) for span in by_attention], DEFAULT).margin
    by_occlusion = [by_attention[i] for i in np.argsort(-falls, kind="stable")]
    spans = sorted(case.places)
    at_random = [spans[i] for i in draw.permutation(len(spans))[:TOP]]
    return [by_occlusion, by_attention, at_random]


def _leaning(scorer: Scorer, case: Case, hidden: Sequence[set[Span]]) -> Floats:
    """(n,) margin towards the record's label with each set of words taken out."""
    variants = [
        hide(window, _tokens(case, i, words), DEFAULT, scorer.encoder.mask_id)
        for words in hidden
        for i, window in enumerate(case.windows)
    ]
    vectors = scorer.encoder.encode(variants, "fp32")
    return _side(scorer, case) * outcome(scorer, np.split(vectors, len(hidden)), case.label)[0]


def _tokens(case: Case, window: int, words: set[Span]) -> list[int]:
    return [position for span in words for position in case.places[span].get(window, ())]


def _side(scorer: Scorer, case: Case) -> int:
    """1 where the record's label is a target, -1 where it is not."""
    return 1 if scorer.card["labels"][case.label] in scorer.card["targets"] else -1
