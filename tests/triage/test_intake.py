"""Deliveries: what lands is exactly what was sent, once, and what does not is named with its reason."""

import ast
import gzip
import hashlib
import io
import json
import random
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import pytest
from django.core.management import call_command
from django.db import connection, connections
from django.utils import translation

from mlcore import records
from mlcore.errors import DataError
from triage import audit, intake, jobs
from triage.management.commands import import_notes
from triage.models import (
    AuditEvent,
    Calibration,
    Case,
    ImportLine,
    ImportRun,
    Note,
    Patient,
    Policy,
    Prediction,
    Protocol,
    Release,
)

pytestmark = pytest.mark.django_db

NASTY = [
    "sin acentos",
    "ñandú, fiebre de 38,5 °C\r\n\r\ny tos\rseca\n",
    " \t espacios delante y detrás  ",
    "e\u0301 y é: dos formas de lo mismo",
    "🫀👩🏽‍⚕️ y 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "\u202eodnanimret\u202c \u2066aislado\u2069",
    "\ufeffmarca dentro del texto",
    "\u2028separador de línea\u2029 y de párrafo\x85\x0b\x0c\x1c",
    '=SUMA(A1) "comillas" \\ barra',
    "<script>alert(1)</script>&amp;",
    "\u0001\u0008\u001b[31m control",
    "\U0010ffff\uffff no caracteres",
]


def lines(*rows) -> io.BytesIO:
    return io.BytesIO(b"".join(row if isinstance(row, bytes) else _json(row) for row in rows))


def _json(row) -> bytes:
    return json.dumps(row).encode() + b"\n"


def patient(name, *notes, **more):
    return {"patient_id": name, "notes": list(notes), **more}


def receive(site, protocol, *rows, name="entrega.jsonl", by=None):
    return intake.receive(site, protocol, lines(*rows), name, by)


@pytest.fixture
def per_note(db):
    return Protocol.objects.get(slug="maude-severity-en")


def score(case) -> Prediction:
    """A prediction that stands, as a worker leaves it."""
    release, _ = Release.objects.get_or_create(
        protocol=case.protocol, sha256=case.protocol.slug, card={}, active=True
    )
    ranks, _ = Calibration.objects.get_or_create(
        release=release,
        site=None,
        defaults={"counts": [9, 9], "typical_counts": [9, 9], "arrays": b"", "held_out": b""},
    )
    Case.objects.filter(pk=case.pk).update(status="scored")
    numbers = {"credibility": 0.5, "runner_up": 0.1, "typicality": 0.5, "urgency": 0.2, "label": 0}
    lists = {name: [0.0, 1.0] for name in ("logits", "probabilities", "p_values", "distances")}
    owner = {
        "case": case,
        "site": case.site,
        "protocol": case.protocol,
        "release": release,
        "calibration": ranks,
    }
    return Prediction.objects.create(**owner, **numbers, **lists, note_ids=[], notes_sha256="x", current=True)


# What lands


def test_patients_notes_and_one_case_a_patient(site, protocol, lead):
    full = {"text": "Fiebre.", "written_at": "2021-05-12", "specialty": "Urgencias", "note_id": "7"}
    run = receive(site, protocol, patient("P-1", "Tos.", full), patient("P-2", "Ictericia."), by=lead)
    assert (run.lines, run.notes_new, run.notes_known, run.lines_rejected) == (2, 3, 0, 0)
    assert (run.by, run.file_name, run.file_sha256) == (
        lead,
        "entrega.jsonl",
        hashlib.sha256(
            lines(patient("P-1", "Tos.", full), patient("P-2", "Ictericia.")).getvalue()
        ).hexdigest(),
    )
    assert ImportRun.objects.get().notes_new == 3
    note = Note.objects.get(text="Fiebre.")
    assert (str(note.written_at), note.specialty, note.source_id, note.run) == (
        "2021-05-12",
        "Urgencias",
        "7",
        run,
    )
    assert note.sha256 == hashlib.sha256(b"Fiebre.").hexdigest()
    cases = Case.objects.order_by("patient__pseudonym").values_list(
        "patient__pseudonym", "note", "status", "site"
    )
    assert list(cases) == [("P-1", None, "pending", site.pk), ("P-2", None, "pending", site.pk)]
    assert Policy.objects.get(site=site, protocol=protocol).version == 1


def test_one_case_a_note_where_the_unit_is_the_note(site, per_note):
    rows = [
        {"report_number": "M-1", "text": text, "event_type": "Death"}
        for text in ("Pump stopped.", "It broke.")
    ]
    receive(site, per_note, *rows)
    assert Patient.objects.count() == 1
    assert sorted(Case.objects.values_list("note__text", flat=True)) == ["It broke.", "Pump stopped."]


@pytest.mark.parametrize("form", ["jsonl", "csv", "jsonl.gz", "utf-16.csv"])
def test_text_is_stored_code_point_for_code_point(site, protocol, form):
    if form.startswith("jsonl"):
        data = lines(*(patient(f"P-{i}", text) for i, text in enumerate(NASTY))).getvalue()
    else:
        rows = [f'P-{i},"{text.replace(chr(34), chr(34) * 2)}"\n' for i, text in enumerate(NASTY)]
        data = ("patient_id,text\n" + "".join(rows)).encode("utf-16" if form.startswith("utf") else "utf-8")
    data = gzip.compress(data) if form.endswith("gz") else data
    run = intake.receive(site, protocol, io.BytesIO(data), f"entrega.{form}", None)
    assert run.lines_rejected == 0
    stored = dict(Note.objects.values_list("patient__pseudonym", "text"))
    assert stored == {f"P-{i}": text for i, text in enumerate(NASTY)}


def test_labels_are_ignored_and_counted_even_unknown_ones(site, protocol):
    run = receive(
        site, protocol, patient("P-1", "a", label=1), patient("P-2", "b", label="quizá"), patient("P-3", "c")
    )
    assert (run.notes_new, run.lines_rejected, run.labels_ignored) == (3, 0, 2)


def test_good_lines_land_and_bad_ones_are_named(site, protocol):
    rows = [
        patient("P-1", "a"),
        b"{\n",
        patient("P-2", "b\0"),
        patient("", "c"),
        b"\xff\xfe\xfd\n",
        patient("P-3", "d"),
    ]
    run = receive(site, protocol, *rows)
    assert (run.lines, run.notes_new, run.lines_rejected) == (6, 2, 4)
    with translation.override("en"):
        told = list(intake.rejected(run))
    assert [row["line"] for row in told] == [2, 3, 4, 5]
    assert told[0] == {
        "line": 2,
        "reason": "The line is not JSON.",
        "remedy": "Write one complete JSON object a line.",
    }
    assert told[2]["remedy"] == "Give each record a patient_id."
    assert all(row["reason"] and row["remedy"] for row in told)


@pytest.mark.parametrize(("key", "limit"), [("patient_id", 128), ("specialty", 80), ("note_id", 128)])
def test_a_field_longer_than_its_column_costs_its_line_only(site, protocol, key, limit):
    def row(name, length):
        return {"patient_id": name, "text": "a"} | {key: name + "x" * (length - len(name))}

    run = receive(site, protocol, row("P-1", limit), row("P-2", limit + 1))
    assert (run.notes_new, run.lines_rejected) == (1, 1)
    with translation.override("en"):
        assert next(intake.rejected(run))["reason"] == f"The {key} is longer than {limit} characters."


def test_the_event_holds_figures_and_the_hash_of_the_file(site, protocol, lead):
    run = receive(site, protocol, patient("P-1", "secreto"), b"{\n", by=lead)
    event = AuditEvent.objects.get(verb="notes.import")
    assert (event.actor, event.site, event.object_id) == (lead, site, str(run.pk))
    assert event.details == {
        "protocol": "hiv-suspicion-es",
        "file_sha256": run.file_sha256,
        "lines": 2,
        "notes_new": 1,
        "notes_known": 0,
        "lines_rejected": 1,
        "labels_ignored": 0,
    }
    assert audit.broken() == []


def test_batches_are_bounded_and_nothing_falls_between_them(site, protocol, monkeypatch):
    monkeypatch.setattr(intake, "BATCH_NOTES", 3)
    monkeypatch.setattr(intake, "BATCH_CHARACTERS", 50)
    rows = [patient(f"P-{i % 5}", "x" * (i * 3), "y") if i % 4 else b"{\n" for i in range(1, 24)]
    run = receive(site, protocol, *rows)
    sent = {(row["patient_id"], text) for row in rows if isinstance(row, dict) for text in row["notes"]}
    assert set(Note.objects.values_list("patient__pseudonym", "text")) == sent
    assert run.lines_rejected == 5
    assert run.notes_new + run.notes_known == 2 * 18
    assert Case.objects.count() == 5


# What was here already


def test_a_second_delivery_names_every_note_and_its_first_import(site, protocol):
    first = receive(site, protocol, patient("P-1", "a", "b"), name="mayo.jsonl")
    second = receive(site, protocol, patient("P-1", "a", "b"), name="junio.jsonl")
    assert (second.notes_new, second.notes_known) == (0, 2)
    named = list(
        second.remarks.values_list("line", "kind", "pseudonym", "params__note", "params__file", "params__run")
    )
    assert named == [(1, "duplicate", "P-1", i, "mayo.jsonl", first.pk) for i in (1, 2)]
    assert [row["earlier"] for row in intake.duplicates(second)] == [first, first]
    assert intake.latest_earlier(second) == first.at
    assert (Note.objects.count(), Patient.objects.count(), Case.objects.count()) == (2, 1, 1)


def test_a_note_twice_in_one_file_counts_once(site, protocol, monkeypatch):
    monkeypatch.setattr(intake, "BATCH_NOTES", 2)
    run = receive(site, protocol, *[patient("P-1", "a")] * 5, patient("P-1", "a", "a"), patient("P-2", "a"))
    assert (run.notes_new, run.notes_known) == (2, 6)
    assert [row["line"] for row in intake.duplicates(run)] == [2, 3, 4, 5, 6, 6]
    assert {row["earlier"] for row in intake.duplicates(run)} == {None}


@pytest.mark.parametrize("change", [{"written_at": "2020-01-01"}, {"specialty": "UCI"}, {"note_id": "9"}])
def test_the_same_words_of_another_day_or_ward_are_another_note(site, protocol, change):
    row = {"patient_id": "P-1", "text": "Sin cambios."}
    receive(site, protocol, row)
    assert receive(site, protocol, row | change).notes_new == 1


def test_sites_do_not_share_patients(site, other_site, protocol):
    for place in (site, other_site):
        assert receive(place, protocol, patient("P-1", "a")).notes_new == 1
    assert Patient.objects.filter(pseudonym="P-1").count() == 2


def test_promise_5_ten_times_in_a_row_is_once(site, protocol):
    rows = [patient(f"P-{i}", *"abc") for i in range(20)]
    runs = [receive(site, protocol, *rows) for _ in range(10)]
    assert [run.notes_new for run in runs] == [60] + [0] * 9
    assert ImportLine.objects.filter(kind="duplicate").count() == 9 * 60
    assert (Note.objects.count(), Patient.objects.count(), Case.objects.count()) == (60, 20, 20)


def at_once(tasks):
    """Run them in threads that start together; their results in order."""
    barrier = threading.Barrier(len(tasks))

    def go(task):
        barrier.wait()
        try:
            return task()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(go, tasks))


@pytest.mark.django_db(transaction=True)
def test_promise_5_ten_at_once_is_once_and_every_duplicate_is_named(site, protocol, monkeypatch):
    monkeypatch.setattr(intake, "BATCH_NOTES", 50)
    monkeypatch.setattr(jobs, "wake_scoring", lambda: None)
    rows = [patient(f"P-{i}", *"abc") for i in range(60)]
    runs = at_once([lambda: receive(site, protocol, *rows)] * 10)
    assert sorted(run.notes_new for run in runs) == [0] * 9 + [180]
    assert (Note.objects.count(), Patient.objects.count(), Case.objects.count()) == (180, 60, 60)
    first = next(run for run in runs if run.notes_new)
    for run in runs:
        named = run.remarks.filter(kind="duplicate", params__run=first.pk).count()
        assert named == (0 if run == first else 180)
    assert audit.broken() == []


@pytest.mark.django_db(transaction=True)
def test_files_that_hold_the_same_notes_in_other_orders_do_not_deadlock(site, protocol, monkeypatch):
    monkeypatch.setattr(intake, "BATCH_NOTES", 10)
    monkeypatch.setattr(jobs, "wake_scoring", lambda: None)
    rows = [patient(f"P-{i}", "a", "b") for i in range(100)]
    orders = [random.Random(seed).sample(rows, len(rows)) for seed in range(8)]
    runs = at_once([lambda order=order: receive(site, protocol, *order) for order in orders])
    assert sum(run.notes_new for run in runs) == 200
    assert sum(run.notes_known for run in runs) == 7 * 200
    assert Case.objects.count() == 100


@pytest.mark.django_db(transaction=True)
def test_verdicts_do_not_wait_for_an_import(site, protocol, monkeypatch):
    """The import holds its site's row, yet rows that point at the site can be written meanwhile."""
    land = intake._land

    def verdict():
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '3s'")
        audit.record("test", site, site=site)

    def meanwhile(*args):
        land(*args)
        at_once([verdict])

    monkeypatch.setattr(intake, "_land", meanwhile)
    monkeypatch.setattr(jobs, "wake_scoring", lambda: None)
    assert receive(site, protocol, patient("P-1", "a")).notes_new == 1
    assert AuditEvent.objects.filter(verb="test").count() == 1


@pytest.mark.parametrize("debug", [True, False])
def test_memory_stays_flat_with_debug_on_and_off(site, protocol, settings, monkeypatch, debug):
    settings.DEBUG = debug
    monkeypatch.setattr(intake, "BATCH_CHARACTERS", 500_000)
    rows = lines(*(patient(f"P-{i}", random.Random(i).randbytes(50_000).hex()) for i in range(200)))
    tracemalloc.start()
    intake.receive(site, protocol, rows, "entrega.jsonl", None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_a_crash_at_the_last_moment_leaves_nothing_half_done(site, protocol, monkeypatch):
    def crash(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(intake.audit, "record", crash)
    with pytest.raises(RuntimeError):
        receive(site, protocol, *(patient(f"P-{i}", "a") for i in range(600)))
    for model in (Note, Patient, Case, ImportRun, ImportLine):
        assert not model.objects.exists()


# Cases wait again


def test_a_new_note_takes_the_standing_score_down_and_asks_again(site, protocol):
    receive(site, protocol, patient("P-1", "a"), patient("P-2", "a"))
    first, second = Case.objects.order_by("patient__pseudonym")
    old, untouched = score(first), score(second)
    Case.objects.filter(pk=first.pk).update(
        attempts=3, failure="x", status="claimed", claim=5, claimed_at=first.pending_since
    )
    receive(site, protocol, patient("P-1", "b"), patient("P-2", "a"))
    again = Case.objects.get(pk=first.pk)
    assert (again.status, again.claim, again.claimed_at, again.attempts, again.failure) == (
        "pending",
        None,
        None,
        0,
        "",
    )
    assert again.pending_since > first.pending_since
    old.refresh_from_db()
    untouched.refresh_from_db()
    assert (old.current, untouched.current) == (False, True)
    assert Case.objects.get(pk=second.pk).status == "scored"


def test_a_new_note_counts_under_every_protocol_that_reads_the_patient(site, protocol):
    facts = {
        field.name: getattr(protocol, field.name)
        for field in Protocol._meta.fields
        if field.name not in ("id", "slug")
    }
    other = Protocol.objects.create(slug="otra-pregunta", **facts)
    for question in (protocol, other):
        receive(site, question, patient("P-1", "a"))
    standing = [score(case) for case in Case.objects.all()]
    receive(site, protocol, patient("P-1", "b"))
    assert set(Case.objects.values_list("status", flat=True)) == {"pending"}
    assert not Prediction.objects.filter(pk__in=[row.pk for row in standing], current=True).exists()


def test_known_notes_open_cases_under_a_second_protocol(site, protocol, per_note):
    receive(site, protocol, patient("P-1", "a"), patient("P-2", "b"))
    run = receive(site, per_note, patient("P-1", "a"), patient("P-2", "b"))
    assert (run.notes_new, run.notes_known) == (0, 2)
    opened = Case.objects.filter(protocol=per_note).values_list("patient__pseudonym", "note__text", "status")
    assert sorted(opened) == [("P-1", "a", "pending"), ("P-2", "b", "pending")]
    assert Case.objects.filter(protocol=protocol).count() == 2
    receive(site, per_note, patient("P-1", "a"))
    assert Case.objects.count() == 4


def test_the_workers_are_woken_after_the_commit(
    site, protocol, monkeypatch, django_capture_on_commit_callbacks
):
    woken = []
    monkeypatch.setattr(jobs, "wake_scoring", lambda: woken.append(Case.objects.count()))
    with django_capture_on_commit_callbacks(execute=True):
        receive(site, protocol, patient("P-1", "a"))
        assert woken == []
    assert woken == [1]


@pytest.mark.django_db(transaction=True)
def test_promise_4_with_redis_down_the_notes_wait(site, protocol, monkeypatch):
    def down():
        raise ConnectionError

    monkeypatch.setattr(jobs, "wake_scoring", down)
    receive(site, protocol, patient("P-1", "a"))
    assert intake.progress(site, protocol) == {"total": 1, "scored": 0, "waiting": 1, "quarantined": 0}


def test_progress_counts_this_workplace_by_status(site, other_site, protocol):
    receive(other_site, protocol, patient("P-9", "a"))
    receive(site, protocol, *(patient(f"P-{i}", "a") for i in range(7)))
    ids = list(Case.objects.filter(site=site).values_list("pk", flat=True))
    Case.objects.filter(pk__in=ids[:2]).update(status="scored")
    Case.objects.filter(pk=ids[2]).update(status="quarantined")
    Case.objects.filter(pk=ids[3]).update(status="claimed", claim=1, claimed_at=ImportRun.objects.first().at)
    assert intake.progress(site, protocol) == {"total": 7, "scored": 2, "waiting": 4, "quarantined": 1}


# What is refused as a whole

GOOD = _json(patient("P-1", "a"))
REFUSED = {
    "empty.jsonl": (b"", "The file holds no records."),
    "blank.jsonl": (b"\n \n", "The file holds no records."),
    "empty.csv": (b"", "The file holds no records."),
    "header.csv": (b"patient_id,text\n", "The file holds no records."),
    "notes.txt": (GOOD, "The file is neither JSONL nor CSV nor openFDA"),
    "sheet.csv": (b"PK\x03\x04rest", "ZIP archive or an Office document"),
    "old.csv": (b"\xd0\xcf\x11\xe0rest", "ZIP archive or an Office document"),
    "page.jsonl": (b"%PDF-1.7", "The file is a PDF"),
    "x.jsonl.gz": (b"\xfd7zXZ\x00", "compressed in a way that is not read here"),
    "torn.jsonl.gz": (gzip.compress(GOOD * 100)[:12], "damaged"),
    "wrong.csv.gz": (b"\x1f\x8b" + b"z" * 100, "damaged"),
    "bomb.jsonl.gz": (gzip.compress(bytes(40_000_000)), "unpacks to more than"),
    "lines.jsonl.gz": (gzip.compress(b"\n" * 40_000_000, 1), "More than 1000000 empty lines"),
    "lines.csv": (b"\n" * 1_100_000, "More than 1000000 empty lines"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_of_which_nothing_can_be_read_is_refused_in_words(site, protocol, name):
    data, told = REFUSED[name]
    with pytest.raises(DataError, match=told) as refusal:
        intake.receive(site, protocol, io.BytesIO(data), name, None)
    with translation.override("en"):
        assert intake.told(refusal.value) == str(refusal.value)
    assert not ImportRun.objects.exists()
    assert not AuditEvent.objects.filter(verb="notes.import").exists()


def test_what_stands_before_the_damage_lands(site, protocol):
    rows = b"".join(_json(patient(f"P-{i}", random.Random(i).randbytes(200).hex())) for i in range(400))
    data = gzip.compress(rows)
    run = intake.receive(site, protocol, io.BytesIO(data[: len(data) // 2]), "torn.jsonl.gz", None)
    assert run.notes_new > 50
    with translation.override("en"):
        [told] = intake.rejected(run)
    assert told["line"] == run.lines
    assert "damaged" in told["reason"]


def test_a_file_of_bad_lines_is_kept_with_its_reasons(site, protocol):
    run = receive(site, protocol, b"{\n" * 30)
    assert (run.lines, run.lines_rejected, run.notes_new) == (30, 30, 0)


def test_a_hopeless_file_is_given_up(site, protocol, monkeypatch):
    monkeypatch.setattr(intake, "MOST_REJECTED", 1000)
    with pytest.raises(intake.FileRefused, match=r"More than 1000 lines .*line 2 is the first"):
        receive(site, protocol, patient("P-1", "a"), b"{\n" * 2000)
    assert not ImportLine.objects.exists()


@pytest.mark.parametrize("filling", [b"\0", b"\n"])
def test_promise_26_a_bomb_is_refused_at_once_in_little_memory(site, protocol, tmp_path, filling):
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(filling * 10_000_000) * 100)
    assert path.stat().st_size < 1_100_000
    before, start = getrusage(RUSAGE_SELF).ru_maxrss, time.monotonic()
    with path.open("rb") as source, pytest.raises(intake.FileRefused, match="was not read on"):
        intake.receive(site, protocol, source, path.name, None)
    assert time.monotonic() - start < 5
    assert (getrusage(RUSAGE_SELF).ru_maxrss - before) * 1024 < 200e6


# The command


def command(capfd, *arguments):
    """Exit code, stdout and stderr of ``manage.py import_notes`` with these arguments."""
    code = 0
    try:
        import_notes.Command().run_from_argv(["manage.py", "import_notes", *map(str, arguments)])
    except SystemExit as end:
        code = end.code
    return code, *capfd.readouterr()


def test_the_command_tells_what_landed_and_what_did_not(site, protocol, tmp_path):
    path, listing, out = tmp_path / "notas.jsonl", tmp_path / "malas.csv", io.StringIO()
    path.write_bytes(lines(patient("P-1", "a", label=0), *[b"{\n"] * 25).getvalue())
    call_command("import_notes", path, protocol=protocol.slug, site=site.slug, rejected=listing, stdout=out)
    shown = out.getvalue().splitlines()
    figures = {line[:28].strip(): int(line[28:]) for line in shown[:7]}
    assert figures == {
        "lines": 26,
        "notes new": 1,
        "notes already here": 0,
        "lines rejected": 25,
        "labels ignored": 1,
        "skipped, entered in error": 0,
        "cases waiting to be scored": 1,
    }
    assert shown[7] == "line 2: The line is not JSON. Write one complete JSON object a line."
    assert len(shown) == 7 + 20 + 1
    assert shown[-1].startswith("… and 5 more")
    assert listing.read_text(encoding="utf-8-sig").splitlines()[0] == "line,reason,remedy"
    assert len(listing.read_text().splitlines()) == 26


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("file", "place", "question", "told"),
    [
        (
            "good.jsonl",
            "norte",
            "no-such",
            "Protocol 'no-such' is not known; known here: ade-en, hiv-suspicion-es, maude",
        ),
        ("good.jsonl", "oeste", "ade-en", "Site 'oeste' is not known; known here: norte, sur."),
        ("missing.jsonl", "norte", "ade-en", "cannot be opened (No such file or directory)"),
        (".", "norte", "ade-en", "cannot be opened (Is a directory)"),
        ("empty.jsonl", "norte", "ade-en", "The file holds no records."),
        ("sheet.csv", "norte", "ade-en", "The file is a ZIP archive"),
    ],
)
def test_the_command_ends_with_one_sentence_and_code_2(
    site, other_site, tmp_path, capfd, file, place, question, told
):
    for name, data in {"good.jsonl": GOOD, "empty.jsonl": b"", "sheet.csv": b"PK\x03\x04"}.items():
        (tmp_path / name).write_bytes(data)
    code, _, error = command(capfd, tmp_path / file, "--site", place, "--protocol", question)
    assert code == 2
    assert told in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not ImportRun.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_command_ends_with_0_when_the_file_could_be_read(site, tmp_path, capfd):
    (tmp_path / "bad.jsonl").write_bytes(b"{\n")
    code, out, _ = command(capfd, tmp_path / "bad.jsonl", "--site", "norte", "--protocol", "ade-en")
    assert code == 0
    assert "line 1: The line is not JSON." in out


# Words


def marked(module) -> set[str]:
    """Strings that xgettext finds in a module."""
    calls = [
        node for node in ast.walk(ast.parse(Path(module.__file__).read_text())) if isinstance(node, ast.Call)
    ]
    words = {"gettext", "gettext_noop"}
    return {call.args[0].value for call in calls if getattr(call.func, "id", "") in words and _constant(call)}


def _constant(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Constant)


@pytest.mark.parametrize("module", [records, intake])
def test_every_reason_and_remedy_is_marked_for_translation(module):
    pairs = [value for value in vars(module).values() if isinstance(value, tuple) and len(value) == 2]
    messages = {text for pair in pairs for text in pair if isinstance(text, str) and text.endswith(".")}
    assert len(messages) >= (30 if module is records else 8)
    assert messages <= marked(records) | marked(intake)


def test_stored_reasons_fill_in_every_language(site, protocol):
    rows = [
        b"{\n",
        b"[]\n",
        patient("", "a"),
        patient("P", ""),
        patient("P" * 150, "a"),
        {"patient_id": "P", "notes": 3},
    ]
    run = receive(site, protocol, *rows)
    for language in ("es", "en"):
        with translation.override(language):
            told = list(intake.rejected(run))
        assert len(told) == 6
        assert not any("%(" in row["reason"] + row["remedy"] for row in told)


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_formula_is_quoted(cell):
    assert intake.harmless(cell) == "'" + cell


def test_words_are_left_alone():
    assert intake.harmless("a=1") == "a=1"
    assert intake.harmless("") == ""


def test_a_sentence_with_figures_is_told_in_the_readers_language(monkeypatch):
    monkeypatch.setattr(intake, "gettext", {"%(n)d lines.": "%(n)d líneas."}.get)
    assert intake.told(DataError("%(n)d lines.", n=3)) == "3 líneas."
