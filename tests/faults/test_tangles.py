"""Many hands on the same few cases, by real processes: no deadlock, and what stands is what the readings come to."""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from django.contrib.auth import get_user_model
from django.db import transaction
from django.http import Http404

from reviews import readings
from reviews.models import Adjudication, Draft, Label, Lease, Review
from tests import factories
from tests.faults.processes import together
from tests.faults.test_races import workplace_of
from tests.reviews.conftest import ambiguous, place  # noqa: F401  (fixtures)
from triage import audit
from triage.models import Calibration, Case, Membership, Prediction, Release

PEOPLE, PROCESSES, STEPS = 12, 3, 14
ANSWERS = ("suspicion", "non_suspicion") * 4 + ("undecided", "undecided", "information")


def wrangle(sent: list) -> dict[str, int]:
    """What one person does to the cases, at random: how often each was taken, and how often it was refused in words."""
    from reviews.adjudication import Conflict

    user, cases, seed = sent
    here, draw, done = workplace_of(user), random.Random(seed), Counter()
    for _ in range(STEPS):
        act = draw.choice([verdict, judge, judge, resume, undo] if here.is_lead else [verdict, verdict, undo])
        try:
            done[act.__name__] += act(here, draw.choice(cases), draw)
        except (Conflict, Http404, Prediction.DoesNotExist):
            done["refused"] += 1
        Lease.objects.filter(reader=user).delete()
    return done


def verdict(here, case: int, draw: random.Random) -> int:
    from reviews import adjudication, queue
    from reviews.forms import VerdictForm

    user, of = here.membership.user, Case.objects.get(pk=case)
    standing = Prediction.objects.get(case=case, current=True)
    facts = {"client_key": str(uuid.uuid4()), "reader": user.pk, "prediction": standing.pk, "policy": 1}
    said = {"verdict": draw.choice(ANSWERS), "why": "other", "evidence": "[]"}
    form = VerdictForm(facts | said, here.protocol)
    assert form.is_valid(), form.errors
    while not queue.hold(case, user):
        time.sleep(0.02)
    with transaction.atomic():  # a request of its own, as the one that held the case was
        adjudication.decide(here, user, of, form.cleaned_data)
    return 1


def undo(here, case: int, draw: random.Random) -> int:
    from reviews import adjudication

    mine = Review.objects.filter(reader=here.membership.user, withdrawn_at=None).order_by("?").first()
    if mine is None:
        return 0
    adjudication.withdraw(here, here.membership.user, mine.pk)
    return 1


def judge(here, case: int, draw: random.Random) -> int:
    from reviews import adjudication
    from reviews.forms import AdjudicationForm

    opened = Adjudication.objects.filter(closed_at=None).order_by("?").first()
    if opened is None:
        return 0
    user = here.membership.user
    facts = {"client_key": str(uuid.uuid4()), "reader": user.pk, "prediction": opened.prediction_id}
    said = {"verdict": draw.choice(ANSWERS[:2]), "cause": "criteria", "evidence": "[]"}
    form = AdjudicationForm(facts | said, here.protocol)
    assert form.is_valid(), form.errors
    adjudication.adjudicate(here, user, opened.pk, form.cleaned_data)
    return 1


def resume(here, case: int, draw: random.Random) -> int:
    from reviews import adjudication

    asked = Review.objects.filter(withdrawn_at=None, why="information").order_by("?").first()
    if asked is None:
        return 0
    adjudication.resume(here, here.membership.user, asked.pk)
    return 1


def staff(site) -> list[int]:
    """Readers and, one in four, leads."""
    users = [get_user_model().objects.create(username=f"persona-{i}") for i in range(PEOPLE)]
    roles = ["reader" if i % 4 else "lead" for i in range(PEOPLE)]
    members = [Membership(user=user, site=site, role=role) for user, role in zip(users, roles, strict=True)]
    Membership.objects.bulk_create(members)
    return [user.pk for user in users]


def check_what_stands(case: Case) -> None:
    """Label, disagreement and mark of a case are what its readings come to."""
    [standing] = Prediction.objects.filter(case=case, current=True)
    known = readings.known(standing)
    found = readings.outcome(known.standing, known.drawn)
    labels = Label.objects.filter(case=case, notes_sha256=standing.notes_sha256, withdrawn_at=None)
    expected = [] if found.label is None else [(found.label, found.provenance)]
    assert list(labels.values_list("label", "provenance")) == expected
    assert all(label.review in known.standing for label in labels)
    assert standing.labelled == bool(expected)
    assert (known.disputed is not None) == found.disputed
    people = Counter(review.reader_id for review in known.standing)
    assert not people or max(people.values()) == 1


@pytest.mark.django_db(transaction=True)
def test_verdicts_undos_and_judgements_at_once_deadlock_never_and_leave_what_they_come_to(place):  # noqa: F811
    place.protocol.double_share = 1.0
    place.protocol.save()
    cases = [ambiguous(place) for _ in range(6)]
    people, keys = staff(place.site), [case.pk for case in cases]
    shares = [[(user, keys, 100 + user) for user in people[p::PROCESSES]] for p in range(PROCESSES)]
    done = together(wrangle, shares)
    assert [one for one in done if isinstance(one, str)] == []
    total = sum(map(Counter, done), Counter())
    assert min(total[name] for name in ("verdict", "undo", "judge")) > 0, total
    for case in cases:
        check_what_stands(case)
    given, taken = total["verdict"] + total["judge"], total["undo"] + total["resume"]
    assert Review.objects.filter(withdrawn_at=None).count() == given - taken
    standing = set(Review.objects.filter(withdrawn_at=None).values_list("case", "reader"))
    assert standing.isdisjoint(Draft.objects.values_list("case", "reader"))
    assert audit.broken() == []


# ---------- Two releases


def rescore(sent: list) -> int:
    """Score what waits, again and again; how many scores were written. The first of them also changes the release."""
    from triage import claims, registry, scoring

    releases, turns, seed = sent
    draw, written = random.Random(seed), 0
    scoring.ranks = lambda calibration: None
    for _ in range(turns):
        if seed == 0:
            with transaction.atomic():
                registry._activate(Release.objects.get(pk=draw.choice(releases)), None)
        written += scored(claims, scoring)
    return written


def scored(claims, scoring) -> int:
    """One claim, scored as a worker does, by a scorer that makes its numbers up."""
    with claims.held() as number:
        cases = claims.take(scoring.waiting(), number, 8)
        if not cases:
            return 0
        release = scoring._release(cases[0].protocol_id)
        calibration = Calibration.objects.get(release=release)
        return scoring._write(scoring._reads(cases), release, calibration, MADE_UP, number)


def _score(vectors, ranks):
    n, k = len(vectors), 2
    rows = SimpleNamespace(
        logits=np.zeros((n, k)), probabilities=np.full((n, k), 0.5), p_values=np.tile([0.6, 0.3], (n, 1)),
        distances=np.ones((n, k)), label=np.zeros(n, int), credibility=np.full(n, 0.6),
        runner_up=np.full(n, 0.3), typicality=np.full(n, 0.5),
    )  # fmt: skip
    return [rows]


MADE_UP = SimpleNamespace(score=_score)


def as_scored(case: Case) -> Case:
    """With the digest of its notes that a worker gives them, so that scores of either release are of the same notes."""
    from triage.scoring import Read

    case.predictions.update(notes_sha256=Read(case, list(case.notes())).notes_sha256)
    return case


def either(sent: list):
    """One process rescoring, the others deciding: by what is sent."""
    kind, *rest = sent
    return rescore(rest) if kind == "rescore" else wrangle(rest)


@pytest.mark.django_db(transaction=True)
def test_two_releases_that_take_turns_under_verdicts_leave_one_score_standing_and_every_label(place):  # noqa: F811
    place.protocol.double_share = 0.5
    place.protocol.save()
    cases = [as_scored(ambiguous(place)) for _ in range(4)]
    first = factories.release(place.protocol)
    other = Release.objects.create(protocol=place.protocol, name="otra", sha256="b" * 64, card={})
    Calibration.objects.create(
        release=other, counts=[200] * 2, typical_counts=[150] * 2, arrays=b"", held_out=b""
    )
    people, keys = staff(place.site), [case.pk for case in cases]
    shares = [[("decide", user, keys, user) for user in people[p::2]] for p in range(2)]
    shares.append([("rescore", [first.pk, other.pk], 12, seed) for seed in range(2)])
    done = together(either, shares)
    assert [one for one in done if isinstance(one, str)] == []
    assert min(one for one in done if isinstance(one, int)) >= 0 and sum(
        one for one in done if isinstance(one, int)
    )
    drain_what_waits()
    active = Release.objects.get(protocol=place.protocol, active=True)
    for case in cases:
        check_what_stands(case)
        assert Prediction.objects.get(case=case, current=True).release == active
    assert Review.objects.exists() and audit.broken() == []


def drain_what_waits() -> None:
    from triage import claims, scoring

    ranks, scoring.ranks = scoring.ranks, lambda calibration: None
    try:
        scoring.reconcile()
        while scored(claims, scoring):
            pass
    finally:
        scoring.ranks = ranks
