"""Device event reports as openFDA ships them: one JSON object with a list "results", plain, gzipped or inside a ZIP archive.

A report is one case with one note: the texts under "mdr_text", descriptions of the event first and then what the
manufacturer or others wrote, each exactly as written and once, parted by an empty line. "event_type" is the label where it
names one of the protocol's; any other ("No answer provided", "*", nothing) is no label. "date_received" is the note's day,
"mdr_report_key" its id, the first device's product code, with its registered name, the specialty.

Reports are read one by one in flat memory, with json's own scanner: a streaming parser stops at the first fault, and yajl
writes «?» for half a surrogate pair. Here a report that is broken is told by its place, and reading goes on at the next.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import replace
from datetime import date
from typing import IO, Any, BinaryIO, cast

from mlcore import records
from mlcore.protocols import ProtocolSpec
from mlcore.records import Dropped, Problem, Record, gettext_noop

DESCRIPTION = "description of event or problem"
OF_A_REPORT = {"report_number", "mdr_text", "event_type"}
MAX_DEVICE = 80
MAX_DIRECTORY = 1 << 20
MOST_AT_ONCE = 1 << 22
BUDGET, CREDIT, COST = 2 * records.MAX_ROW, 4, 1024
CUT = 16  # a decoder may stop as far before the end of what it holds: at "-Infinit", or within \\ud83e\\udec0
KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DECODER = json.JSONDecoder(strict=False)
WHITE = re.compile(r"[ \t\r\n]*")
BEGUN = re.compile(r",[ \t\r\n]*(?:\{[ \t\r\n]*)?")
NEXT = re.compile(r',[ \t\r\n]*(?=\{[ \t\r\n]*")')  # within a text the quotation mark would be escaped
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)

NOT_OPENFDA = (
    gettext_noop('The file is not what openFDA ships: a JSON object with a list of reports as "results".'),
    gettext_noop("Check that the right file was chosen, or send the notes as JSONL or CSV."),
)
BROKEN = (
    gettext_noop("The report is not JSON."),
    gettext_noop("Download the file again, or mend the report."),
)
TORN = (
    gettext_noop("The file ends here, in the middle of the list of reports."),
    gettext_noop("Download it again; what stands before was read."),
)
ASTRAY = (
    gettext_noop("Too much of the file is broken from here on, and it was not read on."),
    gettext_noop("Download it again; what stands before was read."),
)
NOT_REPORT = (
    gettext_noop("The report is not a JSON object."),
    gettext_noop("Download the file again, or mend the report."),
)
BAD_TEXTS = (
    gettext_noop('The narratives are not a list of objects with a "text".'),
    gettext_noop("Download the file again, or mend the report."),
)
NO_NARRATIVE = (
    gettext_noop("The report has no narrative, so there is nothing to read."),
    gettext_noop("Nothing needs to be done."),
)
NO_MEMBER = (
    gettext_noop("The ZIP archive holds no file named .json."),
    gettext_noop("Send an archive as openFDA ships it, or unpack it and send what is inside."),
)
LOCKED = (
    gettext_noop("The ZIP archive is encrypted, or packed in a way that is not read here."),
    gettext_noop("Unpack it and send what is inside."),
)
FULL = (
    gettext_noop("The ZIP archive lists too many files."),
    gettext_noop("Send an archive as openFDA ships it, or unpack it and send what is inside."),
)


def named_so(filename: str) -> bool:
    """Whether a file's name says that it is JSON as a whole, or a ZIP archive."""
    return filename.lower().removesuffix(".gz").endswith((".json", ".zip"))


def is_openfda(source: BinaryIO, filename: str) -> bool:
    """Whether a file is a ZIP archive, or JSON with "results" before any key but "meta". Reads on from where it stands."""
    if filename.lower().endswith(".zip"):
        return True
    if not named_so(filename):
        return False
    try:
        return (
            next((key for key in _Stream(records.pieces(source)).names() if key != "meta"), "") == "results"
        )
    except _Fault:
        return False


def read(source: BinaryIO, spec: ProtocolSpec, filename: str) -> Iterator[Record | Problem]:
    """Each report, or the Problem that kept it from being read, in the file's order; lines are places among the reports, from 1.

    source: an open file; a ZIP archive must be seekable. A report without narrative is Dropped. Nothing inside raises.
    """
    place = 0
    for found in _found(source, filename):
        place += 1
        yield replace(found, line=place) if isinstance(found, Problem) else _record(found, place, spec)
    if not place:
        yield Problem(1, *records.EMPTY)


def _found(source: BinaryIO, filename: str) -> Iterator[dict[str, Any] | Problem]:
    if not filename.lower().endswith(".zip"):
        yield from _Stream(records.pieces(source)).reports()
        return
    given, size = [0], source.seek(0, 2)
    for part in _parts(source, size):
        if isinstance(part, Problem):
            yield part
        else:
            yield from _Stream(_pieces(part, given, size)).reports()


# A report


def _record(report: dict[str, Any], place: int, spec: ProtocolSpec) -> Record | Problem:
    texts = _narrative(report.get("mdr_text"))
    if texts is None:
        return Problem(place, *BAD_TEXTS)
    if not texts:
        return Dropped(place, *NO_NARRATIVE)
    row = {
        "report_number": _word(report.get("report_number")) or _word(report.get("mdr_report_key")),
        "text": "\n\n".join(texts),
        "written_at": _day(report.get("date_received")),
        "specialty": _device(report.get("device")),
        "note_id": _word(report.get("mdr_report_key")),
        "label": _label(report.get("event_type"), spec),
    }
    return records.record(row, place, spec)


def _narrative(items: Any) -> list[str] | None:
    """The texts, descriptions of the event first, each once; None where they are not texts."""
    items = [] if items is None else items
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return None
    found = [item.get("text") for item in sorted(items, key=_rank)]
    if not all(text is None or isinstance(text, str) for text in found):
        return None
    return list(dict.fromkeys(text for text in found if text and text.strip()))


def _rank(item: dict[str, Any]) -> bool:
    return str(item.get("text_type_code")).strip().casefold() != DESCRIPTION


def _label(value: Any, spec: ProtocolSpec) -> str | None:
    """The label the event type names; None where it names none, so that a number is never taken for a position."""
    named = {label.casefold(): label for label in spec.labels}
    return named.get(value.strip().casefold()) if isinstance(value, str) else None


def _word(value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value).strip() if isinstance(value, str) or whole else ""


def _day(value: Any) -> str | None:
    """The day, None where it is not one: a wrong date costs no report."""
    try:
        return date.fromisoformat(_word(value)).isoformat()
    except ValueError:
        return None


def _device(devices: Any) -> str:
    """Product code and its registered name; without a code the generic or brand name as reported."""
    device = next((one for one in devices if isinstance(one, dict)), {}) if isinstance(devices, list) else {}
    about = device.get("openfda")
    registered = _word(about.get("device_name")) if isinstance(about, dict) else ""
    code = _word(device.get("device_report_product_code"))
    said = (
        [code, registered] if code else [_word(device.get("generic_name")) or _word(device.get("brand_name"))]
    )
    return _storable(" · ".join(part for part in said if part))[:MAX_DEVICE]


def _storable(text: str) -> str:
    return text.encode(errors="replace").decode().replace("\0", "?")


# Reports out of text


class _Fault(Exception):
    """What cannot be read, as a Problem without its place; torn: the file ends within it."""

    def __init__(self, messages: tuple[str, str], torn: bool = False, **params: object) -> None:
        super().__init__(messages[0])
        self.problem, self.torn = Problem(0, *messages, params), torn


class _Stream:
    """A file's text, of which about one report is held.

    ended: once nothing follows, True, or the Problem that ended the text before its end. budget: characters that may
    still be read over again on account of broken reports; whole ones add to it.
    """

    def __init__(self, pieces: Iterator[str | Problem]) -> None:
        self.pieces, self.text, self.began, self.at = pieces, "", 0, 0
        self.ended: bool | Problem = False
        self.budget = BUDGET

    def reports(self) -> Iterator[dict[str, Any] | Problem]:
        """Each report, or the Problem in its place."""
        try:
            if not any(key == "results" for key in self.names()) or self.next() != "[":
                raise _Fault(NOT_OPENFDA)
        except _Fault:
            yield self._end() or Problem(0, *(NOT_OPENFDA if self.text.strip() else records.EMPTY))
            return
        self.at += 1
        if (yield from self._listed()):
            while not self.ended:
                self.at = len(self.text)
                self.more()
            if damage := self._end():
                yield damage

    def names(self) -> Iterator[str]:
        """The keys of the object that is the whole file; the value of each is passed over when the next is asked for."""
        self._take("{")
        while self.next() == '"':
            key = self.value()
            self._take(":")
            self.next()
            yield key
            self.value()
            if self.next() == ",":
                self.at += 1

    def _take(self, sign: str) -> None:
        if self.next() != sign:
            raise _Fault(NOT_OPENFDA)
        self.at += 1

    def _end(self) -> Problem | None:
        return self.ended if isinstance(self.ended, Problem) else None

    def _listed(self) -> Generator[dict[str, Any] | Problem, None, bool]:
        """The members of the list; True where it is closed."""
        while (sign := self.next()) != "]":
            if not sign:
                yield self._end() or Problem(0, *TORN)
                return False
            if sign == ",":
                self.at += 1
                continue
            try:
                found = self.report()
                yield found if isinstance(found, dict) else Problem(0, *NOT_REPORT)
            except _Fault as fault:
                following = self._following()
                torn = fault.torn and following is None and self.budget >= 0
                yield (self._end() or Problem(0, *TORN)) if torn else fault.problem
                if following is None:
                    if not torn:
                        yield Problem(0, *ASTRAY) if self.budget < 0 else self._end() or Problem(0, *TORN)
                    return False
                yield following
        return True

    def _following(self) -> dict[str, Any] | None:
        """The next whole report after a broken one; None where there is none, or the budget is spent."""
        self.at += 1
        while self.budget >= 0:
            found = NEXT.search(self.text, self.at)
            if found is None:
                if not self._slide():
                    return None
                continue
            self.text, self.at = self.text[found.end() :], 0
            try:
                report = self.report()
            except _Fault:
                self.at += 1
                continue
            if OF_A_REPORT & report.keys():
                return cast(dict[str, Any], report)
        return None

    def _slide(self) -> bool:
        """Past text in which no report begins, but for an end in which one may; False where nothing follows."""
        comma = self.text.rfind(",", self.at)
        may_begin = (
            comma >= 0 and len(self.text) - comma < records.MAX_ROW and BEGUN.fullmatch(self.text, comma)
        )
        self.at = comma if may_begin else len(self.text)
        return self.more()

    def next(self) -> str:
        """The next character that is no white space, not taken; nothing at the end."""
        while True:
            self.at = cast(re.Match[str], WHITE.match(self.text, self.at)).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> Any:
        """The JSON value that begins here, taken. Raises _Fault, and takes nothing."""
        while True:
            try:
                found, end = DECODER.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                self._wait_for_more(error)
                continue
            if end < len(self.text) or not self.more():
                self.budget += CREDIT * (end - self.at)
                self.began, self.at = self.at, end
                return found

    def report(self) -> Any:
        """As value; a report within whose lists other reports stand was never closed, and is broken."""
        found = self.value()
        lists = [part for part in found.values() if isinstance(part, list)] if isinstance(found, dict) else []
        if any(isinstance(one, dict) and OF_A_REPORT & one.keys() for part in lists for one in part):
            self.budget -= (CREDIT + 1) * (self.at - self.began)
            self.at = self.began
            raise _Fault(BROKEN)
        return found

    def _wait_for_more(self, error: Exception) -> None:
        """Reads on where what is held may only be a beginning; raises _Fault where it is not."""
        held, known = len(self.text) - self.at, isinstance(error, json.JSONDecodeError)
        read = error.pos - self.at if isinstance(error, json.JSONDecodeError) else COST
        unclosed = known and str(error).startswith("Unterminated string")
        self.budget -= COST + (held if unclosed else read)
        if not (unclosed or (known and read >= held - CUT)):
            raise _Fault(BROKEN)
        if held > records.MAX_ROW:
            raise _Fault(records.LONG_ROW, limit=records.MAX_ROW // 1_000_000)
        if not self.more():
            raise _Fault(BROKEN, torn=True)

    def more(self) -> bool:
        """Holds as much again of the text, dropping what was taken; False, and nothing changed, at the end."""
        wanted, parts = min(max(records.CHUNK, len(self.text) - self.at), MOST_AT_ONCE), []
        while wanted > 0 and not self.ended:
            piece = next(self.pieces, True)
            if isinstance(piece, str):
                parts.append(piece)
                wanted -= len(piece)
            else:
                self.ended = piece
        if not (new := "".join(parts)):
            return False
        self.text, self.at = self.text[self.at :] + new, 0
        return True


# ZIP archives


def _parts(source: BinaryIO, size: int) -> Iterator[IO[bytes] | Problem]:
    """Each .json file of an archive, opened, or the Problem that keeps it from being read."""
    if _directory(source) > MAX_DIRECTORY:
        yield Problem(0, *FULL)
        return
    try:
        with zipfile.ZipFile(source) as archive:
            members = [one for one in archive.infolist() if _counts(one.filename)]
            if refused := _refused(members, size):
                yield refused
                return
            for member in members:
                with archive.open(member) as part:
                    yield part
    except UNREADABLE:
        yield Problem(0, *records.DAMAGED)


def _directory(source: BinaryIO) -> int:
    """The largest length, in bytes, that the archive's end may declare for its directory, read before it is believed."""
    size = source.seek(0, 2)
    source.seek(max(0, size - (1 << 16) - 100))
    end = source.read()
    source.seek(0)
    lengths = [0]
    for sign, form, offset in ((b"PK\x05\x06", "<L", 12), (b"PK\x06\x06", "<Q", 40)):
        for found in re.finditer(re.escape(sign), end):
            if len(end) >= found.start() + offset + struct.calcsize(form):
                lengths.append(struct.unpack_from(form, end, found.start() + offset)[0])
    return max(lengths)


def _counts(name: str) -> bool:
    return name.lower().endswith(".json") and not name.startswith("__MACOSX/")


def _refused(members: list[zipfile.ZipInfo], size: int) -> Problem | None:
    """Why nothing of an archive of so many bytes is unpacked. zipfile reads no member beyond the size declared for it."""
    unpacked, packed = (sum(getattr(one, name) for one in members) for name in ("file_size", "compress_size"))
    if not members:
        return Problem(0, *NO_MEMBER)
    if any(one.flag_bits & 1 or one.compress_type not in KINDS for one in members):
        return Problem(0, *LOCKED)
    return records.too_much(unpacked, min(packed, size))


def _pieces(part: IO[bytes], given: list[int], size: int) -> Iterator[str | Problem]:
    """The text of a member, not unpacked twice. given: the bytes of all members so far, of an archive of size bytes."""
    try:
        yield from records.text(_counted(part, given, size))
    except UNREADABLE:
        yield Problem(0, *records.DAMAGED)
    except _Fault as fault:
        yield fault.problem


def _counted(part: IO[bytes], given: list[int], size: int) -> Iterator[bytes]:
    while chunk := part.read(records.CHUNK):
        given[0] += len(chunk)
        if over := records.too_much(given[0], size):
            raise _Fault((over.template, over.remedy_template), False, **over.params)
        yield chunk
