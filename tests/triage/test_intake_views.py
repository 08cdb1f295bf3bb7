"""The import pages, for each role; and whatever bytes are uploaded, no error page."""

import csv
import gzip
import io
import json
import random
import time
from resource import RUSAGE_SELF, getrusage

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.handlers.wsgi import WSGIHandler
from django.test import Client
from django.urls import reverse
from django.utils import translation

from triage import intake, jobs
from triage.models import Case, ImportLine, ImportRun, Membership, Note, Protocol

pytestmark = pytest.mark.django_db
PASSWORD = "una-clave-larga-y-rara"


@pytest.fixture(autouse=True)
def _no_queue(monkeypatch):
    monkeypatch.setattr(jobs, "wake_scoring", lambda: None)


@pytest.fixture
def page(site, protocol) -> str:
    return reverse("triage:intake", args=[site.slug, protocol.slug])


def signed_in(user, **options) -> Client:
    client = Client(HTTP_ACCEPT_LANGUAGE="en", **options)
    session = client.session  # the session's own limits read the time of signing in
    session.save()
    client.force_login(user)
    return client


def line(name, *notes) -> bytes:
    return json.dumps({"patient_id": name, "notes": notes}).encode() + b"\n"


def upload(client, page, data: bytes, name="notas.jsonl"):
    return client.post(page, {"file": SimpleUploadedFile(name, data)})


def addresses(run) -> dict[str, str]:
    where = [run.site.slug, run.protocol.slug]
    return {
        "intake": reverse("triage:intake", args=where),
        "progress": reverse("triage:intake-progress", args=where),
        "result": reverse("triage:intake-result", args=[*where, run.pk]),
        "rejected": reverse("triage:intake-rejected", args=[*where, run.pk]),
    }


@pytest.fixture
def run(site, protocol, lead) -> ImportRun:
    data = io.BytesIO(line("P-1", "secreto") + b"{\n")
    return intake.receive(site, protocol, data, "primera.jsonl", lead)


# Who may


@pytest.mark.parametrize("role", ["lead", "admin"])
def test_leads_and_admins_import_and_land_on_the_result(request, role, page):
    user = request.getfixturevalue(role)
    response = upload(signed_in(user), page, line("P-1", "a") + b"{\n")
    run = ImportRun.objects.get()
    assert response.status_code == 302
    assert response["Location"] == addresses(run)["result"]
    assert (run.by, run.notes_new, run.lines_rejected) == (user, 1, 1)


def test_a_reader_is_told_who_imports_and_cannot(reader, page):
    client = signed_in(reader)
    shown = client.get(page)
    assert shown.status_code == 200
    assert "only leads and admins of this site import notes" in shown.content.decode()
    assert 'type="file"' not in shown.content.decode()
    refused = upload(client, page, line("P-1", "a"))
    assert refused.status_code == 403
    assert "only leads and admins" in refused.content.decode()
    assert not ImportRun.objects.exists()
    assert not Note.objects.exists()


@pytest.mark.parametrize("role", ["reader", "lead", "admin"])
def test_every_member_sees_the_pages(request, role, run):
    client = signed_in(request.getfixturevalue(role))
    assert {name: client.get(url).status_code for name, url in addresses(run).items()} == dict.fromkeys(
        ("intake", "progress", "result", "rejected"), 200
    )


@pytest.mark.parametrize("name", ["intake", "progress", "result", "rejected"])
@pytest.mark.parametrize("method", ["get", "post", "put", "delete"])
def test_an_outsider_finds_nothing_there(run, outsider, name, method):
    client = signed_in(outsider)
    url = addresses(run)[name]
    answer = getattr(client, method)(url)
    absent = getattr(client, method)(url.replace("/norte/", "/ningun-sitio/"))
    assert answer.status_code == absent.status_code
    assert answer.status_code in (
        {404} if method == "get" or (method, name) == ("post", "intake") else {404, 405}
    )
    assert answer.content == absent.content


def test_a_run_of_another_site_is_as_absent_as_one_that_never_was(run, outsider, other_site, protocol):
    client = signed_in(outsider)
    for name in ("triage:intake-result", "triage:intake-rejected"):
        answers = [
            client.get(reverse(name, args=[other_site.slug, protocol.slug, pk]))
            for pk in (run.pk, 987654, 10**18, 10**30)
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert len({answer.content for answer in answers}) == 1


def test_a_run_of_another_protocol_is_absent(run, lead, site):
    other = Protocol.objects.exclude(pk=run.protocol_id).first()
    assert (
        signed_in(lead).get(reverse("triage:intake-result", args=[site.slug, other.slug, run.pk])).status_code
        == 404
    )


def test_anonymous_is_sent_to_sign_in(run):
    for url in addresses(run).values():
        response = Client().get(url)
        assert response.status_code == 302
        assert response["Location"].startswith(reverse("login"))
    assert upload(Client(), addresses(run)["intake"], line("P-9", "a")).status_code == 302
    assert ImportRun.objects.count() == 1


def test_a_membership_taken_away_closes_the_pages(run, lead):
    client = signed_in(lead)
    Membership.objects.filter(user=lead).delete()
    assert {client.get(url).status_code for url in addresses(run).values()} == {404}


def test_csrf_is_on(lead, page):
    response = upload(signed_in(lead, enforce_csrf_checks=True), page, line("P-1", "a"))
    assert response.status_code == 403
    assert not ImportRun.objects.exists()


# What is shown


def test_a_second_upload_says_that_nothing_is_new_and_since_when(run, lead, page):
    ImportRun.objects.filter(pk=run.pk).update(at="2021-05-12T10:00:00Z")
    client = signed_in(lead)
    shown = client.get(upload(client, page, line("P-1", "secreto"))["Location"])
    assert "Nothing new: the note was already here (import of 12 May 2021)." in shown.content.decode()
    assert shown.context["duplicates"][0] == {"line": 1, "patient": "P-1", "earlier": run}
    assert addresses(run)["result"] in shown.content.decode()
    assert Note.objects.count() == 1


def test_an_earlier_import_under_another_protocol_is_linked_there(run, lead, site):
    other = Protocol.objects.get(slug="ade-en")
    client = signed_in(lead)
    page = reverse("triage:intake", args=[site.slug, other.slug])
    shown = client.get(upload(client, page, line("P-1", "secreto"))["Location"])
    assert addresses(run)["result"] in shown.content.decode()


def test_what_landed_waits_and_says_so(lead, page):
    client = signed_in(lead)
    shown = client.get(upload(client, page, line("P-1", "a") + line("P-2", "b"))["Location"])
    assert "2 waiting to be scored" in shown.content.decode()
    url = reverse("triage:intake-progress", args=["norte", "hiv-suspicion-es"])
    assert client.get(url).json() == {"total": 2, "scored": 0, "waiting": 2, "quarantined": 0}
    Case.objects.update(status="scored")
    assert client.get(url).json() == {"total": 2, "scored": 2, "waiting": 0, "quarantined": 0}


def test_promise_4_with_redis_down_an_upload_is_accepted(
    lead, page, monkeypatch, django_capture_on_commit_callbacks
):
    def down():
        raise ConnectionError

    monkeypatch.setattr(jobs, "wake_scoring", down)
    client = signed_in(lead)
    with django_capture_on_commit_callbacks(execute=True):
        response = upload(client, page, line("P-1", "a"))
    assert "1 waiting to be scored" in client.get(response["Location"]).content.decode()


def test_rejected_lines_are_shown_and_come_as_csv(run, lead):
    client = signed_in(lead)
    shown = client.get(addresses(run)["result"])
    expected = {
        "line": 2,
        "reason": "The line is not JSON.",
        "remedy": "Write one complete JSON object a line.",
    }
    assert shown.context["rejected"] == [expected]
    assert "The line is not JSON." in shown.content.decode()
    response = client.get(addresses(run)["rejected"])
    assert response["Content-Type"].startswith("text/csv")
    assert "attachment" in response["Content-Disposition"]
    rows = list(csv.reader(io.StringIO(response.content.decode("utf-8-sig"))))
    assert rows == [["line", "reason", "remedy"], ["2", expected["reason"], expected["remedy"]]]


def test_no_text_of_a_note_is_on_these_pages(run, lead):
    client = signed_in(lead)
    for url in addresses(run).values():
        assert b"secreto" not in client.get(url).content


def test_past_imports_are_listed_newest_first(run, lead, page):
    client = signed_in(lead)
    upload(client, page, line("P-7", "z"), "segunda.jsonl")
    listed = client.get(page).context["imports"]
    assert [row.file_name for row in listed] == ["segunda.jsonl", "primera.jsonl"]


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("empty.jsonl", b"", "The file holds no records."),
        ("sheet.xlsx", b"PK\x03\x04", "ZIP archive or an Office document"),
        ("notes.doc", b"Paciente", "The file is neither JSONL nor CSV nor openFDA"),
        ("wrong.jsonl.gz", b"\x1f\x8b" + b"z" * 50, "The compressed file is damaged"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_on_the_form(lead, page, name, data, told):
    response = upload(signed_in(lead), page, data, name)
    assert response.status_code == 422
    assert told in str(response.context["form"].errors["file"])
    assert told in response.content.decode()
    assert not ImportRun.objects.exists()


def test_a_form_without_a_file_is_told_so(lead, page):
    response = signed_in(lead).post(page)
    assert response.status_code == 422
    assert response.context["form"].errors["file"] == [
        "No file came with the form. Choose one and send it again."
    ]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd.jsonl", "a\0b.jsonl", "ñandú 🫀.jsonl", "x" * 400 + ".jsonl", '"><b>.jsonl']
)
def test_any_file_name_is_kept_short_and_shown_as_text(lead, page, name):
    client = signed_in(lead)
    response = upload(client, page, line("P-1", "a"), name)
    run = ImportRun.objects.get()
    assert len(run.file_name) <= 200
    assert "/" not in run.file_name
    assert b"<b>" not in client.get(response["Location"]).content


# Uploads too large to take


TAIL = b"\r\n--x--\r\n"


class Endless(io.RawIOBase):
    """A multipart body of the declared length that counts what is left of it."""

    def __init__(self, head: bytes, length: int) -> None:
        self.head, self.left = head, length

    def read(self, size: int = -1) -> bytes:
        size = min(self.left, size if size >= 0 else self.left)
        data = (self.head + b"a" * (size - len(self.head)))[:size]
        self.head, self.left = self.head[size:], self.left - size
        return data if self.left else data[: -len(TAIL)] + TAIL


def post(client, page, length: int) -> tuple[str, bytes, Endless]:
    """A multipart upload of that many bytes, straight into the handler."""
    token = client.get(page).cookies["csrftoken"].value
    head = (
        f'--x\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\n{token}\r\n'
        '--x\r\nContent-Disposition: form-data; name="file"; filename="notas.jsonl"\r\n\r\n'
    )
    body = Endless(head.encode(), length)
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
    environ = client._base_environ(
        PATH_INFO=page,
        REQUEST_METHOD="POST",
        CONTENT_TYPE="multipart/form-data; boundary=x",
        CONTENT_LENGTH=str(length),
        HTTP_COOKIE=cookies,
        HTTP_ACCEPT_LANGUAGE="en",
    )
    environ["wsgi.input"] = body
    answer = []
    content = b"".join(WSGIHandler()(environ, lambda status, headers: answer.append(status)))
    return answer[0], content, body


@pytest.mark.django_db(transaction=True)
def test_promise_26_an_upload_of_1_gb_is_refused_unread(lead, page):
    client = signed_in(lead)
    before, start = getrusage(RUSAGE_SELF).ru_maxrss, time.monotonic()
    status, content, body = post(client, page, 2**30)
    assert time.monotonic() - start < 5
    assert (getrusage(RUSAGE_SELF).ru_maxrss - before) * 1024 < 200e6
    assert status.startswith("413")
    assert "larger than an upload may be" in content.decode()
    assert body.left > 2**30 - 2**20
    assert not ImportRun.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_upload_within_the_limit_is_read(lead, page, settings):
    settings.UPLOAD_MAX_BYTES = 2**20
    status, _, body = post(signed_in(lead), page, 2**20)
    assert status.startswith("302")
    assert body.left == 0
    assert ImportLine.objects.get().reason == "The line is not JSON."


# Fuzzing


def fuzzed(seed: int) -> tuple[str, bytes, dict[str, str]]:
    """A file name, its bytes, and patient → text of the lines that must land."""
    draw = random.Random(seed)
    parts, good = [], {}
    for i in range(draw.randint(0, 12)):
        part, landing = draw.choice(LINES)(draw, f"P-{seed}-{i}")
        parts.append(part)
        good |= landing
    return draw.choice(WRAPPERS)(draw, b"".join(parts), good)


TEXTS = [
    "Fiebre y tos.",
    "\u202eodnanimret\u202c",
    "🫀👩🏽‍⚕️e\u0301",
    "línea\r\notra\rmás\n\n",
    "\u2028\u2029\x85\x1c",
    "\ufeff",
    "'\"\\;,\t",
    "\x01\x1b",
]


def _good(draw, name):
    text = "".join(draw.choices(TEXTS, k=draw.randint(1, 4))) + "fin"
    end = draw.choice([b"\n", b"\r\n", b"\n\n", b"\r"])
    row = json.dumps({"patient_id": name, "notes": [text]}, ensure_ascii=draw.random() < 0.5).encode()
    return row + end, {name: text}


def _twice(draw, name):
    row, good = _good(draw, name)
    return row * 2, good


def _bad(draw, name):
    choices = [
        b"\0\0\0",
        b'{"patient_id": "x", "notes": ["a\\u0000"]}',
        b'{"patient_id": "x", "notes": ["\\ud83d"]}',
        b'{"patient_id": "\\udc00", "notes": ["a"]}',
        b'{"patient_id": "x", "notes": ["\xed\xa0\x80"]}',
        "{'ñ': 1}".encode("latin-1"),
        '{"patient_id": "x", "notes": ["ñandú"]}'.encode("latin-1"),
        b'{"patient_id": "x"}',
        b'{"patient_id": "", "notes": ["a"]}',
        b'{"patient_id": "x", "notes": []}',
        b'{"patient_id": "x", "notes": [{}]}',
        b'{"patient_id": "x", "notes": "a"}',
        b'{"patient_id": "x", "notes": [1, null]}',
        b'{"patient_id": [], "text": {}}',
        b'{"patient_id": "x", "text": "a", "written_at": "2021-13-45"}',
        b'{"patient_id": "x", "text": "a", "written_at": -1e999}',
        b'{"patient_id": "' + b"y" * 300 + b'", "text": "a"}',
        b"[" * 5000,
        b"null",
        b"1e999",
        b"NaN",
        b"x\xff\xfe",
        b"{" + draw.randbytes(draw.randint(1, 200)).replace(b"\n", b"").replace(b"\r", b"") + b"}",
    ]
    return draw.choice(choices) + b"\n", {}


LINES = [_good, _good, _twice, _bad, _bad]


def _plain(draw, data, good):
    return "notas.jsonl", data, good


def _gzipped(draw, data, good):
    return "notas.jsonl.gz", gzip.compress(data), good


def _marked(draw, data, good):
    return "notas.jsonl", b"\xef\xbb\xbf" + data, good


def _utf16(draw, data, good):
    texts = [
        json.dumps({"patient_id": name, "notes": [text]}, ensure_ascii=False) for name, text in good.items()
    ]
    return "notas.jsonl", "\n".join(texts).encode("utf-16"), good


def _as_csv(draw, data, good):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=draw.choice(",;\t"), lineterminator=draw.choice(["\n", "\r\n"]))
    writer.writerows([["patient_id", "text"], *good.items()])
    return "notas.csv", file.getvalue().encode(), good


def _wrong_columns(draw, data, good):
    return "notas.csv", b"nombre;texto\n" + data, {}


def _cut(draw, data, good):
    packed = gzip.compress(data)
    return "notas.jsonl.gz", packed[: draw.randint(0, len(packed) - 1)], {}


def _noise(draw, data, good):
    name = draw.choice(["notas.jsonl", "notas.csv", "notas.csv.gz", "notas.xlsx", "notas"])
    return name, draw.randbytes(draw.randint(0, 3000)), {}


WRAPPERS = [_plain, _plain, _plain, _gzipped, _marked, _utf16, _as_csv, _wrong_columns, _cut, _noise]


def wrongs(client, page, seed: int) -> list[str]:
    """What went wrong with one fuzzed upload; nothing when its good lines landed and its bad ones were told."""
    name, data, good = fuzzed(seed)
    response = upload(client, page, data, name)
    stored = dict(Note.objects.filter(patient__pseudonym__in=good).values_list("patient__pseudonym", "text"))
    held = {"good lines landed as written": stored == good}
    if response.status_code == 302:
        run = ImportRun.objects.latest("pk")
        with translation.override("en"):
            told = list(intake.rejected(run))
        held |= {
            "each rejection is told": len(told) == run.lines_rejected,
            "with line, reason and remedy": all(
                row["line"] >= 1 and row["reason"] and row["remedy"] for row in told
            ),
            "the result page opens": client.get(response["Location"]).status_code == 200,
        }
    else:
        refused = response.status_code == 422 and response.context["form"].errors["file"]
        held["the file is refused with a sentence"] = bool(refused)
    return [what for what, true in held.items() if not true]


@pytest.mark.parametrize("block", range(10))
def test_promise_25_300_fuzzed_uploads(lead, page, block):
    client = signed_in(lead)
    seeds = range(block * 30, block * 30 + 30)
    assert {seed: wrong for seed in seeds if (wrong := wrongs(client, page, seed))} == {}


@pytest.mark.campaign
@pytest.mark.parametrize("block", range(100))
def test_promise_25_10_000_fuzzed_uploads(lead, page, block):
    client = signed_in(lead)
    seeds = range(block * 100, block * 100 + 100)
    assert {seed: wrong for seed in seeds if (wrong := wrongs(client, page, seed))} == {}


def test_promise_25_a_note_of_10_mb_lands_and_a_longer_one_does_not(lead, page):
    text = "á" * 4_999_990 + "\nfin de nota"
    client = signed_in(lead)
    rows = [
        line("P-1", "a"),
        json.dumps({"patient_id": "P-2", "notes": [text]}, ensure_ascii=False).encode() + b"\n",
    ]
    response = upload(client, page, b"".join([*rows, line("P-3", "b" * 10_000_001), line("P-4", "c")]))
    assert response.status_code == 302
    assert Note.objects.get(patient__pseudonym="P-2").text == text
    assert sorted(Note.objects.values_list("patient__pseudonym", flat=True)) == ["P-1", "P-2", "P-4"]
    assert ImportLine.objects.get().line == 3
