"""`train --from-labels`: everything labelled teaches, the random audit sample alone calibrates, and the card says so."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from django.core.management import call_command
from django.utils import timezone

from mlcore import bundle, train
from mlcore.calibrate import Calibration as Ranks
from mlcore.errors import DataError
from mlcore.loop import TrainConfig
from reviews import recalibration, training
from reviews.models import Label
from tests import factories
from tests.mlcore.conftest import SPEC, cases
from tests.reviews.audit import read, turn
from triage import tasks
from triage.models import AuditEvent, Case, Note, Patient, Prediction, Release, Task

TINY = TrainConfig(epochs=1, vocabulary=400, width=16, hidden=8)
RATE = 0.5


def ward(site, protocol, reader, n=160, seed=4, alpha=0.1):
    """n labelled patients with texts of their own, half of them drawn by lot; the records they were made of."""
    turn(site, protocol, 0.0, weeks_ago=9)
    dial = turn(site, protocol, RATE, alpha=alpha, weeks_ago=5)
    found, random = cases(n, seed, words=15), np.random.default_rng(seed)
    rows = []
    for record in found:
        of = factories.case(site, protocol, *(f"{text} {record.patient_id}" for text in record.texts))
        rows.append(factories.prediction(of, 0.6, 0.3, 0.5, lot=float(random.random())))
    Prediction.objects.update(at=timezone.now() - timedelta(weeks=3))
    read(rows, [record.label for record in found], reader, dial)
    return rows, found


@pytest.mark.django_db
def test_the_cases_are_the_labels_with_the_notes_they_were_given_for(site, protocol, reader):
    rows, found = ward(site, protocol, reader)
    late = rows[0].case.patient
    factories.note(late, "Ingresa otra vez.")  # after the label, so it does not belong to it
    got = training.cases(protocol, [site])
    assert len(got.records) == len(found)
    by = {record.patient_id: record for record in got.records}
    for row in rows:
        record = by[f"norte/{row.case.patient.pseudonym}"]
        assert record.texts == [Note.objects.get(pk=pk).text for pk in row.note_ids]
        assert record.label == Label.objects.get(case=row.case).label
        assert record.calibrates == (1.0 if row.lot < RATE else 0.0)
        assert record.group == record.patient_id
    drawn = sum(row.lot < RATE for row in rows)
    assert got.origin == {
        "from": "labels",
        "sites": ["norte"],
        "provenance": {"single": len(rows)},
        "policies": {"norte": [2, 2]},
        "audit_sample": drawn,
        "audit_share": drawn / len(rows),
        "rates": {"0.5": drawn},
    }


@pytest.mark.django_db
def test_an_audit_sample_too_small_is_refused_with_what_is_missing(site, protocol, reader):
    rows, _ = ward(site, protocol, reader, n=60, alpha=0.02)
    drawn = Counter(Label.objects.get(case=row.case).label for row in rows if row.lot < RATE)
    with pytest.raises(DataError, match=rf"too small .* {49 - drawn[0]} more of .*, {49 - drawn[1]} more of"):
        training.cases(protocol, [site])


@pytest.mark.django_db
def test_only_the_audit_sample_calibrates_and_the_card_says_where_labels_are_from(
    site, protocol, reader, tmp_path, monkeypatch
):
    rows, _ = ward(site, protocol, reader)
    from triage.management.commands import train as command

    tiny = lambda *args: train.train(*args[:4], replace(TINY, seed=3), *args[5:])  # noqa: E731
    monkeypatch.setattr(command, "train", tiny)
    folder = tmp_path / "bundle"
    where = ["--protocol", protocol.slug, "--encoder", "compact", "--output", str(folder)]
    call_command("train", *where, "--from-labels", "--site", "norte")
    card = bundle.read_card(folder)
    assert card["data"]["origin"]["audit_sample"] == sum(row.lot < RATE for row in rows)
    shares = card["data"]["shares"]
    drawn = Counter(Label.objects.get(case=row.case).label for row in rows if row.lot < RATE)
    for c, label in enumerate(protocol.labels):
        every = Label.objects.filter(label=c).count()
        wanted = every * min(max(130 / every, 0.15), 0.4)
        assert abs(shares["calibration"][label] - min(wanted, drawn[c])) <= 1
    arrays = bundle.load_arrays(folder)
    learned = set(arrays["learned.notes"].tolist())
    calibrated = set(arrays["calibrated.notes"].tolist())
    held = 0
    for row in rows:
        texts = Note.objects.filter(pk__in=row.note_ids).values_list("text", flat=True)
        digests = {int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) for text in texts}
        seen = {digest in learned for digest in digests}
        assert seen == {True} or (seen == {False} and row.lot < RATE)
        assert {digest in calibrated for digest in digests} == {not known for known in seen}
        held += seen == {False}
    assert held == sum(shares["calibration"].values()) > 0
    taught = sum(shares["fit"].values()) + sum(shares["validation"].values())
    assert taught + held == len(rows)
    prior = np.array([drawn[c] for c in range(2)]) / sum(drawn.values())
    truth, weight = arrays["held_out.truth"], arrays["held_out.weight"]
    assert [weight[truth == c].sum() / weight.sum() for c in range(2)] == pytest.approx(prior)
    assert arrays["held_out.distances"].shape == (len(truth), 2)
    event = AuditEvent.objects.get(verb="labels.train")
    assert (event.site, event.details["cases"]) == (site, len(rows))


@pytest.mark.django_db
def test_a_release_trained_so_is_not_calibrated_on_what_it_learned(
    site, protocol, reader, admin, settings, tmp_path, monkeypatch
):
    """The task: trained, installed beside the active one; then promoted, only what it never saw may calibrate it."""
    settings.RELEASES_DIR = tmp_path / "releases"
    monkeypatch.setattr(training, "CONFIG", TINY)
    rows, _ = ward(site, protocol, reader)
    task = training.ask(site, protocol, by=admin, reason="Segundo año.")
    assert training.ask(site, protocol, by=admin, reason="Segundo año.") == task
    assert tasks.drain() == 1, Task.objects.get().failure
    release = Release.objects.get(pk=Task.objects.get().result["release"])
    assert not release.active and release.card["data"]["origin"]["sites"] == ["norte"]
    assert not list((tmp_path / "releases" / "staging").iterdir())
    Release.objects.filter(active=True).update(active=False)
    Release.objects.filter(pk=release.pk).update(active=True)
    Prediction.objects.update(release=release, calibration=release.calibration_set.get())
    found = recalibration.labelled(site, protocol)
    held = sum(release.card["data"]["shares"]["calibration"].values())
    assert len(found.cases) == held and found.learned == sum(row.lot < RATE for row in rows) - held
    assert recalibration.labelled(site, protocol, judging=True).cases == []
    theirs = recalibration._held_out(release)
    assert theirs[0].shape == theirs[1].shape == (held, 2)
    ranks = Ranks.from_bytes(bytes(release.calibration_set.get().arrays))
    again = Ranks.fit(protocol.labels, *theirs, ranks.temperature)
    assert [s.tolist() for s in again.distances] == [s.tolist() for s in ranks.distances]


@pytest.mark.django_db
def test_a_label_over_earlier_notes_teaches_and_does_not_calibrate(site, protocol, reader):
    rows, _ = ward(site, protocol, reader)
    drawn = next(row for row in rows if row.lot < RATE)
    Prediction.objects.filter(pk=drawn.pk).update(current=False)
    factories.note(drawn.case.patient, "Ingresa otra vez.")
    factories.prediction(Case.objects.get(pk=drawn.case_id), 0.6, 0.3, 0.5, lot=0.9)
    [record] = [
        r for r in training.cases(protocol, [site]).records if r.group.endswith(drawn.case.patient.pseudonym)
    ]
    assert record.calibrates == 0.0
    assert Patient.objects.filter(pseudonym=drawn.case.patient.pseudonym).exists()


@pytest.mark.django_db
def test_sites_and_protocols_that_are_not_there(site, protocol):
    with pytest.raises(DataError, match="'este' is not known"):
        training.named(protocol.slug, ["norte", "este"])
    with pytest.raises(DataError, match="'x' is not known"):
        training.named("x", [])


# The split


def shared(may, groups=None, n=400):
    labels = np.arange(n) % 2
    groups = [str(i) for i in range(n)] if groups is None else groups
    return labels, train.share_out(labels, groups, TINY, 2, may)


def test_without_a_mark_the_split_is_as_ever():
    labels, plain = shared(None)
    assert (plain == shared(np.ones(400, bool))[1]).all()
    assert (plain == train.share_out(labels, [str(i) for i in range(400)], TINY, 2)).all()


def test_of_a_large_sample_as_many_as_usual_calibrate_and_the_rest_teaches():
    may = np.arange(400) < 300
    labels, parts = shared(may)
    held = parts == train.PARTS.index("calibration")
    assert not held[~may].any()
    assert np.abs(np.bincount(labels[held]) - 80).max() <= 1  # 40 % of 200, under 130
    assert set(parts) == {0, 1, 2}


def test_of_a_small_sample_every_case_calibrates():
    may = np.arange(400) < 40
    _, parts = shared(may)
    assert ((parts == train.PARTS.index("calibration")) == may).all()


def test_the_rest_of_a_calibrating_group_is_left_out():
    """Two cases a group, one of which may calibrate: what is held out takes its sibling from the lesson."""
    may = np.arange(400) % 4 < 2
    groups = [str(i // 4) for i in range(400)]
    _, parts = shared(may, groups)
    held, left = parts == train.PARTS.index("calibration"), parts == train.LEFT_OUT
    for group in set(groups):
        rows = np.array([g == group for g in groups])
        assert left[rows].sum() == (2 if held[rows].any() else 0)
        assert held[rows].sum() in (0, 2)
    assert held.any() and not left[may].any()


def test_a_label_nobody_drew_cannot_be_calibrated(tmp_path):
    records = [replace(record, calibrates=float(record.label == 0)) for record in cases(80, 3, words=10)]
    with pytest.raises(DataError, match=r"0 cases labelled .* to calibrate on"):
        train.train(records, SPEC, train.COMPACT, tmp_path / "b", TINY)


def test_folders_of_trainings_that_ended_are_removed(protocol, site, settings, tmp_path, admin):
    settings.RELEASES_DIR = tmp_path
    ended = training.ask(site, protocol, by=admin, reason="r")
    assert tasks.cancel(ended, admin)
    going = training.ask(site, protocol, by=admin, reason="r")
    kept = [f"task-{going.pk}", f"task-{going.pk}.partial"]
    for name in (*kept, f"task-{ended.pk}", f"task-{ended.pk}.partial"):
        (tmp_path / "staging" / name).mkdir(parents=True)
    training.sweep()
    assert sorted(path.name for path in (tmp_path / "staging").iterdir()) == kept
    training._forget(tmp_path / "staging" / kept[0], going.asked_at.timestamp())
    assert sorted(path.name for path in (tmp_path / "staging").iterdir()) == kept  # of this asking
    training._forget(tmp_path / "staging" / kept[0], going.asked_at.timestamp() + 3600)
    assert not list((tmp_path / "staging").iterdir())
