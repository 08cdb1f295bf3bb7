"""The queue is what the rule defers and nobody has settled; a case is never in two readers' hands."""

import threading
from datetime import timedelta

import numpy as np
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.utils import timezone

from mlcore import decision
from reviews import adjudication, queue, selectors, visibility
from reviews.models import Label, Lease, Review
from tests import factories
from tests.reviews.conftest import ambiguous, cleaned
from triage import policy
from triage.access import Workplace
from triage.models import Calibration, Membership, Prediction


@pytest.fixture
def crowd(place):
    """300 cases with ties in every number and in urgency; the rule's boundaries among them."""
    random = np.random.default_rng(11)
    steps = np.array([0.001, 0.01, 0.02, 0.05, 0.3, 1.0])
    first, second = np.sort(random.choice(steps, (300, 2)), axis=1).T[::-1]
    urgency = list(random.choice([0.1, 0.2, 0.2 + 2**-54, 0.7], 300))
    return factories.predictions(
        place.site, place.protocol, first, second, random.choice(steps, 300), urgency
    )


def everything(place, user):
    """The whole queue, page after page."""
    shown, after = [], None
    while True:
        now = policy.current(place.site, place.protocol)
        rows = selectors.queue_page(place, user, now, visibility.covered(place, now, user), after)
        shown += rows[: selectors.PAGE]
        if len(rows) <= selectors.PAGE:
            return shown
        after = shown[-1].case_id


@pytest.mark.django_db
def test_the_queue_is_what_a_plain_reading_of_the_rule_says(place, reader, lead, crowd):
    """The naive twin: every standing prediction through mlcore.decision, labels and own verdicts taken off by hand."""
    settled = {p.case_id for p in crowd[:100:3]}
    undecided = {p.case_id for p in crowd[1:100:3]}
    of_others = {p.case_id for p in crowd[2:100:3]}
    for prediction in crowd[:100]:
        who = lead if prediction.case_id in settled | of_others else reader
        review = verdict(place, prediction, who)
        if prediction.case_id in settled:
            label(prediction, review)
    Prediction.objects.filter(pk__in=[p.pk for p in crowd[100:110]]).update(current=False)
    old_notes = crowd[110]
    label(old_notes, verdict(place, old_notes, lead), notes_sha256="of other notes")
    taken_back = crowd[111]
    label(
        taken_back,
        verdict(place, taken_back, reader, withdrawn_at=timezone.now()),
        withdrawn_at=timezone.now(),
    )

    names = [decision.NAMES[code] for code in codes(crowd, 0.02, 0.01)]
    gone = settled | undecided | {p.case_id for p in crowd[100:110]}
    expected = sorted(
        (
            (-p.urgency, p.case_id, name)
            for p, name in zip(crowd, names, strict=True)
            if p.case_id not in gone and name != "automatic"
        )
    )
    rows = everything(place, reader)
    assert [(row.case_id, row.reason) for row in rows] == [(case, name) for _, case, name in expected]
    assert of_others & {row.case_id for row in rows}
    counts = selectors.counts(place, reader, policy.current(place.site, place.protocol))
    assert counts == {kind: sum(name == kind for *_, name in expected) for kind in decision.NAMES[1:]}


def codes(predictions, alpha, floor):
    numbers = np.array([[p.credibility, p.runner_up, p.typicality] for p in predictions]).T
    return decision.decide(*numbers, alpha, floor)


def verdict(place, prediction, who, **facts):
    import uuid

    return Review.objects.create(
        case_id=prediction.case_id,
        prediction=prediction,
        policy=policy.current(place.site, place.protocol),
        reader=who,
        notes_sha256=prediction.notes_sha256,
        client_key=uuid.uuid4(),
        mode="assisted",
        why="other",
        **facts,
    )


def label(prediction, review, **facts):
    facts = {"notes_sha256": prediction.notes_sha256} | facts
    return Label.objects.create(
        case_id=prediction.case_id, review=review, label=1, provenance="single", propensity=1.0, **facts
    )


def waiting(place, user):
    return {row.case_id for row in everything(place, user)}


def scored_again(former, notes_sha256):
    """A later score of the case, written as scoring does: it knows nothing of labels."""
    case, ranks = former.case, {"counts": [9, 9], "typical_counts": [9, 9], "arrays": b"", "held_out": b""}
    case.predictions.update(current=False)
    row = Prediction.objects.get(pk=former.pk)
    row.pk, row._state.adding, row.current, row.labelled = None, True, True, False
    row.calibration = Calibration.objects.create(release=row.release, active=False, **ranks)
    row.notes_sha256 = notes_sha256
    row.save()


@pytest.mark.django_db
def test_a_label_follows_the_notes_through_withdrawal_and_a_new_score(place, reader, lead):
    """The mark the queue reads is the database's own: a label over the same notes, whoever writes which row."""
    case = ambiguous(place)
    first = case.predictions.get()
    standing = label(first, verdict(place, first, lead))
    assert waiting(place, reader) == set()

    scored_again(first, first.notes_sha256)
    assert waiting(place, reader) == set()
    Label.objects.filter(pk=standing.pk).update(withdrawn_at=timezone.now())
    assert waiting(place, reader) == {case.pk}
    label(first, verdict(place, first, reader, withdrawn_at=timezone.now()))
    assert waiting(place, reader) == set()
    scored_again(first, "of more notes")
    assert waiting(place, reader) == {case.pk}


@pytest.mark.django_db
def test_a_row_names_the_last_dated_note_and_the_holder(place, reader, lead):
    case = ambiguous(place)
    factories.note(case.patient, "Sin fecha.", None, "Archivo")
    Prediction.objects.all().delete()
    factories.prediction(case, 0.6, 0.3, 0.5)
    queue.hold(case.pk, lead)
    [row] = everything(place, reader)
    assert (row.specialty, row.username, row.pseudonym) == ("Urgencias", "jefa", case.patient.pseudonym)


@pytest.mark.django_db
def test_a_lease_is_renewed_by_its_holder_and_taken_only_when_it_lapsed(place, reader, lead):
    case = ambiguous(place)
    assert queue.hold(case.pk, reader)
    Lease.objects.update(until=timezone.now() + timedelta(seconds=5))
    assert queue.hold(case.pk, reader) and not queue.hold(case.pk, lead)
    lease = Lease.objects.get()
    assert timedelta(minutes=14) < lease.until - timezone.now() <= timedelta(minutes=15)
    Lease.objects.update(until=timezone.now() - timedelta(seconds=1))
    assert queue.hold(case.pk, lead) and Lease.objects.get().reader == lead


@pytest.mark.django_db
def test_next_skips_what_others_hold_and_gives_back_what_was_only_looked_at(place, reader, lead):
    urgent, second, third = (ambiguous(place, urgency=u) for u in (0.9, 0.8, 0.7))
    assert queue.take_next(place, lead) == urgent.pk
    assert queue.take_next(place, reader) == second.pk
    queue.hold(third.pk, reader)
    adjudication.save_draft(reader, third, "", "a medias", [])
    assert queue.take_next(place, lead) == urgent.pk
    assert set(Lease.objects.filter(reader=reader).values_list("case", flat=True)) == {second.pk, third.pk}
    queue.give_back_idle(place, reader, keep=urgent.pk)
    assert list(Lease.objects.filter(reader=reader).values_list("case", flat=True)) == [third.pk]


@pytest.mark.django_db
def test_nothing_left_is_none(place, reader):
    ambiguous(place, runner_up=0.001)
    assert queue.take_next(place, reader) is None


def at_once(work, many):
    """Run work(i) in many threads with connections of their own; what each returned, exceptions included."""
    start, answers = threading.Barrier(many), [None] * many

    def run(i):
        try:
            start.wait()
            answers[i] = work(i)
        except Exception as error:
            answers[i] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def colleagues(place, many):
    users = [get_user_model().objects.create(username=f"lector-{i}") for i in range(many)]
    memberships = Membership.objects.bulk_create(
        [Membership(user=u, site=place.site, role="reader") for u in users]
    )
    return [(Workplace(place.site, place.protocol, m), u) for m, u in zip(memberships, users, strict=True)]


@pytest.mark.django_db(transaction=True)
def test_promise_12_readers_who_ask_at_once_never_get_the_same_case(place):
    """Twelve readers pull and decide until nothing is left: every case goes to exactly one of them."""
    n = 120
    factories.predictions(place.site, place.protocol, [0.6] * n, [0.3] * n, [0.5] * n, [0.5] * n)

    def work(i):
        mine = []
        where, user = people[i]
        while (case := queue.take_next(where, user)) is not None:
            mine.append(case)
            found = selectors.find_case(where, case)
            adjudication.decide(where, user, found, cleaned(found, user))
        return mine

    people = colleagues(place, 12)
    taken = at_once(work, 12)
    assert not [error for error in taken if isinstance(error, Exception)]
    cases = [case for mine in taken for case in mine]
    assert len(cases) == len(set(cases)) == n == Label.objects.count()
    assert sum(bool(mine) for mine in taken) > 1


@pytest.mark.django_db(transaction=True)
def test_promise_12_one_free_case_goes_to_one_of_twenty(place):
    ambiguous(place)
    people = colleagues(place, 20)
    for _ in range(5):
        Lease.objects.update(until=timezone.now() - timedelta(seconds=1))
        taken = at_once(lambda i: queue.take_next(*people[i]), 20)
        assert sum(case is not None for case in taken) == 1
        assert not [error for error in taken if isinstance(error, Exception)]


PULL = """
import json, os, sys
import django; django.setup()
from django.db import connections
connections["default"].settings_dict["NAME"] = sys.argv[1]
from django.contrib.auth import get_user_model
from reviews import queue
from triage.access import Workplace
from triage.models import Membership
from triage.models import Protocol
taken = []
for name in sys.argv[2:]:
    user = get_user_model().objects.get(username=name)
    member = Membership.objects.get(user=user)
    taken.append(queue.take_next(Workplace(member.site, Protocol.objects.get(slug="hiv-suspicion-es"), member), user))
print(json.dumps(taken))
"""


@pytest.mark.django_db(transaction=True)
def test_promise_12_across_processes(place):
    """Four processes, five readers each, twenty cases: twenty leases on twenty cases."""
    import json
    import os
    import subprocess
    import sys

    factories.predictions(place.site, place.protocol, [0.6] * 20, [0.3] * 20, [0.5] * 20, [0.5] * 20)
    names = [user.username for _, user in colleagues(place, 20)]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "triage.settings"}
    database = connection.settings_dict["NAME"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PULL, database, *names[i::4]],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    taken = [case for process in running for case in json.loads(process.communicate(timeout=120)[0])]
    assert len(taken) == len(set(taken)) == 20 == Lease.objects.count() and None not in taken
