"""A release beside another: scored in shadow, promoted, rolled back; no score is lost and one stands for each case."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest
from django.db import OperationalError, connection
from django.utils import translation
from safetensors.numpy import load_file, save_file

from mlcore import bundle
from mlcore.errors import BundleError, DataError, ModelError
from mlcore.scorer import Scorer
from tests import factories
from tests.triage.test_scoring import deliver
from triage import policy, registry, scoring, shadow, tasks
from triage.models import AuditEvent, Calibration, Case, Note, Prediction, Task, WindowVector

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="session")
def challenger_folder(bundle_folder, tmp_path_factory):
    """The small release with a head that says otherwise."""
    folder = tmp_path_factory.mktemp("challenger") / "bundle"
    shutil.copytree(bundle_folder, folder)
    head = load_file(folder / "head.safetensors")
    save_file(
        {name: np.ascontiguousarray(-array) for name, array in head.items()}, folder / "head.safetensors"
    )
    card = bundle.read_card(folder)
    (folder / "SHA256SUMS").unlink()
    (folder / "card.json").unlink()
    bundle.seal(folder, card | {"trained_at": "2027-01-02T03:04:05+00:00"})
    return folder


@pytest.fixture
def challenger(release, challenger_folder):
    return registry.install(challenger_folder, shadow=True)[0]


def shadowed(challenger, admin=None):
    task = shadow.ask(challenger, by=admin, reason="to compare")
    assert tasks.drain() == 1, Task.objects.get().log
    task.refresh_from_db()
    return task


def promoted(release, instead_of, admin=None):
    return registry.activate(release, actor=admin, reason="better", instead_of=instead_of.pk)


def one_stands_for_each(release, cases):
    standing = Prediction.objects.filter(current=True)
    assert standing.count() == standing.values("case").distinct().count() == cases
    assert set(standing.values_list("release", flat=True)) == {release.pk}
    assert set(Case.objects.values_list("status", flat=True)) == {"scored"}


def test_install_in_shadow_changes_nothing(site, protocol, release, challenger_folder):
    deliver(site, protocol)
    scoring.drain()
    before = list(Prediction.objects.values_list("pk", "current"))
    challenger, new = registry.install(challenger_folder, shadow=True)
    assert new and not challenger.active
    release.refresh_from_db()
    assert release.active
    assert list(Prediction.objects.values_list("pk", "current")) == before
    assert scoring.waiting().count() == 0


def test_a_protocols_first_release_is_active_though_asked_for_in_shadow(
    bundle_folder, settings, tmp_path, db
):
    settings.RELEASES_DIR = tmp_path / "releases"
    assert registry.install(bundle_folder, shadow=True)[0].active


def test_shadow_scores_are_the_bundles_and_stand_nowhere(
    site, other_site, protocol, release, challenger, challenger_folder, admin
):
    deliver(site, protocol)
    deliver(other_site, protocol, n=3, seed=9)
    scoring.drain()
    status = list(Case.objects.order_by("pk").values_list("pk", "status", "pending_since"))
    task = shadowed(challenger, admin)
    assert task.result == {"release": challenger.pk, "cases": 9, "scored": 9, "skipped": 0}
    assert list(Case.objects.order_by("pk").values_list("pk", "status", "pending_since")) == status
    one_stands_for_each(release, 9)
    scorer = Scorer.load(challenger_folder)
    for row in Prediction.objects.filter(release=challenger).select_related("case__patient"):
        expected = scorer.score_records([[note.text for note in row.case.notes()]])[0]
        np.testing.assert_allclose(row.p_values, expected.p_values[0], rtol=0, atol=0)
    assert AuditEvent.objects.get(verb="release.shadow").details == {
        "cases": 9,
        "scored": 9,
        "skipped": 0,
    }


def test_a_stopped_shadow_goes_on_where_it_was(site, protocol, release, challenger, monkeypatch):
    deliver(site, protocol, n=10)
    monkeypatch.setattr(shadow, "BATCH", 4)
    scored = scoring.score_aside

    def once(cases, of):
        if Prediction.objects.filter(release=challenger).exists():
            tasks.cancel(task, None)
        return scored(cases, of)

    monkeypatch.setattr(scoring, "score_aside", once)
    monkeypatch.setattr(tasks, "WRITE_EVERY", 0.0)
    task = shadow.ask(challenger, by=None, reason="r")
    tasks.drain()
    assert tasks.state(Task.objects.get()) == "cancelled"
    first = set(Prediction.objects.values_list("pk", flat=True))
    assert len(first) == 8
    monkeypatch.setattr(scoring, "score_aside", scored)
    tasks.retry(task, None)
    assert tasks.drain() == 1
    task.refresh_from_db()
    assert task.result["scored"] == 2
    assert first < set(Prediction.objects.values_list("pk", flat=True))


def test_a_case_that_cannot_be_read_is_skipped_and_said_and_one_in_quarantine_left_out(
    site, protocol, release, challenger, monkeypatch, caplog
):
    deliver(site, protocol, n=10)
    scoring.drain()
    cases = list(Case.objects.order_by("pk"))
    Case.objects.filter(pk=cases[2].pk).update(status="quarantined")
    bad, scored = {cases[1].pk, cases[7].pk}, scoring.score_aside

    def choosy(batch, of):
        if bad & {case.pk for case in batch}:
            raise ValueError("Juana Pérez")
        return scored(batch, of)

    monkeypatch.setattr(scoring, "score_aside", choosy)
    monkeypatch.setattr(shadow, "BATCH", 4)
    task = shadowed(challenger)
    assert task.result == {"release": challenger.pk, "cases": 9, "scored": 7, "skipped": 2}
    assert set(Prediction.objects.filter(release=challenger).values_list("case", flat=True)) == {
        case.pk for case in cases if case.pk not in bad | {cases[2].pk}
    }
    with translation.override("en"):
        told = [tasks.told(line)[1] for line in task.log]
    assert [line for line in told if "skipped" in line] == [
        shadow.SKIPPED % {"n": 1, "cases": pk} for pk in sorted(bad)
    ]
    assert "Juana" not in str(task.log) + caplog.text and f"case {min(bad)} could not" in caplog.text


def test_a_release_or_a_database_that_fails_skips_nobody(site, protocol, release, challenger, monkeypatch):
    deliver(site, protocol)
    tried = []

    def broken(batch, of):
        tried.append(len(batch))
        raise [ModelError("No weights."), OperationalError("gone")][len(tried) - 1]

    monkeypatch.setattr(scoring, "score_aside", broken)
    for error in (ModelError, OperationalError):
        with pytest.raises(error):
            shadow._score(list(Case.objects.all()), challenger)
    assert tried == [6, 6]


def test_shadow_is_in_line_once(release, challenger):
    assert shadow.ask(challenger, by=None, reason="a") == shadow.ask(challenger, by=None, reason="b")


def test_the_active_release_is_not_scored_in_shadow(site, protocol, release):
    shadow.ask(release, by=None, reason="r")
    tasks.drain()
    task = Task.objects.get()
    assert tasks.state(task) == "failed" and "active by now" in task.failure


def test_promote_and_roll_back_run_no_model_and_lose_no_score(
    site, other_site, protocol, release, challenger, admin, monkeypatch
):
    policy.current(site, protocol)
    deliver(site, protocol)
    deliver(other_site, protocol, n=3, seed=9)
    scoring.drain()
    shadowed(challenger)
    rows = list(Prediction.objects.order_by("pk").values_list("pk", "p_values", "lot"))
    monkeypatch.setattr(registry, "scorer", None)
    assert promoted(challenger, release, admin) == {"scored": 9, "pending": 0}
    one_stands_for_each(challenger, 9)
    assert promoted(release, challenger, admin) == {"scored": 9, "pending": 0}
    one_stands_for_each(release, 9)
    assert list(Prediction.objects.order_by("pk").values_list("pk", "p_values", "lot")) == rows
    event = AuditEvent.objects.filter(verb="release.activate", site=site).earliest("pk")
    assert event.actor == admin
    assert event.details == {
        "sha256": challenger.sha256,
        "instead_of": release.sha256,
        "reason": "better",
        "scored": 9,
        "pending": 0,
    }


def test_only_cases_the_challenger_never_scored_wait(site, protocol, release, challenger):
    deliver(site, protocol)
    scoring.drain()
    shadowed(challenger)
    deliver(site, protocol, n=4, seed=9)
    scoring.drain()
    assert promoted(challenger, release) == {"scored": 6, "pending": 4}
    assert scoring.drain() == 4
    one_stands_for_each(challenger, 10)


def test_a_score_over_older_notes_does_not_stand(site, protocol, release, challenger):
    deliver(site, protocol)
    scoring.drain()
    shadowed(challenger)
    case = Case.objects.order_by("pk").first()
    factories.note(case.patient, "Nota nueva.")
    assert promoted(challenger, release) == {"scored": 5, "pending": 1}
    assert scoring.drain() == 1
    one_stands_for_each(challenger, 6)
    assert Prediction.objects.filter(case=case, release=challenger).count() == 2


def test_a_note_case_and_the_site_own_calibration(site, protocol, release, challenger):
    """The digest of one note of a patient who has several; and only scores by the calibration in force stand."""
    deliver(site, protocol, n=2)
    patient = Case.objects.first().patient
    Case.objects.create(
        site=site, protocol=protocol, patient=patient, note=Note.objects.filter(patient=patient)[0]
    )
    scoring.drain()
    shadowed(challenger)
    general = challenger.calibration_set.get()
    own = Calibration.objects.create(
        release=challenger,
        site=site,
        counts=general.counts,
        typical_counts=general.typical_counts,
        arrays=bytes(general.arrays),
        held_out=bytes(general.held_out),
    )
    assert promoted(challenger, release) == {"scored": 0, "pending": 3}
    promoted(release, challenger)
    vectors = WindowVector.objects.filter(release=challenger).count()
    Task.objects.all().delete()
    assert shadowed(challenger).result["scored"] == 3
    assert WindowVector.objects.filter(release=challenger).count() == vectors
    assert promoted(challenger, release) == {"scored": 3, "pending": 0}
    assert set(Prediction.objects.filter(current=True).values_list("calibration", flat=True)) == {own.pk}


def test_stand_at_one_site_leaves_the_other(site, other_site, protocol, release):
    deliver(site, protocol, n=3)
    deliver(other_site, protocol, n=2, seed=9)
    scoring.drain()
    Case.objects.filter(site=other_site).update(status="quarantined")
    release.calibration_set.update(active=False)
    Calibration.objects.create(
        release=release, counts=[1, 1], typical_counts=[1, 1], arrays=b"", held_out=b""
    )
    assert registry.stand(release, site) == {"scored": 0, "pending": 3}
    assert Prediction.objects.filter(current=True, site=other_site).count() == 2
    assert Case.objects.filter(site=other_site, status="quarantined").count() == 2


def test_promotion_gives_quarantined_cases_another_try(site, protocol, release, challenger):
    deliver(site, protocol, n=2)
    scoring.drain()
    Case.objects.update(status="quarantined", attempts=3, failure="x")
    Prediction.objects.update(current=False)
    promoted(challenger, release)
    assert set(Case.objects.values_list("status", "attempts", "failure")) == {("pending", 0, "")}


def test_a_promotion_over_a_moved_champion_or_a_damaged_one_is_refused(release, challenger):
    with pytest.raises(registry.ReleaseMoved):
        promoted(challenger, challenger)
    with pytest.raises(registry.ReleaseMoved):
        promoted(release, release)
    (registry.folder(challenger) / "head.safetensors").write_bytes(b"x")
    with pytest.raises(BundleError):
        promoted(challenger, release)
    release.refresh_from_db()
    assert release.active


def test_calibration_of_an_unknown_release_is_refused(release):
    with pytest.raises(DataError):
        tasks.ask("shadows", release.protocol)


@pytest.mark.django_db(transaction=True)
def test_promotions_raced_with_scoring_and_new_notes(site, protocol, release, challenger):
    """Ten turns while a thread scores and another brings notes: one score stands for each case, over its present notes."""
    deliver(site, protocol, n=24)
    scoring.drain()
    shadowed(challenger)
    before = set(Prediction.objects.values_list("pk", flat=True))
    over, failed = threading.Event(), []

    def meanwhile(act):
        def loop():
            try:
                n = 0
                while not over.is_set():
                    act(n)
                    n += 1
            except Exception as error:
                failed.append(error)
            finally:
                connection.close()

        return threading.Thread(target=loop)

    threads = [
        meanwhile(lambda n: scoring.drain(1)),
        meanwhile(lambda n: over.wait(0.1) or deliver(site, protocol, n=3, seed=100 + n, name=f"{n}.jsonl")),
    ]
    for thread in threads:
        thread.start()
    pair = [challenger, release]
    for turn in range(10):
        promoted(pair[turn % 2], pair[1 - turn % 2])
    over.set()
    for thread in threads:
        thread.join()
    assert failed == []
    scoring.drain()
    one_stands_for_each(release, Case.objects.count())
    assert before <= set(Prediction.objects.values_list("pk", flat=True))
    cases = Case.objects.in_bulk()
    for row in Prediction.objects.filter(current=True):
        assert row.notes_sha256 == scoring._reads([cases[row.case_id]])[0].notes_sha256
