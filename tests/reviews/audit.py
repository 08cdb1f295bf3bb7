"""A ward whose cases carry real numbers: logits and distances that a calibration ranks, lots, and readers' labels."""

from __future__ import annotations

import uuid
from datetime import timedelta

import numpy as np
from django.utils import timezone

from mlcore.calibrate import Calibration as Ranks
from reviews.models import Label, Review
from tests import factories
from triage.models import Calibration, Policy, Prediction

TEMPERATURE = 1.3
ALPHA, FLOOR = 0.05, 0.05


def draw(random, n, centre=1.4):
    """Logits (n, 2), distances (n, 2) and truth of invented cases."""
    truth = (random.random(n) < 0.4).astype(int)
    margin = centre * (2 * truth - 1) + random.normal(size=n)
    far = np.abs(random.normal(size=(n, 2))) + np.abs(margin[:, None] - centre * np.array([-1, 1]))
    return np.column_stack([-margin, margin]), far, truth


def calibrated(protocol, seed=1):
    """The active release with a calibration of its own, from 400 cases of elsewhere."""
    release = factories.release(protocol)
    random = np.random.default_rng(seed)
    ranks = Ranks.fit(protocol.labels, *draw(random, 400, 2.0), TEMPERATURE)
    Calibration.objects.filter(release=release, site=None).update(
        arrays=ranks.to_bytes(), counts=list(ranks.counts.values())
    )
    return release, Calibration.objects.get(release=release, site=None), ranks


def turn(site, protocol, rate, alpha=ALPHA, floor=FLOOR, weeks_ago=0, automate=True):
    """The next version of the policy; it may have begun in the past."""
    version = Policy.objects.filter(site=site, protocol=protocol).count() + 1
    return Policy.objects.create(
        site=site,
        protocol=protocol,
        version=version,
        alpha=alpha,
        typicality_floor=floor,
        audit_rate=rate,
        automate=automate,
        reason="Muestra.",
        starts_at=timezone.now() - timedelta(weeks=weeks_ago),
    )


def arrive(site, protocol, n, seed=2, at=None):
    """n cases that stand, scored by the release's calibration, with lots; (predictions, truth)."""
    *_, ranks = calibrated(protocol)
    random = np.random.default_rng(seed)
    logits, far, truth = draw(random, n)
    scores = ranks.apply(logits, far)
    rows = factories.predictions(site, protocol, *np.full((3, n), 0.5).tolist())
    for i, row in enumerate(rows):
        row.logits, row.distances = logits[i].tolist(), far[i].tolist()
        row.probabilities, row.p_values = scores.probabilities[i].tolist(), scores.p_values[i].tolist()
        row.label, row.lot = int(scores.label[i]), float(random.random())
        row.credibility, row.runner_up = float(scores.credibility[i]), float(scores.runner_up[i])
        row.typicality, row.at = float(scores.typicality[i]), at or timezone.now()
    written = [
        "logits",
        "distances",
        "probabilities",
        "p_values",
        "label",
        "lot",
        "credibility",
        "runner_up",
        "typicality",
        "at",
    ]
    Prediction.objects.bulk_update(rows, written)
    return rows, truth


def read(rows, truth, reader, dial, at=None):
    """A reader's label for each of these predictions, under a policy."""
    at = at or timezone.now()
    same = [
        {"case_id": row.case_id, "notes_sha256": row.notes_sha256, "label": int(y), "at": at}
        for row, y in zip(rows, truth, strict=True)
    ]
    facts = {"policy": dial, "reader": reader, "mode": "blind"}
    reviews = Review.objects.bulk_create(
        Review(prediction=row, client_key=uuid.uuid4(), **facts, **one)
        for row, one in zip(rows, same, strict=True)
    )
    Label.objects.bulk_create(
        Label(review=review, provenance="single", propensity=1.0, **one)
        for review, one in zip(reviews, same, strict=True)
    )


def sampled(site, protocol, reader, n=240, rate=0.5, weeks_ago=2):
    """A ward whose whole blind sample has been read, two weeks ago; (its predictions, truth, the policy)."""
    dial = turn(site, protocol, rate)
    long_ago = timezone.now() - timedelta(weeks=weeks_ago)
    rows, truth = arrive(site, protocol, n, at=long_ago)
    drawn = np.array([row.lot < rate for row in rows])
    read([row for row, d in zip(rows, drawn, strict=True) if d], truth[drawn], reader, dial)
    return rows, truth, dial
