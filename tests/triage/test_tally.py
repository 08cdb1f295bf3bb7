"""The tally beside the predictions is their count in every snapshot, whoever writes, unseats, deletes or sums up meanwhile."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from django.db import connection, transaction

from tests import factories
from triage import tally
from triage.models import Case, Prediction, Tally

STEPS = np.array([0.0, 0.0005, 0.001, 0.01, 0.0123, 0.02, 0.05, 0.25, 0.5, 0.51, 1.0])


def drawn(rows, seed):
    random = np.random.default_rng(seed)
    first, second = np.sort(random.choice(STEPS, (rows, 2)), axis=1).T[::-1]
    return first, second, random.choice(STEPS, rows)


def agree(site, protocol):
    """The same settings from the tally and from the rows."""
    for alpha in (0.001, 0.01, 0.02, 0.5):
        for floor in (0.0, 0.001, 0.02):
            here = tally.Setting(alpha, floor)
            found = tally.counts(site, protocol, alpha, floor)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tally, "_is_edge", lambda _: False)
                assert found == tally.counts(site, protocol, *here)
    return sum(found.values())


@pytest.mark.django_db
def test_the_steps_of_the_database_are_those_of_the_code():
    values = [*tally.EDGES, *(edge + 1e-9 for edge in tally.EDGES), 0.00005, 0.75, 1.0]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT dial_step(v) FROM unnest(%s::float8[]) WITH ORDINALITY AS t(v, i) ORDER BY i", [values]
        )
        found = [step for (step,) in cursor.fetchall()]
    assert found == [sum(edge < value for edge in tally.EDGES) for value in values]
    assert set(tally.CURVE) <= set(tally.EDGES) and {0.0, 0.001, 0.02, 0.025, 0.37, 0.5} <= set(tally.EDGES)


@pytest.mark.django_db
def test_it_follows_every_way_a_prediction_comes_and_goes(site, other_site, protocol):
    factories.predictions(site, protocol, *drawn(300, 1))
    factories.predictions(other_site, protocol, *drawn(50, 2))
    assert agree(site, protocol) == 300
    Prediction.objects.filter(site=site, runner_up__gt=0.1).update(current=False)
    left = Prediction.objects.filter(site=site, current=True).count()
    assert agree(site, protocol) == left < 300
    Prediction.objects.filter(site=site).update(labelled=True, urgency=0.1)
    assert agree(site, protocol) == left
    Prediction.objects.filter(site=site, typicality__lt=0.01).delete()
    assert agree(site, protocol) == Prediction.objects.filter(site=site, current=True).count()
    Prediction.objects.filter(site=site).update(current=True)
    assert agree(site, protocol) == Prediction.objects.filter(site=site).count()
    assert agree(other_site, protocol) == 50


@pytest.mark.django_db
def test_a_change_of_other_columns_writes_nothing(site, protocol):
    factories.predictions(site, protocol, *drawn(5, 3))
    before = Tally.objects.count()
    Prediction.objects.update(labelled=True)
    assert Tally.objects.count() == before > 0


@pytest.mark.django_db
def test_rows_loaded_with_triggers_off_are_counted_too(site, protocol):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
    factories.predictions(site, protocol, *drawn(20, 3))
    assert agree(site, protocol) == 20


@pytest.mark.django_db
def test_folding_changes_no_count_and_leaves_few_rows(site, other_site, protocol):
    for seed in range(5):
        factories.predictions(site, protocol, *drawn(40, seed))
    factories.predictions(other_site, protocol, *drawn(5, 9))
    Prediction.objects.filter(site=site, runner_up__gt=0.1).delete()
    before, rows = tally.counts(site, protocol, 0.02, 0.01), Tally.objects.filter(site=site).count()
    tally.fold(at_least=rows + 1)
    assert Tally.objects.filter(site=site, folded=True).count() == 0
    tally.fold(at_least=50)
    assert tally.counts(site, protocol, 0.02, 0.01) == before
    assert Tally.objects.filter(site=site).count() < rows
    assert not Tally.objects.filter(site=site, runner_up=0, credibility=0).exists()
    assert not Tally.objects.filter(site=other_site, folded=True).exists()
    assert agree(site, protocol) == sum(before.values())


@pytest.mark.django_db(transaction=True)
def test_in_every_snapshot_under_writers_that_collide(site, protocol):
    """Four writers bring and unseat batches and take some back, one folds, and each reader compares within one statement."""
    factories.release(protocol)
    over, wrong = threading.Event(), []

    def write(seed):
        random = np.random.default_rng(seed)
        for _ in range(12):
            try:
                with transaction.atomic():
                    rows = factories.predictions(site, protocol, *drawn(25, int(random.integers(1e9))))
                    gone = Case.objects.filter(site=site, pk__lt=rows[0].case_id, pk__gt=rows[0].case_id - 10)
                    Prediction.objects.filter(case__in=gone.values("pk")).order_by("pk").update(current=False)
                    if random.random() < 0.3:
                        raise InterruptedError
            except InterruptedError:
                pass
        connection.close()

    def fold():
        while not over.is_set():
            tally.fold(at_least=1)
        connection.close()

    def read():
        sql = """SELECT (SELECT coalesce(sum(runner_up), 0) FROM triage_tally WHERE step <= 20),
            (SELECT coalesce(sum(credibility), 0) FROM triage_tally WHERE typical > 20),
            (SELECT count(*) FROM triage_prediction WHERE current AND dial_step(runner_up) <= 20),
            (SELECT count(*) FROM triage_prediction WHERE current AND dial_step(typicality) > 20)"""
        while not over.is_set():
            with connection.cursor() as cursor:
                cursor.execute(sql)
                up, known, rows_up, rows_known = cursor.fetchone()
            if (up, known) != (rows_up, rows_known):
                wrong.append((up, known, rows_up, rows_known))
        connection.close()

    with ThreadPoolExecutor(7) as pool:
        others = [pool.submit(fold), pool.submit(read), pool.submit(read)]
        for writer in [pool.submit(write, seed) for seed in range(4)]:
            writer.result()
        over.set()
        for other in others:
            other.result()
    assert not wrong
    assert agree(site, protocol) == Prediction.objects.filter(current=True).count() > 0
