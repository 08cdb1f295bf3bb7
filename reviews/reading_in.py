"""An exact export read back: JSON Lines with the notes, into a database that may be empty.

What a row speaks of is made where it is missing: site, patients, notes, cases, readers (inactive accounts that cannot
sign in), policies, releases and calibrations. A release made so is a name and a digest; it is never active, and the
predictions it made stand for nothing but the labels that were given over them. ``export_labels`` then gives the same file.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from datetime import date, datetime
from functools import cache
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.db import transaction
from django.db.models import Model

from mlcore.errors import DataError
from reviews.models import Adjudication, Comment, Label, Review
from reviews.rows import ABSENT, POLICY, calibration_sha256
from triage import audit
from triage.models import Calibration, Case, Note, Patient, Policy, Prediction, Protocol, Release, Site

NUMBERS = ("logits", "probabilities", "p_values", "distances")
NUMBERS += ("credibility", "runner_up", "typicality", "urgency", "lot")


def read(lines: Iterable[bytes], site: str, protocol: Protocol) -> tuple[int, int]:
    """(labels new, labels that stood here already); all of the file or nothing. DataError names the line."""
    new = number = 0
    with transaction.atomic():
        place, _made = Site.objects.get_or_create(slug=site, defaults={"name": site})
        reader = _Reader(place, protocol)
        for number, line in enumerate(lines, 1):
            try:
                new += reader.row(_checked(json.loads(line), place, protocol))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"Line {number} is not a row of an export with notes ({type(error).__name__}): "
                    "write it again with export_labels --format jsonl --with-notes."
                ) from None
            except DataError as error:
                raise DataError(f"Line {number}: {error}") from None
        audit.record("labels.import", protocol, site=place, details={"rows": number, "new": new})
    return new, number - new


def _checked(row: dict[str, Any], site: Site, protocol: Protocol) -> dict[str, Any]:
    if (row["site"], row["protocol"]) != (site.slug, protocol.slug):
        raise DataError("it belongs to another site or protocol: name those with --site and --protocol.")
    if not isinstance(row["notes"], list):
        raise DataError("it came without the notes: export them again with --with-notes.")
    return row


class _Reader:
    """Remembers what many rows share."""

    def __init__(self, site: Site, protocol: Protocol) -> None:
        self.site, self.protocol = site, protocol
        self.user, self.release = cache(self._user), cache(self._release)
        self.calibration, self.policy = cache(self._calibration), cache(self._policy)

    def row(self, row: dict[str, Any]) -> bool:
        patient, _made = Patient.objects.get_or_create(site=self.site, pseudonym=row["patient_id"])
        notes = [self._note(patient, note) for note in row["notes"]]
        if [note.sha256 for note in notes] != [note["sha256"] for note in row["notes"]]:
            raise DataError("the text of a note is not the one its digest tells of: the file was changed.")
        case = self._case(patient, notes)
        self._thread(case, notes, row["comments"] or [])
        if Label.objects.filter(case=case, notes_sha256=_of_notes(notes), withdrawn_at=None).exists():
            return False
        own = self._prediction(case, notes, row)
        policy = self.policy(*_policy_of(row))
        reviews = [self._reading(case, notes, own, policy, reading) for reading in row["readings"]]
        [final] = [
            review for review, reading in zip(reviews, row["readings"], strict=True) if reading["final"]
        ]
        self._label(final, row)
        return True

    def _note(self, patient: Patient, note: dict[str, Any]) -> Note:
        digest = hashlib.sha256(note["text"].encode("utf-8", "surrogatepass")).hexdigest()
        facts = {
            "sha256": digest,
            "written_at": note["written_at"] and date.fromisoformat(note["written_at"]),
            "specialty": note["specialty"],
            "source_id": note["note_id"],
        }
        known = Note.objects.filter(patient=patient, **facts).first()
        return known or Note.objects.create(patient=patient, text=note["text"], **facts)

    def _case(self, patient: Patient, notes: list[Note]) -> Case:
        note = notes[0] if self.protocol.unit == "note" else None
        case, _made = Case.objects.get_or_create(
            protocol=self.protocol, site=self.site, patient=patient, note=note
        )
        return case

    def _prediction(self, case: Case, notes: list[Note], told: dict[str, Any]) -> Prediction:
        release = self.release(told["release_sha256"], told["release"])
        found, _made = Prediction.objects.get_or_create(
            case=case,
            release=release,
            calibration=self.calibration(release.pk, told["calibration_sha256"]),
            notes_sha256=_of_notes(notes),
            defaults={name: told[name] for name in NUMBERS}
            | {
                "site": self.site,
                "protocol": self.protocol,
                "note_ids": [note.pk for note in notes],
                "label": self._position(told["model_label"]),
                "specialty": notes[-1].specialty,
                "written_at": notes[-1].written_at,
                "at": datetime.fromisoformat(told["scored_at"]),
            },
        )
        return found

    def _reading(
        self,
        case: Case,
        notes: list[Note],
        own: Prediction,
        policy: Policy,
        told: dict[str, Any],
    ) -> Review:
        marks = [
            {"note": notes[m["note"]].pk, "start": m["start"], "end": m["end"], "label": m["label"]}
            for m in told["evidence"]
        ]
        return Review.objects.create(
            case=case,
            prediction=self._prediction(case, notes, told["model"]) if told["model"] else own,
            policy=self.policy(*_policy_of(told["policy"])) if told["policy"] else policy,
            reader=self.user(told["reader"]),
            notes_sha256=own.notes_sha256,
            client_key=uuid.uuid4(),
            label=None if told["label"] is None else self._position(told["label"]),
            evidence=marks,
            at=datetime.fromisoformat(told["at"]),
            **{name: told[name] for name in ("why", "double", "comment", "mode", "seconds")},
        )

    def _label(self, final: Review, row: dict[str, Any]) -> None:
        same = {"case": final.case, "notes_sha256": final.notes_sha256, "review": final}
        Label.objects.create(
            label=self._position(row["label"]),
            provenance=row["provenance"],
            propensity=row["propensity"],
            at=datetime.fromisoformat(row["labelled_at"]),
            **same,
        )
        if told := row["adjudication"]:
            Adjudication.objects.create(
                prediction=final.prediction,
                cause=told["cause"],
                opened_at=datetime.fromisoformat(told["opened_at"]),
                closed_at=datetime.fromisoformat(told["closed_at"]),
                **same,
            )

    def _thread(self, case: Case, notes: list[Note], thread: list[dict[str, Any]]) -> None:
        for said in thread:
            note = None if said["note"] is None else notes[said["note"]]
            Comment.objects.get_or_create(
                case=case,
                author=self.user(said["author"]),
                at=datetime.fromisoformat(said["at"]),
                text=said["text"],
                note=note,
                start=said["start"],
                end=said["end"],
            )

    def _position(self, label: str) -> int:
        return self.protocol.labels.index(label)

    # What many rows share, asked for once

    def _user(self, username: str) -> Model:
        defaults = {"is_active": False, "password": make_password(None)}
        return get_user_model().objects.get_or_create(username=username, defaults=defaults)[0]

    def _release(self, sha256: str, name: str) -> Release:
        defaults = {"protocol": self.protocol, "name": name, "card": {}, "active": False}
        return Release.objects.get_or_create(sha256=sha256, defaults=defaults)[0]

    def _calibration(self, release: int, sha256: str) -> Calibration:
        for pk in Calibration.objects.filter(release=release).values_list("pk", flat=True):
            if calibration_sha256(pk) == sha256:
                return Calibration.objects.get(pk=pk)
        none = [0] * len(self.protocol.labels)
        return Calibration.objects.create(
            release_id=release,
            counts=none,
            typical_counts=none,
            arrays=ABSENT + sha256.encode(),
            held_out=b"",
            active=False,
        )

    def _policy(self, version: int, *values: Any) -> Policy:
        facts = dict(zip(list(POLICY.values())[1:], values, strict=True))
        where = {"site": self.site, "protocol": self.protocol, "version": version}
        policy, _made = Policy.objects.get_or_create(
            **where, defaults=facts | {"reason": "Read in with labels that were given under it."}
        )
        if any(getattr(policy, name) != value for name, value in facts.items()):
            raise DataError(f"version {version} of the policy is another one here: read it into a new site.")
        return policy


def _policy_of(told: dict[str, Any]) -> list[Any]:
    """What an export tells of a policy; one made before there was a hold was not on hold."""
    return [told.get(name, True) if name == "automate" else told[name] for name in POLICY]


def _of_notes(notes: list[Note]) -> str:
    """As ``triage.scoring`` has it, so that the label stands when the case is scored here."""
    facts = "".join(f"{note.pk}:{note.sha256}\n" for note in notes)
    return hashlib.sha256(facts.encode()).hexdigest()
