"""A site's own calibration: whose labels it is made of, its numbers, the change from one to another, every refusal."""

from __future__ import annotations

import threading
from datetime import timedelta

import numpy as np
import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone
from safetensors.numpy import load as load_safetensors
from scipy.special import softmax

from mlcore import bundle
from mlcore.calibrate import Calibration as Ranks
from mlcore.errors import CalibrationError
from reviews import audited, recalibration, selectors
from reviews.models import Draft, Label, Lease
from tests.reviews.audit import TEMPERATURE, arrive, read, sampled, turn
from triage import policy, registry, rescoring, scoring, tasks
from triage.models import AuditEvent, Calibration, Explanation, Prediction, Task

pytestmark = pytest.mark.django_db


def make(site, protocol, **facts):
    return recalibration.make(site, protocol, by=None, reason="Otro hospital.", **facts)


def naive(found, weights, logits, distances):
    """What the ranks make of new cases, by the definition and one by one: labels, p-values and typicality.

    A calibration case is held to be correctly classified when the largest of its own p-values, its own class's taken
    without itself, is that of its truth.
    """
    q, truth = softmax(found.logits / TEMPERATURE, axis=1), found.truth
    kept = []
    for i in range(len(truth)):
        others = np.arange(len(truth)) != i
        p = [
            (1 + weights[others & (truth == c) & (1 - q[:, c] >= 1 - q[i, c])].sum())
            / (1 + weights[others & (truth == c)].sum())
            for c in range(2)
        ]
        kept.append(max(range(2), key=lambda c: (p[c], q[i, c])) == truth[i])
    kept = np.array(kept)
    out = []
    for z, d in zip(logits, distances, strict=True):
        new = softmax(np.array(z) / TEMPERATURE)
        p = [
            (1 + weights[(truth == c) & (1 - q[:, c] >= 1 - new[c])].sum()) / (1 + weights[truth == c].sum())
            for c in range(2)
        ]
        label = max(range(2), key=lambda c: (p[c], new[c]))
        vouch = kept & (truth == label)
        far = weights[vouch & (found.distances[:, label] >= d[label])].sum()
        out.append((label, p, (1 + far) / (1 + weights[vouch].sum())))
    return out


def test_the_sample_is_what_the_lot_drew_automatic_and_deferred_alike(site, protocol, reader):
    rows, truth, dial = sampled(site, protocol, reader)
    unread = [i for i, row in enumerate(rows) if row.lot >= 0.5]
    queue = unread[:80]
    read([rows[i] for i in queue], truth[queue], reader, dial)
    found = recalibration.labelled(site, protocol)
    expected = {row.pk for row in rows if row.lot < 0.5}
    assert {case.prediction for case in found.cases} == expected
    assert set(found.rates) == {0.5} and found.weights is None
    by = {row.pk: y for row, y in zip(rows, truth, strict=True)}
    assert [by[case.prediction] for case in found.cases] == found.truth.tolist()
    outcomes = {policy.outcome_of(row, dial) for row in rows if row.pk in expected}
    assert {"automatic", "novel"} <= outcomes


def test_a_week_counts_only_once_all_of_its_sample_is_read(site, protocol, reader):
    rows, _truth, dial = sampled(site, protocol, reader, n=60)
    later, others = arrive(site, protocol, 60, seed=9)
    drawn = [i for i, row in enumerate(later) if row.lot < 0.5]
    read([later[i] for i in drawn[1:]], others[drawn[1:]], reader, dial)
    sample = audited.sample(site, protocol)
    assert {case.prediction for case in sample.closed} == {row.pk for row in rows if row.lot < 0.5}
    assert (sample.open_weeks, sample.unread, sample.unsettled) == (1, 1, 0)
    assert sample.labelled_in_open == len(drawn) - 1
    read([later[drawn[0]]], others[drawn[:1]], reader, dial)
    assert len(audited.sample(site, protocol).closed) == len(sample.closed) + len(drawn)


def test_a_case_is_drawn_at_the_lowest_rate_it_lived_under(site, protocol, reader):
    """By hand: five cases around a turn from 0.4 to 0.1 and back up to 0.3."""
    now = timezone.now()
    spans = ((0.0, 20), (0.4, 10), (0.1, 6), (0.3, 2))
    _first, high, low, back = (turn(site, protocol, rate, weeks_ago=weeks) for rate, weeks in spans)
    cases = [  # arrived weeks ago, read under, lot, its rate or None
        (11, high, 0.3, 0.4),  # came before anybody read: that policy's rate of 0 does not count
        (9, high, 0.3, 0.4),
        (9, low, 0.3, None),
        (9, low, 0.05, 0.1),
        (5, back, 0.2, None),  # read when 0.3 was drawn, but in the queue while only 0.1 was
        (1, back, 0.2, 0.3),
    ]
    kept = {}
    first = now - timedelta(weeks=9.5)
    for weeks, dial, lot, rate in cases:
        [row], truth = arrive(site, protocol, 1, at=now - timedelta(weeks=weeks))
        Prediction.objects.filter(pk=row.pk).update(lot=lot)
        read([row], truth, reader, dial, at=first)
        kept[row.pk] = rate
    sample = audited.sample(site, protocol)
    assert {case.prediction: case.rate for case in sample.closed} == {pk: r for pk, r in kept.items() if r}


def test_the_new_scores_are_those_of_the_definition(site, protocol, reader):
    rows, _, _ = sampled(site, protocol, reader)
    found = recalibration.labelled(site, protocol)
    before = {row.pk: row for row in Prediction.objects.filter(current=True)}
    done = make(site, protocol)
    assert done["moved"] == len(rows) and done["cases"] == len(found.cases)
    after = list(Prediction.objects.filter(current=True).order_by("case"))
    assert [row.calibration_id for row in after] == [done["calibration"]] * len(rows)
    assert not Prediction.objects.filter(pk__in=before, current=True).exists()
    some = after[:40]
    expected = naive(found, np.ones(len(found.cases)), [r.logits for r in some], [r.distances for r in some])
    for row, (label, p, typicality) in zip(some, expected, strict=True):
        assert row.label == label
        assert row.p_values == pytest.approx(p, rel=1e-12)
        assert (row.credibility, row.runner_up) == (max(row.p_values), min(row.p_values))
        assert row.typicality == pytest.approx(typicality, rel=1e-12)
    of = {row.case_id: row for row in before.values()}
    kept = [
        "logits",
        "distances",
        "probabilities",
        "urgency",
        "lot",
        "at",
        "note_ids",
        "notes_sha256",
        "specialty",
        "labelled",
    ]
    for row in after:
        assert [getattr(row, name) for name in kept] == [getattr(of[row.case_id], name) for name in kept]


def test_unequal_rates_are_weighted_by_the_chance_to_be_drawn(site, protocol, reader):
    dial = turn(site, protocol, 0.8)
    rows, truth = arrive(site, protocol, 400, at=timezone.now() - timedelta(weeks=3))
    drawn = np.array([row.lot < 0.8 for row in rows])
    read([r for r, d in zip(rows, drawn, strict=True) if d], truth[drawn], reader, dial)
    dial = turn(site, protocol, 0.4)
    later, others = arrive(site, protocol, 400, seed=5)
    drawn = np.array([row.lot < 0.4 for row in later])
    read([r for r, d in zip(later, drawn, strict=True) if d], others[drawn], reader, dial)
    found = recalibration.labelled(site, protocol)
    weights = np.where(found.rates == 0.8, 0.5, 1.0)
    assert found.weights.tolist() == weights.tolist()
    calibration = Calibration.objects.get(pk=make(site, protocol)["calibration"])
    some = list(Prediction.objects.filter(current=True).order_by("case")[:30])
    expected = naive(found, weights, [r.logits for r in some], [r.distances for r in some])
    for row, (label, p, typicality) in zip(some, expected, strict=True):
        assert (row.label, row.p_values) == (label, pytest.approx(p, rel=1e-12))
        assert row.typicality == pytest.approx(typicality, rel=1e-12)
    own = calibration.made_of["labels"]["suspicion"]
    mine = weights[found.truth == protocol.labels.index("suspicion")]
    assert own["n"] == len(mine) and own["weight"] == pytest.approx(mine.sum())
    assert own["effective"] == pytest.approx(mine.sum() ** 2 / (mine**2).sum())
    held_out = load_safetensors(bytes(calibration.held_out))
    assert held_out["weight"] == pytest.approx(weights / weights.mean())
    assert calibration.made_of["rates"] == {
        "0.4": int((found.rates == 0.4).sum()),
        "0.8": int((found.rates == 0.8).sum()),
    }


def test_too_few_are_refused_with_what_is_missing_and_how_long(site, protocol, reader):
    sampled(site, protocol, reader, n=40)
    found, dial = recalibration.labelled(site, protocol), policy.current(site, protocol)
    lacking = recalibration.need(found, site, dial)
    for label, one in lacking.labels.items():
        here = found.truth == protocol.labels.index(label)
        assert one.n == here.sum() and one.cases >= 19 - here.sum()
    with pytest.raises(
        CalibrationError, match=r"too few audited cases .* more of .* cannot be told"
    ) as refused:
        make(site, protocol)
    told = refused.value.told(lambda message: message.replace("must be read first", "deben leerse antes"))
    assert "deben leerse antes" in told and "more of suspicion" in told and "%(" not in told
    assert not Calibration.objects.filter(site=site).exists()
    assert set(Prediction.objects.values_list("current", flat=True)) == {True}


def test_how_long_it_takes_comes_from_the_reads_of_late(site, protocol, reader):
    turn(site, protocol, 0.0, weeks_ago=9)
    dial = turn(site, protocol, 0.5, weeks_ago=2)
    begun = timezone.now() - timedelta(weeks=2)
    rows, truth = arrive(site, protocol, 20, at=begun)
    drawn = [i for i, row in enumerate(rows) if row.lot < 0.5]
    read([rows[i] for i in drawn], truth[drawn], reader, dial, at=begun + timedelta(days=3))
    found = recalibration.labelled(site, protocol)
    lacking = recalibration.need(found, site, policy.current(site, protocol))
    assert found.sample.lately == len(drawn)
    assert found.sample.weeks == pytest.approx(2, abs=0.01)
    assert lacking.weeks == int(np.ceil(lacking.reads / found.sample.a_week))
    assert recalibration.need(found, site, turn(site, protocol, 0.0)).weeks is None


def test_nothing_read_says_what_is_needed_of_each_label(site, protocol):
    arrive(site, protocol, 5)
    turn(site, protocol, 0.2)
    lacking = recalibration.need(recalibration.labelled(site, protocol), site, policy.current(site, protocol))
    assert [one.n for one in lacking.labels.values()] == [0, 0]
    assert all(one.cases >= 19 for one in lacking.labels.values()) and lacking.weeks is None


def test_labels_leases_drafts_and_words_outlive_it(site, protocol, reader, admin):
    rows, _, _ = sampled(site, protocol, reader)
    ready, waits = [row for row in rows if row.lot >= 0.5][:2]
    Explanation.objects.create(prediction=ready, status="ready", words=[{"note": 0}])
    Explanation.objects.create(prediction=waits, method="mask", priority=0)
    Draft.objects.create(case=ready.case, reader=admin, choice="suspicion")
    Lease.objects.create(case=ready.case, reader=admin, until=timezone.now() + timedelta(minutes=5))
    labels = set(Label.objects.values_list("pk", "withdrawn_at"))
    read_before = {row.case_id for row in rows if row.lot < 0.5}
    make(site, protocol)
    assert set(Label.objects.values_list("pk", "withdrawn_at")) == labels
    assert set(Prediction.objects.filter(current=True, labelled=True).values_list("case", flat=True)) == (
        read_before
    )
    assert Draft.objects.get().choice == "suspicion" and Lease.objects.get().reader == admin
    told = Explanation.objects.get(prediction__case=ready.case, prediction__current=True)
    assert (told.status, told.words) == ("ready", [{"note": 0}])
    asked = Explanation.objects.get(prediction__case=waits.case, method="mask")
    assert asked.prediction.current and asked.priority == 0
    own = selectors.own_review(Prediction.objects.get(case=rows[0].case, current=True), reader)
    assert (own is not None) == (rows[0].lot < 0.5)


def test_a_label_withdrawn_later_falls_from_both_calibrations(site, protocol, reader):
    sampled(site, protocol, reader)
    make(site, protocol)
    label = Label.objects.first()
    assert Prediction.objects.filter(case=label.case, labelled=True).count() == 2
    label.withdrawn_at = timezone.now()
    label.save()
    assert not Prediction.objects.filter(case=label.case, labelled=True).exists()


def test_the_trail_says_what_was_put_in_force_and_why(site, protocol, reader, admin):
    sampled(site, protocol, reader)
    done = recalibration.make(site, protocol, by=admin, reason="Otro hospital.")
    event = AuditEvent.objects.get(verb="calibration.activate")
    assert (event.actor, event.site, event.object_id) == (admin, site, str(done["calibration"]))
    assert event.details["reason"] == "Otro hospital." and event.details["moved"] == 240
    assert event.details["labels"]["suspicion"]["n"] > 0 and event.details["former"] is None
    calibration = Calibration.objects.get(pk=done["calibration"])
    assert (calibration.by, calibration.reason, calibration.active) == (admin, "Otro hospital.", True)


def test_a_return_makes_the_former_scores_stand_again(site, protocol, reader, other_site):
    rows, _, _ = sampled(site, protocol, reader)
    elsewhere, _ = arrive(other_site, protocol, 3)
    shared = rows[0].calibration_id
    first = make(site, protocol)["calibration"]
    second = make(site, protocol)["calibration"]
    assert Calibration.objects.get(site=site, active=True).pk == second
    for back in (shared, first):
        done = recalibration.restore(site, protocol, back, by=None, reason="Vuelta.")
        assert done == {"calibration": back, "moved": len(rows)}
        standing = Prediction.objects.filter(site=site, current=True)
        assert set(standing.values_list("calibration", flat=True)) == {back}
    recalibration.restore(site, protocol, shared, by=None, reason="Vuelta.")
    assert set(Prediction.objects.filter(site=site, current=True).values_list("pk", flat=True)) == {
        row.pk for row in rows
    }
    assert Prediction.objects.filter(site=site).count() == 3 * len(rows)
    assert registry.calibration(rows[0].release, site.pk).pk == shared
    assert set(Prediction.objects.filter(site=other_site).values_list("calibration", "current")) == {
        (shared, True)
    }
    assert len(elsewhere) == 3


def test_a_case_that_came_since_is_ranked_on_return(site, protocol, reader):
    sampled(site, protocol, reader)
    make(site, protocol)
    own = Calibration.objects.get(site=site)
    recalibration.restore(site, protocol, Calibration.objects.get(site=None).pk, by=None, reason="Vuelta.")
    [late], _ = arrive(site, protocol, 1, seed=8)
    done = recalibration.restore(site, protocol, own.pk, by=None, reason="De nuevo.")
    assert done["moved"] == 241
    row = Prediction.objects.get(case=late.case, current=True)
    expected = Ranks.from_bytes(bytes(own.arrays)).apply([late.logits], [late.distances])
    assert (row.calibration_id, row.p_values) == (own.pk, expected.p_values[0].tolist())


def test_a_calibration_of_elsewhere_is_refused(site, protocol, other_site, reader):
    rows, _, _ = sampled(site, protocol, reader)
    theirs = Calibration.objects.create(
        release=rows[0].release,
        site=other_site,
        counts=[1, 1],
        typical_counts=[1, 1],
        arrays=b"",
        held_out=b"",
    )
    with pytest.raises(CalibrationError, match="not one of the active release at this site"):
        recalibration.restore(site, protocol, theirs.pk, by=None, reason="x")


def test_held_out_cases_of_the_release_join_at_their_weight(site, protocol, reader, monkeypatch):
    sampled(site, protocol, reader)
    found = recalibration.labelled(site, protocol)
    theirs = (found.logits[:50], found.distances[:50], found.truth[:50])
    monkeypatch.setattr(recalibration, "_held_out", lambda release: theirs)
    calibration = Calibration.objects.get(pk=make(site, protocol, held_out=0.25)["calibration"])
    total = sum(one["weight"] for one in calibration.made_of["labels"].values())
    assert total == pytest.approx(len(found.cases) + 0.25 * 50)
    assert len(load_safetensors(bytes(calibration.held_out))["truth"]) == len(found.cases)


def test_notes_the_release_learned_from_do_not_calibrate_it(site, protocol, reader, monkeypatch):
    rows, _, _ = sampled(site, protocol, reader)
    everything = recalibration.labelled(site, protocol)
    digest = int(rows[0].case.notes().get().sha256[:16], 16)
    monkeypatch.setattr(recalibration, "_learned", lambda sha256: frozenset([digest]))
    found = recalibration.labelled(site, protocol)
    assert (len(found.cases), found.learned) == (0, len(everything.cases))  # all invented notes read the same
    monkeypatch.setattr(recalibration, "_learned", lambda sha256: frozenset([digest ^ 1]))
    assert len(recalibration.labelled(site, protocol).cases) == len(everything.cases)


def test_cases_a_release_came_calibrated_with_do_not_judge_it_and_may_calibrate_anew(
    site, protocol, reader, monkeypatch
):
    rows, _, _ = sampled(site, protocol, reader)
    everything = recalibration.labelled(site, protocol)
    digest = int(rows[0].case.notes().get().sha256[:16], 16)
    kept = {"calibrated.notes": frozenset([digest])}
    monkeypatch.setattr(recalibration, "_digests", lambda folder, name: kept.get(name, frozenset()))
    assert len(recalibration.labelled(site, protocol).cases) == len(everything.cases) > 0
    judging = recalibration.labelled(site, protocol, judging=True)
    assert (len(judging.cases), judging.learned) == (0, len(everything.cases))
    kept["calibrated.notes"] = frozenset([digest ^ 1])
    assert len(recalibration.labelled(site, protocol, judging=True).cases) == len(everything.cases)


def test_a_release_whose_files_come_later_is_looked_at_again(tmp_path, settings):
    settings.RELEASES_DIR = tmp_path
    assert recalibration._learned("late") == recalibration._calibrated("late") == frozenset()
    (tmp_path / "late").mkdir()
    arrays = {"learned.notes": np.array([7], np.uint64), "calibrated.notes": np.array([8, 9], np.uint64)}
    bundle.save_arrays(tmp_path / "late", arrays)
    assert recalibration._learned("late") == {7} and recalibration._calibrated("late") == {8, 9}


def test_without_a_release_it_says_so(site, protocol):
    with pytest.raises(CalibrationError, match="No release"):
        recalibration.labelled(site, protocol)


# The task


def test_an_attempt_that_was_cut_off_goes_on_where_it_was(site, protocol, reader, admin, monkeypatch):
    rows, _, _ = sampled(site, protocol, reader)
    monkeypatch.setattr(rescoring, "BATCH", 50)
    task = recalibration.ask(site, protocol, by=admin, params={"reason": "Otro."})
    assert recalibration.ask(site, protocol, by=admin, params={"reason": "Otro."}) == task

    def killed(stage, done, total):
        if done >= 150:
            raise tasks.Interrupted

    with pytest.raises(tasks.Interrupted):
        recalibration.run(task, killed)
    half = Calibration.objects.get(site=site)
    assert not half.active and Prediction.objects.filter(calibration=half).count() == 150
    assert not Prediction.objects.filter(calibration=half, current=True).exists()
    assert half not in recalibration.former(site, half.release)
    assert tasks.drain() == 1
    assert Calibration.objects.get(site=site) == half
    assert set(Prediction.objects.filter(current=True).values_list("calibration", flat=True)) == {half.pk}
    assert Prediction.objects.filter(calibration=half).count() == len(rows)
    assert Task.objects.get().result == {
        "calibration": half.pk,
        "moved": len(rows),
        "cases": half.made_of["cases"],
    }
    assert half in recalibration.former(site, half.release)


def test_what_a_cancelled_task_made_is_removed_a_piece_at_a_time(site, protocol, reader, admin, monkeypatch):
    rows, _, _ = sampled(site, protocol, reader)
    task = recalibration.ask(site, protocol, by=admin, params={"reason": "Otro."})

    def killed(stage, done, total):
        if stage == rescoring.SWITCH:
            raise tasks.Interrupted

    with pytest.raises(tasks.Interrupted):
        recalibration.run(task, killed)
    half = Calibration.objects.get(site=site)
    recalibration.sweep()
    assert Prediction.objects.filter(calibration=half).count() == len(rows)  # it may go on yet
    assert tasks.cancel(task, admin)
    monkeypatch.setattr(recalibration, "AT_A_TIME", len(rows) - 1)
    recalibration.sweep()
    assert Prediction.objects.filter(calibration=half).count() == 1
    recalibration.sweep()
    assert not Calibration.objects.filter(site=site).exists()
    assert Prediction.objects.filter(current=True).count() == len(rows)


def test_what_was_ever_in_force_is_kept(site, protocol, reader, admin):
    sampled(site, protocol, reader)
    recalibration.ask(site, protocol, by=admin, params={"reason": "Otro."})
    assert tasks.drain() == 1
    own = Calibration.objects.get(site=site)
    recalibration.restore(site, protocol, Calibration.objects.get(site=None).pk, by=None, reason="Vuelta.")
    Task.objects.update(status="failed")
    recalibration.sweep()
    assert Calibration.objects.filter(pk=own.pk, active=False).exists()
    assert Prediction.objects.filter(calibration=own).exists()


def test_a_task_tried_again_later_takes_the_labels_there_are_then(site, protocol, reader, admin):
    """Half done in spring and failed; by summer another week is read: the spring's calibration stays out of force."""
    sampled(site, protocol, reader)
    task = recalibration.ask(site, protocol, by=admin, params={"reason": "Otro."})

    def killed(stage, done, total):
        if stage == rescoring.SWITCH:
            raise tasks.Interrupted

    with pytest.raises(tasks.Interrupted):
        recalibration.run(task, killed)
    spring = Calibration.objects.get(site=site)
    Task.objects.update(status="failed", ended_at=timezone.now())
    later, truth = arrive(site, protocol, 40, seed=9, at=timezone.now() - timedelta(weeks=1))
    drawn = [i for i, row in enumerate(later) if row.lot < 0.5]
    read([later[i] for i in drawn], truth[drawn], reader, policy.current(site, protocol))
    assert tasks.retry(task, admin)
    assert tasks.drain() == 1, Task.objects.get().failure
    summer = Calibration.objects.get(site=site, active=True)
    assert summer != spring and summer.made_of["cases"] == spring.made_of["cases"] + len(drawn)
    assert spring not in recalibration.former(site, spring.release)


def test_a_task_that_is_short_fails_with_the_sentence(site, protocol, reader, admin):
    sampled(site, protocol, reader, n=40)
    recalibration.ask(site, protocol, by=admin, params={"reason": "Otro."})
    tasks.drain()
    assert "too few audited cases" in Task.objects.get().failure


def test_a_return_runs_as_a_task(site, protocol, reader, admin):
    rows, _, _ = sampled(site, protocol, reader)
    make(site, protocol)
    params = {"reason": "Vuelta.", "calibration": rows[0].calibration_id}
    recalibration.ask(site, protocol, by=admin, params=params)
    assert tasks.drain() == 1
    assert Prediction.objects.filter(calibration=rows[0].calibration_id, current=True).count() == len(rows)


# From the command line


def test_the_command_says_what_there_is_then_does_it(site, protocol, reader, capsys):
    sampled(site, protocol, reader)
    where = {"site": "norte", "protocol": protocol.slug}
    call_command("recalibrate", **where, dry_run=True)
    told = capsys.readouterr().out
    assert "suspicion: " in told and "enough" in told and "audit rate 0.5" in told
    assert not Calibration.objects.filter(site=site).exists()
    call_command("recalibrate", **where, reason="Otro hospital.")
    assert "240 cases ranked anew" in capsys.readouterr().out


# Workers that score meanwhile


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_ranked_by_the_former_calibration_begins_anew(
    site, protocol, release, monkeypatch, reader
):
    """Its scores are ready, then the calibration changes, then it writes: nothing of the former may stand."""
    from tests.triage.test_scoring import deliver

    deliver(site, protocol, n=12)
    ranks, own = scoring.ranks(registry.calibration(release, site.pk).pk), []
    write = scoring._write

    def changed_before(reads, release, calibration, scorer, number):
        if not own:
            own.append(
                Calibration.objects.create(
                    release=release,
                    site=site,
                    counts=[1, 1],
                    typical_counts=[1, 1],
                    arrays=ranks.to_bytes(),
                    held_out=b"",
                    active=False,
                )
            )
            rescoring.activate(own[0], site, actor=None, details={})
        return write(reads, release, calibration, scorer, number)

    monkeypatch.setattr(scoring, "_write", changed_before)
    scoring.drain()
    assert set(Prediction.objects.values_list("calibration", "current")) == {(own[0].pk, True)}
    assert Prediction.objects.count() == 12


@pytest.mark.django_db(transaction=True)
def test_the_change_waits_for_a_worker_that_is_writing_and_takes_its_cases_along(
    site, protocol, reader, transactional_db
):
    rows, _, _ = sampled(site, protocol, reader)
    release, own = rows[0].release, {}
    [late], _ = arrive(site, protocol, 1, seed=8)
    Prediction.objects.filter(pk=late.pk).update(current=False)

    def change():
        try:
            own.update(make(site, protocol))
        finally:
            connection.close()

    with transaction.atomic():  # a worker between its look at the release and its commit
        assert scoring._stays_active(release)
        Prediction.objects.filter(pk=late.pk).update(current=True)
        thread = threading.Thread(target=change)
        thread.start()
        thread.join(2)
        assert thread.is_alive()
    thread.join(60)
    assert own["moved"] == len(rows) + 1
    standing = Prediction.objects.filter(current=True)
    assert standing.count() == len(rows) + 1
    assert set(standing.values_list("calibration", flat=True)) == {own["calibration"]}


def test_a_hold_read_in_part_draws_nobody_more_and_a_week_read_whole_is_a_census(site, protocol, reader):
    turn(site, protocol, 0.3, weeks_ago=6)
    hold = turn(site, protocol, 0.3, weeks_ago=5, automate=False)
    turn(site, protocol, 0.3, weeks_ago=1)
    today = timezone.localtime() - timedelta(weeks=3)
    inside = today - timedelta(days=today.weekday()) + timedelta(days=2)
    rows, truth = arrive(site, protocol, 60, at=inside)
    drawn = np.array([row.lot < 0.3 for row in rows])
    first = drawn | (np.arange(60) < 30)
    read([row for row, f in zip(rows, first, strict=True) if f], truth[first], reader, hold, at=inside)
    sample = audited.sample(site, protocol)
    assert {case.prediction for case in sample.closed} == {
        r.pk for r, d in zip(rows, drawn, strict=True) if d
    }
    assert {case.rate for case in sample.closed} == {0.3} and not sample.open
    rest = [row for row, f in zip(rows, first, strict=True) if not f]
    read(rest, truth[~first], reader, hold, at=inside)
    sample = audited.sample(site, protocol)
    assert len(sample.closed) == 60 and {case.rate for case in sample.closed} == {1.0}
    assert not audited.sample(site, protocol, since=timezone.localdate()).closed
