"""Notes out of FHIR R4: a Bundle, or NDJSON, of Patient and DocumentReference, into the records intake knows.

A Patient gives the pseudonym: the value of its first identifier. Names, birth dates and the rest are not kept. A
DocumentReference gives one note: its first text/plain attachment, else its first text/html one, inline in base64. Its
patient is the subject, by reference to a Patient of the file or by an identifier of its own; its day is ``date``, else the
start of ``context.period``; its specialty ``context.practiceSetting``, else ``type``, else ``category``, in words. What is
marked entered-in-error is skipped and counted. Nothing is fetched: an attachment by address is refused.

HTML becomes text in time linear in its length: scripts, styles and the head fall away, block elements and <br> end a line, table
cells are parted by a tab, runs of white space become one space except inside <pre>, and no more than one empty line stands
between two others. Entities become their characters.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
from collections.abc import Iterator
from datetime import date
from email.message import Message
from typing import Any, BinaryIO

from django.utils.translation import gettext_noop

from mlcore import records
from mlcore.protocols import ProtocolSpec
from mlcore.records import Problem, Record

MAX_BUNDLE = 6_000_000
MAX_CONTENT_TYPE = 200
CHARSETS = {"utf-8", "ascii", "iso8859-1", "cp1252", "utf-16"}
TYPED = re.compile(rb'[{,]\s*"resourceType"\s*:')  # within a text the quotation mark would be escaped
ERROR = "entered-in-error"
OTHER_TYPE = (
    gettext_noop("Only Patient and DocumentReference are read; this is %(type)s."),
    gettext_noop("Leave it out, or ignore this line."),
)
NOT_VALID = (
    gettext_noop("This is no valid FHIR R4 %(type)s: look at %(where)s."),
    gettext_noop("Mend the resource and send it again."),
)
NO_IDENTIFIER = (
    gettext_noop("The Patient has no identifier."),
    gettext_noop("Give it one: a pseudonym, never a name or a record number."),
)
NO_SUBJECT = (
    gettext_noop("The document does not say whose it is."),
    gettext_noop("Give it a subject: a Patient of the same file, or an identifier."),
)
NO_PATIENT = (
    gettext_noop("The document is of a Patient that is not in the file, or has no identifier."),
    gettext_noop("Send the Patient along, or give subject.identifier."),
)
BY_ADDRESS = (
    gettext_noop("The text is not in the file: the attachment is an address, and nothing is fetched."),
    gettext_noop("Send the attachment inline, as base64 in data."),
)
NO_TEXT_KIND = (
    gettext_noop("No attachment is text/plain or text/html."),
    gettext_noop("Send the note as text."),
)
BAD_BASE64 = (
    gettext_noop("The attachment is not base64."),
    gettext_noop("Encode it again and send it again."),
)
BAD_CHARSET = (
    gettext_noop("The attachment is not in the character set it names, or in UTF-8 where it names none."),
    gettext_noop("Name the right one: text/plain; charset=…"),
)
OTHER_CHARSET = (
    gettext_noop("The attachment names a character set that is not read."),
    gettext_noop("Send it in UTF-8, or in ASCII, Latin-1, Windows-1252 or UTF-16."),
)


class Skipped(Problem):
    """A resource that is left out as its sender marked it entered in error."""


def is_fhir(source: BinaryIO, file_name: str) -> bool:
    """Whether a file is FHIR: named .json, or its first object has a resourceType. Reads on from where it stands."""
    name = file_name.lower().removesuffix(".gz")
    if name.endswith(".json"):
        return True
    if not name.endswith((".ndjson", ".jsonl")):
        return False
    return bool(TYPED.search(records.first_line(source)))


def read(source: BinaryIO, file_name: str, spec: ProtocolSpec) -> Iterator[Record | Problem]:
    """Each note of the file, or the Problem that kept a resource from being read, in the file's order.

    ``source`` is read twice from its start, since a document may stand before its patient. Lines are those of the
    file; in a Bundle, entries from 1.
    """
    bundle = file_name.lower().removesuffix(".gz").endswith(".json")
    patients: dict[str, str] = {}
    for found in _resources(source, bundle):
        if isinstance(found, tuple):
            patients |= _patient(*found[1:])
    empty = True
    for found in _resources(source, bundle):
        empty = False
        item = found if isinstance(found, Problem) else _item(found[0], found[2], patients, spec)
        if item is not None:
            yield item
    if empty:
        yield Problem(1, *records.EMPTY)


def _resources(source: BinaryIO, bundle: bool) -> Iterator[tuple[int, str, dict[str, Any]] | Problem]:
    """(line, fullUrl or nothing, resource); a Bundle on a line of NDJSON is opened, too."""
    source.seek(0)
    if bundle:
        whole = records.one_object(source, MAX_BUNDLE)
        yield from [whole] if isinstance(whole, Problem) else _opened(1, whole, numbered=True)
        return
    for found in records.objects(source):
        yield from [found] if isinstance(found, Problem) else _opened(*found, numbered=False)


def _opened(
    line: int, found: dict[str, Any], numbered: bool
) -> Iterator[tuple[int, str, dict[str, Any]] | Problem]:
    if found.get("resourceType") != "Bundle":
        yield line, "", found
        return
    entries = found.get("entry") or []
    if not isinstance(entries, list):
        yield Problem(line, *NOT_VALID, {"type": "Bundle", "where": "entry"})
        return
    for number, entry in enumerate(entries, 1):
        place = number if numbered else line
        if isinstance(entry, dict) and isinstance(entry.get("resource"), dict):
            yield place, str(entry.get("fullUrl") or ""), entry["resource"]
        else:
            yield Problem(place, *NOT_VALID, {"type": "Bundle", "where": "entry.resource"})


def _patient(full_url: str, resource: dict[str, Any]) -> dict[str, str]:
    """How documents may point at the Patient → its pseudonym."""
    if resource.get("resourceType") != "Patient" or not (pseudonym := _identifier(resource)):
        return {}
    names = [full_url, f"Patient/{resource['id']}" if isinstance(resource.get("id"), str) else ""]
    return {name: pseudonym for name in names if name}


def _identifier(resource: dict[str, Any]) -> str:
    values = [i.get("value") for i in _list(resource.get("identifier")) if isinstance(i, dict)]
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), "")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _item(
    line: int, resource: dict[str, Any], patients: dict[str, str], spec: ProtocolSpec
) -> Record | Problem | None:
    """None where there is nothing to say: a Patient that is as it should be."""
    kind = resource.get("resourceType")
    if kind not in ("Patient", "DocumentReference"):
        known = isinstance(kind, str) and re.fullmatch("[A-Za-z]{1,60}", kind)
        return Problem(line, *OTHER_TYPE, {"type": kind if known else "?"})
    if ERROR in (resource.get("status"), resource.get("docStatus")):
        return Skipped(line, "", "")
    if where := _invalid(kind, resource):
        return Problem(line, *NOT_VALID, {"type": kind, "where": where})
    if kind == "Patient":
        return None if _identifier(resource) else Problem(line, *NO_IDENTIFIER)
    return _note(line, resource, patients, spec)


def _invalid(kind: str, resource: dict[str, Any]) -> str:
    """Where the resource breaks the rules, in names of elements only; empty where it does not."""
    from fhir.resources.R4B.documentreference import DocumentReference
    from fhir.resources.R4B.patient import Patient

    model = {"Patient": Patient, "DocumentReference": DocumentReference}[kind]
    try:
        model.model_validate(resource)
    except ValueError as error:
        places = error.errors() if hasattr(error, "errors") else []
        path = [str(part) for part in places[0]["loc"]] if places else []
        known = [part for part in path if part.isdigit() or part in KNOWN]
        return ".".join(known) or kind
    except RecursionError:
        return kind
    return ""


KNOWN = {
    "attachment",
    "author",
    "birthDate",
    "category",
    "code",
    "coding",
    "content",
    "contentType",
    "context",
    "creation",
    "custodian",
    "data",
    "date",
    "display",
    "docStatus",
    "end",
    "gender",
    "id",
    "identifier",
    "language",
    "masterIdentifier",
    "meta",
    "name",
    "period",
    "practiceSetting",
    "reference",
    "relatesTo",
    "start",
    "status",
    "subject",
    "system",
    "text",
    "type",
    "use",
    "value",
}


def _note(
    line: int, resource: dict[str, Any], patients: dict[str, str], spec: ProtocolSpec
) -> Record | Problem:
    whose = _whose(resource.get("subject"), patients)
    text = _text(resource)
    for found in (whose, text):
        if isinstance(found, tuple):
            return Problem(line, *found)
    context = resource.get("context") or {}
    note = {
        "text": text,
        "written_at": _day(resource.get("date")) or _day((context.get("period") or {}).get("start")),
        "specialty": _words(context.get("practiceSetting"), resource.get("type"), resource.get("category")),
        "note_id": (resource.get("masterIdentifier") or {}).get("value")
        or _identifier(resource)
        or resource.get("id")
        or "",
    }
    return records.record({"patient_id": whose, "notes": [note]}, line, spec)


def _whose(subject: Any, patients: dict[str, str]) -> str | tuple[str, str]:
    """The pseudonym, or why there is none."""
    if not subject:
        return NO_SUBJECT
    reference = str(subject.get("reference") or "").split("/_history/")[0]
    tail = "/".join(reference.split("/")[-2:])
    known = patients.get(reference) or patients.get(tail)
    return known or _identifier({"identifier": [subject.get("identifier")]}) or NO_PATIENT


def _text(resource: dict[str, Any]) -> str | tuple[str, str]:
    """The note's text, or why there is none. Several attachments are one document in several forms."""
    attachments = [content.get("attachment") or {} for content in _list(resource.get("content"))]
    for kind in ("text/plain", "text/html"):
        for attachment in attachments:
            about = Message()
            about["Content-Type"] = str(attachment.get("contentType") or "")[:MAX_CONTENT_TYPE]
            if attachment.get("contentType") and about.get_content_type() == kind:
                return _decoded(attachment, str(about.get_param("charset") or "utf-8"), kind == "text/html")
    by_address = any(found.get("url") and not found.get("data") for found in attachments)
    return BY_ADDRESS if by_address else NO_TEXT_KIND


def _decoded(attachment: dict[str, Any], charset: str, is_html: bool) -> str | tuple[str, str]:
    data = attachment.get("data")
    if not data:
        return BY_ADDRESS if attachment.get("url") else records.NO_TEXT
    if (codec := _codec(charset)) not in CHARSETS:
        return OTHER_CHARSET
    try:
        content = base64.b64decode("".join(data.split()), validate=True)
        text = content.decode("utf-8-sig" if codec == "utf-8" else codec)
    except (binascii.Error, AttributeError):
        return BAD_BASE64
    except ValueError:
        return BAD_CHARSET
    return html_to_text(text) if is_html else text


def _codec(charset: str) -> str:
    """Python's name of it; empty where it has none."""
    try:
        return codecs.lookup(charset).name
    except (LookupError, ValueError):
        return ""


def _day(value: Any) -> str | None:
    """The day as written, without moving it to another time zone; None where less than a day is given."""
    try:
        return date.fromisoformat(str(value or "")[:10]).isoformat()
    except ValueError:
        return None


def _words(*concepts: Any) -> str:
    """The first of the concepts, or lists of them, that says something."""
    for concept in concepts:
        for one in concept if isinstance(concept, list) else [concept or {}]:
            codings = [c.get(key) for key in ("display", "code") for c in _list(one.get("coding"))]
            for said in (one.get("text"), *codings):
                if said:
                    return str(said)
    return ""


# HTML

DROPPED = {"script", "style", "head", "template", "noscript", "title"}
BLOCKS = {
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "br",
    "caption",
    "dd",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "html",
    "li",
    "main",
    "nav",
    "ol",
    "p",
    "pre",
    "section",
    "table",
    "tbody",
    "tfoot",
    "thead",
    "tr",
    "ul",
}
CELLS = {"td", "th"}


BARE = re.compile(r"""<(/?[A-Za-z][^\s/<>"']*+)[^<>=]*+>""")
NAME = re.compile(r"""/?[A-Za-z][^\s/<>"']*+""")
QUOTED = re.compile(r"""[^<>=]*+(?:=\s*+(?:"[^"]*+"|'[^']*+')?+[^<>=]*+)*+>""")
PLAIN = re.compile(r"[^<>]*+>")
RAW = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style")}
WHITE = re.compile(r"[ \t\r\n\f]+")
LONG_NUMBER = re.compile(r"&#[0-9]{1000,}+;?")


class _Text:
    """What was read so far: the pieces, and how deep within elements that are dropped or kept as they are."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.dropped = self.kept = 0

    def start(self, tag: str) -> None:
        self.dropped = 0 if tag == "body" else self.dropped + (tag in DROPPED)
        self.kept += tag == "pre"
        self.part(tag)

    def end(self, tag: str) -> None:
        self.dropped -= tag in DROPPED and self.dropped > 0
        self.kept -= tag == "pre" and self.kept > 0
        self.part(tag) if tag not in CELLS else self.pieces.append("\t")

    def data(self, data: str) -> None:
        if data and not self.dropped:
            if "&" in data:
                data = html.unescape(LONG_NUMBER.sub("\ufffd", data))
            self.pieces.append(data if self.kept else self._flowed(data))

    def _flowed(self, data: str) -> str:
        begins = not self.pieces or self.pieces[-1].endswith(("\n", "\t", " "))
        flowed = WHITE.sub(" ", data)
        return flowed.removeprefix(" ") if begins else flowed

    def part(self, tag: str) -> None:
        if tag in BLOCKS:
            self.pieces.append("\n")


def _markup(page: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, tag) of each tag, «/tag» where it ends, and nothing of a comment or declaration. What never ends is text.

    The time is linear: a comment's end, or an end after quoted values, that was missed once is not looked for again, and
    every other search stops at the next «<».
    """
    commented = quoted = True
    place = page.find("<")
    while place >= 0:
        end, tag = 0, ""
        if bare := BARE.match(page, place):
            end, tag = bare.end(), bare[1].lower()
        elif page.startswith("<!--", place):
            end = page.find("-->", place + 2) + 3 if commented else 0
            commented = end > 2
        elif page.startswith(("!", "?"), place + 1):
            found = PLAIN.match(page, place + 2)
            end = found.end() if found else 0
        elif named := NAME.match(page, place + 1):
            found = QUOTED.match(page, named.end()) if quoted else None
            quoted = found is not None
            found = found or PLAIN.match(page, named.end())
            end, tag = (found.end(), named[0].lower()) if found else (0, "")
        if end > place:
            yield place, end, tag
            raw = RAW.get(tag) if page[end - 2] != "/" else None
            closing = raw.search(page, end) if raw else None
            end = len(page) if raw and not closing else closing.start() if closing else end
        place = page.find("<", max(end, place + 1))


def html_to_text(page: str) -> str:
    """The words of a page; see above for the rules."""
    text, read = _Text(), 0
    for start, end, tag in _markup(page):
        text.data(page[read:start])
        read = end
        if page[end - 2] == "/":
            text.part(tag)
        elif tag.startswith("/"):
            text.end(tag[1:])
        else:
            text.start(tag)
    text.data(page[read:])
    lines = [line.rstrip(" \t") for line in "".join(text.pieces).replace("\r\n", "\n").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
