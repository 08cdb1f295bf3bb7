"""openFDA's device events: what a report becomes, what is told of a broken one, and that nothing around it is lost."""

import gzip
import io
import json
import random
import struct
import tracemalloc
import zipfile
from datetime import date

import pytest

from mlcore import openfda, records
from mlcore.protocols import get
from mlcore.records import Dropped, Problem, Record

SPEC = get("maude-severity-en")
META = {"disclaimer": "Do not rely on openFDA.", "results": {"skip": 0, "limit": 100, "total": 2}}


def report(number, *texts, kind="Malfunction", **more):
    told = [{"text_type_code": "Description of Event or Problem", "text": text} for text in texts]
    return {
        "event_type": kind,
        "report_number": number,
        "mdr_report_key": f"K{number}",
        "mdr_text": told,
    } | more


def shipped(*reports, **how) -> bytes:
    return json.dumps({"meta": META, "results": list(reports)}, **how).encode()


def listed(*members: bytes) -> bytes:
    return b'{"meta": {}, "results": [' + b",\n".join(members) + b"]}"


def packed(data: bytes, name="device-event-0001-of-0005.json", kind=zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def read(data: bytes, name="events.json", spec=SPEC):
    return list(openfda.read(io.BytesIO(data), spec, name))


def reasons(items):
    return {item.line: item.reason for item in items if isinstance(item, Problem)}


def numbers(items):
    return [item.patient_id for item in items if isinstance(item, Record)]


WHOLE = report(
    "1-2020-3",
    "PUMP STOPPED. ",
    kind="Death",
    date_received="20200131",
    device=[
        {
            "brand_name": "ACME 3",
            "generic_name": "PUMP",
            "device_report_product_code": "FRN",
            "openfda": {"device_name": "Pump, Infusion"},
        }
    ],
)


# A report


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", ["events.json", "events.json.gz", "device-event-0001-of-0005.json.zip"])
def test_a_report_as_shipped(form, indent):
    data = shipped(WHOLE, indent=indent)
    data = {"gz": gzip.compress, "zip": packed}.get(form.rsplit(".", 1)[1], bytes)(data)
    [found] = read(data, form)
    [note] = found.notes
    assert (found.patient_id, found.label, found.line, found.group) == ("1-2020-3", 3, 1, "")
    assert (note.text, note.written_at, note.specialty, note.note_id) == (
        "PUMP STOPPED. ",
        date(2020, 1, 31),
        "FRN · Pump, Infusion",
        "K1-2020-3",
    )


def test_descriptions_come_first_and_the_same_text_once():
    told = [
        {"text_type_code": "Additional Manufacturer Narrative", "text": "WE LOOKED."},
        {"text_type_code": "Description of Event or Problem", "text": "A "},
        {"text_type_code": "Description of Event or Problem", "text": "A "},
        {"text_type_code": "Description of Event or Problem", "text": " \n"},
        {"text": None},
        {"text_type_code": "DESCRIPTION OF EVENT OR PROBLEM ", "text": "\r\n B"},
    ]
    [found] = read(shipped(report("1", mdr_text=told)))
    assert found.texts == ["A \n\n\r\n B\n\nWE LOOKED."]


@pytest.mark.parametrize("kind", ["No answer provided", "*", "", None, "UNKNOWN", "3", 3, ["Death"], "1e0"])
def test_an_event_type_that_is_no_label_is_none(kind):
    [found] = read(shipped(report("1", "a", kind=kind)))
    assert found.label is None


def test_event_types_are_labels_in_any_case():
    kinds = ["Other", "MALFUNCTION", " injury ", "Death"]
    found = read(shipped(*(report(str(i), f"t{i}", kind=kind) for i, kind in enumerate(kinds))))
    assert [one.label for one in found] == [0, 1, 2, 3]


@pytest.mark.parametrize("told", [None, [], [{}], [{"text": " "}], [{"text": None}]])
def test_a_report_without_narrative_is_dropped_in_words(told):
    items = read(shipped(report("1", mdr_text=told), report("2", "a")))
    assert isinstance(items[0], Dropped)
    assert reasons(items) == {1: openfda.NO_NARRATIVE[0]}
    assert numbers(items) == ["2"]


@pytest.mark.parametrize("day", ["", None, "20201350", "2020", "soon", ["20200101"], 1])
def test_a_wrong_date_costs_no_report(day):
    [found] = read(shipped(report("1", "a", date_received=day)))
    assert found.notes[0].written_at is None


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (None, ""),
        ("x", ""),
        ([3], ""),
        ([{"generic_name": "STENT", "brand_name": "B"}], "STENT"),
        ([{"brand_name": "B"}], "B"),
        ([{"device_report_product_code": "FRN", "openfda": [1]}], "FRN"),
        ([{"device_report_product_code": "FRN", "openfda": {"device_name": "x" * 99}}], "FRN · " + "x" * 74),
        ([{"brand_name": "a\0\ud800"}], "a??"),
    ],
)
def test_the_device_is_the_specialty_and_costs_no_report(device, said):
    [found] = read(shipped(report("1", "a", device=device)))
    assert found.notes[0].specialty == said


def test_a_report_without_a_number_goes_by_its_key():
    items = read(shipped(report("", "a", mdr_report_key=71), report(None, "b", mdr_report_key=" ")))
    assert numbers(items) == ["71"]
    assert reasons(items) == {2: records.NO_ID[0]}


# Broken reports


GOOD = [json.dumps(report(str(i), f"text {i}", device=[{"brand_name": "b"}])).encode() for i in range(5)]
BROKEN = {
    "wrong texts": (b'{"report_number": "x", "mdr_text": "a"}', openfda.BAD_TEXTS),
    "a text that is a number": (b'{"report_number": "x", "mdr_text": [{"text": 3}]}', openfda.BAD_TEXTS),
    "texts in a list": (b'{"report_number": "x", "mdr_text": ["a"]}', openfda.BAD_TEXTS),
    "no object": (b'"text"', openfda.NOT_REPORT),
    "a number": (b"12", openfda.NOT_REPORT),
    "null": (b"null", openfda.NOT_REPORT),
    "a NUL": (b'{"report_number": "x", "mdr_text": [{"text": "a\0"}]}', records.NUL),
    "an escaped NUL": (b'{"report_number": "x", "mdr_text": [{"text": "a\\u0000"}]}', records.NUL),
    "half a pair": (b'{"report_number": "x", "mdr_text": [{"text": "\\ud83e"}]}', records.SURROGATE),
    "latin-1": (b'{"report_number": "x", "mdr_text": [{"text": "\xf1"}]}', records.BAD_BYTES),
    "a comma too few": (b'{"report_number": "x" "mdr_text": [{"text": "a"}, {"text": "b"}]}', openfda.BROKEN),
    "a quotation mark too few": (b'{"report_number": "x, "mdr_text": [{"text": "a"}]}', openfda.BROKEN),
    "no value": (b'{"report_number": , "mdr_text": [{"text": "a"}, {"text": "b"}]}', openfda.BROKEN),
    "no closing brace": (b'{"report_number": "x", "mdr_text": [{"text": "a"}]', openfda.BROKEN),
    "no closing bracket": (b'{"report_number": "x", "mdr_text": [{"text": "a"}', openfda.BROKEN),
    "bare words": (b"nothing at all", openfda.BROKEN),
    "too deep": (b'{"report_number": "x", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", openfda.BROKEN),
    "a long number": (b'{"report_number": ' + b"1" * 5000 + b"}", openfda.BROKEN),
}


@pytest.mark.parametrize("size", [7, 1 << 16])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_report_is_told_at_its_place_and_costs_no_other(kind, size, monkeypatch):
    monkeypatch.setattr(records, "CHUNK", size)
    member, messages = BROKEN[kind]
    items = read(listed(*GOOD[:2], member, *GOOD[2:]))
    assert reasons(items) == {3: messages[0]}
    assert numbers(items) == ["0", "1", "2", "3", "4"]
    assert [item.line for item in items] == [1, 2, 3, 4, 5, 6]


def test_broken_reports_side_by_side_are_told_as_one():
    items = read(listed(GOOD[0], b'{"a": }', b'{"b": }', GOOD[1]))
    assert reasons(items) == {2: openfda.BROKEN[0]}
    assert numbers(items) == ["0", "1"]


def test_text_that_looks_like_a_report_stays_text():
    text = ',{"report_number": "9", "mdr_text": []}], {"'
    items = read(listed(b'{"a": }', json.dumps(report("1", text)).encode()))
    assert [one.texts for one in items[1:]] == [[text]]


@pytest.mark.parametrize("form", ["events.json", "events.json.gz"])
def test_a_file_that_ends_early_lands_what_came_before(form):
    data = listed(*GOOD)
    for cut in range(data.index(b"[") + 1, len(data) - 2, 7):
        part = data[:cut]
        items = read(gzip.compress(part) if form.endswith("gz") else part, form)
        whole = sum(data.index(good) + len(good) <= cut for good in GOOD)
        assert numbers(items) == ["0", "1", "2", "3", "4"][:whole]
        assert reasons(items) == {whole + 1: openfda.TORN[0]}


def test_a_torn_gzip_says_so_and_lands_what_came_before():
    rows = [json.dumps(report(str(i), random.Random(i).randbytes(200).hex())).encode() for i in range(200)]
    data = gzip.compress(listed(*rows))
    items = read(data[: len(data) // 2], "events.json.gz")
    assert len(numbers(items)) > 50
    assert list(reasons(items).values()) == [records.DAMAGED[0]]


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (b"", records.EMPTY),
        (b" \n", records.EMPTY),
        (shipped(), records.EMPTY),
        (b"[]", openfda.NOT_OPENFDA),
        (b"hello", openfda.NOT_OPENFDA),
        (b'{"results": {}}', openfda.NOT_OPENFDA),
        (b'{"results"', openfda.NOT_OPENFDA),
        (b'{"meta": {"a', openfda.NOT_OPENFDA),
        (b'{"error": {"code": "NOT_FOUND"}}', openfda.NOT_OPENFDA),
        (b'{"resourceType": "Bundle", "entry": []}', openfda.NOT_OPENFDA),
        (b'{"results": [', openfda.TORN),
    ],
)
def test_what_is_not_such_a_file_is_told_in_one_sentence(data, messages):
    assert reasons(read(data)) == {1: messages[0]}


def test_encodings_with_a_mark_and_keys_around_the_list():
    data = b'{"results": ' + json.dumps([report("1", "\U0001fac0 \xf1")]).encode() + b', "meta": {}} rest'
    for form in (data, data.decode().encode("utf-8-sig"), data.decode().encode("utf-16")):
        [found] = read(form)
        assert found.texts == ["\U0001fac0 \xf1"]


# ZIP archives


def test_every_json_file_of_an_archive_is_read_and_counted_on():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.json", shipped(report("1", "a"), report("2", "b")))
        archive.writestr("readme.txt", "no")
        archive.writestr("__MACOSX/a.json", "no")
        archive.writestr("b.json", shipped(report("3", "c")))
    assert [(one.patient_id, one.line) for one in read(file.getvalue(), "x.zip")] == [
        ("1", 1),
        ("2", 2),
        ("3", 3),
    ]


def locked() -> bytes:
    data = bytearray(packed(shipped(WHOLE)))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def crowded() -> bytes:
    data = bytearray(packed(shipped(WHOLE)))
    struct.pack_into("<L", data, data.rindex(b"PK\x05\x06") + 12, 1 << 30)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (packed(b"x", "notes.txt"), openfda.NO_MEMBER),
        (packed(shipped(WHOLE), kind=zipfile.ZIP_LZMA), openfda.LOCKED),
        (locked(), openfda.LOCKED),
        (crowded(), openfda.FULL),
        (packed(shipped(WHOLE))[:-30], records.DAMAGED),
        (b"hello", records.DAMAGED),
        (packed(b'{"results": [' + b" " * 40_000_000), records.TOO_DENSE),
    ],
)
def test_an_archive_that_cannot_be_used_is_told(data, messages):
    told = reasons(read(data, "x.zip"))
    assert list(told) == [1]
    assert told[1] == messages[0] % {"ratio": records.MAX_RATIO}


def test_an_archive_with_a_wrong_checksum_gives_what_stands_before_its_last_piece():
    data = bytearray(packed(shipped(*(report(str(i), str(i)) for i in range(2000)))))
    data[data.rindex(b"PK\x01\x02") + 16] ^= 1
    items = read(bytes(data), "x.zip")
    assert 1000 < len(numbers(items)) < 2000
    assert list(reasons(items).values()) == [records.DAMAGED[0]]


def test_an_archive_that_unpacks_to_too_much_is_left_alone(monkeypatch):
    monkeypatch.setattr(records, "MAX_UNPACKED", 1000)
    items = read(packed(shipped(*(report(str(i), "a") for i in range(20)))), "x.zip")
    assert reasons(items) == {1: records.TOO_BIG[0] % {"limit": 0}}


def test_a_gzipped_member_of_an_archive_is_not_unpacked_again():
    items = read(packed(gzip.compress(shipped(*[{}] * 1000))), "x.zip")
    assert reasons(items) == {1: openfda.NOT_OPENFDA[0]}


def test_a_size_declared_for_what_is_packed_excuses_no_density():
    data = bytearray(packed(b'{"results": [' + b" " * 40_000_000))
    struct.pack_into("<L", data, data.rindex(b"PK\x01\x02") + 20, 1 << 30)
    assert reasons(read(bytes(data), "x.zip")) == {1: records.TOO_DENSE[0] % {"ratio": records.MAX_RATIO}}


def test_what_is_unpacked_is_counted_over_all_members_whatever_is_declared(monkeypatch):
    file, one = io.BytesIO(), shipped(WHOLE)
    with zipfile.ZipFile(file, "w") as archive:
        for name in "abc":
            archive.writestr(f"{name}.json", one)
    monkeypatch.setattr(openfda, "_refused", lambda members, size: None)
    monkeypatch.setattr(records, "MAX_UNPACKED", 2 * len(one))
    items = read(file.getvalue(), "x.zip")
    assert len(numbers(items)) == 2
    assert reasons(items) == {3: records.TOO_BIG[0] % {"limit": 0}}


def test_a_member_said_to_stand_beyond_any_file_is_damage():
    data = bytearray(packed(shipped(WHOLE)))
    entry, end = data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    far = struct.pack("<HHQ", 1, 8, (1 << 63) + 1)
    struct.pack_into("<H", data, entry + 30, len(far))
    struct.pack_into("<L", data, entry + 42, 0xFFFFFFFF)
    struct.pack_into("<L", data, end + 12, end - entry + len(far))
    data[end:end] = far
    assert reasons(read(bytes(data), "x.zip")) == {1: records.DAMAGED[0]}


# Large and hostile


class Made(io.RawIOBase):
    """A file that is made as it is read."""

    def __init__(self, parts):
        self.parts = parts

    def read(self, size=-1):
        return next(self.parts, b"")


def test_memory_is_flat_whatever_the_number_of_reports():
    def parts(n):
        yield b'{"meta": {}, "results": ['
        for i in range(n):
            yield (b"," if i else b"") + json.dumps(report(str(i), "x" * 20_000)).encode()
        yield b"]}"

    tracemalloc.start()
    n = sum(isinstance(item, Record) for item in openfda.read(Made(parts(600)), SPEC, "x.json"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 600
    assert peak < 2e6


def test_a_report_too_long_to_hold_is_told_and_passed_over(monkeypatch):
    monkeypatch.setattr(records, "MAX_ROW", 1 << 18)
    long = b'{"report_number": "x", "mdr_text": [{"text": "' + b"a" * (1 << 20) + b'"}]}'
    items = read(listed(GOOD[0], long, GOOD[1]))
    assert reasons(items) == {2: records.LONG_ROW[0] % {"limit": 0}}
    assert numbers(items) == ["0", "1"]


@pytest.mark.parametrize(
    "piece", [b',{"a":[', b',{"mdr_text":[', b',{"a":"', b"[", b",", b'{"', b', {"event_type": 1}, {"a": [']
)
def test_what_is_made_to_be_read_again_and_again_is_given_up(piece, monkeypatch):
    monkeypatch.setattr(openfda, "BUDGET", 1 << 20)
    read_in = []
    decode = openfda.DECODER.raw_decode
    monkeypatch.setattr(openfda.DECODER, "raw_decode", lambda text, at: read_in.append(1) or decode(text, at))
    items = read(listed(piece * 30_000))
    assert len(read_in) < 70_000
    assert isinstance(items[-1], Problem)


def test_no_bytes_raise():
    rng = random.Random(7)
    data = listed(*GOOD)
    for _ in range(500):
        broken = bytearray(data)
        for _ in range(rng.randrange(1, 6)):
            start = rng.randrange(len(broken))
            broken[start : start + rng.randrange(3)] = rng.choice(
                [b"", b'"', b"{", b"}", b"[", b"]", b",", b"\\", b"\0", b"\xff", b"\\ud800"]
            )
        name = rng.choice(["x.json", "x.json.gz", "x.zip"])
        form = {"x.json": bytes, "x.json.gz": gzip.compress, "x.zip": packed}[name](bytes(broken))
        for item in read(form, name):
            assert isinstance(item, Record | Problem)
    archive = packed(data)
    for _ in range(500):
        broken = bytearray(archive)
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        for item in read(bytes(broken), "x.zip"):
            assert isinstance(item, Record | Problem)


# Whose file it is


@pytest.mark.parametrize(
    ("name", "data", "ours"),
    [
        ("x.json", shipped(WHOLE), True),
        ("x.json", b'{"results": [', True),
        ("X.JSON.GZ", gzip.compress(shipped(WHOLE)), True),
        ("x.zip", b"", True),
        ("x.json", b'{"resourceType": "Bundle", "results": []}', False),
        ("x.json", b'{"meta": {"versionId": "1"}, "resourceType": "Bundle"}', False),
        ("x.json", b'{"meta"', False),
        ("x.json", b"[]", False),
        ("x.json", b"", False),
        ("x.jsonl", shipped(WHOLE), False),
    ],
)
def test_openfda_is_told_from_other_json(name, data, ours):
    assert openfda.is_openfda(io.BytesIO(data), name) is ours


# In training


def test_training_leaves_out_what_has_no_label_or_text_and_says_how_many(tmp_path):
    path = tmp_path / "events.json.zip"
    kinds = ["Other", "Malfunction", "Injury", "Death"]
    rows = [report(str(i), f"text number {'abcd'[i]} of its own", kind=kind) for i, kind in enumerate(kinds)]
    rows += [report("5", "x", kind="No answer provided"), report("6", "y", kind="*"), report("7")]
    path.write_bytes(packed(shipped(*rows)))
    found = records.labelled(path, SPEC)
    assert [one.label for one in found.records] == [0, 1, 2, 3]
    assert (found.without_narrative, found.without_label, found.grouped) == (1, 2, True)
    card = found.card()
    assert card["dropped_without_label"] == 2
    assert card["dropped_without_narrative"] == 1
    assert records.load_labelled(path, SPEC) == found.records
    assert len(records.load(path, SPEC)) == 6
