"""Case records out of JSONL and CSV files, gzipped or not, streamed line by line; openFDA's JSON by mlcore.openfda.

A line is read into a Record with its text exactly as written, or told as a Problem; one never costs another.
Memory stays flat: a line or CSV row longer than MAX_ROW is told and skipped without being held.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlcore.errors import DataError
from mlcore.protocols import ProtocolSpec

MAX_NOTE = 10_000_000
MAX_ROW = 16_000_000
MAX_ID = 200
MAX_RATIO = 500
MAX_UNPACKED = 4_000_000_000
MAX_BLANK = 1_000_000
CHUNK = 1 << 16
REPLAY_BUDGET = 2 * MAX_ROW

csv.field_size_limit(max(MAX_ROW, csv.field_size_limit()))


def gettext_noop(message: str) -> str:
    """Mark a message for translation by whoever shows it."""
    return message


@dataclass(frozen=True)
class NoteText:
    """One note, its text exactly as written."""

    text: str
    written_at: date | None = None
    specialty: str = ""
    note_id: str = ""


@dataclass(frozen=True)
class Record:
    """One case as it stands in a file.

    patient_id: the case's own id; for a protocol whose unit is the note, the report number.
    label: position in the protocol's labels, None where the file gives none.
    line: first line of the record, counted from 1.
    group: ties near-identical records together for splits; empty where the file gives none.
    calibrates: what its label counts in a calibration beside a new case, in (0, 1]; 0 where it may not calibrate, because
    the case was not drawn at random to be labelled.
    """

    patient_id: str
    notes: list[NoteText]
    label: int | None
    line: int
    group: str = ""
    calibrates: float = 1.0

    @property
    def texts(self) -> list[str]:
        """The notes' texts in the file's order."""
        return [note.text for note in self.notes]


@dataclass(frozen=True)
class Problem:
    """A line that was not taken: why, and what to do. Holds no text of the file.

    template and remedy_template are constant English messages (gettext ids) with %-params.
    """

    line: int
    template: str
    remedy_template: str
    params: Mapping[str, object] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why the line was not taken, in English."""
        return self.template % self.params

    @property
    def remedy(self) -> str:
        """What to do about it, in English."""
        return self.remedy_template % self.params


class Dropped(Problem):
    """A record that is whole, but has nothing in it to read."""


class _Refused(Exception):
    """Carries (template, remedy, params) of a Problem up to where the line number is known."""

    def __init__(self, messages: tuple[str, str], **params: object) -> None:
        super().__init__(messages[0])
        self.messages, self.params = messages, params

    def at(self, line: int) -> Problem:
        return Problem(line, *self.messages, self.params)


BAD_BYTES = (
    gettext_noop("The line holds bytes that are not UTF-8."),
    gettext_noop("Save the file as UTF-8 and send it again."),
)
NUL = (
    gettext_noop("The line holds a NUL character."),
    gettext_noop("Remove the NUL characters, or save the file as UTF-8 if it was saved as UTF-16."),
)
SURROGATE = (
    gettext_noop("The line holds half of a surrogate pair, which is not a character."),
    gettext_noop("Export the text again as UTF-8; the damaged character was written as \\ud800 to \\udfff."),
)
NOT_JSON = (
    gettext_noop("The line is not JSON."),
    gettext_noop("Write one complete JSON object a line."),
)
NOT_OBJECT = (
    gettext_noop("The line is JSON, but not an object."),
    gettext_noop('Write an object such as {"patient_id": "…", "notes": ["…"]}.'),
)
NO_ID = (
    gettext_noop("The id is missing or blank."),
    gettext_noop("Give each record a %(key)s."),
)
LONG_ID = (
    gettext_noop("The id is longer than %(limit)d characters."),
    gettext_noop("Shorten the %(key)s."),
)
NO_TEXT = (
    gettext_noop("There is no text."),
    gettext_noop("Give at least one note, each with text in it."),
)
BAD_NOTES = (
    gettext_noop("The notes are not a list of texts."),
    gettext_noop('Write "notes" as a list of strings, or of objects with a "text".'),
)
ONE_NOTE = (
    gettext_noop("The record holds %(found)d notes, but this protocol reads one note a case."),
    gettext_noop("Write each note as a record of its own."),
)
LONG_NOTE = (
    gettext_noop("A note is longer than %(limit)d million bytes."),
    gettext_noop("Split it into the notes it was put together from."),
)
LONG_ROW = (
    gettext_noop("The record is longer than %(limit)d million bytes."),
    gettext_noop("Split it, or close the quotation mark that was left open."),
)
BAD_DATE = (
    gettext_noop("The date is not understood."),
    gettext_noop("Write written_at as YYYY-MM-DD, or leave it out."),
)
BAD_FIELD = (
    gettext_noop("The field %(key)s is not text."),
    gettext_noop("Write it in quotation marks, or leave it out."),
)
BAD_LABEL = (
    gettext_noop("The label is not one of this protocol's."),
    gettext_noop("Use one of: %(labels)s."),
)
NO_COLUMN = (
    gettext_noop("The first line does not name the columns %(columns)s."),
    gettext_noop("Start the file with a line of column names, such as %(example)s."),
)
TWICE = (
    gettext_noop("The column %(column)s stands twice in the first line."),
    gettext_noop("Remove or rename one of the two."),
)
CELLS = (
    gettext_noop("The row has %(found)d cells, the first line names %(expected)d."),
    gettext_noop("Put texts that hold commas or line breaks in double quotation marks."),
)
BAD_QUOTES = (
    gettext_noop("The quotation marks of the row do not match."),
    gettext_noop('Close each quotation mark, and write one inside a text as "".'),
)
DAMAGED = (
    gettext_noop("The compressed file is damaged from here on."),
    gettext_noop("Compress the file again and send it again; what stands before this line was read."),
)
TOO_DENSE = (
    gettext_noop("The file unpacks to more than %(ratio)d times its size and was not read on."),
    gettext_noop("Send it uncompressed if it is genuine."),
)
TOO_BIG = (
    gettext_noop("The file unpacks to more than %(limit)d million bytes and was not read on."),
    gettext_noop("Split it into smaller files."),
)
BLANK = (
    gettext_noop("More than %(limit)d empty lines follow one another; the file was not read on."),
    gettext_noop("Check that the right file was chosen."),
)
LONG_FILE = (
    gettext_noop("The file is one JSON object of more than %(limit)d million bytes."),
    gettext_noop("Send its parts one a line, as NDJSON."),
)
EMPTY = (
    gettext_noop("The file holds no records."),
    gettext_noop("Check that the right file was chosen."),
)


def read(source: Path | BinaryIO, filename: str, spec: ProtocolSpec) -> Iterator[Record | Problem]:
    """Each record of a file, or the Problem that kept it from being read, in the file's order.

    source: a path, or an open binary file read from where it stands. filename decides: .jsonl, .csv, or openFDA's .json
    and .zip.
    JSONL: {"patient_id", "notes": [str | {"text", "written_at", "specialty", "note_id"}], "label"} a line, or
    flat: {"report_number" | "patient_id", "text", "event_type" | "label"}. CSV: the flat form's names as
    columns. Raises DataError for a file that is neither, or cannot be opened; nothing that stands inside it
    raises.
    """
    reader = _reader_for(filename)
    return _read_path(source, reader, spec) if isinstance(source, Path) else reader(source, spec)


def load(path: Path, spec: ProtocolSpec) -> list[Record]:
    """All cases of a file, labelled or not; rows of one patient are put together if the patient is the unit.

    Reports without narrative are left out. Raises DataError naming the first five problem lines, or a patient whose rows
    carry different labels.
    """
    return _loaded(path, spec)[0]


def _loaded(path: Path, spec: ProtocolSpec) -> tuple[list[Record], int]:
    """The cases, and how many records had nothing to read in them."""
    read_items = list(read(path, path.name, spec))
    dropped = [item for item in read_items if isinstance(item, Dropped)]
    problems = [item for item in read_items if isinstance(item, Problem) and not isinstance(item, Dropped)]
    if problems:
        told = " ".join(f"Line {p.line}: {p.reason} {p.remedy}" for p in problems[:5])
        raise DataError(f"{path.name} has {len(problems)} line(s) that cannot be read. {told}")
    records = [item for item in read_items if isinstance(item, Record)]
    return _merged(records, path.name) if spec.unit == "patient" else records, len(dropped)


@dataclass(frozen=True)
class Labelled:
    """The labelled cases of a file, and what was done to them.

    without_narrative, without_label: how many records were left out for having no text, or no label of the protocol.
    grouped: whether the groups are near-duplicates found by `mlcore.duplicates`, since the file gives none.
    """

    records: list[Record]
    without_narrative: int = 0
    without_label: int = 0
    grouped: bool = False

    def card(self) -> dict[str, Any] | None:
        """For a model card (``origin`` of `train`); None where the file was taken as it is."""
        facts: dict[str, Any] = {
            f"dropped_{name}": n
            for name in ("without_narrative", "without_label")
            if (n := getattr(self, name))
        }
        if self.grouped:
            sizes = Counter(record.group for record in self.records)
            facts["near_duplicates"] = {
                "method": "MinHash of word shingles, closed transitively",
                "groups": len(sizes),
                "largest": max(sizes.values()),
                "records_in_groups": sum(n for n in sizes.values() if n > 1),
            }
        return facts or None


def load_labelled(path: Path, spec: ProtocolSpec) -> list[Record]:
    """The records of `labelled`."""
    return labelled(path, spec).records


def labelled(path: Path, spec: ProtocolSpec) -> Labelled:
    """As load, with every record labelled and every label present; DataError names what is missing.

    Of openFDA's files, reports without a label of the protocol ("No answer provided", "*", none) are left out and
    counted. Where the unit is the note and the file gives no groups, near-duplicates are found and share one.
    """
    from mlcore import openfda

    records, empty = _loaded(path, spec)
    kept = [record for record in records if record.label is not None or not openfda.named_so(path.name)]
    grouped = spec.unit == "note" and bool(kept) and not any(record.group for record in kept)
    if grouped:
        kept = tied(kept)
    return Labelled(_all_labelled(kept, path, spec), empty, len(records) - len(kept), grouped)


def tied(records: Sequence[Record]) -> list[Record]:
    """The records, near-duplicates and those of one id in one group, named by what its first holds, not by where it stands."""
    from mlcore import duplicates

    texts = ["\n\n".join(record.texts) for record in records]
    first = duplicates.groups(texts, [record.patient_id for record in records]).tolist()
    names = {i: f"near-{hashlib.sha1(texts[i].encode()).hexdigest()}" for i in set(first)}
    return [replace(record, group=names[i]) for record, i in zip(records, first, strict=True)]


def _all_labelled(records: list[Record], path: Path, spec: ProtocolSpec) -> list[Record]:
    unlabelled = [str(record.line) for record in records if record.label is None]
    if unlabelled:
        lines = ", ".join(unlabelled[:5])
        raise DataError(
            f"{path.name} has {len(unlabelled)} record(s) without a label (line {lines}): label them."
        )
    present = {record.label for record in records}
    absent = [label for i, label in enumerate(spec.labels) if i not in present]
    if absent:
        raise DataError(f"{path.name} has no record labelled {', '.join(absent)}: each label needs examples.")
    return records


def _merged(records: list[Record], filename: str) -> list[Record]:
    cases: dict[str, Record] = {}
    for record in records:
        first = cases.get(record.patient_id)
        if first is not None and first.label != record.label:
            lines = f"lines {first.line} and {record.line}"
            raise DataError(f"{filename} labels one patient in two ways ({lines}): correct one.")
        notes = [*first.notes, *record.notes] if first else record.notes
        cases[record.patient_id] = replace(first or record, notes=notes)
    return list(cases.values())


def labels_array(records: Iterable[Record]) -> np.ndarray:
    """(n,) int64 label positions, -1 where a record has none."""
    return np.array([-1 if record.label is None else record.label for record in records], dtype=np.int64)


def objects(source: BinaryIO) -> Iterator[tuple[int, dict[str, Any]] | Problem]:
    """(line, JSON object) of each line of an open file that is not blank, gzipped or not, or why it has none."""
    for line in _lines(_as_utf8(_chunks(source))):
        if line.refused or line.data.strip():
            try:
                yield line.number, _json_object(line)
            except _Refused as refused:
                yield refused.at(line.number)


def first_line(source: BinaryIO) -> bytes:
    """The first line of an open file that is not blank, gzipped or not; nothing of a damaged one, a long one cut."""
    held, taken = bytearray(), 0
    try:
        for chunk in _as_utf8(_chunks(source)):
            taken += len(chunk)
            held += chunk if held else chunk.lstrip()
            if taken > MAX_ROW or b"\n" in held[-len(chunk) :]:
                break
    except _Refused:  # told by whoever reads the file
        return b""
    return bytes(held).split(b"\n", 1)[0]


def one_object(source: BinaryIO, limit: int) -> dict[str, Any] | Problem:
    """The JSON object that is the whole file, gzipped or not, or why it is none. It is held, so limit (bytes) is kept."""
    held = bytearray()
    try:
        for chunk in _as_utf8(_chunks(source)):
            held += chunk
            if len(held) > limit:
                return Problem(1, *LONG_FILE, {"limit": limit // 1_000_000})
        return _parsed(bytes(held))
    except _Refused as refused:
        return refused.at(1)


def pieces(source: BinaryIO) -> Iterator[str | Problem]:
    """The text of an open file piece by piece, gzipped or not; what is not UTF-8 comes as lone surrogates.

    A file that cannot be read to its end closes with the Problem.
    """
    return text(_chunks(source))


def text(chunks: Iterator[bytes]) -> Iterator[str | Problem]:
    """As pieces, of bytes that are taken as they are, gzipped or not."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    try:
        for chunk in _as_utf8(chunks):
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)
    except _Refused as refused:
        yield refused.at(1)


def record(row: dict[str, Any], line: int, spec: ProtocolSpec) -> Record | Problem:
    """The Record of an object in the form of a JSONL line, or why it is none."""
    try:
        return _record(row, line, spec)
    except _Refused as refused:
        return refused.at(line)


# From bytes to lines.


Reader = Callable[[BinaryIO, ProtocolSpec], Iterator["Record | Problem"]]


def _read_path(path: Path, reader: Reader, spec: ProtocolSpec) -> Iterator[Record | Problem]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened ({error.strerror}): check the path and its permissions."
        ) from None

    def items() -> Iterator[Record | Problem]:
        with file:
            yield from reader(file, spec)

    return items()


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    start = file.read(CHUNK)
    rest = iter(lambda: file.read(CHUNK), b"")
    if start[:2] == b"\x1f\x8b":
        yield from _unzipped(start, rest)
        return
    yield start
    yield from rest


def _unzipped(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """Raises _Refused after the last byte that could be unpacked."""
    unpacker = zlib.decompressobj(wbits=31)
    taken = given = 0
    for packed in _chain(start, rest):
        taken += len(packed)
        while packed:
            if unpacker.eof:
                if packed.startswith(b"\0"):  # padding some tools leave after the last member
                    break
                unpacker = zlib.decompressobj(wbits=31)
            try:
                unpacked = unpacker.decompress(packed, 16 * CHUNK)
            except zlib.error:
                raise _Refused(DAMAGED) from None
            given += len(unpacked)
            if over := too_much(given, taken):
                raise _Refused((over.template, over.remedy_template), **over.params)
            if unpacked:
                yield unpacked
            packed = unpacker.unconsumed_tail or unpacker.unused_data
    if not unpacker.eof:
        raise _Refused(DAMAGED)


def too_much(given: int, packed: int) -> Problem | None:
    """Why nothing more is unpacked once so many bytes came out of so many; None while more may come."""
    if given > MAX_ROW and given > MAX_RATIO * packed:
        return Problem(0, *TOO_DENSE, {"ratio": MAX_RATIO})
    if given > MAX_UNPACKED:
        return Problem(0, *TOO_BIG, {"limit": MAX_UNPACKED // 1_000_000})
    return None


def _chain(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield start
    yield from rest


def _as_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Drops a UTF-8 byte order mark; rewrites UTF-16 as UTF-8, its broken characters as invalid bytes."""
    start = next(chunks, b"")
    while len(start) < 3 and (more := next(chunks, b"")):
        start += more
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from _from_utf16(start, chunks)
        return
    yield start.removeprefix(codecs.BOM_UTF8)
    yield from chunks


def _from_utf16(start: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-16")(errors="surrogatepass")
    for chunk in _chain(start, chunks):
        yield decoder.decode(chunk).encode("utf-8", "surrogatepass")
    if decoder.getstate()[0]:
        yield b"\xff"


@dataclass(frozen=True)
class _Line:
    """A physical line with its end. `refused` tells of a file that could not be read on."""

    number: int
    data: bytes
    refused: _Refused | None = None

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "surrogateescape")


def _lines(chunks: Iterator[bytes]) -> Iterator[_Line]:
    """Lines ended by LF, CR LF or CR. One longer than MAX_ROW comes cut to MAX_ROW + 1 bytes."""
    number, blank, pending = 1, 0, bytearray()
    try:
        for chunk in chunks:
            pending += chunk
            if b"\n" not in chunk and b"\r" not in chunk:
                del pending[MAX_ROW + 1 :]
                continue
            whole = bytes(pending).splitlines(keepends=True)
            pending = bytearray() if whole[-1].endswith(b"\n") else bytearray(whole.pop())
            for data in whole:
                blank = blank + 1 if data.isspace() else 0
                if blank > MAX_BLANK:
                    raise _Refused(BLANK, limit=MAX_BLANK)
                yield _Line(number, data[: MAX_ROW + 1])
                number += 1
    except _Refused as refused:
        yield _Line(number, b"", refused)
        return
    for data in bytes(pending).splitlines(keepends=True):
        yield _Line(number, data)
        number += 1


# From lines to records.


def _reader_for(filename: str) -> Reader:
    from mlcore import openfda

    if openfda.named_so(filename):
        return partial(openfda.read, filename=filename)
    name = filename.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        return _read_jsonl
    if name.endswith(".csv"):
        return _read_csv
    raise DataError(
        gettext_noop(
            "The file is neither JSONL nor CSV nor openFDA's JSON: name it .jsonl, .csv, .jsonl.gz, .csv.gz, .json or .zip."
        )
    )


def _read_jsonl(source: BinaryIO, spec: ProtocolSpec) -> Iterator[Record | Problem]:
    seen = False
    for line in _lines(_as_utf8(_chunks(source))):
        if line.refused or line.data.strip():
            seen = True
            try:
                yield _record(_json_object(line), line.number, spec)
            except _Refused as refused:
                yield refused.at(line.number)
    if not seen:
        yield _Refused(EMPTY).at(1)


def _json_object(line: _Line) -> dict[str, Any]:
    if line.refused:
        raise line.refused
    if len(line.data) > MAX_ROW:
        raise _Refused(LONG_ROW, limit=MAX_ROW // 1_000_000)
    return _parsed(line.data)


def _parsed(data: bytes) -> dict[str, Any]:
    if b"\0" in data:
        raise _Refused(NUL)
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise _Refused(BAD_BYTES) from None
    except (ValueError, RecursionError):
        raise _Refused(NOT_JSON) from None
    if not isinstance(value, dict):
        raise _Refused(NOT_OBJECT)
    return value


ID_KEYS = {"patient": ("patient_id", "report_number"), "note": ("report_number", "patient_id")}
LABEL_KEYS = ("label", "event_type")
EXAMPLES = {"patient": "patient_id,text,label", "note": "report_number,text,event_type"}
COLUMNS = ("patient_id", "report_number", "text", "written_at", "specialty", "note_id", "group", *LABEL_KEYS)


def _record(row: dict[str, Any], line: int, spec: ProtocolSpec) -> Record:
    """A Record of one JSON object or CSV row. Raises _Refused."""
    keys = ID_KEYS[spec.unit]
    case_id = next((value for key in keys if (value := _id(row.get(key)))), "")
    if not case_id:
        raise _Refused(NO_ID, key=keys[0])
    if len(case_id) > MAX_ID:
        raise _Refused(LONG_ID, key=keys[0], limit=MAX_ID)
    notes = _notes(row.get("notes", [row]))
    if spec.unit == "note" and len(notes) > 1:
        raise _Refused(ONE_NOTE, found=len(notes))
    return Record(_clean(case_id), notes, _label(row, spec), line, _optional(row, "group"))


def _id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def _notes(value: object) -> list[NoteText]:
    if not isinstance(value, list):
        raise _Refused(BAD_NOTES)
    if not value:
        raise _Refused(NO_TEXT)
    return [_note(item if isinstance(item, dict) else {"text": item}) for item in value]


def _note(row: dict[str, Any]) -> NoteText:
    text = row.get("text")
    if text is not None and not isinstance(text, str):
        raise _Refused(BAD_NOTES)
    if text is None or not text.strip():
        raise _Refused(NO_TEXT)
    if len(_clean(text).encode()) > MAX_NOTE:
        raise _Refused(LONG_NOTE, limit=MAX_NOTE // 1_000_000)
    return NoteText(
        text, _date(row.get("written_at")), _optional(row, "specialty"), _optional(row, "note_id")
    )


def _optional(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _Refused(BAD_FIELD, key=key)
    if len(value) > MAX_ID:
        raise _Refused(LONG_ID, key=key, limit=MAX_ID)
    return _clean(value)


def _clean(text: str) -> str:
    """The text itself, once it is known to be storable. Raises _Refused."""
    if "\0" in text:
        raise _Refused(NUL)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        escaped = all("\udc80" <= c <= "\udcff" for c in text[error.start : error.end])
        raise _Refused(BAD_BYTES if escaped else SURROGATE) from None
    return text


def _date(value: object) -> date | None:
    if value is None or value == "":
        return None
    try:
        return datetime.fromisoformat(str(value).strip()).date()
    except ValueError:
        raise _Refused(BAD_DATE) from None


def _label(row: dict[str, Any], spec: ProtocolSpec) -> int | None:
    value = next((row[key] for key in LABEL_KEYS if row.get(key) not in (None, "")), None)
    if value is None:
        return None
    try:
        return spec.label_index(value)
    except DataError:
        raise _Refused(BAD_LABEL, labels=", ".join(spec.labels)) from None


# CSV. Quoted fields may run over lines, so after a row that does not parse reading restarts a line later.


class _Replay:
    """Lines with a way back: after a bad row the lines it swallowed, but the first, are read again."""

    def __init__(self, lines: Iterator[_Line]) -> None:
        self.lines, self.row, self.again = lines, [], []  # type: tuple[Iterator[_Line], list[_Line], list[_Line]]
        self.budget, self.size = REPLAY_BUDGET, 0

    def __iter__(self) -> Iterator[str]:
        while (line := self.again.pop() if self.again else next(self.lines, None)) is not None:
            self.row.append(line)
            self.size += len(line.data)
            if line.refused or self.size > MAX_ROW:
                raise line.refused or _Refused(LONG_ROW, limit=MAX_ROW // 1_000_000)
            yield line.text

    def start(self) -> None:
        self.row, self.size = [], 0

    def rewind(self) -> None:
        if self.size <= self.budget:
            self.again += reversed(self.row[1:])
            self.budget -= self.size


def _rows(replay: _Replay, delimiter: str) -> Iterator[tuple[int, list[str] | _Refused]]:
    """(first line, cells or what is wrong) of each row that is not blank."""
    reader = csv.reader(iter(replay), delimiter=delimiter, strict=True)
    while True:
        replay.start()
        try:
            cells = next(reader, None)
        except (_Refused, csv.Error) as error:
            refused = error if isinstance(error, _Refused) else _Refused(BAD_QUOTES)
            yield replay.row[0].number, refused
            replay.rewind()
            reader = csv.reader(iter(replay), delimiter=delimiter, strict=True)
            continue
        if cells is None:
            return
        if cells:
            yield replay.row[0].number, cells


def _read_csv(source: BinaryIO, spec: ProtocolSpec) -> Iterator[Record | Problem]:
    lines = _lines(_as_utf8(_chunks(source)))
    replay = _Replay(lines)
    first = next(lines, None)
    if first is None:
        yield _Refused(EMPTY).at(1)
        return
    replay.again.append(first)
    delimiter = max(",;\t", key=first.data.decode("latin-1").count)
    rows = _rows(replay, delimiter)
    try:
        names = _header(next(rows, (1, []))[1], spec)
    except _Refused as refused:
        yield refused.at(1)
        return
    for line, cells in rows:
        try:
            yield _record(_row(cells, names), line, spec)
        except _Refused as refused:
            yield refused.at(line)


def _header(cells: list[str] | _Refused, spec: ProtocolSpec) -> list[str]:
    if isinstance(cells, _Refused):
        raise cells
    names = [cell.strip().lower() for cell in cells]
    known = [name for name in names if name in COLUMNS]
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice:
        raise _Refused(TWICE, column=twice)
    keys = ID_KEYS[spec.unit]
    if "text" not in known or not set(keys) & set(known):
        raise _Refused(NO_COLUMN, columns=f"{keys[0]}, text", example=EXAMPLES[spec.unit])
    return names


def _row(cells: list[str] | _Refused, names: list[str]) -> dict[str, str]:
    if isinstance(cells, _Refused):
        raise cells
    if len(cells) != len(names):
        raise _Refused(CELLS, found=len(cells), expected=len(names))
    return {name: cell for name, cell in zip(names, cells, strict=True) if name in COLUMNS}
