"""openFDA's device events come in: as cases to be scored, their event types never as truth, and nothing lost around faults."""

import gzip
import io
import json
import re
import zipfile

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import translation

from mlcore import openfda
from mlcore.errors import DataError
from triage import benchmarks, intake
from triage.models import AuditEvent, Case, ImportLine, ImportRun, Note, Patient, Protocol

pytestmark = pytest.mark.django_db
ZIPPED = "device-event-0001-of-0005.json.zip"


@pytest.fixture
def protocol(db):
    return Protocol.objects.get(slug="maude-severity-en")


def report(number, text="Pump stopped.", kind="Death", **more):
    told = [{"text_type_code": "Description of Event or Problem", "text": text}] if text else []
    return {
        "report_number": number,
        "mdr_report_key": f"K{number}",
        "event_type": kind,
        "mdr_text": told,
    } | more


def shipped(*reports) -> bytes:
    return json.dumps({"meta": {"disclaimer": "Do not rely."}, "results": reports}).encode()


def packed(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(ZIPPED.removesuffix(".zip"), data)
    return file.getvalue()


FORMS = {"events.json": bytes, "events.json.gz": gzip.compress, ZIPPED: packed}


def receive(site, protocol, data, name="events.json", **how):
    return intake.receive(site, protocol, io.BytesIO(data), name, None, **how)


def told(run) -> dict[int, str]:
    with translation.override("en"):
        return {row["line"]: row["reason"] for row in intake.rejected(run)}


@pytest.mark.parametrize("name", FORMS)
def test_reports_become_cases_that_wait_and_their_event_types_are_left_out(site, protocol, name):
    rows = [
        report("R1", date_received="20200131", device=[{"device_report_product_code": "FRN"}]),
        report("R2", "It broke.", kind="Malfunction"),
        report("R3", "Unclear.", kind="No answer provided"),
    ]
    run = receive(site, protocol, FORMS[name](shipped(*rows)), name)
    assert (run.lines, run.notes_new, run.lines_rejected, run.labels_ignored) == (3, 3, 0, 2)
    note = Note.objects.get(patient__pseudonym="R1")
    assert (note.text, str(note.written_at), note.specialty, note.source_id) == (
        "Pump stopped.",
        "2020-01-31",
        "FRN",
        "KR1",
    )
    assert set(Case.objects.values_list("status", "protocol__slug")) == {("pending", "maude-severity-en")}
    assert Case.objects.filter(note__isnull=False).count() == 3


def test_no_event_type_is_kept_anywhere(site, protocol):
    """The label of a delivery cannot leak into a score: it is in no row that the import writes."""
    receive(site, protocol, shipped(report("R1", kind="Death"), report("R2", "x", kind="dEATH")))
    models = (Case, Note, Patient, ImportRun, ImportLine, AuditEvent)
    kept = json.dumps([list(model.objects.values()) for model in models], default=str)
    assert "R1" in kept and "death" not in kept.casefold()


def test_a_second_delivery_in_another_form_brings_nothing_new(site, protocol):
    data = shipped(report("R1"), report("R2", "b"))
    receive(site, protocol, data)
    again = receive(site, protocol, packed(data), ZIPPED)
    assert (again.notes_new, again.notes_known, Case.objects.count()) == (0, 2, 2)


def test_broken_reports_are_told_by_place_and_the_others_land(site, protocol):
    good = [json.dumps(report(f"R{i}", f"text {i}")).encode() for i in range(3)]
    bad = [b'{"mdr_text": [}', b'{"report_number": "x", "mdr_text": [{"text": "\\ud83e"}]}', b"3"]
    members = [good[0], bad[0], good[1], bad[1], bad[2], json.dumps(report("R9", "")).encode(), good[2]]
    run = receive(site, protocol, b'{"results": [' + b",".join(members) + b"]}")
    assert run.notes_new == 3
    assert told(run) == {
        2: "The report is not JSON.",
        4: "The line holds half of a surrogate pair, which is not a character.",
        5: "The report is not a JSON object.",
        6: "The report has no narrative, so there is nothing to read.",
    }


def test_a_file_cut_short_lands_what_came_before(site, protocol):
    data = shipped(*(report(f"R{i}", f"text {i}") for i in range(50)))
    run = receive(site, protocol, data[: len(data) * 3 // 4])
    assert 30 < run.notes_new < 50
    assert told(run) == {run.notes_new + 1: openfda.TORN[0]}


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("x.zip", packed(b""), "The file holds no records."),
        ("x.zip", b"PK\x03\x04rest", "damaged"),
        ("x.zip", b"hello", "damaged"),
        ("sheet.json", b"PK\x03\x04rest", "ZIP archive or an Office document"),
        ("x.json", shipped(), "The file holds no records."),
        ("x.json", b'{"results": 3}', "not what openFDA ships"),
        ("x.json", b'{"results": [{"a', "in the middle of the list"),
    ],
)
def test_a_file_of_which_nothing_can_be_read_is_refused_in_words(site, protocol, name, data, sentence):
    with pytest.raises(DataError, match=sentence):
        receive(site, protocol, data, name)
    assert not ImportRun.objects.exists()


def test_a_zip_bomb_is_refused_unread(site, protocol):
    with pytest.raises(intake.FileRefused, match="unpacks to more than"):
        receive(site, protocol, packed(b'{"results": [' + bytes(40_000_000)), ZIPPED)


def test_reports_without_narrative_never_give_a_file_up(site, protocol, monkeypatch):
    monkeypatch.setattr(intake, "MOST_REJECTED", 5)
    empty = [report(f"E{i}", "") for i in range(20)]
    run = receive(site, protocol, shipped(*empty, report("R1")))
    assert (run.notes_new, run.lines_rejected) == (1, 20)
    with pytest.raises(intake.FileRefused, match="More than 5 lines"):
        receive(site, protocol, shipped(*[3] * 6, *empty))


@pytest.mark.parametrize("at_once", [1, 3, 500])
def test_reports_without_narrative_are_counted_beyond_those_listed(site, protocol, monkeypatch, at_once):
    monkeypatch.setattr(intake, "MOST_LISTED", 4)
    monkeypatch.setattr(intake, "BATCH_NOTES", at_once)
    run = receive(site, protocol, shipped(*[{}] * 3, 3, *[{}] * 17, report("R1"), 3))
    assert (run.notes_new, run.lines, run.lines_rejected) == (1, 23, 22)
    rows = told(run)
    assert list(rows) == [1, 2, 3, 4, 5, 6, 23]
    assert rows[6] == "From here on 16 more reports have no narrative; they are counted, not listed."
    assert rows[4] == rows[23] == openfda.NOT_REPORT[0]


def test_a_gzip_within_an_archive_brings_no_row(site, protocol):
    with pytest.raises(intake.FileRefused, match="is not what openFDA ships"):
        receive(site, protocol, packed(gzip.compress(shipped(*[{}] * 100_000))), ZIPPED)
    assert not ImportLine.objects.exists()


def test_a_bundle_named_json_is_still_fhir(site, protocol):
    run = receive(
        site, protocol, b'{"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "X"}}]}'
    )
    assert told(run) == {1: "Only Patient and DocumentReference are read; this is X."}


def test_progress_is_told_after_every_batch(site, protocol, monkeypatch):
    monkeypatch.setattr(intake, "BATCH_NOTES", 10)
    seen = []
    data = shipped(*(report(f"R{i}", f"text {i}") for i in range(25)))
    receive(site, protocol, data, progress=lambda run: seen.append((run.lines, run.notes_new)))
    assert seen == [(10, 10), (20, 20), (25, 25)]


def test_the_command_takes_an_archive(site, protocol, tmp_path):
    path, out = tmp_path / ZIPPED, io.StringIO()
    path.write_bytes(packed(shipped(report("R1"), report("R2", ""))))
    call_command("import_notes", path, protocol=protocol.slug, site=site.slug, stdout=out)
    shown = out.getvalue()
    assert re.search(r"notes new +1\n", shown) and re.search(r"lines rejected +1\n", shown)
    assert "line 2: The report has no narrative" in shown


def test_the_page_offers_the_format_where_a_case_is_a_note_and_takes_it(site, protocol, lead):
    client = Client(HTTP_ACCEPT_LANGUAGE="en")
    client.force_login(lead)
    page = reverse("triage:intake", args=[site.slug, protocol.slug])
    assert "openFDA" in client.get(page).content.decode()
    upload = io.BytesIO(packed(shipped(report("R1"))))
    upload.name = ZIPPED
    response = client.post(page, {"file": upload})
    assert response.status_code == 302
    assert ImportRun.objects.get().file_name == ZIPPED
    other = reverse("triage:intake", args=[site.slug, "hiv-suspicion-es"])
    assert "openFDA" not in client.get(other).content.decode()


def test_every_reason_and_remedy_is_translated():
    pairs = [value for value in vars(openfda).values() if isinstance(value, tuple) and len(value) == 2]
    texts = {text for pair in pairs for text in pair if isinstance(text, str) and text.endswith(".")}
    assert len(texts) >= 15
    with translation.override("es"):
        assert not [text for text in texts if translation.gettext(text) == text]


def test_the_benchmark_reads_and_takes_in_what_it_says():
    figures = benchmarks.openfda_figures(reports=250)
    assert (figures["reports"], figures["notes_new"], figures["rejected"], figures["cases"]) == (
        250,
        247,
        3,
        247,
    )
    for name in ("read_plain", "read_zip", "intake"):
        assert figures[f"{name}_per_s"] > 0 and figures[f"{name}_per_cpu_s"] > 0
    assert figures["zip_mib"] < figures["plain_mib"]
