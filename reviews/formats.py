"""The forms an export takes. Each is written row by row into an open file, so that memory does not grow with the rows.

JSON Lines is the exact form: with the notes it can be read in again. CSV is the same rows made safe for spreadsheets:
text that a spreadsheet could run begins with an apostrophe there, and so does text that began with one; removing one
leading apostrophe gives the text back. ``datasets`` is a zipped folder for ``datasets.load_from_disk``; ``brat`` a zipped
folder of standoff, a .txt and an .ann for each note with marks; ``fhir`` is FHIR R4 NDJSON (``reviews.observations``).
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from reviews import observations
from reviews.rows import COLUMNS, judged
from triage.models import Protocol

if TYPE_CHECKING:
    from datasets import Features

Rows = Iterable[dict[str, Any]]
RUNNABLE = re.compile(r"[\s\x00-\x1f\x7f\u200b-\u200f\u2060\ufeff]*[=+\-@|%＝＋－＠'\t\r\n]|[\t\r\n]")
TEXT_LINE = re.compile(r"[^\r\n]+")
NEVER, MAY, MUST = "never", "may", "must"


@dataclass(frozen=True)
class Form:
    """``notes``: whether their text never, may or must go along. ``named``: whether rows must say which notes they read."""

    write: Callable[[IO[bytes], Rows, Protocol], None]
    ending: str
    content_type: str
    notes: str = NEVER
    named: bool = False


def jsonl(target: IO[bytes], rows: Rows, protocol: Protocol) -> None:
    for row in rows:
        target.write(json_line(row))


def json_line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def comma_separated(target: IO[bytes], rows: Rows, protocol: Protocol) -> None:
    line = io.StringIO(newline="")
    table = csv.DictWriter(line, COLUMNS, lineterminator="\r\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: _cell(value) for name, value in row.items()})
        target.write(line.getvalue().encode())
        line.seek(0)
        line.truncate()
    target.write(line.getvalue().encode())


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return safe(value) if isinstance(value, str) else value


def safe(text: str) -> str:
    """The text as a CSV cell that no spreadsheet runs; an apostrophe more where it might."""
    return f"'{text}" if RUNNABLE.match(text) else text


def exact(cell: str) -> str:
    """The text behind a cell of ``safe``."""
    return cell.removeprefix("'")


# Hugging Face datasets


def dataset(target: IO[bytes], rows: Rows, protocol: Protocol) -> None:
    from datasets import DatasetInfo
    from datasets.arrow_writer import ArrowWriter

    features = _features(protocol)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / protocol.slug
        folder.mkdir()
        file = "data-00000-of-00001.arrow"
        with ArrowWriter(features=features, path=str(folder / file), writer_batch_size=100) as writer:
            for row in rows:
                writer.write(_flat(row))
            writer.finalize()
        state = {"_data_files": [{"filename": file}], "_fingerprint": protocol.slug, "_format_columns": None}
        state |= {"_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}
        (folder / "state.json").write_text(json.dumps(state))
        DatasetInfo(description=f"Labels of {protocol.slug}", features=features).write_to_directory(
            str(folder)
        )
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, f"{folder.name}/{path.name}")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A column of a dataset holds one type: without the text of the notes ``notes`` is empty, not their number."""
    return row | {
        "notes": row["notes"] if isinstance(row["notes"], list) else [],
        "comments": row["comments"] or [],
    }


def _features(protocol: Protocol) -> Features:
    from datasets import ClassLabel, Features, Sequence, Value

    text, number, whole, flag = Value("string"), Value("float64"), Value("int64"), Value("bool")
    label, numbers = ClassLabel(names=protocol.labels), Sequence(number)
    mark = {"note": whole, "note_id": text, "start": whole, "end": whole, "label": text, "text": text}
    note = dict.fromkeys(("note_id", "written_at", "specialty", "sha256", "text"), text)
    said = {"author": text, "text": text, "note": whole, "start": whole, "end": whole, "at": text}
    model = dict.fromkeys(("release", "release_sha256", "calibration_sha256", "scored_at"), text)
    model |= {"model_label": label}
    model |= dict.fromkeys(("logits", "probabilities", "p_values", "distances"), numbers)
    model |= dict.fromkeys(("credibility", "runner_up", "typicality", "urgency", "lot"), number)
    policy = {"policy_version": whole, "second_opinion": text, "automate": flag}
    policy |= dict.fromkeys(("alpha", "typicality_floor", "audit_rate"), number)
    reading = {"final": flag, "double": flag, "seconds": whole, "label": label, "evidence": [mark]}
    reading |= dict.fromkeys(("reader", "mode", "why", "comment", "at"), text)
    reading |= {"model": model, "policy": policy}
    special = model | policy | {"label": label, "propensity": number, "evidence": [mark], "notes": [note]}
    special |= {"readings": [reading], "comments": [said]}
    special |= {"adjudication": dict.fromkeys(("cause", "opened_at", "closed_at"), text)}
    return Features({name: special.get(name, text) for name in COLUMNS})


# brat


def brat(target: IO[bytes], rows: Rows, protocol: Protocol) -> None:
    """``labels.jsonl`` has the rows without text; ``annotation.conf`` the entity types. A span over line ends is split."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive, tempfile.TemporaryFile() as labels:
        archive.writestr("annotation.conf", _configuration(protocol))
        for row in rows:
            for place, note in enumerate(row["notes"]):
                if annotations := "".join(_annotations(row, place, note["text"])):
                    name = f"{judged(row)}-{place}"
                    archive.writestr(f"{name}.txt", note["text"].encode())
                    archive.writestr(f"{name}.ann", annotations.encode())
            labels.write(json_line(_without_text(row)))
        labels.seek(0)
        with archive.open("labels.jsonl", "w", force_zip64=True) as entry:
            while piece := labels.read(2**20):
                entry.write(piece)


def _configuration(protocol: Protocol) -> str:
    types = "\n".join(_type(label) for label in (*protocol.labels, "evidence"))
    return f"[entities]\n{types}\n[relations]\n[events]\n[attributes]\n"


def _annotations(row: dict[str, Any], place: int, text: str) -> Iterator[str]:
    """A text-bound annotation for each mark of each reading, and a note on it with who made it."""
    marks = [(r, m) for r in row["readings"] for m in r["evidence"] if m["note"] == place]
    for number, (reading, mark) in enumerate(marks, 1):
        lines = [
            (found.start() + mark["start"], found.end() + mark["start"], found[0])
            for found in TEXT_LINE.finditer(text[mark["start"] : mark["end"]])
        ]
        if lines:
            spans = ";".join(f"{start} {end}" for start, end, _ in lines)
            kind = _type(mark["label"] or reading["label"] or "evidence")
            yield f"T{number}\t{kind} {spans}\t{' '.join(words for *_, words in lines)}\n"
            yield f"#{number}\tAnnotatorNotes T{number}\t{TEXT_LINE.findall(reading['reader'])[0]}\n"


def _type(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", label)


def _without_text(row: dict[str, Any]) -> dict[str, Any]:
    notes = [{key: value for key, value in note.items() if key != "text"} for note in row["notes"]]
    readings = [
        reading
        | {"evidence": [{k: v for k, v in mark.items() if k != "text"} for mark in reading["evidence"]]}
        for reading in row["readings"]
    ]
    marks = [{key: value for key, value in mark.items() if key != "text"} for mark in row["evidence"]]
    return row | {"notes": notes, "readings": readings, "evidence": marks, "comments": None}


FORMS = {
    "jsonl": Form(jsonl, "jsonl", "application/x-ndjson; charset=utf-8", MAY),
    "csv": Form(comma_separated, "csv", "text/csv; charset=utf-8"),
    "datasets": Form(dataset, "datasets.zip", "application/zip", MAY),
    "brat": Form(brat, "brat.zip", "application/zip", MUST),
    "fhir": Form(observations.write, "fhir.ndjson", "application/fhir+ndjson; charset=utf-8", named=True),
}
