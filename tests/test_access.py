"""Promise 15: every address × every kind of visitor × every method. An address without a row here fails."""

from __future__ import annotations

import re
import time
from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.urls import URLPattern, get_resolver, reverse
from django.utils import timezone

from reviews.models import Adjudication, Comment, ExportRun, Review, SavedView, Webhook
from tests import factories
from triage import policy
from triage.models import AuditEvent, ImportRun, Policy, Proposal, Task, Token
from triage.sessions import RENEWED, STARTED

pytestmark = pytest.mark.django_db

OPEN = {"healthz", "readyz", "login", "set_language"}
ANYBODY_SIGNED_IN = {"home", "logout", "api:api-root", "api:openapi-json", "api:openapi-view"}
BY_KEY = "api:"  # tests/reviews/test_api.py has a row for each
PLACE = {
    "triage:dial": None,
    "triage:dial-preview": None,
    "triage:dial-versions": None,
    "triage:dial-proposal": "proposal",
    "triage:intake": None,
    "triage:intake-progress": None,
    "triage:intake-result": "run",
    "triage:intake-rejected": "run",
    "triage:background": None,
    "triage:background-status": None,
    "triage:background-task": "task",
    "triage:releases": None,
    "triage:keys": None,
    "triage:keys-revoke": "token",
    "reviews:queue": None,
    "reviews:queue-next": None,
    "reviews:queue-case": "case",
    "reviews:queue-reading": "case",
    "reviews:queue-draft": "case",
    "reviews:queue-hold": "case",
    "reviews:queue-method": "case",
    "reviews:queue-undo": "review",
    "reviews:queue-skip": "case",
    "reviews:queue-say": "case",
    "reviews:queue-unsay": "comment",
    "reviews:adjudications": None,
    "reviews:adjudications-case": "adjudication",
    "reviews:agreement": None,
    "reviews:progress": None,
    "reviews:comparison": None,
    "reviews:dial-instruments": None,
    "reviews:dial-changes": None,
    "reviews:watch": None,
    "reviews:watch-see": "alarm",
    "reviews:reading-settings": None,
    "reviews:queue-search": None,
    "reviews:queue-view-save": None,
    "reviews:queue-view": "view",
    "reviews:queue-mine": None,
    "reviews:queue-team": None,
    "reviews:queue-release": "case",
    "reviews:queue-return": "review",
    "reviews:words": None,
    "reviews:export": None,
    "reviews:export-status": "export",
    "reviews:export-file": "export",
    "reviews:export-retry": "export",
    "reviews:calibrations": None,
    "reviews:webhooks": None,
    "reviews:webhook": "hook",
}
METHODS = ("get", "post", "put", "delete")
HERE = {"site": "norte", "protocol": "hiv-suspicion-es"}


def names(patterns, space=""):
    for entry in patterns:
        if isinstance(entry, URLPattern):
            yield f"{space}{entry.name}" if entry.name else str(entry.pattern)
        elif entry.app_name != "admin":
            yield from names(entry.url_patterns, f"{entry.namespace}:" if entry.namespace else space)


@pytest.fixture
def objects(site, protocol, reader):
    case = factories.case(site, protocol, "Varón de [EDAD] años. Muguet oral.")
    prediction = factories.prediction(case, 0.9, 0.5, 0.5)
    dial = policy.current(site, protocol)
    review = Review.objects.create(
        case=case,
        prediction=prediction,
        policy=dial,
        reader=reader,
        client_key="6f1c3c7e-4d5f-4a0e-9a39-0c8f4d0f3c11",
        label=1,
        mode="assisted",
    )
    run = ImportRun.objects.create(site=site, protocol=protocol, file_name="a.jsonl", file_sha256="0" * 64)
    comment = Comment.objects.create(case=case, author=reader, text="Muguet.")
    opened = Adjudication.objects.create(
        case=case, prediction=prediction, notes_sha256=prediction.notes_sha256
    )
    view = SavedView.objects.create(user=reader, site=site, protocol=protocol, name="Mías", query="held=me")
    later = timezone.now() + timedelta(days=1)
    token = Token.objects.create(
        user=reader, site=site, name="x", scopes=["read"], digest=b"x", expires_at=later
    )
    export = ExportRun.objects.create(site=site, protocol=protocol, by=reader, form="jsonl")
    settings = {"alpha": 0.05, "typicality_floor": 0.01, "reason": "x", "base_version": 1}
    proposal = Proposal.objects.create(site=site, protocol=protocol, **settings)
    hook = Webhook.objects.create(site=site, protocol=protocol, url="http://h/", secret="s", by=reader)
    alarm = factories.alarm(site, protocol)
    task = Task.objects.create(site=site, protocol=protocol, kind="train", by=reader)
    return {
        "task": task.pk,
        "token": token.pk,
        "proposal": proposal.pk,
        "export": export.pk,
        "hook": hook.pk,
        "alarm": alarm.pk,
        "case": case.pk,
        "review": review.pk,
        "run": run.pk,
        "comment": comment.pk,
        "adjudication": opened.pk,
        "view": view.pk,
    }


def address(name, objects, **where):
    kind = PLACE[name]
    keyword = {"export": "run"}.get(kind, kind)
    return reverse(name, kwargs={**HERE, **where, **({keyword: objects[kind]} if kind else {})})


def plain(response):
    """The body without what differs between any two answers: tokens, and the address that was asked for."""
    body = re.sub(rb'(csrfmiddlewaretoken" value=|nonce=)"[^"]+"', b"", response.content)
    return response.status_code, re.sub(rb'name="next" value="[^"]*"', b"", body)


def test_every_address_has_a_row():
    found = set(names(get_resolver().url_patterns))
    assert {name for name in found if name in ANYBODY_SIGNED_IN or not name.startswith(BY_KEY)} == (
        OPEN | ANYBODY_SIGNED_IN | set(PLACE)
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PLACE)
def test_anonymous_is_sent_to_sign_in(client, objects, name, method):
    response = getattr(client, method)(address(name, objects))
    assert response.status_code == 302
    assert response.url.startswith(reverse("login"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PLACE)
def test_another_site_answers_as_if_nothing_were_there(client, objects, outsider, name, method):
    client.force_login(outsider)
    there = getattr(client, method)(address(name, objects))
    nowhere = getattr(client, method)(address(name, objects, site="nowhere"))
    if there.status_code == 405:
        assert nowhere.status_code == 405
        return
    assert there.status_code == 404
    assert plain(there) == plain(nowhere)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [name for name, kind in PLACE.items() if kind])
def test_an_object_of_another_site_is_not_found_under_ones_own(
    client, objects, outsider, protocol, name, method
):
    """The id is right, the site in the address is the visitor's own: it must not slip through."""
    policy.current(outsider.memberships.get().site, protocol)
    client.force_login(outsider)
    there = getattr(client, method)(address(name, objects, site="sur"))
    missing = getattr(client, method)(address(name, dict.fromkeys(objects, 987654), site="sur"))
    assert there.status_code in (404, 405)
    assert plain(there) == plain(missing)


@pytest.mark.parametrize("name", PLACE)
def test_no_method_breaks_a_page_for_a_member(client, objects, reader, name):
    client.force_login(reader)
    for method in METHODS:
        assert getattr(client, method)(address(name, objects)).status_code < 500


def test_promise_16_a_membership_taken_away_counts_at_once(client, objects, reader):
    client.force_login(reader)
    page = address("reviews:queue", objects)
    assert client.get(page).status_code == 200
    reader.memberships.all().delete()
    assert client.get(page).status_code == 404


def test_promise_16_a_disabled_account_is_out(client, objects, reader):
    client.force_login(reader)
    reader.is_active = False
    reader.save()
    assert client.get(address("reviews:queue", objects)).status_code == 302


def test_promise_17_five_wrong_passwords_lock(client, reader):
    for _ in range(5):
        client.post(reverse("login"), {"username": "lectora", "password": "no"})
    locked = client.post(reverse("login"), {"username": "lectora", "password": "una-clave-larga-y-rara"})
    assert locked.status_code == 429


def test_promise_17_twelve_hours_end_a_session(client, objects, reader):
    client.login(username="lectora", password="una-clave-larga-y-rara", request=_request())
    page = address("reviews:queue", objects)
    session = client.session
    session["started"] = session.get("started", 0) - 13 * 3600
    session.save()
    assert client.get(page).status_code == 302


def test_promise_17_an_idle_session_ends_within_fifteen_minutes_a_busy_one_does_not(client, objects, reader):
    """The row is written again only a minute after it was last written; until then requests leave it alone."""
    client.force_login(reader)
    page, row = address("reviews:queue", objects), Session.objects.filter(pk=client.session.session_key)
    client.get(page)
    first = row.get().expire_date
    assert client.get(page).status_code == 200
    assert row.get().expire_date == first
    assert timedelta(minutes=14) < first - timezone.now() <= timedelta(minutes=15)

    session = client.session
    session[RENEWED] -= 61
    session.save()
    renewed_after = timezone.now()
    client.get(page)
    assert row.get().expire_date >= renewed_after + timedelta(minutes=15)

    row.update(expire_date=timezone.now())
    assert client.get(page).status_code == 302


def test_pages_are_never_stored_and_carry_the_policy(client, objects, reader):
    client.force_login(reader)
    response = client.get(address("reviews:queue", objects))
    assert "no-store" in response["Cache-Control"]
    policy_line = response["Content-Security-Policy"]
    assert "script-src 'self';" in policy_line + ";"
    assert "frame-ancestors 'none'" in policy_line
    assert response["X-Content-Type-Options"] == "nosniff"


def _request():
    from django.test import RequestFactory

    return RequestFactory().post("/login/")


LOOKS = [
    "queue",
    "queue-next",
    "progress",
    "watch",
    "agreement",
    "calibrations",
    "reading-settings",
    "webhooks",
]


def test_looking_at_a_protocol_nobody_uses_opens_it_nowhere(site, protocol, admin, client):
    """A page is only a page: the first delivery, verdict or turn opens a protocol at a site."""
    client.force_login(admin)
    session = client.session
    session[STARTED] = time.time()
    session.save()
    where = ["norte", "maude-severity-en"]
    pages = [reverse(f"reviews:{name}", args=where) for name in LOOKS]
    pages += [
        reverse(f"triage:{name}", args=where) for name in ("dial", "dial-versions", "intake", "releases")
    ]
    for page in pages:
        answer = client.get(page, follow=True)
        assert answer.status_code == 200, page
        assert client.head(page).status_code in (200, 302, 405), page
    assert not Policy.objects.exists() and not AuditEvent.objects.exists()
