"""The API: what a key may do, where, and that nothing else opens it."""

import base64
import gzip
import json

import pytest
from django.test import Client
from django.urls import get_resolver, reverse

from reviews import exports
from reviews.models import Review
from tests import factories
from tests.reviews.conftest import ambiguous
from tests.reviews.test_exports import decided
from triage import jobs, policy, tokens
from triage.models import AuditEvent, Membership, Note, Policy, Protocol, Token

pytestmark = pytest.mark.django_db
HERE = {"site": "norte", "protocol": "hiv-suspicion-es"}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, settings, tmp_path):
    settings.EXPORTS_DIR = tmp_path / "exports"
    monkeypatch.setattr(jobs, "enqueue", lambda *args, **how: None)
    monkeypatch.setattr(jobs, "wake_scoring", lambda: None)


def key(user, *scopes) -> dict[str, str]:
    return {
        "HTTP_AUTHORIZATION": f"Bearer {tokens.create(Membership.objects.get(user=user), 'x', scopes)[1]}"
    }


def at(name, **where):
    return reverse(f"api:{name}", kwargs=HERE | where)


def send(user_key, body, kind, **where):
    return Client().post(at("deliver", **where), body, content_type=kind, **user_key)


OPERATIONS = {
    "deliver": ("post", {}, "import"),
    "imported": ("get", {"run": 1}, "import"),
    "queue": ("get", {}, "read"),
    "queue_cases": ("get", {}, "read"),
    "case_figures": ("get", {"case": 1}, "read"),
    "case_notes": ("get", {"case": 1}, "read"),
    "ask_export": ("post", {}, "export"),
    "export_state": ("get", {"run": 1}, "export"),
    "export_file": ("get", {"run": 1}, "export"),
}
WISH = {"content_type": "application/json", "data": '{"form": "jsonl"}'}


def call(name, headers=None, **where):
    method, more, _scope = OPERATIONS[name]
    body = WISH if method == "post" else {}
    return getattr(Client(), method)(at(name, **(more | where)), **body, **(headers or {}))


def test_every_operation_has_a_row():
    [api] = [e for e in get_resolver().url_patterns if str(e.pattern) == "api/v1/"]
    names = {pattern.name for pattern in api.url_patterns[0].url_patterns}
    assert names == {"api-root", "openapi-json", "openapi-view", *OPERATIONS}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("header", [None, "Bearer x", "Bearer ", "Basic eDp5", "ctl_x"])
def test_without_a_live_key_nothing_opens(protocol, lead, name, header):
    answer = call(name, {"HTTP_AUTHORIZATION": header} if header else {})
    assert answer.status_code == 401 and answer["WWW-Authenticate"] == "Bearer"
    assert set(answer.json()) == {"message"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_session_is_no_key(protocol, lead, signed_in, name):
    method, more, _scope = OPERATIONS[name]
    assert getattr(signed_in(lead), method)(at(name, **more)).status_code == 401


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_key_works_at_its_own_site_only(protocol, lead, other_site, name):
    """Its owner is a member of both sites; the key is for one."""
    everything = key(lead, *Token.Scope)
    Membership.objects.create(user=lead, site=other_site, role="admin")
    there, nowhere = (call(name, everything, site=site) for site in ("sur", "nowhere"))
    assert there.status_code == nowhere.status_code == 404
    assert there.content == nowhere.content


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_key_without_the_scope_is_refused_in_words(protocol, lead, name):
    _method, _more, scope = OPERATIONS[name]
    answer = call(name, key(lead, *(set(Token.Scope) - {scope})))
    assert answer.status_code == 403 and scope in answer.json()["message"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_key_has_what_its_owner_has_now(protocol, lead, name):
    everything = key(lead, *Token.Scope)
    lead.memberships.update(role="reader")
    expected = {"queue": 200, "queue_cases": 200, "case_notes": 404}.get(name, 403)
    assert call(name, everything).status_code == expected
    lead.memberships.all().delete()
    assert call(name, everything).status_code == 404
    lead.is_active = False
    lead.save()
    assert call(name, everything).status_code == 401


def test_notes_come_in_as_records_lines_csv_and_fhir(site, protocol, lead):
    mine = key(lead, "import")
    document = {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"identifier": {"value": "P-4"}},
        "content": [{"attachment": {"contentType": "text/plain", "data": base64.b64encode(b"d").decode()}}],
    }
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": document}]}
    bodies = [
        (json.dumps([{"patient_id": "P-1", "notes": ["a ✓"]}, {"patient_id": ""}]), "application/json"),
        (json.dumps({"patient_id": "P-1", "notes": ["a ✓"]}), "application/json; charset=utf-8"),
        (gzip.compress(b'{"patient_id": "P-2", "notes": ["b"]}', mtime=0), "application/x-ndjson"),
        (b"patient_id,text\nP-3,c\n", "text/csv"),
        (json.dumps(document), "application/fhir+ndjson"),
        (json.dumps(bundle), "application/fhir+json"),
    ]
    answers = [send(mine, body, kind) for body, kind in bodies]
    assert [answer.status_code for answer in answers] == [201] * 6
    first, again, *_rest, fifth = (answer.json() for answer in answers)
    assert (first["notes_new"], first["lines_rejected"]) == (1, 1)
    assert first["rejected"][0]["line"] == 2 and first["rejected"][0]["reason"].endswith(".")
    assert again["notes_known"] == 1 and again["duplicates"] == [{"line": 1, "patient": "P-1"}]
    assert fifth["notes_known"] == 1
    assert sorted(Note.objects.values_list("text", flat=True)) == ["a ✓", "b", "c", "d"]
    assert AuditEvent.objects.filter(verb="notes.import", actor=lead).count() == 6
    seen = Client().get(at("imported", run=first["id"]), **mine).json()
    assert seen == first


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b"\n", "application/x-ndjson", 422),
        (b"PK\x03\x04....", "text/csv", 422),
        (b"x", "application/pdf", 415),
        (b"[" * 100_000, "application/json", 422),
    ],
)
def test_what_cannot_be_read_is_a_sentence_and_leaves_nothing(site, protocol, lead, body, kind, status):
    answer = send(key(lead, "import"), body, kind)
    assert answer.status_code == status and answer.json()["message"].endswith(".")
    assert not Note.objects.exists() and not AuditEvent.objects.filter(verb="notes.import").exists()


def test_a_body_too_large_is_not_read(site, protocol, lead, settings):
    settings.UPLOAD_MAX_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    for kind in ("text/csv", "application/json"):
        assert send(key(lead, "import"), b"x" * 101, kind).status_code == 413


def test_the_queue_tells_who_waits_and_no_text(place, reader):
    case = ambiguous(place, "Muguet kanarienvogel.")
    factories.predictions(place.site, place.protocol, [0.9], [0.001], [0.5])
    mine = key(reader, "read")
    counts = Client().get(at("queue"), **mine).json()
    assert counts["waiting_for_a_reader"] == 1 and counts["total"] == 2 and counts["policy_version"] == 1
    answer = Client().get(at("queue_cases"), **mine)
    assert answer.json()[0] | {"urgency": 0, "written_at": None, "specialty": ""} == {
        "case": case.pk,
        "patient_id": case.patient.pseudonym,
        "specialty": "",
        "written_at": None,
        "urgency": 0,
        "reason": "ambiguous",
    }
    assert "kanarienvogel" not in answer.content.decode()
    assert Client().get(at("queue_cases") + f"?after={case.pk}", **mine).json() == []
    assert Client().get(at("queue_cases") + "?after=x", **mine).status_code == 422


def test_what_is_read_blind_is_told_to_nobody_beforehand(place, reader):
    ambiguous(place)
    policy.current(place.site, place.protocol)
    Policy.objects.create(
        site=place.site,
        protocol=place.protocol,
        version=2,
        alpha=0.02,
        typicality_floor=0.01,
        audit_rate=1,
        reason="r",
    )
    [row] = Client().get(at("queue_cases"), **key(reader, "read")).json()
    assert row["reason"] is None and row["urgency"] is None


def test_figures_are_those_of_the_standing_prediction_and_for_leads(place, reader, lead):
    case = ambiguous(place)
    assert Client().get(at("case_figures", case=case.pk), **key(reader, "read")).status_code == 403
    told = Client().get(at("case_figures", case=case.pk), **key(lead, "read")).json()
    assert (told["outcome"], told["p_values"], told["label"]) == ("ambiguous", [0.6, 0.3], "non_suspicion")
    unscored = factories.case(place.site, place.protocol, status="pending")
    assert Client().get(at("case_figures", case=unscored.pk), **key(lead, "read")).json()["outcome"] is None


def test_figures_are_hidden_from_who_would_read_blind_until_their_verdict_stands(place, reader, lead):
    policy.current(place.site, place.protocol)
    case = decided(place, reader)
    Protocol.objects.update(double_share=1)
    for user, where in ((lead, case), (lead, ambiguous(place, lot=0.0))):
        Policy.objects.get_or_create(
            site=place.site,
            protocol=place.protocol,
            version=2,
            alpha=0.02,
            typicality_floor=0.01,
            audit_rate=0.1,
            reason="r",
        )
        told = Client().get(at("case_figures", case=where.pk), **key(user, "read")).json()
        assert told["status"] and not any(told[name] for name in ("label", "p_values", "outcome", "urgency"))
    Review.objects.filter(case=case).update(reader=lead)
    told = Client().get(at("case_figures", case=case.pk), **key(lead, "read")).json()
    assert told["label"] and told["p_values"]


def test_the_queue_is_that_of_the_keys_owner_and_hides_what_they_read_second(place, reader, lead):
    Protocol.objects.update(double_share=1)
    place.protocol.refresh_from_db()
    decided(place, reader)
    waiting = {}
    for user in (reader, lead):
        mine = key(user, "read")
        waiting[user] = Client().get(at("queue_cases"), **mine).json()
        counted = Client().get(at("queue"), **mine).json()["waiting_for_a_reader"]
        assert counted == len(waiting[user])
    assert waiting[reader] == []
    [row] = waiting[lead]
    assert row["reason"] is None and row["urgency"] is None


def test_reading_notes_is_a_disclosure_of_the_case(place, reader):
    case = ambiguous(place, "Uno.", "Dos.")
    answer = Client().get(at("case_notes", case=case.pk), **key(reader, "read"))
    assert [note["text"] for note in answer.json()] == ["Uno.", "Dos."]
    assert "no-store" in answer["Cache-Control"]
    event = AuditEvent.objects.get(verb="case.read")
    assert (event.actor, event.object_id, event.details["notes"]) == (reader, str(case.pk), 2)


def test_an_export_is_asked_for_followed_and_fetched_in_parts(place, reader, lead):
    decided(place, reader)
    mine, client = key(lead, "export"), Client()
    ask = client.post(at("ask_export"), {"form": "jsonl"}, content_type="application/json", **mine)
    assert ask.status_code == 202 and ask.json()["status"] == "pending"
    run = ask.json()["id"]
    assert client.get(at("export_file", run=run), **mine).status_code == 404
    exports.drain()
    state = client.get(at("export_state", run=run), **mine).json()
    assert state["status"] == "ready" and state["rows"] == 1
    whole = b"".join(client.get(at("export_file", run=run), **mine).streaming_content)
    rest = client.get(at("export_file", run=run), HTTP_RANGE="bytes=10-", **mine)
    assert rest.status_code == 206 and b"".join(rest.streaming_content) == whole[10:]
    assert rest["ETag"] == f'"{state["sha256"]}"' and len(whole) == state["size"]
    fetches = AuditEvent.objects.filter(verb="labels.fetch", actor=lead)
    assert [event.details["from"] for event in fetches.order_by("pk")] == [0, 10]


@pytest.mark.parametrize("wish", ['{"form": "xml"}', '{"form": "brat"}', "{}", "{"])
def test_a_wish_that_cannot_be_met_is_a_sentence(place, lead, wish):
    answer = Client().post(at("ask_export"), wish, content_type="application/json", **key(lead, "export"))
    assert answer.status_code in (400, 422) and answer.json()["message"]


def test_the_description_is_for_whoever_is_signed_in(reader, signed_in):
    for name in ("openapi-view", "openapi-json"):
        assert Client().get(reverse(f"api:{name}")).status_code == 302
        assert signed_in(reader).get(reverse(f"api:{name}")).status_code == 200
    paths = signed_in(reader).get(reverse("api:openapi-json")).json()["paths"]
    assert len(paths) == len(OPERATIONS)
