"""Labels out: every figure comes back as stored, no cell runs, and the trail says what left."""

import csv
import hashlib
import io
import json
import tracemalloc
import uuid
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection

from mlcore.errors import DataError
from reviews import adjudication, exports, queue
from reviews.models import Label, Review
from tests import factories
from tests.reviews.conftest import ambiguous, cleaned, url
from triage import policy
from triage.models import AuditEvent, Prediction

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
    with exports.temporary(
        place.protocol, [place.site], form, **({"with_notes": False, "actor": None} | more)
    ) as file:
        return file.read()


def records(place, **more):
    return [json.loads(line) for line in lines(place, **more).decode().splitlines()]


def test_a_row_tells_everything_as_stored(place, reader):
    texts = ("Muguet 👩🏽‍⚕️ e\u0301.\r\n", "Niega  ADVP \u202e.")
    case = decided(place, reader, '=ojo\n"sí"', texts, marks=[(0, 7, 11)])
    standing, label = Prediction.objects.get(case=case), Label.objects.get()
    [row] = records(place)
    assert row == {
        "site": "norte",
        "case_id": case.pk,
        "patient_id": case.patient.pseudonym,
        "protocol": "hiv-suspicion-es",
        "label": "suspicion",
        "provenance": "single",
        "propensity": 1.0,
        "reader": "lectora",
        "reviewed_at": label.review.at.isoformat(),
        "mode": "assisted",
        "comment": '=ojo\n"sí"',
        "evidence": [{"note": 0, "note_id": "", "start": 7, "end": 11}],
        "release": "ensayo",
        "release_sha256": standing.release.sha256,
        "calibration_id": standing.calibration_id,
        "policy_version": 1,
        "alpha": 0.02,
        "typicality_floor": 0.01,
        "reason": "ambiguous",
        "model_label": "non_suspicion",
        "p_values": [0.6, 0.3],
        "credibility": 0.6,
        "runner_up": 0.3,
        "typicality": 0.5,
        "notes": 2,
    }
    [full] = records(place, with_notes=True)
    assert [note["text"] for note in full["notes"]] == list(texts)
    assert full["evidence"][0]["text"] == texts[0][7:11]


def test_only_standing_labels_of_this_site_leave_each_once(place, reader, lead, other_site):
    kept = decided(place, reader)
    decided(place, reader, verdict="undecided")
    again = decided(place, reader)
    adjudication.withdraw(place, reader, again.reviews.get().pk)
    adjudication.decide(place, reader, again, cleaned(again, reader, "non_suspicion"))
    gone = decided(place, reader)
    adjudication.withdraw(place, reader, gone.reviews.get().pk)
    assert [(row["case_id"], row["label"]) for row in records(place)] == [
        (kept.pk, "suspicion"),
        (again.pk, "non_suspicion"),
    ]
    assert exports.count(place.protocol, [place.site]) == 2
    assert list(exports.rows(place.protocol, [other_site])) == []


def test_the_reason_is_the_one_of_the_policy_that_was_shown(place, reader):
    from triage.models import Policy

    decided(place, reader)
    Policy.objects.create(
        site=place.site, protocol=place.protocol, version=2, alpha=0.7, typicality_floor=0, reason="r"
    )
    assert [(row["reason"], row["alpha"]) for row in records(place)] == [("ambiguous", 0.02)]


@pytest.mark.parametrize("text", PAYLOADS)
def test_promise_28_no_cell_begins_like_a_formula_and_every_text_comes_back(text):
    cell = exports.safe(text)
    assert cell.startswith("'") and exports.exact(cell) == text


@pytest.mark.parametrize("text", PLAIN)
def test_harmless_text_is_left_alone(text):
    assert exports.safe(text) == text == exports.exact(text)


def test_promise_28_a_csv_file_reads_back_exactly(place, reader):
    comments = [*PAYLOADS[::3], *PLAIN, 'dos\r\nlíneas, y "comillas"; fin']
    for comment in comments:
        decided(place, reader, comment)
    rows = list(csv.DictReader(io.StringIO(lines(place, "csv").decode(), newline="")))
    assert [exports.exact(row["comment"]) for row in rows] == comments
    assert [float(row["runner_up"]) for row in rows] == [0.3] * len(rows)
    assert json.loads(rows[0]["p_values"]) == [0.6, 0.3]
    for row in rows:
        assert not any(cell[:1] in "=+-@＝＋－＠\t\r" for cell in row.values() if cell)


def test_promise_21_an_export_is_one_event_with_its_rows_and_digest(place, reader, lead, signed_in):
    decided(place, reader)
    answer = signed_in(lead).post(url("export", place), {"form": "jsonl"})
    content = b"".join(answer.streaming_content)
    event = AuditEvent.objects.get(verb="labels.export")
    assert event.actor == lead and event.site == place.site
    assert event.details == {
        "form": "jsonl",
        "rows": 1,
        "sha256": hashlib.sha256(content).hexdigest(),
        "with_notes": False,
    }
    assert answer["Content-Disposition"] == 'attachment; filename="norte-hiv-suspicion-es.jsonl"'
    assert "1" in signed_in(lead).get(url("export", place)).content.decode()


def test_no_event_no_file(place, reader, lead, signed_in, monkeypatch):
    decided(place, reader)

    def broken(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr("triage.audit.record", broken)
    client = signed_in(lead)
    client.raise_request_exception = False
    assert client.post(url("export", place), {"form": "csv"}).status_code == 500


def test_a_reader_is_refused_in_words(place, reader, signed_in):
    answer = signed_in(reader).post(url("export", place), {"form": "jsonl"})
    assert answer.status_code == 403 and place.site.name in answer.content.decode()
    assert not AuditEvent.objects.filter(verb="labels.export").exists()


@pytest.mark.parametrize("wish", [{}, {"form": "xml"}, {"form": "csv", "with_notes": "on"}])
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
        ({"format": "csv", "with_notes": True}, "jsonl"),
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
        assert sum(1 for _ in exports.rows(place.protocol, [place.site])) == n
        assert rows_read(cursor) - before < 30 * n


def rows_read(cursor):
    cursor.execute("SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables")
    return cursor.fetchone()[0]


def test_memory_stays_flat(place, reader, monkeypatch):
    """Four times the labels, the same peak: rows pass through, they do not pile up."""
    monkeypatch.setattr(exports, "CHUNK", 200)

    def peak():
        tracemalloc.start()
        lines_read = sum(1 for _ in exports.rows(place.protocol, [place.site]))
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
