"""The page of releases, its comparison, and the page of background work: what they show, to whom, and what they do."""

from __future__ import annotations

from datetime import timedelta

import django_rq
import numpy as np
import pytest
import redis
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.html import escape
from django.utils.translation import gettext

from mlcore.loop import METRICS
from reviews import comparison, readings, recalibration
from reviews.models import ExportRun
from tests import factories
from tests.reviews.conftest import place, signed_in  # noqa: F401  (fixtures)
from triage import background, jobs, policy, promotion, registry, releases, tasks
from triage.access import Workplace
from triage.models import AuditEvent, Calibration, Case, Membership, Prediction, Release, Task

pytestmark = pytest.mark.django_db
bundle_told = "%(folder)s is not a folder: give the folder that train wrote."


def there(name, place):  # noqa: F811
    return reverse(name, args=[place.site.slug, place.protocol.slug])


@pytest.fixture(autouse=True)
def _looked_at_anew():
    """What was believed of a folder's state in another test, whose files were made up."""
    registry._damaged_as_of.cache_clear()


@pytest.fixture
def active(place):  # noqa: F811
    return factories.release(place.protocol)


@pytest.fixture
def challenger(place, active):  # noqa: F811
    return made_up(place.protocol, "retador", "c" * 64)


def made_up(protocol, name, sha256):
    found = Release.objects.create(protocol=protocol, name=name, sha256=sha256, card={})
    k = len(protocol.labels)
    Calibration.objects.create(
        release=found, counts=[9] * k, typical_counts=[9] * k, arrays=b"", held_out=b""
    )
    return found


def beside(standing, challenger, label, credibility, runner_up, typicality=0.5, **facts):
    """The challenger's score of the same case."""
    row = Prediction.objects.get(pk=standing.pk)
    row.pk, row._state.adding, row.current = None, True, False
    row.release, row.calibration = challenger, challenger.calibration_set.get()
    row.label, row.credibility, row.runner_up, row.typicality = label, credibility, runner_up, typicality
    for name, value in facts.items():
        setattr(row, name, value)
    row.save()
    return row


@pytest.fixture
def lead_place(place, lead):  # noqa: F811
    return Workplace(place.site, place.protocol, Membership.objects.get(user=lead))


CASES = [  # champion's label and outcome numbers, the challenger's
    ((0, 0.9, 0.01), (0, 0.9, 0.01)),  # both automatic, the same label
    ((0, 0.9, 0.01), (1, 0.9, 0.01)),  # both automatic, another label
    ((1, 0.9, 0.30), (1, 0.9, 0.01)),  # ambiguous → automatic
    ((1, 0.01, 0.0), (0, 0.9, 0.30)),  # novel → ambiguous, another label
]


@pytest.fixture
def compared(place, challenger):  # noqa: F811
    standing = []
    for i, (now, then) in enumerate(CASES):
        row = factories.prediction(
            factories.case(place.site, place.protocol),
            now[1],
            now[2],
            0.5,
            urgency=0.9 - i / 10,
            label=now[0],
        )
        beside(row, challenger, *then)
        standing.append(row)
    factories.prediction(factories.case(place.site, place.protocol), 0.9, 0.01, 0.5)  # of the champion alone
    other = factories.prediction(factories.case(place.site, place.protocol), 0.9, 0.01, 0.5)
    beside(other, challenger, 1, 0.9, 0.01, notes_sha256="over other notes")
    return standing


def test_agreement_is_counted_over_cases_both_scored(lead_place, lead, compared, challenger):
    found = comparison.compare(lead_place, lead, challenger, 1)
    assert found["n"] == 4
    assert [[n for _, n in cells] for _, _, cells in found["labels"]] == [[1, 1], [1, 1]]
    assert (found["same_label"], found["same_outcome"]) == (2, 2)
    outcomes = {key: [n for _, n in cells] for key, _, cells in found["outcomes"]}
    assert outcomes == {
        "automatic": [2, 0, 0, 0],
        "ambiguous": [1, 0, 0, 0],
        "novel": [0, 1, 0, 0],
        "atypical": [0, 0, 0, 0],
    }
    assert [row.case_id for row, *_ in found["rows"]] == [row.case_id for row in compared[1:]]
    assert (found["n_differ"], found["covered"], found["more"]) == (3, 0, None)


def test_a_case_read_blind_is_only_counted(lead_place, lead, compared, challenger):
    policy.turn(
        lead_place.site, lead_place.protocol, alpha=0.02, floor=0.01, audit_rate=0.2, reason="r", author=None,
        base_version=1,
    )  # fmt: skip
    Prediction.objects.filter(case=compared[1].case_id).update(lot=0.1)
    found = comparison.compare(lead_place, lead, challenger, 1)
    assert [row.case_id for row, *_ in found["rows"]] == [row.case_id for row in compared[2:]]
    assert (found["n_differ"], found["covered"]) == (3, 1)
    factories.review(compared[1], lead, 0)
    assert comparison.compare(lead_place, lead, challenger, 1)["covered"] == 0


def test_disagreements_come_in_pages(lead_place, lead, compared, challenger, monkeypatch):
    monkeypatch.setattr(comparison, "PAGE", 2)
    first, second = (comparison.compare(lead_place, lead, challenger, page) for page in (1, 2))
    assert [row.case_id for row, *_ in first["rows"] + second["rows"]] == [
        row.case_id for row in compared[1:]
    ]
    assert (first["more"], second["more"]) == (2, None)


@pytest.mark.parametrize(("b", "c", "p"), [(0, 0, 1.0), (5, 5, 1.0), (1, 9, 22 / 1024), (0, 6, 2 / 64)])
def test_mcnemar_is_the_exact_binomial(b, c, p):
    assert comparison.mcnemar(b, c) == pytest.approx(p)
    assert comparison.mcnemar(c, b) == comparison.mcnemar(b, c)


def test_costs_are_the_protocols_own(place):  # noqa: F811
    truth, label = [0, 0, 1, 1], [0, 1, 0, 1]
    matrix, defer = place.protocol.cost_automatic, place.protocol.cost_defer
    expected = [matrix[0][0], matrix[0][1], matrix[1][0], defer[1]]
    assert list(comparison.costs(place.protocol, truth, label, [True, True, True, False])) == expected


def test_the_cost_difference_covers_what_it_estimates():
    """200 samples of 60: the interval holds the true mean in 90 to 99 % of them; a constant has an interval of its own."""
    draw, held = np.random.default_rng(3), 0
    for _ in range(200):
        found = comparison.mean_difference(draw.choice([0.0, 1.0, -2.0], 60, p=[0.6, 0.3, 0.1]), np.ones(60))
        held += found.low <= 0.1 <= found.high
    assert 180 <= held <= 198
    constant = comparison.mean_difference([2.0, 2.0, 2.0], [1, 5, 9])
    assert (constant.value, constant.low, constant.high, constant.n) == (2.0, 2.0, 2.0, 3)
    assert comparison.mean_difference([1.0, 4.0], [3, 1]).value == 1.75
    assert comparison.mean_difference([], []) is None


def test_only_the_audit_sample_judges(lead_place, reader, challenger, monkeypatch):
    """Four drawn and labelled, a deferred one that was not drawn: it would count against the champion, and does not."""
    here = lead_place
    turned = policy.turn(
        here.site, here.protocol, alpha=0.02, floor=0.01, audit_rate=0.5, reason="r", author=None, base_version=1
    )  # fmt: skip
    for truth, now, then, lot in [
        (0, 0, 0, 0.1),
        (0, 1, 0, 0.2),
        (1, 0, 1, 0.3),
        (1, 1, 0, 0.4),
        (1, 0, 1, 0.9),
    ]:
        row = factories.prediction(
            factories.case(here.site, here.protocol, f"Nota {lot}."), 0.9, 0.01, 0.5, label=now, lot=lot
        )
        beside(row, challenger, then, 0.9, 0.01)
        factories.review(row, reader, truth, policy=turned)
        readings.settle(row)
    Prediction.objects.update(at=timezone.now() + timedelta(seconds=1))
    both = comparison.pairs(here, turned, challenger)
    found = comparison.judged(here, turned, both, challenger)
    assert (found.n, found.both, found.only_champion, found.only_challenger, found.neither) == (4, 1, 1, 2, 0)
    matrix = here.protocol.cost_automatic
    difference = (matrix[0][0] - matrix[0][1]) + (matrix[1][1] - matrix[1][0]) + (matrix[1][0] - matrix[1][1])
    assert found.cost.value == pytest.approx(difference / 4)
    assert found.p == 1.0
    standing = list(Prediction.objects.filter(current=True).order_by("lot"))
    seen = {  # the first case taught the champion, the second calibrated it, the third came with the challenger
        (factories.release(here.protocol).sha256, "learned.notes"): digests(standing[0]),
        (factories.release(here.protocol).sha256, "calibrated.notes"): digests(standing[1]),
        (challenger.sha256, "calibrated.notes"): digests(standing[2]),
    }
    monkeypatch.setattr(
        recalibration, "_digests", lambda folder, name: seen.get((folder.name, name), frozenset())
    )
    left = comparison.judged(here, turned, both, challenger)
    assert (left.n, left.both, left.only_champion, left.only_challenger, left.neither) == (1, 0, 1, 0, 0)


def digests(row):
    return frozenset(int(note.sha256[:16], 16) for note in row.case.notes())


def test_the_comparison_page(lead_place, lead, signed_in, compared, challenger):  # noqa: F811
    client, address = signed_in(lead), there("reviews:comparison", lead_place)
    page = client.get(address, {"release": challenger.pk})
    assert page.status_code == 200 and "retador" in page.content.decode()
    for asked in ({"release": 999}, {"release": "x"}, {"release": challenger.pk, "page": "٣"}):
        assert client.get(address, asked).status_code == 404
    assert client.get(address).status_code == 302
    Prediction.objects.filter(release=challenger).delete()
    assert client.get(address, {"release": challenger.pk}).status_code == 200


def test_many_cases_are_compared_by_a_worker(lead_place, lead, signed_in, compared, challenger, monkeypatch):  # noqa: F811
    """The same figures as on the spot; none before it was asked for; and they stay those of their dial."""
    on_the_spot = comparison.compare(lead_place, lead, challenger, 1)
    monkeypatch.setattr(comparison, "DIRECT", 3)
    client, address = signed_in(lead), f"{there('reviews:comparison', lead_place)}?release={challenger.pk}"
    monkeypatch.setattr(comparison, "measure", lambda *_: pytest.fail("computed in a request"))
    assert comparison.compare(lead_place, lead, challenger, 1)["found"] is None
    assert client.get(address).status_code == 200 and client.post(address).status_code == 302
    assert client.post(address).status_code == 302
    task = Task.objects.get()  # one, however often it is asked for
    assert "data-mark=" in client.get(address).content.decode()
    monkeypatch.undo()
    monkeypatch.setattr(comparison, "DIRECT", 3)
    assert tasks.drain() == 1
    made = comparison.compare(lead_place, lead, challenger, 1)
    same = ("n", "labels", "outcomes", "same_label", "same_outcome", "judged", "n_differ", "covered", "rows")
    assert {name: made[name] for name in same} == {name: on_the_spot[name] for name in same}
    assert made["task"].pk == task.pk and "data-mark=" not in client.get(address).content.decode()
    policy.turn(
        lead_place.site, lead_place.protocol, alpha=0.4, floor=0.0, audit_rate=0.0, reason="r", author=None, base_version=1
    )  # fmt: skip
    later = comparison.compare(lead_place, lead, challenger, 1)
    assert later["outcomes"] == made["outcomes"] and later["turned"].version == 2
    assert client.get(address).status_code == 200


@pytest.mark.parametrize("whose", ["champion", "challenger"])
def test_a_comparison_of_a_former_calibration_says_so(
    lead_place, lead, signed_in, compared, challenger, active, monkeypatch, whose  # noqa: F811
):  # fmt: skip
    monkeypatch.setattr(comparison, "DIRECT", 3)
    comparison.ask(lead_place, challenger, by=lead)
    assert tasks.drain() == 1
    made = comparison.compare(lead_place, lead, challenger, 1)
    assert not made["recalibrated"] and None not in made["found"]["calibrations"]
    former = registry.calibration(active if whose == "champion" else challenger, lead_place.site.pk)
    Calibration.objects.create(
        release=former.release, site=lead_place.site, counts=former.counts, typical_counts=former.typical_counts, arrays=b"", held_out=b""
    )  # fmt: skip
    assert comparison.compare(lead_place, lead, challenger, 1)["recalibrated"]
    address = f"{there('reviews:comparison', lead_place)}?release={challenger.pk}"
    english = {"accept-language": "en"}
    assert "A calibration in force has changed since" in signed_in(lead).get(address, headers=english).content.decode()  # fmt: skip


def test_a_comparison_with_a_former_champion_is_none(
    lead_place, lead, compared, challenger, active, monkeypatch
):
    monkeypatch.setattr(comparison, "DIRECT", 3)
    third = made_up(lead_place.protocol, "tercero", "d" * 64)
    comparison.ask(lead_place, third, by=lead)
    Release.objects.filter(pk=active.pk).update(active=False)
    Release.objects.filter(pk=challenger.pk).update(active=True)
    assert tasks.drain() == 0 and tasks.why(Task.objects.get()) == gettext(registry.MOVED)


def test_a_reader_sees_neither_page(place, reader, signed_in, challenger):  # noqa: F811
    client = signed_in(reader)
    for name in ("triage:releases", "triage:background", "reviews:comparison"):
        assert client.get(there(name, place), {"release": challenger.pk}).status_code == 403
    assert client.get(there("triage:background-status", place)).status_code == 404


CARD = {
    "trained_at": "2026-05-01T10:00:00+00:00",
    "data": {"cases": 2400, "sha256": "ab" * 32, "shares": {"validation": {"a": 20, "b": 30}}},
    "encoder": {"source": "compact", "width": 64},
    "chosen": {"epoch": 2},
    "epochs": [
        {"epoch": 1, "validation_auroc": 0.5},
        {"epoch": 2, "validation_auroc": 0.75, "training_loss": 0.1, "validation_f1": None},
    ],
}


def test_figures_of_a_card():
    assert list(releases.figures(CARD)) == [("validation_auroc", 0.75, None, None, 50)]
    measured = {
        "auroc": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 120},
        "none": {"value": None, "low": None},
    }
    card = CARD | {"figures": {"dual": measured}}
    assert list(releases.figures(card)) == [("figures/dual/auroc", 0.9, 0.8, 0.95, 120)]
    assert list(releases.figures({})) == []


def test_figures_have_words_where_they_are_known():
    named = {
        name: str(releases.Figure(name, 0.5, None, None, 9).words) for name in ("validation_auroc", "other")
    }
    assert "ROC" in named["validation_auroc"] and named["other"] == ""
    assert all(
        name.startswith("validation_") and name.removeprefix("validation_") in releases.WORDS
        for name in METRICS
    )


def test_the_page_of_releases(lead_place, lead, signed_in, challenger):  # noqa: F811
    Release.objects.filter(pk=challenger.pk).update(card=CARD)
    page = signed_in(lead).get(there("triage:releases", lead_place)).content.decode()
    for said in ("retador", "ensayo", "2.400", "abababab", "0,750", "compact"):
        assert said in page, said
    assert 'name="action"' not in page  # a lead looks, an administrator acts


def act(client, place, **sent):  # noqa: F811
    return client.post(there("triage:releases", place), sent)


def test_an_administrator_scores_in_shadow(place, admin, active, challenger, signed_in):  # noqa: F811
    sent = {"release": challenger.pk, "instead_of": active.pk, "action": "shadow", "reason": "Nueva cohorte"}
    client = signed_in(admin)
    assert act(client, place, **sent).status_code == 302
    task = Task.objects.get()
    assert (task.kind, task.site, task.by) == ("shadow", None, admin)
    assert task.params == {"release": challenger.pk, "reason": "Nueva cohorte"}
    assert AuditEvent.objects.filter(verb="task.ask").exists()
    assert act(client, place, **sent | {"reason": " "}).status_code == 422
    assert act(client, place, **sent | {"release": 999}).status_code == 404


def test_an_administrator_promotes_with_a_reason(place, admin, active, challenger, signed_in, monkeypatch):  # noqa: F811
    monkeypatch.setattr(registry, "_damaged", lambda folder: "")
    sent = {"release": challenger.pk, "instead_of": active.pk, "action": "activate", "reason": "Mejor"}
    client = signed_in(admin)
    assert act(client, place, **sent).status_code == 302
    assert not Release.objects.get(pk=challenger.pk).active  # nothing is switched in a request
    page = client.get(there("triage:releases", place)).content.decode()
    assert "data-mark=" in page and 'name="action"' not in page
    assert act(client, place, **sent).status_code == 409  # one at a time
    assert tasks.drain() == 1
    challenger.refresh_from_db()
    assert challenger.active
    assert act(client, place, **sent).status_code == 409  # of a page that showed the former one
    page = client.get(there("triage:releases", place)).content.decode()
    assert "Mejor" in page and "data-mark=" not in page
    back = sent | {"release": active.pk, "instead_of": challenger.pk}
    assert act(client, place, **back).status_code == 302
    assert tasks.drain() == 1
    active.refresh_from_db()
    assert active.active
    assert [
        event.details["task"] for event in AuditEvent.objects.filter(verb="release.activate").order_by("pk")
    ] == [task.pk for task in Task.objects.order_by("pk") for _site in range(2)]


def test_a_promotion_that_fails_says_why_in_spanish(place, admin, active, challenger, signed_in, monkeypatch):  # noqa: F811
    monkeypatch.setattr(registry, "_damaged", lambda folder: None)
    sent = {"release": challenger.pk, "instead_of": active.pk, "action": "activate", "reason": "Mejor"}
    client = signed_in(admin)
    assert act(client, place, **sent).status_code == 302
    monkeypatch.undo()  # the files are gone before a worker comes
    registry._damaged_as_of.cache_clear()
    assert tasks.drain() == 0 and tasks.state(Task.objects.get()) == "failed"
    with translation.override("en"):
        assert (
            tasks.why(Task.objects.get())
            == f"{registry.folder(challenger)} is not a folder: give the folder that train wrote."
        )
    page = client.get(there("triage:releases", place)).content.decode()
    assert escape(gettext(bundle_told) % {"folder": registry.folder(challenger)}) in page
    assert act(client, place, **sent).status_code == 409  # it is not asked for again either


def test_a_damaged_release_is_not_promoted(place, admin, active, challenger, signed_in):  # noqa: F811
    sent = {"release": challenger.pk, "instead_of": active.pk, "action": "activate", "reason": "Mejor"}
    assert act(signed_in(admin), place, **sent).status_code == 409
    active.refresh_from_db()
    assert active.active


@pytest.mark.parametrize("who", ["lead", "one site"])
def test_who_does_not_administer_every_site_changes_nothing(
    place, lead, admin, other_site, active, challenger, signed_in, who  # noqa: F811
):  # fmt: skip
    policy.current(other_site, place.protocol)
    sent = {"release": challenger.pk, "instead_of": active.pk, "action": "activate", "reason": "Mejor"}
    assert act(signed_in(lead if who == "lead" else admin), place, **sent).status_code == 403
    challenger.refresh_from_db()
    assert not challenger.active


# Background work


@pytest.fixture
def no_workers():
    connection = django_rq.get_queue(jobs.ENCODE).connection
    connection.flushdb()


def test_the_page_says_that_no_worker_runs_and_readyz_too(lead_place, lead, signed_in, no_workers):  # noqa: F811
    page = signed_in(lead).get(there("triage:background", lead_place)).content.decode()
    assert "manage.py work" in page
    ready = Client().get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["workers"] == "No worker runs: start one with manage.py work."


def test_a_worker_is_named_with_what_it_does(lead_place, lead, signed_in, no_workers):  # noqa: F811
    from triage.worker import Worker

    worker = Worker(
        [django_rq.get_queue(jobs.ENCODE)], connection=django_rq.get_queue(jobs.ENCODE).connection
    )
    worker.register_birth()
    [found] = background.workers()
    assert (found["name"], found["serves"], found["busy"]) == (worker.name[:8], ["encode"], False)
    assert background.nobody() == "No worker serves light, long: start one with manage.py work."
    assert worker.name[:8] in signed_in(lead).get(there("triage:background", lead_place)).content.decode()
    monday = timezone.now() - timedelta(hours=1)
    worker.connection.hset(worker.key, "last_heartbeat", monday.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    assert background.workers()[0]["silent"]
    worker.register_death()


def test_the_page_lives_without_redis(lead_place, lead, signed_in, monkeypatch):  # noqa: F811
    def away(*args, **kwargs):
        raise redis.ConnectionError

    monkeypatch.setattr(background, "workers", away)
    page = signed_in(lead).get(there("triage:background", lead_place))
    assert page.status_code == 200 and "Redis" in page.content.decode()
    assert Client().get("/readyz").json()["workers"].startswith("The queue does not tell")


def test_cases_set_aside_are_shown_with_their_reason(lead_place, lead, signed_in):  # noqa: F811
    for status, failure in [("pending", ""), ("quarantined", "DataError while the case was read")]:
        factories.case(lead_place.site, lead_place.protocol, status=status, failure=failure)
    found = background.cases(lead_place)
    assert (found["pending"], found["quarantined"]) == (1, 1) and found[
        "oldest"
    ] == Case.objects.first().pending_since
    assert found["reasons"] == [("DataError while the case was read", 1)]
    assert "DataError while" in signed_in(lead).get(there("triage:background", lead_place)).content.decode()


@pytest.fixture
def task(place, admin, monkeypatch):  # noqa: F811
    monkeypatch.setitem(tasks.RUNNERS, "train", lambda task, progress: {})
    return tasks.ask("train", place.protocol, site=place.site, by=admin)


def test_tasks_and_exports_are_shown_and_followed(lead_place, lead, signed_in, task):  # noqa: F811
    ExportRun.objects.create(
        site=lead_place.site, protocol=lead_place.protocol, by=lead, form="jsonl", rows=3, total=9
    )
    Task.objects.update(status="claimed", claim=1, stage="Scoring in shadow", done=1, total=4)
    client = signed_in(lead)
    page = client.get(there("triage:background", lead_place)).content.decode()
    assert f'id="task-{task.pk}"' in page and 'value="1"' in page
    told = client.get(there("triage:background-status", lead_place)).json()
    assert {entry["key"].split("-")[0]: (entry["done"], entry["total"]) for entry in told["entries"]} == {
        "task": (1, 4),
        "export": (3, 9),
    }
    Task.objects.update(done=2)
    assert client.get(there("triage:background-status", lead_place)).json()["mark"] == told["mark"]
    Task.objects.update(status="ready", claim=None)
    assert client.get(there("triage:background-status", lead_place)).json()["mark"] != told["mark"]


@pytest.mark.parametrize(
    ("kind", "elsewhere", "lead_may", "admin_may"),
    [
        ("recalibrate", True, False, True),
        ("train", True, False, False),
        ("train", False, False, True),
        ("shadow", True, False, False),
        ("shadow", False, False, True),
    ],
)
def test_who_may_ask_for_a_task_tries_it_again(
    lead_place, lead, admin, other_site, signed_in, task, kind, elsewhere, lead_may, admin_may  # noqa: F811
):  # fmt: skip
    """elsewhere: the protocol is in use at a site this administrator does not administer."""
    if elsewhere:
        policy.current(other_site, lead_place.protocol)
    Task.objects.update(kind=kind, site=None if kind == "shadow" else lead_place.site)
    address = reverse(
        "triage:background-task", args=[lead_place.site.slug, lead_place.protocol.slug, task.pk]
    )
    assert tasks.cancel(task, admin)
    for who, may in ((lead, lead_may), (admin, admin_may)):
        client = signed_in(who)
        page = client.get(there("triage:background", lead_place)).content.decode()
        assert ('value="retry"' in page) == may
        assert client.post(address, {"action": "retry"}).status_code == (302 if may else 404)
        assert tasks.state(Task.objects.get()) == ("waiting" if may else "cancelled")


def test_a_promotion_is_tried_again_from_the_page_of_releases(
    place, admin, active, challenger, signed_in, monkeypatch  # noqa: F811
):  # fmt: skip
    """The page of background work leads there, and so does a page that still shows the button."""
    monkeypatch.setattr(registry, "_damaged", lambda folder: None)
    task = promotion.ask(challenger, by=admin, reason="r", instead_of=active.pk)
    client, releases_page = signed_in(admin), there("triage:releases", place)
    assert tasks.cancel(task, admin)
    page = client.get(there("triage:background", place)).content.decode()
    assert 'value="retry"' not in page and f'href="{releases_page}">' in page.split(f'id="task-{task.pk}"')[1]
    address = reverse("triage:background-task", args=[place.site.slug, place.protocol.slug, task.pk])
    answer = client.post(address, {"action": "retry"})
    assert (answer.status_code, answer["Location"]) == (302, releases_page)
    assert tasks.state(Task.objects.get()) == "cancelled"
    assert gettext(tasks.ASK_ANEW) in client.get(releases_page).content.decode()


def test_cancel_on_the_page(lead_place, lead, signed_in, task):  # noqa: F811
    client = signed_in(lead)
    address = reverse(
        "triage:background-task", args=[lead_place.site.slug, lead_place.protocol.slug, task.pk]
    )
    page = client.get(there("triage:background", lead_place)).content.decode()
    assert 'value="cancel"' in page and 'value="retry"' not in page
    assert client.post(address, {"action": "cancel"}).status_code == 302
    assert tasks.state(Task.objects.get()) == "cancelled"
    assert client.get(address).status_code == 405


def test_a_task_of_all_sites_is_stopped_by_who_asked_or_administers_them(
    lead_place, lead, admin, other_site, signed_in, task  # noqa: F811
):  # fmt: skip
    Task.objects.update(site=None, log=["2026-01-01T00:00:00+00:00\tSecret figures\t{}"])
    policy.current(other_site, lead_place.protocol)
    address = reverse(
        "triage:background-task", args=[lead_place.site.slug, lead_place.protocol.slug, task.pk]
    )
    client = signed_in(lead)
    assert client.post(address, {"action": "cancel"}).status_code == 404
    page = client.get(there("triage:background", lead_place)).content.decode()
    assert f'id="task-{task.pk}"' in page and "Secret figures" not in page
    assert signed_in(admin).post(address, {"action": "cancel"}).status_code == 302
    assert tasks.state(Task.objects.get()) == "cancelled"


def test_a_task_of_another_site_is_not_there(lead_place, lead, other_site, signed_in, task):  # noqa: F811
    Task.objects.update(site=other_site)
    client = signed_in(lead)
    address = reverse(
        "triage:background-task", args=[lead_place.site.slug, lead_place.protocol.slug, task.pk]
    )
    assert client.post(address, {"action": "cancel"}).status_code == 404
    assert client.get(there("triage:background-status", lead_place)).json()["entries"] == []
