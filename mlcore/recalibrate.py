"""A calibration of a site's own, from what is stored of its labelled cases: no encoder is run, no temperature refitted.

Weighted Mondrian ranks (Tibshirani et al. 2019, arXiv 1904.06019; conformal.py). Labels of the queue were chosen by the
policy, so they are not drawn as new cases are, and what was automated is not among them at all. Two choices of cases are
lawful, both by `by_propensity`:

- the random audit sample alone, automatic and deferred cases with a lot below the audit rate, each at that rate;
- audited automatic cases at the audit rate together with deferred ones at 1, provided that every deferred case of the
  same weeks has been read.

The second is calmer; the smallest p-value both can reach is about the same, since a new case may be as heavy as an
audited one. Held-out cases of the release may join at weight 1, or less where they are trusted less (Barber et al. 2023):
they are right as far as the site's cases of a class look like theirs. Prevalence needs no weights: ranks are taken within
a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlcore import conformal
from mlcore.calibrate import MINIMUM_CASES, Calibration, Floats, check_weights
from mlcore.errors import CalibrationError, gettext_noop

MORE = gettext_noop("%(n)d more of %(label)s")
TOO_FEW = gettext_noop(
    "There are too few audited cases for alpha %(alpha)s and floor %(floor)s: %(wanting)s must be read first."
)


class Need(NamedTuple):
    """What a label has to calibrate on and what it lacks.

    n: labelled cases. weight: what they count together, in new cases. effective: their effective size. correct: what the
    correctly classified count together. cases: further audited cases of the label needed, 0 when there are enough; reads:
    the further audit reads among which so many are to be expected.
    """

    n: int
    weight: float
    effective: float
    correct: float
    cases: int
    reads: int


def by_propensity(propensity: ArrayLike, least: float) -> Floats:
    """(n,) weights in (0, 1] of cases from the probability with which each came to be labelled: least / propensity.

    least: the smallest propensity any case of the stream may have had, labelled or not; usually the audit rate. It makes
    the heaviest case there may be weigh 1. Raises CalibrationError for a propensity below it or above 1.
    """
    chance = np.asarray(propensity, dtype=np.float64)
    if not 0 < least <= 1 or not ((chance >= least) & (chance <= 1)).all():
        raise CalibrationError(
            gettext_noop(
                "A propensity lies outside %(least)s to 1: give the smallest with which any case could come to be labelled."
            ),
            least=least,
        )
    weights: Floats = least / chance
    return weights


def missing(
    former: Calibration,
    logits: ArrayLike,
    distances: ArrayLike,
    truth: ArrayLike,
    weights: ArrayLike | None,
    alpha: float,
    floor: float,
    shares: Sequence[float] | None = None,
) -> dict[str, Need]:
    """For each label what it lacks for a guarantee at alpha and a veto at the typicality floor.

    logits, distances: (n, K) as stored. truth: (n,). weights: (n,) in (0, 1]. floor: in [0, 1), 0 asks for no veto.
    shares: (K,) of the labels among further audit reads; when not given, their weighted shares among these cases, those
    without a case taken for the next one to come. A further audited case counts 1, and is correctly classified as often
    as those of its label so far (as all, where none is known). Raises CalibrationError as Calibration.fit does, but for
    classes with too few cases, and DataError for an alpha outside (0, 1).
    """
    y = np.asarray(truth, dtype=np.int64)
    w = check_weights(weights, len(y))
    of = [w[y == c] for c in range(len(former.labels))]
    right = _correct(former, logits, distances, y, weights)
    rates = _rates(of) if shares is None else np.asarray(shares, dtype=np.float64)
    if rates.shape != (len(of),) or not (rates > 0).all():
        raise CalibrationError(
            gettext_noop("Each label needs a share above 0 among further audit reads: give what is expected.")
        )
    return {
        label: _need(of[c], right[c], float(rates[c]), alpha, floor) for c, label in enumerate(former.labels)
    }


def recalibrate(
    former: Calibration,
    logits: ArrayLike,
    distances: ArrayLike,
    truth: ArrayLike,
    weights: ArrayLike | None,
    alpha: float,
    floor: float,
) -> Calibration:
    """The calibration that labelled cases make from what is stored of them; labels and temperature stay the former's.

    Arguments as for missing. `apply` of what is returned scores any stored case anew. Raises CalibrationError, and says
    how many audited cases are wanting, when a label has too few for a guarantee at alpha or a veto at the floor.
    """
    short = {
        label: need
        for label, need in missing(former, logits, distances, truth, weights, alpha, floor).items()
        if need.cases
    }
    if short:
        wanting = [(MORE, {"n": need.cases, "label": label}) for label, need in short.items()]
        raise CalibrationError(TOO_FEW, alpha=alpha, floor=floor, wanting=wanting)
    return Calibration.fit(former.labels, logits, distances, truth, former.temperature, weights)


def _correct(
    former: Calibration,
    logits: ArrayLike,
    distances: ArrayLike,
    y: NDArray[np.int64],
    weights: ArrayLike | None,
) -> list[float]:
    """For each class what its correctly classified cases count together; 0 while some class cannot be ranked."""
    if (np.bincount(y, minlength=len(former.labels)) < MINIMUM_CASES).any():
        return [0.0] * len(former.labels)
    fitted = Calibration.fit(
        former.labels, logits, distances, y, former.temperature, check_weights(weights, len(y))
    )
    return [float(w.sum()) for w in fitted.distance_weights or []]


def _rates(of: Sequence[Floats]) -> Floats:
    """(K,) weighted shares of the classes; one without a case has the share of the next one to come."""
    totals = np.array([w.sum() if len(w) else 1.0 for w in of])
    rates: Floats = totals / totals.sum()
    return rates


def _need(weights: Floats, correct: float, rate: float, alpha: float, floor: float) -> Need:
    total = float(weights.sum())
    typical = conformal.minimum_n(floor, correct) if floor else 0
    accuracy = correct / total if correct else 1.0
    cases = max(
        conformal.minimum_n(alpha, total), ceil(typical / accuracy - 1e-9), MINIMUM_CASES - len(weights)
    )
    reads = ceil(cases / rate) if cases else 0
    return Need(len(weights), total, conformal.effective_size(weights), correct, cases, reads)
