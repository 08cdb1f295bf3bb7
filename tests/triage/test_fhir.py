"""FHIR in: notes land as written, what is wrong is told by its line, nothing is fetched and no name is kept."""

import base64
import gzip
import io
import json
import re
import time

import pytest
from django.core.management import call_command
from django.utils import translation

from triage import fhir, intake, jobs
from triage.models import AuditEvent, Note, Patient

pytestmark = pytest.mark.django_db
PATIENT = {
    "resourceType": "Patient",
    "id": "1",
    "identifier": [{"value": "P-77"}, {"value": "NHC-123"}],
    "name": [{"family": "Kanarienvogel"}],
    "birthDate": "1970-02-03",
}


@pytest.fixture(autouse=True)
def _no_queue(monkeypatch):
    monkeypatch.setattr(jobs, "wake_scoring", lambda: None)


def attachment(text: str | bytes, kind: str = "text/plain") -> dict:
    data = text if isinstance(text, bytes) else text.encode()
    return {"attachment": {"contentType": kind, "data": base64.b64encode(data).decode()}}


def document(*contents, **facts) -> dict:
    return {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"reference": "Patient/1"},
        "content": list(contents),
    } | facts


def deliver(site, protocol, *resources, name="notas.ndjson"):
    body = "\n".join(json.dumps(r) if isinstance(r, dict) else r for r in resources).encode()
    return intake.receive(site, protocol, io.BytesIO(body), name, None)


def bundle(*resources) -> str:
    entries = [{"fullUrl": f"urn:uuid:{i}", "resource": r} for i, r in enumerate(resources)]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}, indent=2)


def reasons(run) -> dict[int, str]:
    """In English, whatever the translation says."""
    with translation.override("en"):
        return {row["line"]: row["reason"] for row in intake.rejected(run)}


def test_a_document_becomes_a_note_with_all_it_says(site, protocol):
    text = "Varón de [EDAD] años.\r\n  Muguet 👩🏽‍⚕️ e\u0301. "
    note = document(
        attachment(text),
        id="d1",
        masterIdentifier={"value": "DOC-9"},
        date="2021-05-12T23:30:00-11:00",
        type={"text": "Informe de alta"},
        context={"practiceSetting": {"coding": [{"display": "Urgencias"}]}},
    )
    run = deliver(site, protocol, note, PATIENT)  # the document before its patient
    stored = Note.objects.select_related("patient").get()
    assert (run.lines, run.notes_new, run.lines_rejected) == (1, 1, 0)
    assert stored.text == text and stored.patient.pseudonym == "P-77"
    assert (str(stored.written_at), stored.specialty, stored.source_id) == (
        "2021-05-12",
        "Urgencias",
        "DOC-9",
    )


def test_nothing_of_the_patient_but_the_first_identifier_is_kept(site, protocol):
    deliver(site, protocol, PATIENT, document(attachment("Fiebre.")))
    kept = json.dumps([list(model.objects.values()) for model in (Patient, Note, AuditEvent)], default=str)
    for told in ("Kanarienvogel", "NHC-123", "1970"):
        assert told not in kept


def test_a_bundle_points_by_full_url_and_a_subject_may_be_an_identifier(site, protocol):
    content = bundle(
        PATIENT,
        document(attachment("Uno."), subject={"reference": "urn:uuid:0"}),
        document(attachment("Dos."), subject={"identifier": {"value": "P-9"}}),
        document(attachment("Tres."), subject={"reference": "https://ehr.example/fhir/Patient/1/_history/2"}),
    )
    run = deliver(site, protocol, content, name="bulto.json")
    assert run.notes_new == 3 and not reasons(run)
    found = Note.objects.order_by("pk").values_list("patient__pseudonym", "text")
    assert list(found) == [("P-77", "Uno."), ("P-9", "Dos."), ("P-77", "Tres.")]


def test_what_is_entered_in_error_is_skipped_and_counted(site, protocol):
    run = deliver(
        site,
        protocol,
        PATIENT,
        document(attachment("a"), status="entered-in-error"),
        document(attachment("b"), docStatus="entered-in-error"),
        document(attachment("c")),
    )
    assert (run.notes_new, run.lines_rejected, intake.skipped(run)) == (1, 0, 2)


def test_each_bad_resource_is_a_line_with_its_reason_and_the_others_land(site, protocol):
    lines = [
        PATIENT,
        document(attachment("Bien.")),
        document({"attachment": {"contentType": "text/plain", "url": "https://ehr.example/Binary/1"}}),
        document(attachment(b"%PDF", "application/pdf")),
        document({"attachment": {"contentType": "text/plain", "data": "%%%"}}),
        document(attachment("Año".encode("latin-1"))),
        document(attachment("x", "text/plain; charset=klingon")),
        document(attachment("a"), subject={"reference": "Patient/404"}),
        document(attachment("a"), subject=None),
        {"resourceType": "Encounter", "status": "finished"},
        document(attachment("a"), date="ayer por la tarde"),
        {"resourceType": "Patient", "id": "2"},
        "{",
        document(attachment("  ")),
        {"resourceType": "DocumentReference", "status": "current"},
    ]
    run = deliver(site, protocol, *lines)
    told = reasons(run)
    assert [note.text for note in Note.objects.all()] == ["Bien."]
    assert set(told) == set(range(3, 16)) and run.lines_rejected == 13
    assert "an address, and nothing is fetched" in told[3]
    assert "text/plain or text/html" in told[4]
    assert "not base64" in told[5]
    assert "it names" in told[6] and "not read" in told[7]
    assert "not in the file" in told[8] and "whose it is" in told[9]
    assert "this is Encounter" in told[10]
    assert "look at date" in told[11]
    assert "no identifier" in told[12]
    assert "look at content" in told[15]


def test_charsets_and_forms(site, protocol):
    deliver(
        site,
        protocol,
        PATIENT,
        document(attachment("Año.".encode("latin-1"), "text/plain; charset=ISO-8859-1")),
        document(attachment("<p>No éste</p>", "text/html"), attachment("Éste.")),
        document(attachment("<p>Fiebre &amp; tos</p><p>Peso&nbsp;60</p>", 'text/html; charset="utf-8"')),
    )
    texts = list(Note.objects.order_by("pk").values_list("text", flat=True))
    assert texts == ["Año.", "Éste.", "Fiebre & tos\n\nPeso\u00a060"]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<html><head><title>T</title><style>p{}</style></head><body>Uno<br>dos</body></html>", "Uno\ndos"),
        ("<p>a\n   b</p>\n<ul><li>c</li><li>d</li></ul>", "a b\n\nc\n\nd"),
        (
            "<table><tr><td>Hb</td><td>12</td></tr><tr><td>VIH</td><td>neg</td></tr></table>",
            "Hb\t12\n\nVIH\tneg",
        ),
        ("<pre>a\n    b</pre>", "a\n    b"),
        ("x<script>alert('<p>no</p>')</script>y<!-- z -->", "xy"),
        ("a &lt; b &#8212; c &eacute;", "a < b — c é"),
        ("<head><body>unclosed head", "unclosed head"),
        ("</style></script>text", "text"),
        ("<p title=\"a > b\" data-x='<'>Hb < 12 y > 3</p>", "Hb < 12 y > 3"),
        ("<p O'Brien>it's</p><!DOCTYPE x><?xml y?>z", "it's\nz"),
        ("<SCRIPT>if (a<b) '</p>'</SCRIPT >x<br/>y<script/>z", "x\nyz"),
        ("x <!-- never ends <b>y</b>", "x <!-- never ends y"),
        ("T<p>38 <b", "T\n38 <b"),
        ("&#" + "9" * 5000 + ";x", "\ufffdx"),
    ],
)
def test_html_becomes_text_as_documented(page, text):
    assert fhir.html_to_text(page) == text


PARTS = [
    '<a b="',
    "<!--",
    "<a",
    "<a|",
    "</script",
    "<script>",
    "<!",
    "<a'b=\"",
    '<a="<',
    "&",
    "&a",
    "&#1",
    "<p>&lt;",
]
PARTS += ["<<p>", "=\">='<", "a<b/>", "<pre>", "<a\n", "&amp", "<a b='>", "\n ", "<td>"]


@pytest.mark.parametrize("part", PARTS)
def test_promise_30_no_page_of_a_megabyte_holds_the_reader(part):
    """Processor time in the order of a second; html.parser took minutes over some of these."""
    page = part * (1_000_000 // len(part))
    for made in (page, "<a" + page, '<a b="' + page):
        start = time.process_time()
        fhir.html_to_text(made)
        assert time.process_time() - start < 3


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "utf-7", "unicode_escape", "rot13", "hex", "\0", "é"]
)
def test_promise_30_only_plain_character_sets_are_read(charset):
    found = attachment("a-b", f"text/plain; charset={charset}")
    assert fhir._text({"content": [found]}) == fhir.OTHER_CHARSET
    long = attachment("a", "text/plain" + ';"' * 100_000)
    assert fhir._text({"content": [long]}) == "a"


@pytest.mark.parametrize("name", ["a.ndjson.gz", "b.json.gz"])
def test_gzip_is_unpacked(site, protocol, name):
    resources = [PATIENT, document(attachment("Fiebre."))]
    body = bundle(*resources) if "json" in name.split(".")[1:2] else "\n".join(map(json.dumps, resources))
    intake.receive(site, protocol, io.BytesIO(gzip.compress(body.encode())), name, None)
    assert Note.objects.get().text == "Fiebre."


def test_a_bundle_larger_than_is_held_is_refused_whole(site, protocol, monkeypatch):
    monkeypatch.setattr(fhir, "MAX_BUNDLE", 2_000)
    with pytest.raises(intake.FileRefused, match="NDJSON"):
        deliver(site, protocol, bundle(PATIENT, document(attachment("x" * 3000))), name="b.json")
    assert not Note.objects.exists()


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"resourceType": "Bundle"}', '{"resourceType": "Bundle", "entry": 3}', "{}", ""]
)
def test_a_json_file_that_is_no_bundle_is_told(site, protocol, content):
    try:
        run = deliver(site, protocol, content, name="b.json")
    except intake.FileRefused as refused:
        assert re.match(r"[A-Z].*\.", str(refused))
    else:
        assert run.lines_rejected == 1 and not run.notes_new


@pytest.mark.parametrize("junk", [None, 1, "x", [], {}, [1], [None], {"reference": 3}, {"coding": 7}])
def test_no_shape_breaks_the_reader(site, protocol, junk):
    """Every element in turn something it may not be: a reason or a note, never an exception."""
    good = document(
        attachment("a"),
        type={"text": "x"},
        context={"period": {"start": "2021"}},
        date="2021-01-02T00:00:00Z",
    )
    for key in (
        "subject",
        "content",
        "type",
        "category",
        "context",
        "date",
        "masterIdentifier",
        "identifier",
        "id",
        "status",
    ):
        lines = [PATIENT, good | {key: junk}, PATIENT | {"identifier": junk}]
        run = deliver(site, protocol, *lines)
        assert run.notes_new + run.notes_known + run.lines_rejected + run.skipped >= 1


def test_jsonl_and_ndjson_of_records_are_read_as_ever(site, protocol):
    run = deliver(site, protocol, {"patient_id": "P-1", "notes": ['He says "resourceType": yes']})
    assert run.notes_new == 1


def test_the_command_takes_fhir(site, protocol, tmp_path, capsys):
    path = tmp_path / "notas.ndjson"
    resources = [PATIENT, document(attachment("a")), document(attachment("b"), status="entered-in-error")]
    path.write_text("\n".join(map(json.dumps, resources)))
    call_command("import_notes", path, protocol=protocol.slug, site=site.slug)
    assert re.search(r"entered in error +1", capsys.readouterr().out)
