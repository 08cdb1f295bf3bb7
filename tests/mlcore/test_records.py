"""Reading files: every good line lands exactly as written, every bad one is told with its line, nothing raises."""

import csv
import gzip
import io
import json
import random
import time
import tracemalloc
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcore import records
from mlcore.errors import DataError
from mlcore.protocols import HIV_SUSPICION_ES, MAUDE_SEVERITY_EN
from mlcore.records import NoteText, Problem, Record

STRANGE_TEXTS = [
    "CD4 <200, PCR(-), 38,5 ºC ≥ 3 días",
    "familia 👨‍👩‍👧‍👦 y acento combinante e\u0301",
    "árabe \u202eأهلا\u202c y hebreo שלום",
    "  espacios, tabuladores\t y fin  ",
    "separadores\u2028de\u2029línea\x85\x0b\x0c",
    'comillas "dobles" y \\barras\\',
    "=HYPERLINK(1)",
    "x" * 5000,
]


def read(data, name="notes.jsonl", spec=HIV_SUSPICION_ES):
    return list(records.read(io.BytesIO(data), name, spec))


def jsonl(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(*rows, **options):
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows(rows)
    return out.getvalue().encode()


def told(items):
    return [(item.line, item.template) for item in items if isinstance(item, Problem)]


# What is taken.


def test_a_patient_with_several_notes():
    notes = [
        "una nota",
        {"text": "otra", "written_at": "2021-05-12", "specialty": "Digestivo", "note_id": "n2"},
        {"text": "tercera", "written_at": "2021-05-12T10:30:00"},
    ]
    found = read(jsonl({"patient_id": "p1", "notes": notes, "label": 1, "source": "ignored", "group": "g"}))
    day = date(2021, 5, 12)
    expected = [NoteText("una nota"), NoteText("otra", day, "Digestivo", "n2"), NoteText("tercera", day)]
    assert found == [Record("p1", expected, 1, 1, "g")]


def test_the_flat_form_of_a_note():
    row = {"report_number": "MW1", "text": "PUMP STOPPED", "event_type": "Malfunction", "group": "858c"}
    found = read(jsonl(row), spec=MAUDE_SEVERITY_EN)
    assert found == [Record("MW1", [NoteText("PUMP STOPPED")], 1, 1, "858c")]


def test_a_record_without_a_label_and_with_a_number_for_an_id():
    assert read(jsonl({"patient_id": 7, "notes": ["x"], "label": None})) == [
        Record("7", [NoteText("x")], None, 1)
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_as_spreadsheets_write_it(delimiter):
    head = ["Patient_ID", "text", "written_at", "extra", "label"]
    data = table(
        head, ["p1", "a;b,c\td", "2021-05-12", "x", "suspicion"], ["p2", "z", "", "", ""], delimiter=delimiter
    )
    assert read(data, "notes.csv") == [
        Record("p1", [NoteText("a;b,c\td", date(2021, 5, 12))], 1, 2),
        Record("p2", [NoteText("z")], None, 3),
    ]


@pytest.mark.parametrize("text", [*STRANGE_TEXTS, "líneas\r\nmezcladas\ny\rsueltas"])
def test_text_comes_back_code_point_for_code_point(text):
    as_json = read(jsonl({"patient_id": "p", "notes": [text]}))
    as_csv = read(table(["patient_id", "text"], ["p", text], quoting=csv.QUOTE_ALL), "n.csv")
    assert as_json[0].texts == as_csv[0].texts == [text]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom"])
@pytest.mark.parametrize("name", ["n.jsonl", "n.csv"])
def test_encodings_with_a_byte_order_mark(encoding, name):
    text = "niño 👩‍⚕️, «PCR(-)»"
    data = (
        jsonl({"patient_id": "p", "notes": [text]})
        if name == "n.jsonl"
        else table(["patient_id", "text"], ["p", text])
    )
    if encoding.endswith("-bom"):
        encoded = ("\ufeff" + data.decode()).encode(encoding.removesuffix("-bom"))
    else:
        encoded = data.decode().encode(encoding)
    assert [record.texts for record in read(encoded, name)] == [[text]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_counted_whatever_ends_them(end):
    data = end.join(
        ['{"patient_id": "a", "notes": ["x"]}', "", "broken", '{"patient_id": "b", "notes": ["y"]}']
    )
    found = read(data.encode())
    assert [item.line for item in found] == [1, 3, 4]
    assert told(found) == [(3, records.NOT_JSON[0])]


def test_a_line_end_split_between_two_reads(monkeypatch):
    data = b'{"patient_id": "a", "notes": ["x"]}\r\n{"patient_id": "b", "notes": ["y"]}\rno'
    for size in range(1, 45):
        monkeypatch.setattr(records, "CHUNK", size)
        assert [item.line for item in read(data)] == [1, 2, 3]


def test_gzip_is_known_by_its_content(tmp_path):
    data = gzip.compress(jsonl({"patient_id": "p", "notes": ["x"]})) + gzip.compress(
        jsonl({"patient_id": "q", "notes": ["y"]})
    )
    path = tmp_path / "n.jsonl.gz"
    path.write_bytes(data)
    assert [r.patient_id for r in records.read(path, path.name, HIV_SUSPICION_ES)] == ["p", "q"]
    assert [r.patient_id for r in read(data, "n.jsonl")] == ["p", "q"]


# What is told.

OK = {"patient_id": "good", "notes": ["bien"]}


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        (b"{", records.NOT_JSON),
        (b"[" * 100_000, records.NOT_JSON),
        (b'{"patient_id": "p", "notes": ["x"], "n": ' + b"9" * 5000 + b"}", records.NOT_JSON),
        (b"[1]", records.NOT_OBJECT),
        (b"null", records.NOT_OBJECT),
        ('{"patient_id": "p", "notes": ["ñ"]}'.encode("latin-1"), records.BAD_BYTES),
        (b'{"patient_id": "p\x00", "notes": ["x"]}', records.NUL),
        (rb'{"patient_id": "p", "notes": ["a\u0000b"]}', records.NUL),
        (rb'{"patient_id": "p\u0000", "notes": ["a"]}', records.NUL),
        (rb'{"patient_id": "p", "notes": ["a\ud800b"]}', records.SURROGATE),
        (rb'{"patient_id": "p", "notes": ["a\udc80b"]}', records.BAD_BYTES),
        (rb'{"patient_id": "p", "notes": [{"text": "a", "specialty": "\udfff"}]}', records.SURROGATE),
        (b'{"notes": ["x"]}', records.NO_ID),
        (b'{"patient_id": "  ", "notes": ["x"]}', records.NO_ID),
        (b'{"patient_id": true, "notes": ["x"]}', records.NO_ID),
        (b'{"patient_id": "' + b"p" * 201 + b'", "notes": ["x"]}', records.LONG_ID),
        (b'{"patient_id": "p"}', records.NO_TEXT),
        (b'{"patient_id": "p", "notes": []}', records.NO_TEXT),
        (b'{"patient_id": "p", "notes": ["x", " \\n"]}', records.NO_TEXT),
        (b'{"patient_id": "p", "notes": [{}]}', records.NO_TEXT),
        (b'{"patient_id": "p", "notes": "x"}', records.BAD_NOTES),
        (b'{"patient_id": "p", "notes": [1]}', records.BAD_NOTES),
        (b'{"patient_id": "p", "notes": [{"text": "x", "written_at": "12 de mayo"}]}', records.BAD_DATE),
        (b'{"patient_id": "p", "notes": [{"text": "x", "written_at": "2021-02-30"}]}', records.BAD_DATE),
        (b'{"patient_id": "p", "notes": [{"text": "x", "written_at": [1]}]}', records.BAD_DATE),
        (b'{"patient_id": "p", "notes": [{"text": "x", "note_id": {}}]}', records.BAD_FIELD),
        (b'{"patient_id": "p", "notes": ["x"], "label": "maybe"}', records.BAD_LABEL),
        (b'{"patient_id": "p", "notes": ["x"], "label": true}', records.BAD_LABEL),
    ],
)
def test_a_bad_line_is_told_and_costs_no_other(line, messages):
    first, problem, last = read(jsonl(OK) + line + b"\n" + jsonl(OK))
    assert (first.line, last.line) == (1, 3)
    assert first.texts == last.texts == ["bien"]
    assert (problem.line, problem.template, problem.remedy_template) == (2, *messages)
    assert problem.reason
    assert problem.remedy
    assert "%" not in problem.reason + problem.remedy


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (b"p", records.CELLS),
        (b"p,x,extra", records.CELLS),
        (b",x", records.NO_ID),
        (b"p,", records.NO_TEXT),
        (b"p,\xf1", records.BAD_BYTES),
        (b"p,a\x00b", records.NUL),
        (b'p,"open', records.BAD_QUOTES),
        (b'p,"closed" badly', records.BAD_QUOTES),
    ],
)
def test_a_bad_row_is_told_and_costs_no_other(row, messages):
    first, problem, last = read(b"patient_id,text\na,bien\n" + row + b"\nb,bien\n", "n.csv")
    assert (first.line, first.patient_id, last.line, last.patient_id) == (2, "a", 4, "b")
    assert (problem.line, problem.template, problem.remedy_template) == (3, *messages)


def test_a_quoted_row_over_lines_counts_them_all():
    found = read(b'patient_id,text\na,"one\ntwo\nthree"\nb,x\n,y\n', "n.csv")
    assert [item.line for item in found] == [2, 5, 6]


@pytest.mark.parametrize(
    ("head", "messages"),
    [
        (b"id,note", records.NO_COLUMN),
        (b"patient_id,label", records.NO_COLUMN),
        (b"text", records.NO_COLUMN),
        (b"patient_id,text,text", records.TWICE),
        (b"patient_id,Text, text", records.TWICE),
        (b'patient_id,"text" x', records.BAD_QUOTES),
    ],
)
def test_a_first_line_that_cannot_be_used_is_told_once(head, messages):
    assert told(read(head + b"\na,x\nb,y\n", "n.csv")) == [(1, messages[0])]


def test_an_unknown_column_may_stand_twice():
    assert read(b"patient_id,x,text,x\na,1,bien,2\n", "n.csv")[0].texts == ["bien"]


@pytest.mark.parametrize("name", ["n.jsonl", "n.csv"])
@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_an_empty_file_says_so(name, data):
    assert told(read(data, name)) == [(1, records.EMPTY[0])]


def test_two_notes_where_one_is_a_case():
    found = read(jsonl({"report_number": "r", "notes": ["x", "y"]}), spec=MAUDE_SEVERITY_EN)
    assert told(found) == [(1, records.ONE_NOTE[0])]
    assert "2 notes" in found[0].reason


def test_a_problem_repeats_nothing_of_the_file():
    rows = [
        {"patient_id": "canary", "notes": ["x"], "label": "canary"},
        {"patient_id": "canary", "notes": "canary"},
    ]
    for problem in read(jsonl(*rows) + b"canary\n"):
        assert "canary" not in repr(problem)


@pytest.mark.parametrize("cut", [1, 8, 40])
def test_a_torn_gzip_lands_what_came_before(cut):
    rows = jsonl(
        *({"patient_id": f"p{i}", "notes": [random.Random(i).randbytes(3000).hex()]} for i in range(60))
    )
    found = read(gzip.compress(rows)[:-cut], "n.jsonl.gz")
    assert len(found) >= 50
    assert found[-1].template == records.DAMAGED[0]
    assert all(isinstance(item, Record) for item in found[:-1])


def test_a_corrupt_gzip_is_told():
    data = bytearray(gzip.compress(jsonl(*[OK] * 1000)))
    data[12:40] = bytes(28)
    assert told(read(bytes(data), "n.jsonl.gz"))[-1][1] == records.DAMAGED[0]


@pytest.mark.parametrize("name", ["notes.xlsx", "notes", "notes.txt", "notes.csv.bz2", ""])
def test_a_file_that_is_neither_is_refused(name):
    with pytest.raises(DataError, match="neither JSONL nor CSV nor openFDA"):
        read(b"", name)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl cannot be opened \(No such file"):
        records.read(tmp_path / "gone.jsonl", "gone.jsonl", HIV_SUSPICION_ES)


# Size.


def test_a_note_may_hold_ten_million_bytes_and_no_more():
    largest = {"patient_id": "a", "notes": ["x" * records.MAX_NOTE]}
    over = {"patient_id": "b", "notes": ["x" * (records.MAX_NOTE - 1) + "ñ"]}
    found = read(jsonl(largest, over, OK))
    assert told(found) == [(2, records.LONG_NOTE[0])]
    assert len(found[0].texts[0]) == records.MAX_NOTE
    as_csv = read(
        table(["patient_id", "text"], ["a", "x" * records.MAX_NOTE], ["b", "x" * records.MAX_NOTE + "ñ"]),
        "n.csv",
    )
    assert told(as_csv) == [(3, records.LONG_NOTE[0])]


class Endless(io.RawIOBase):
    """`size` bytes of one line, then a good line, without ever holding them."""

    def __init__(self, size, last):
        self.left, self.last = size, last

    def read(self, n=-1):
        if self.left > 0:
            self.left -= n
            return b"x" * n
        last, self.last = self.last, b""
        return last


@pytest.mark.parametrize("name", ["n.jsonl", "n.csv"])
def test_an_endless_line_is_told_in_flat_memory(name):
    tracemalloc.start()
    found = list(records.read(Endless(200_000_000, b"\n" + jsonl(OK)), name, HIV_SUSPICION_ES))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120_000_000
    assert told(found) == [(1, records.LONG_ROW[0])]
    assert [item.line for item in found if isinstance(item, Record)] == ([2] if name == "n.jsonl" else [])


def test_a_gzip_bomb_is_left_alone():
    bomb = gzip.compress(b" " * 300_000_000)
    start = time.perf_counter()
    assert told(read(bomb, "n.jsonl.gz"))[-1][1] == records.TOO_DENSE[0]
    assert time.perf_counter() - start < 5


def test_quotation_marks_made_to_be_read_again_and_again():
    start = time.perf_counter()
    read(b"patient_id,text\n" + b'5","\n' * 250_000, "n.csv")
    assert time.perf_counter() - start < 20


# Anything at all.


@given(st.binary(max_size=400), st.sampled_from(["n.jsonl", "n.csv", "n.csv.gz"]), st.booleans())
def test_no_bytes_raise(data, name, zipped):
    for item in read(gzip.compress(data) if zipped else data, name):
        assert isinstance(item, Record) or (item.line >= 1 and item.reason and item.remedy)


HOSTILE = [
    b"\x00",
    b"\xff\xfe",
    b"\xf1",
    b"\xed\xa0\x80",
    b"{",
    b"[]",
    b'"',
    b'{"patient_id": 1}',
    rb'{"patient_id": "p", "notes": ["\ud800"]}',
    b'{"patient_id": "p", "notes": [""]}',
    b'{"patient_id": "", "notes": ["x"]}',
    b'{"patient_id": "p", "notes": ["x"], "label": 9}',
    "\u202e".encode(),
]


def hostile_jsonl(seed):
    """A file of good and hostile lines with mixed ends: its bytes, the good texts by line, the bad lines."""
    draw = random.Random(seed)
    data, good, bad = b"", {}, []
    for line in range(1, draw.randint(2, 12)):
        if draw.random() < 0.5:
            good[line] = draw.choice(STRANGE_TEXTS)
            data += json.dumps(
                {"patient_id": f"p{line}", "notes": [good[line]]}, ensure_ascii=draw.random() < 0.5
            ).encode()
        else:
            bad.append(line)
            data += draw.choice(HOSTILE)
        data += draw.choice([b"\n", b"\r\n", b"\r"]) if not data.endswith(b"\r") else b"\n"
    bom = draw.choice([b"", b"\xef\xbb\xbf"])
    return bom + data, good, bad


def misread(seed):
    """Whether good lines of the seed's file did not land as written, or bad ones were not told by their number.

    A file that begins as UTF-16 is read as such: nothing is promised of it but that reading does not raise.
    """
    data, good, bad = hostile_jsonl(seed)
    found = read(data) if good or bad else []
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return False
    landed = {item.line: item.texts[0] for item in found if isinstance(item, Record)}
    return landed != good or [item.line for item in found if isinstance(item, Problem)] != bad


def test_10000_hostile_jsonl_files():
    assert [seed for seed in range(10_000) if misread(seed)] == []


def test_1000_hostile_csv_files():
    for seed in range(1000):
        draw = random.Random(seed)
        rows, good, bad, line = [b"patient_id,text"], {}, [], 2
        for _ in range(draw.randint(1, 10)):
            if draw.random() < 0.5:
                good[line] = draw.choice([*STRANGE_TEXTS, "dos\nlíneas", "dos\r\nlíneas"])
                rows.append(table(["p", good[line]], quoting=csv.QUOTE_ALL).removesuffix(b"\r\n"))
            else:
                bad.append(line)
                rows.append(
                    draw.choice([b"\x00", b"p,\xf1", b",x", b"p, ", b"p,x,y", b'p,"x"y', b"\xed\xa0\x80,x"])
                )
            line += 1 + rows[-1].count(b"\n")
        found = read(draw.choice([b"\n", b"\r\n", b"\r"]).join(rows), "n.csv")
        assert {item.line: item.texts[0] for item in found if isinstance(item, Record)} == good
        assert [item.line for item in found if isinstance(item, Problem)] == bad


# Whole files.


def file(tmp_path, data, name="n.jsonl"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_rows_of_one_patient_are_put_together(tmp_path):
    rows = [["patient_id", "text", "label"], ["a", "1", "0"], ["b", "2", "1"], ["a", "3", "0"]]
    found = records.load_labelled(file(tmp_path, table(*rows), "n.csv"), HIV_SUSPICION_ES)
    assert [(r.patient_id, r.texts, r.label) for r in found] == [("a", ["1", "3"], 0), ("b", ["2"], 1)]


def test_notes_that_are_cases_stay_apart(tmp_path):
    rows = [{"report_number": "r", "text": text, "event_type": "Death"} for text in ("x", "y")]
    assert len(records.load(file(tmp_path, jsonl(*rows)), MAUDE_SEVERITY_EN)) == 2


def test_a_patient_labelled_in_two_ways_is_named_by_line(tmp_path):
    rows = [{**OK, "label": 0}, {**OK, "label": 1}]
    with pytest.raises(DataError, match="lines 1 and 2"):
        records.load(file(tmp_path, jsonl(*rows)), HIV_SUSPICION_ES)


def test_bad_lines_are_named_and_no_more_than_five(tmp_path):
    with pytest.raises(DataError, match=r"7 line\(s\) that cannot be read\. Line 2: .* Line 6: ") as raised:
        records.load(file(tmp_path, jsonl(OK) + b"no\n" * 7), HIV_SUSPICION_ES)
    assert "Line 7" not in str(raised.value)


def test_unlabelled_records_and_absent_labels_are_named(tmp_path):
    with pytest.raises(DataError, match=r"1 record\(s\) without a label \(line 1\)"):
        records.load_labelled(file(tmp_path, jsonl(OK)), HIV_SUSPICION_ES)
    with pytest.raises(DataError, match="no record labelled suspicion"):
        records.load_labelled(file(tmp_path, jsonl({**OK, "label": 0})), HIV_SUSPICION_ES)


def test_labels_array_marks_the_unlabelled():
    cases = [Record("a", [], 1, 1), Record("b", [], None, 2)]
    assert records.labels_array(cases).tolist() == [1, -1]


def test_the_shared_files_are_read_whole(shared_data):
    for name, spec, count in (
        ("hiv_suspicion_es/test", HIV_SUSPICION_ES, 993),
        ("maude_severity/test", MAUDE_SEVERITY_EN, 3859),
    ):
        assert len(records.load_labelled(shared_data / f"{name}.jsonl.gz", spec)) == count
