"""The trail refuses change by itself, links every event, and names the one that was altered."""

import pytest
from django.db import DatabaseError, connection, transaction

from triage import audit
from triage.models import AuditEvent

pytestmark = pytest.mark.django_db


def events(site, n=5):
    return [audit.record("test", site, site=site, details={"n": i}) for i in range(n)]


def test_events_are_linked_to_the_one_before(site, other_site):
    first, second, third = events(site, 3)
    audit.record("test", other_site, site=other_site)
    stored = AuditEvent.objects.in_bulk()
    assert bytes(stored[first.pk].previous) == b""
    assert bytes(stored[third.pk].previous) == bytes(stored[second.pk].digest)
    assert audit.broken() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE triage_auditevent SET verb = 'nothing'",
        "DELETE FROM triage_auditevent",
        "TRUNCATE triage_auditevent CASCADE",
    ],
)
def test_promise_20_the_database_refuses_change(site, statement):
    events(site, 1)
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditEvent.objects.count() == 1


def test_promise_20_an_altered_row_is_found_by_its_id(site):
    altered = events(site)[2]
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("UPDATE triage_auditevent SET details = '{\"n\": 99}' WHERE id = %s", [altered.pk])
        cursor.execute("SET session_replication_role = origin")
    assert audit.broken() == [altered.pk]


def test_a_removed_row_is_found_by_its_successor(site):
    _, removed, after, *_rest = events(site)
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("DELETE FROM triage_auditevent WHERE id = %s", [removed.pk])
        cursor.execute("SET session_replication_role = origin")
    assert audit.broken() == [after.pk]
