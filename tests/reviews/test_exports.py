"""Labels out: every figure comes back as stored, no cell runs, and the trail says what left."""

import csv
import hashlib
import io
import json
import tempfile
import tracemalloc
import uuid
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection

from mlcore.errors import DataError
from reviews import adjudication, exports, queue, reading_in, rows
from reviews.formats import exact, safe
from reviews.models import Adjudication, Comment, ExportRun, Label, Review
from tests import factories
from tests.reviews.conftest import ambiguous, cleaned, url
from triage import jobs, policy
from triage.models import AuditEvent, Case, Note, Patient, Policy, Prediction, Release, Site

pytestmark = pytest.mark.django_db
PAYLOADS = [
    start + formula
    for start in ("", "\t", "\r", "\n", " ", "\u00a0", "\ufeff", "\u200b", "'", "\x0b")
    for formula in (
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "＝1+1",
        "＋1",
        "－1",
        "＠A1",
        '=HYPERLINK("http://x")',
        "|x",
        "%0A=1",
    )
]
PLAIN = ["tos - cough", "dolor | fiebre", "P-00193", "a=b", "", "5 mg", "¿=?"]


def decided(place, user, comment="", texts=(), verdict="suspicion", marks=()):
    case = ambiguous(place, *texts)
    notes = list(case.notes())
    evidence = json.dumps([{"note": notes[i].pk, "start": a, "end": b} for i, a, b in marks])
    queue.hold(case.pk, user)
    adjudication.decide(place, user, case, cleaned(case, user, verdict, comment=comment, evidence=evidence))
    return case


def lines(place, form="jsonl", **more):
    with io.BytesIO() as file:
        exports.write(file, place.protocol, [place.site], form, **more)
        return file.getvalue()


def records(place, **more):
    return [json.loads(line) for line in lines(place, **more).decode().splitlines()]


def test_a_row_tells_everything_as_stored(place, reader):
    texts = ("Muguet 👩🏽‍⚕️ e\u0301.\r\n", "Niega  ADVP \u202e.")
    case = decided(place, reader, '=ojo\n"sí"', texts, marks=[(0, 7, 11)])
    standing, label = Prediction.objects.get(case=case), Label.objects.get()
    [row] = records(place)
    [reading] = row.pop("readings")
    assert reading == {
        "final": True,
        "reader": "lectora",
        "mode": "assisted",
        "label": "suspicion",
        "why": "",
        "double": label.review.double,
        "comment": None,
        "evidence": row["evidence"],
        "seconds": 12,
        "at": label.review.at.isoformat(),
        "model": None,
        "policy": None,
    }
    assert len(row.pop("case_id")) == 32
    assert row == {
        "site": "norte",
        "protocol": "hiv-suspicion-es",
        "patient_id": case.patient.pseudonym,
        "label": "suspicion",
        "provenance": "single",
        "propensity": 1.0,
        "labelled_at": label.at.isoformat(),
        "reader": "lectora",
        "reviewed_at": label.review.at.isoformat(),
        "mode": "assisted",
        "comment": None,
        "evidence": [{"note": 0, "note_id": "", "start": 7, "end": 11, "label": ""}],
        "reason": "ambiguous",
        "release": "ensayo",
        "release_sha256": standing.release.sha256,
        "calibration_sha256": hashlib.sha256(b"").hexdigest(),
        "scored_at": standing.at.isoformat(),
        "model_label": "non_suspicion",
        "logits": [0.0, 0.0],
        "probabilities": [0.5, 0.5],
        "p_values": [0.6, 0.3],
        "distances": [1.0, 1.0],
        "credibility": 0.6,
        "runner_up": 0.3,
        "typicality": 0.5,
        "urgency": 0.5,
        "lot": standing.lot,
        "policy_version": 1,
        "alpha": 0.02,
        "typicality_floor": 0.01,
        "audit_rate": 0.0,
        "second_opinion": "off",
        "automate": True,
        "adjudication": None,
        "comments": None,
        "notes": 2,
    }
    [full] = records(place, with_notes=True)
    assert [note["text"] for note in full["notes"]] == list(texts)
    assert full["evidence"][0]["text"] == texts[0][7:11]
    assert full["comment"] == full["readings"][0]["comment"] == '=ojo\n"sí"'


def test_only_standing_labels_of_this_site_leave_each_once(place, reader, lead, other_site):
    kept = decided(place, reader)
    decided(place, reader, verdict="undecided")
    again = decided(place, reader)
    adjudication.withdraw(place, reader, again.reviews.get().pk)
    adjudication.decide(place, reader, again, cleaned(again, reader, "non_suspicion"))
    gone = decided(place, reader)
    adjudication.withdraw(place, reader, gone.reviews.get().pk)
    assert [(row["patient_id"], row["label"]) for row in records(place)] == [
        (kept.patient.pseudonym, "suspicion"),
        (again.patient.pseudonym, "non_suspicion"),
    ]
    assert rows.count(place.protocol, [place.site]) == 2
    assert list(rows.rows(place.protocol, [other_site])) == []


def test_the_reason_is_the_one_of_the_policy_that_was_shown(place, reader):
    from triage.models import Policy

    decided(place, reader)
    Policy.objects.create(
        site=place.site, protocol=place.protocol, version=2, alpha=0.7, typicality_floor=0, reason="r"
    )
    assert [(row["reason"], row["alpha"]) for row in records(place)] == [("ambiguous", 0.02)]


@pytest.mark.parametrize("text", PAYLOADS)
def test_promise_28_no_cell_begins_like_a_formula_and_every_text_comes_back(text):
    cell = safe(text)
    assert cell.startswith("'") and exact(cell) == text


@pytest.mark.parametrize("text", PLAIN)
def test_harmless_text_is_left_alone(text):
    assert safe(text) == text == exact(text)


def test_promise_28_a_csv_file_reads_back_exactly(place, reader):
    names = [*PAYLOADS[::3], *filter(None, PLAIN), 'dos\r\nlíneas, y "comillas"; fin']
    for name in names:
        case = decided(place, reader, "Nadie lo lee.")
        Patient.objects.filter(pk=case.patient_id).update(pseudonym=name)
    found = list(csv.DictReader(io.StringIO(lines(place, "csv").decode(), newline="")))
    assert [exact(row["patient_id"]) for row in found] == names
    assert "Nadie lo lee." not in str(found)
    assert [float(row["runner_up"]) for row in found] == [0.3] * len(found)
    assert json.loads(found[0]["p_values"]) == [0.6, 0.3]
    for row in found:
        assert not any(cell[:1] in "=+-@＝＋－＠\t\r" for cell in row.values() if cell)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, settings, tmp_path):
    settings.EXPORTS_DIR = tmp_path / "exports"
    monkeypatch.setattr(jobs, "enqueue", lambda *args, **how: None)


def asked(place, client, form="jsonl", **more):
    answer = client.post(url("export", place), {"form": form} | more)
    assert answer.status_code == 302
    return ExportRun.objects.latest("pk")


def test_promise_21_an_export_is_one_event_with_its_rows_and_digest_and_each_fetch_another(
    place, reader, lead, signed_in
):
    decided(place, reader)
    client = signed_in(lead)
    run = asked(place, client)
    assert client.get(url("export-file", place, run.pk)).status_code == 404
    assert exports.drain() == 1
    event = AuditEvent.objects.get(verb="labels.export")
    answer = client.get(url("export-file", place, run.pk))
    content = b"".join(answer.streaming_content)
    assert content == lines(place)
    assert event.actor == lead and event.site == place.site
    assert event.details == {
        "form": "jsonl",
        "rows": 1,
        "sha256": hashlib.sha256(content).hexdigest(),
        "with_notes": False,
    }
    assert answer["Content-Disposition"] == 'attachment; filename="norte-hiv-suspicion-es.jsonl"'
    fetch = AuditEvent.objects.get(verb="labels.fetch")
    assert (fetch.actor, fetch.details["sha256"]) == (lead, event.details["sha256"])
    assert exports.path_of(run).stat().st_mode & 0o777 == 0o600
    page = client.get(url("export", place)).content.decode()
    assert url("export-file", place, run.pk) in page
    status = client.get(url("export-status", place, run.pk)).json()
    assert (status["status"], status["rows"], status["total"]) == ("ready", 1, 1)


@pytest.mark.parametrize(
    ("wanted", "part", "told"),
    [
        ("bytes=0-9", slice(0, 10), "bytes 0-9/{n}"),
        ("bytes=10-", slice(10, None), "bytes 10-{last}/{n}"),
        ("bytes=-5", slice(-5, None), "bytes {tail}-{last}/{n}"),
    ],
)
def test_a_broken_download_goes_on_where_it_stopped(place, reader, lead, signed_in, wanted, part, told):
    decided(place, reader)
    client = signed_in(lead)
    run = asked(place, client)
    exports.drain()
    whole, page = exports.path_of(run).read_bytes(), url("export-file", place, run.pk)
    tag = client.head(page)["ETag"]
    for same in ({}, {"HTTP_IF_RANGE": tag}):
        answer = client.get(page, HTTP_RANGE=wanted, **same)
        assert answer.status_code == 206 and b"".join(answer.streaming_content) == whole[part]
        n = len(whole)
        assert answer["Content-Range"] == told.format(n=n, last=n - 1, tail=n - 5)
        assert int(answer["Content-Length"]) == len(whole[part])
    other = client.get(page, HTTP_RANGE=wanted, HTTP_IF_RANGE='"x"')
    assert other.status_code == 200 and b"".join(other.streaming_content) == whole
    beyond = client.get(page, HTTP_RANGE=f"bytes={len(whole)}-")
    assert beyond.status_code == 416 and beyond["Content-Range"] == f"bytes */{len(whole)}"


def test_only_who_asked_and_still_leads_fetches(place, reader, lead, admin, signed_in):
    decided(place, reader)
    run = asked(place, signed_in(lead))
    exports.drain()
    page = url("export-file", place, run.pk)
    assert signed_in(admin).get(page).status_code == 404
    lead.memberships.update(role="reader")
    assert signed_in(lead).get(page).status_code == 404
    assert not AuditEvent.objects.filter(verb="labels.fetch").exists()


def test_after_a_week_the_file_is_gone_and_the_row_says_so(place, reader, lead, signed_in):
    decided(place, reader)
    client = signed_in(lead)
    run = asked(place, client)
    exports.drain()
    stray = exports.path_of(run).with_name(".9.jsonl.left-behind")
    stray.write_text("x")
    exports.reconcile()
    assert exports.path_of(run).exists() and not stray.exists()
    ExportRun.objects.update(expires_at="2020-01-01T00:00Z")
    assert client.get(url("export-file", place, run.pk)).status_code == 404
    exports.reconcile()
    assert not exports.path_of(run).exists()
    assert client.get(url("export-status", place, run.pk)).json()["status"] == "expired"
    assert url("export-file", place, run.pk) not in client.get(url("export", place)).content.decode()


def test_a_failed_export_leaves_no_file_and_no_event_and_can_be_tried_again(
    place, reader, lead, signed_in, monkeypatch
):
    decided(place, reader)
    client = signed_in(lead)
    run = asked(place, client)

    def broken(*args, **kwargs):
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(exports, "record", broken)
        assert exports.drain() == 0
    run.refresh_from_db()
    assert (run.status, run.failure) == ("failed", "RuntimeError while it was written")
    assert list(exports.path_of(run).parent.iterdir()) == []
    assert not AuditEvent.objects.filter(verb="labels.export").exists()
    client.post(url("export-retry", place, run.pk))
    assert exports.drain() == 1


def test_a_reader_is_refused_in_words(place, reader, signed_in):
    answer = signed_in(reader).post(url("export", place), {"form": "jsonl"})
    assert answer.status_code == 403 and place.site.name in answer.content.decode()
    assert not AuditEvent.objects.filter(verb="labels.export").exists()


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"form": "xml"},
        {"form": "csv", "with_notes": "on"},
        {"form": "brat"},
        {"form": "fhir", "with_notes": "1"},
    ],
)
def test_a_wish_that_cannot_be_met_is_a_sentence(place, reader, lead, signed_in, wish):
    decided(place, reader)
    answer = signed_in(lead).post(url("export", place), wish or {"x": "y"})
    assert answer.status_code == 400 and 'role="alert"' in answer.content.decode()


def test_the_command_writes_whole_files_and_records_the_system(place, reader, tmp_path, capsys):
    decided(place, reader)
    output = tmp_path / "labels.jsonl"
    output.write_text("old")
    call_command("export_labels", protocol="hiv-suspicion-es", site="norte", format="jsonl", output=output)
    assert output.read_bytes() == lines(place)
    event = AuditEvent.objects.filter(verb="labels.export").earliest("pk")
    assert event.actor is None and event.details["sha256"] in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["labels.jsonl"]


def test_a_failed_command_leaves_the_old_file(place, reader, tmp_path, monkeypatch):
    decided(place, reader)
    output = tmp_path / "labels.jsonl"
    output.write_text("old")

    def broken(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr("triage.audit.record", broken)
    with pytest.raises(RuntimeError):
        call_command("export_labels", protocol="hiv-suspicion-es", format="jsonl", output=output)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"protocol": "flu"}, "hiv-suspicion-es"),
        ({"site": "oeste"}, "norte"),
        ({"output": "/nowhere/at/all/x.csv"}, "/nowhere/at/all"),
        ({"format": "csv", "with_notes": True}, "JSON Lines"),
    ],
)
def test_a_wrong_wish_on_the_command_line_names_what_is_known(place, tmp_path, wish, says):
    from pathlib import Path

    asked = {
        "protocol": "hiv-suspicion-es",
        "site": "norte",
        "format": "jsonl",
        "output": tmp_path / "x",
    } | wish
    asked["output"] = Path(asked["output"])
    with pytest.raises(DataError, match=says):
        call_command("export_labels", **asked)
    assert not AuditEvent.objects.filter(verb="labels.export").exists()


def labelled(place, reader, n):
    """n labels in bulk, without the statistics that come with time."""
    made = factories.predictions(place.site, place.protocol, [0.6] * n, [0.3] * n, [0.5] * n)
    shown = policy.current(place.site, place.protocol)
    same = {"policy": shown, "reader": reader, "label": 1, "mode": "assisted", "comment": "x" * 200}
    reviews = Review.objects.bulk_create(
        Review(case=p.case, prediction=p, notes_sha256=p.notes_sha256, client_key=uuid.uuid4(), **same)
        for p in made
    )
    Label.objects.bulk_create(
        Label(case=r.case, review=r, notes_sha256=r.notes_sha256, label=1, provenance="single", propensity=1)
        for r in reviews
    )


def test_tables_the_planner_takes_for_empty_are_read_once(place, reader):
    """As they stand between a bulk load and the first ANALYZE; reading one for each row of another took minutes."""
    n = 300
    labelled(place, reader, n)
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        if not cursor.fetchone()[0]:
            pytest.skip("only a superuser of the database can have the planner misjudge a table")
        cursor.execute("UPDATE pg_class SET reltuples = 0, relpages = 1 WHERE relname ~ '^(triage|reviews)_'")
        before = rows_read(cursor)
        assert sum(1 for _ in rows.rows(place.protocol, [place.site])) == n
        assert rows_read(cursor) - before < 30 * n


def rows_read(cursor):
    cursor.execute("SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables")
    return cursor.fetchone()[0]


def test_memory_stays_flat(place, reader, monkeypatch):
    """Four times the labels, the same peak: rows pass through, they do not pile up."""
    monkeypatch.setattr(rows, "CHUNK", 200)

    def peak():
        tracemalloc.start()
        lines_read = sum(1 for _ in rows.rows(place.protocol, [place.site]))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return lines_read, top

    labelled(place, reader, 1000)
    few, small = peak()
    labelled(place, reader, 3000)
    many, large = peak()
    assert (few, many) == (1000, 4000)
    assert large < 1.5 * small


def test_a_folder_or_a_device_is_never_replaced(tmp_path, site, protocol):
    for target in (tmp_path, Path("/dev/null")):
        with pytest.raises(DataError, match="not an ordinary file"):
            exports.to_path(target, protocol, [site], "csv", with_notes=False)
    assert Path("/dev/null").is_char_device()


def test_progress_is_told_while_it_is_written(place, reader, monkeypatch):
    monkeypatch.setattr(exports, "TOLD_EVERY", 2)
    labelled(place, reader, 5)
    told = []
    with io.BytesIO() as file:
        written = exports.write(file, place.protocol, [place.site], "csv", tell=told.append)
    assert told == [2, 4] and written.rows == {"norte": 5}


def rich(place, reader, lead):
    """Two labels: one adjudicated, its readings by two releases under two policies, with marks and a thread; one plain."""
    case = ambiguous(place, "Muguet 👩🏽‍⚕️ e\u0301.\r\nY fiebre.", "Niega  ADVP \u202e.")
    notes, standing = list(case.notes()), case.predictions.get()
    digest = hashlib.sha256("".join(f"{n.pk}:{n.sha256}\n" for n in notes).encode()).hexdigest()
    Prediction.objects.filter(pk=standing.pk).update(notes_sha256=digest, current=False, lot=1 / 3)
    other = Release.objects.create(protocol=place.protocol, name="otra", sha256="a" * 64, card={"x": 1})
    ranks = other.calibration_set.create(counts=[1, 1], typical_counts=[1, 1], arrays=b"arrays", held_out=b"")
    facts = {name: getattr(standing, name) for name in ("credibility", "runner_up", "typicality", "urgency")}
    newer = Prediction.objects.create(
        case=case,
        site=place.site,
        protocol=place.protocol,
        release=other,
        calibration=ranks,
        label=1,
        note_ids=[n.pk for n in notes],
        notes_sha256=digest,
        logits=[0.1, 0.2],
        probabilities=[1 / 3, 2 / 3],
        p_values=[0.1, 0.7],
        distances=[1e-17, 2.5],
        **facts,
    )
    first = policy.current(place.site, place.protocol)
    second = Policy.objects.create(
        site=place.site,
        protocol=place.protocol,
        version=2,
        alpha=0.1,
        typicality_floor=0.05,
        audit_rate=0.25,
        reason="r",
    )
    same = {"case": case, "notes_sha256": digest}
    mark = [
        {"note": notes[0].pk, "start": 7, "end": 20, "label": "suspicion"},
        {"note": notes[1].pk, "start": 0, "end": 5},
    ]
    readings = [
        (reader, "assisted", 1, "", standing, first),
        (lead, "blind", None, "conflicting", newer, second),
        (lead, "adjudication", 1, "", newer, second),
    ]
    for person, mode, label, why, on, under in readings:
        if mode == "adjudication":
            Review.objects.filter(reader=person).update(prediction=standing)
        review = Review.objects.create(
            reader=person,
            mode=mode,
            label=label,
            why=why,
            prediction=on,
            policy=under,
            client_key=uuid.uuid4(),
            comment=f"\u00e9 {mode}",
            evidence=mark,
            seconds=9,
            **same,
        )
    Label.objects.create(review=review, label=1, provenance="adjudicated", propensity=0.25, **same)
    Adjudication.objects.create(
        prediction=newer, review=review, cause="criteria", closed_at=review.at, opened_at=review.at, **same
    )
    Comment.objects.create(case=case, author=lead, text="¿Segura?", note=notes[1], start=0, end=5)
    Comment.objects.create(case=case, author=reader, text="Sí.")
    decided(place, reader, texts=["Una nota."])


def emptied():
    """As an empty database: nothing of a patient, a reading or a release is left."""
    from django.contrib.auth import get_user_model

    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("DELETE FROM triage_policy")
        cursor.execute("DELETE FROM triage_auditevent")
        cursor.execute("SET session_replication_role = origin")
    for model in (Comment, Adjudication, Label, Review):
        model.objects.all().delete()
    Case.objects.all().delete()
    for model in (Note, Patient):
        model.objects.all().delete()
    Release.objects.all().update(active=False)
    for release in Release.objects.all():
        release.calibration_set.all().delete()
        release.delete()
    Site.objects.all().delete()
    get_user_model().objects.all().delete()


def test_an_exact_export_read_into_an_empty_database_comes_out_the_same(place, reader, lead, tmp_path):
    rich(place, reader, lead)
    out, again = tmp_path / "out.jsonl", tmp_path / "again.jsonl"
    wish = {"protocol": "hiv-suspicion-es", "site": "norte", "format": "jsonl", "with_notes": True}
    call_command("export_labels", output=out, **wish)
    row = json.loads(out.read_bytes().splitlines()[0])
    assert [reading["mode"] for reading in row["readings"]] == ["assisted", "blind", "adjudication"]
    assert row["readings"][0]["model"]["release"] == "ensayo" and row["readings"][2]["model"] is None
    assert row["readings"][0]["policy"]["policy_version"] == 1 and row["policy_version"] == 2
    assert row["adjudication"]["cause"] == "criteria" and [c["note"] for c in row["comments"]] == [1, None]
    emptied()
    call_command("import_labels", out, protocol="hiv-suspicion-es", site="norte")
    rows.calibration_sha256.cache_clear()
    call_command("export_labels", output=again, **wish)
    assert again.read_bytes() == out.read_bytes()
    assert not Release.objects.filter(active=True).exists()
    assert not Prediction.objects.filter(current=True).exists()
    assert not get_users(is_active=True)
    call_command("import_labels", out, protocol="hiv-suspicion-es", site="norte")
    assert Label.objects.count() == 2 and Comment.objects.count() == 2


def get_users(**facts):
    from django.contrib.auth import get_user_model

    return list(get_user_model().objects.filter(**facts))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda row: row | {"notes": 2}, "Line 1: it came without the notes"),
        (lambda row: row | {"site": "sur"}, "Line 1: it belongs to another site"),
        (lambda row: {"site": "norte"}, "Line 1 is not a row"),
        (lambda row: row | {"alpha": 0.3}, "version 1 of the policy is another"),
        (lambda row: row | {"notes": [row["notes"][0] | {"text": "x"}]}, "the text of a note is not the one"),
    ],
)
def test_a_file_that_is_no_exact_export_leaves_nothing(place, reader, change, says):
    decided(place, reader)
    [row] = records(place, with_notes=True)
    before = Note.objects.count()
    with pytest.raises(DataError, match=says):
        reading_in.read([json.dumps(change(row)).encode()], "norte", place.protocol)
    assert Note.objects.count() == before and Label.objects.count() == 1


def test_datasets_opens_the_folder(place, reader, lead, tmp_path):
    import zipfile

    from datasets import load_from_disk

    rich(place, reader, lead)
    for with_notes in (True, False):
        with zipfile.ZipFile(io.BytesIO(lines(place, "datasets", with_notes=with_notes))) as archive:
            archive.extractall(tmp_path / str(with_notes))
        found = load_from_disk(str(tmp_path / str(with_notes) / place.protocol.slug))
        assert found.features["label"].names == place.protocol.labels
        rows_of = records(place, with_notes=with_notes)
        assert found["p_values"][:] == [row["p_values"] for row in rows_of]
        assert found[0]["readings"][1]["why"] == "conflicting"
        texts = [note["text"] for note in found[0]["notes"]]
        assert texts == ([note["text"] for note in rows_of[0]["notes"]] if with_notes else [])


def test_brat_has_each_marked_passage_where_it_stands(place, reader, lead):
    import zipfile

    rich(place, reader, lead)
    with zipfile.ZipFile(io.BytesIO(lines(place, "brat", with_notes=True))) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    assert "\nsuspicion\n" in files["annotation.conf"]
    assert "Muguet" not in files["labels.jsonl"] and len(files["labels.jsonl"].splitlines()) == 2
    spans = 0
    for name in [name for name in files if name.endswith(".ann")]:
        text = files[name.replace(".ann", ".txt")]
        for line in files[name].splitlines():
            if line.startswith("T"):
                _number, where, words = line.split("\t")
                kind, places = where.split(" ", 1)
                found = [text[int(a) : int(b)] for a, b in (place_.split() for place_ in places.split(";"))]
                assert " ".join(found) == words and kind in {*place.protocol.labels, "evidence"}
                spans += 1
    assert spans == 6


def test_fhir_resources_are_valid_and_name_no_reader(place, reader, lead):
    from fhir.resources.R4B.observation import Observation
    from fhir.resources.R4B.provenance import Provenance

    rich(place, reader, lead)
    content = lines(place, "fhir").decode()
    assert "lectora" not in content and "Muguet" not in content
    found = [json.loads(line) for line in content.splitlines()]
    kinds = {"Observation": Observation, "Provenance": Provenance}
    for resource in found:
        kinds[resource["resourceType"]].model_validate(resource)
    observation, provenance = found[:2]
    assert observation["valueCodeableConcept"]["coding"][0]["code"] == "suspicion"
    assert len(observation["derivedFrom"]) == len(provenance["entity"]) == 2
    assert provenance["target"] == [{"reference": f"Observation/{observation['id']}"}]
    assert len(provenance["agent"]) == 4


@pytest.mark.campaign
@pytest.mark.parametrize("form", ["jsonl", "csv", "datasets"])
def test_memory_stays_flat_over_a_hundred_thousand_rows(place, reader, form):
    """Peak of Python's own memory: ten times the rows, at most a quarter more."""

    def peak():
        with tempfile.TemporaryFile() as file:
            tracemalloc.start()
            written = exports.write(file, place.protocol, [place.site], form)
            top = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return written.rows.total(), top

    labelled(place, reader, 10_000)
    few, small = peak()
    for _ in range(9):
        labelled(place, reader, 10_000)
    many, large = peak()
    assert (few, many) == (10_000, 100_000)
    assert large < 1.25 * small
