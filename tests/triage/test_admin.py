"""/admin/: what docs/deployment.md promises is there, for superusers; nothing else; each change is in the trail."""

from __future__ import annotations

import pytest
from django.contrib import admin as office
from django.contrib.auth import get_user_model
from django.urls import reverse

from tests import factories
from triage import audit
from triage.models import AuditEvent, Membership, Protocol, Site

pytestmark = pytest.mark.django_db
User = get_user_model()


@pytest.fixture
def chief(client):
    user = User.objects.create_superuser("jefatura", password="una-clave-larga-y-rara")
    client.force_login(user)
    return user


def events():
    return list(AuditEvent.objects.order_by("pk").values_list("verb", "site__slug", "actor__username"))


def test_only_what_is_promised_is_kept_here():
    assert set(office.site._registry) == {Site, Membership, Protocol, User}


def test_a_site_and_a_membership_are_made_changed_and_taken_away(client, chief, reader):
    client.post(reverse("admin:triage_site_add"), {"slug": "sur", "name": "Hospital Sur"})
    site = Site.objects.get(slug="sur")
    client.post(
        reverse("admin:triage_membership_add"), {"user": reader.pk, "site": site.pk, "role": "reader"}
    )
    made = Membership.objects.get(site=site)
    change = reverse("admin:triage_membership_change", args=[made.pk])
    client.post(
        change,
        {"user": chief.pk, "site": reader.memberships.exclude(pk=made.pk).get().site_id, "role": "lead"},
    )
    made.refresh_from_db()
    assert (made.user, made.site, made.role) == (reader, site, "lead")
    client.post(reverse("admin:triage_membership_delete", args=[made.pk]), {"post": "yes"})
    assert not Membership.objects.filter(site=site).exists()
    assert events() == [
        ("site.add", "sur", "jefatura"),
        ("membership.add", "sur", "jefatura"),
        ("membership.change", "sur", "jefatura"),
        ("membership.remove", "sur", "jefatura"),
    ]
    details = list(AuditEvent.objects.order_by("pk").values_list("details", flat=True))
    assert details[2] == {"user": reader.pk, "role": "lead", "changed": ["Role"]}
    assert audit.broken() == []


def test_several_memberships_taken_away_at_once_are_an_event_each(client, chief, reader, lead):
    chosen = {
        "action": "delete_selected",
        "post": "yes",
        "_selected_action": list(Membership.objects.values_list("pk", flat=True)),
    }
    client.post(reverse("admin:triage_membership_changelist"), chosen)
    assert not Membership.objects.exists()
    assert [verb for verb, *_ in events()] == ["membership.remove"] * 2


def test_a_password_set_for_somebody_is_recorded_without_it(client, chief, reader):
    word = "otra-clave-muy-larga-4711"
    form = {"password1": word, "password2": word, "usable_password": "true", "set-password": "1"}
    client.post(reverse("admin:auth_user_password_change", args=[reader.pk]), form)
    reader.refresh_from_db()
    assert reader.check_password(word)
    event = AuditEvent.objects.get(verb="user.change")
    assert event.object_id == str(reader.pk)
    assert word not in str(event.details)


def test_a_protocol_can_be_looked_at_and_not_changed_here(client, chief, protocol):
    """How it is read is set at its sites, with a reason that stands in the trail of each."""
    page = reverse("admin:triage_protocol_change", args=[protocol.pk])
    assert 'name="_save"' not in client.get(page).content.decode()
    sent = {"slug": "another", "language": "en", "reading": "blind", "double_share": "1"}
    assert client.post(page, sent).status_code == 403
    before = (protocol.slug, protocol.reading, protocol.double_share)
    protocol.refresh_from_db()
    assert (protocol.slug, protocol.reading, protocol.double_share) == before
    assert not AuditEvent.objects.exists()


def test_an_address_of_centinela_is_no_site(client, chief):
    answer = client.post(reverse("admin:triage_site_add"), {"slug": "admin", "name": "Admin"})
    assert answer.status_code == 200
    assert not Site.objects.exists()


def test_no_event_no_change(client, chief, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(audit, "record", refuse)
    client.raise_request_exception = False
    assert client.post(reverse("admin:triage_site_add"), {"slug": "sur", "name": "Sur"}).status_code == 500
    assert not Site.objects.exists()


@pytest.mark.parametrize("page", ["triage_site", "triage_membership", "triage_protocol", "auth_user"])
def test_staff_without_superuser_and_readers_are_kept_out(client, reader, page):
    address = reverse(f"admin:{page}_changelist")
    client.force_login(reader)
    assert client.get(address).status_code == 302
    reader.is_staff = True
    reader.save()
    assert client.get(address).status_code == 403


def test_every_page_opens_and_names_no_patient(client, chief, site, protocol, reader):
    case = factories.case(site, protocol, "Muguet oral y fiebre.")
    for model, objects in (
        (Site, site),
        (Membership, reader.memberships.get()),
        (Protocol, protocol),
        (User, reader),
    ):
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        for address in (reverse(f"{name}_changelist"), reverse(f"{name}_change", args=[objects.pk])):
            answer = client.get(address)
            assert answer.status_code == 200
            assert case.patient.pseudonym not in answer.content.decode()
    assert client.get(reverse("admin:auth_user_delete", args=[reader.pk])).status_code == 403
    assert client.get(reverse("admin:triage_site_delete", args=[site.pk])).status_code == 403
