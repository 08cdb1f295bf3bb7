"""Keys: shown once, kept as digests, never more than their owner has now."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from triage import tokens
from triage.models import AuditEvent, Membership, Token

pytestmark = pytest.mark.django_db


def member(user) -> Membership:
    return Membership.objects.get(user=user)


def test_a_key_is_found_by_itself_alone_and_not_kept(lead):
    token, key = tokens.create(member(lead), "puente", ["import", "read"])
    assert tokens.find(key) == token
    assert tokens.find(key + "x") is None and tokens.find("") is None and tokens.find("\ud800") is None
    assert key.startswith("ctl_") and token.start == key[:8]
    assert key.encode() not in bytes(token.digest) and len(token.digest) == 32
    assert timedelta(days=89) < token.expires_at - timezone.now() <= timedelta(days=90)
    event = AuditEvent.objects.get(verb="token.create")
    assert event.actor == lead and event.details["scopes"] == ["import", "read"]
    assert key not in str(event.details)


@pytest.mark.parametrize(
    "change",
    [
        lambda token: tokens.revoke(token, token.user),
        lambda token: Token.objects.update(expires_at=timezone.now()),
        lambda token: type(token.user).objects.filter(pk=token.user_id).update(is_active=False),
    ],
)
def test_a_key_revoked_out_of_time_or_of_a_disabled_account_opens_nothing(lead, change):
    token, key = tokens.create(member(lead), "puente", ["read"])
    change(token)
    assert tokens.find(key) is None


def test_nobody_gets_a_key_that_does_more_than_they_may(reader):
    for scope in ("import", "export"):
        with pytest.raises(tokens.NotAllowed):
            tokens.create(member(reader), "x", ["read", scope])
    assert not Token.objects.exists()


def test_a_year_is_the_most(lead):
    token, _key = tokens.create(member(lead), "x", ["read"], 4000)
    assert token.expires_at - timezone.now() <= timedelta(days=365)


def test_the_first_use_of_a_day_is_an_event(lead):
    token, _key = tokens.create(member(lead), "x", ["read"])
    for _ in range(3):
        tokens.used(token)
    assert AuditEvent.objects.filter(verb="token.use").count() == 1
    Token.objects.update(used_at=timezone.now() - timedelta(days=1))
    tokens.used(token)
    assert AuditEvent.objects.filter(verb="token.use").count() == 2


@pytest.fixture
def page(site, protocol):
    return reverse("triage:keys", args=[site.slug, protocol.slug])


def signed_in(user) -> Client:
    client = Client(HTTP_ACCEPT_LANGUAGE="en")
    session = client.session
    session.save()
    client.force_login(user)
    return client


def test_the_page_shows_a_key_once(lead, page):
    client = signed_in(lead)
    made = client.post(page, {"name": "puente", "scopes": ["read"], "days": "30"})
    token = Token.objects.get()
    key = made.context["made"]
    assert tokens.find(key) == token and key in made.content.decode()
    again = client.get(page).content.decode()
    assert key not in again and token.start in again and "no-store" in made["Cache-Control"]


@pytest.mark.parametrize(
    "wish",
    [
        {"name": "x", "days": "30"},
        {"name": "", "scopes": ["read"], "days": "30"},
        {"name": "x", "scopes": ["export"], "days": "30"},
        {"name": "x", "scopes": ["read"], "days": "366"},
        {"name": "x", "scopes": ["root"], "days": "3"},
    ],
)
def test_a_wish_that_cannot_be_met_is_a_sentence(reader, page, wish):
    answer = signed_in(reader).post(page, wish)
    assert answer.status_code == 422 and 'role="alert"' in answer.content.decode()
    assert not Token.objects.exists()


def revoking(page, token):
    return reverse("triage:keys-revoke", args=[*page.strip("/").split("/")[:2], token.pk])


def test_a_member_revokes_their_own_key_alone(reader, lead, page):
    token, key = tokens.create(member(lead), "puente", ["read"])
    assert "puente" not in signed_in(reader).get(page).content.decode()
    assert signed_in(reader).post(revoking(page, token)).status_code == 404
    assert tokens.find(key)
    assert signed_in(lead).post(revoking(page, token)).status_code == 302
    assert tokens.find(key) is None
    assert AuditEvent.objects.filter(verb="token.revoke").count() == 1


def test_an_administrator_sees_and_revokes_every_key_of_their_site_and_of_no_other(
    lead, admin, outsider, page
):
    token, key = tokens.create(member(lead), "puente", ["read"])
    elsewhere, other_key = tokens.create(member(outsider), "ajena", ["read"])
    client = signed_in(admin)
    shown = client.get(page)
    assert [one.name for one, _ in shown.context["others"]] == [
        "puente"
    ] and key not in shown.content.decode()
    assert client.post(revoking(page, elsewhere)).status_code == 404 and tokens.find(other_key)
    assert client.post(revoking(page, token)).status_code == 302 and tokens.find(key) is None
    event = AuditEvent.objects.get(verb="token.revoke")
    assert (event.actor, event.object_id, event.details) == (admin, str(token.pk), {"user": lead.pk})
    assert client.get(page).context["others"] == []


def test_the_key_of_somebody_who_left_can_still_be_revoked(lead, admin, page):
    token, _key = tokens.create(member(lead), "puente", ["read"])
    member(lead).delete()
    assert signed_in(admin).post(revoking(page, token)).status_code == 302
    token.refresh_from_db()
    assert token.revoked_at
