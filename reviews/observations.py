"""Labels as FHIR R4: an Observation for each, and a Provenance that says who read what. No text and no name goes along.

Patients, notes and readers are logical references, by identifier. Readers are told apart by a pseudonym that only holders
of the secret key could tie to an account.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from typing import IO, Any

from django.conf import settings

from reviews.rows import judged
from triage.models import Protocol

BASE = "urn:centinela"
NUMBERS = ("propensity", "alpha", "typicality_floor", "audit_rate", "credibility", "runner_up", "typicality")
WORDS = ("provenance", "reason", "mode", "model_label", "release", "release_sha256", "calibration_sha256")
NAMESPACE = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"


def write(target: IO[bytes], rows: Iterable[dict[str, Any]], protocol: Protocol) -> None:
    """NDJSON: the Observation of each row and, after it, its Provenance."""
    for row in rows:
        for resource in resources(row, protocol):
            target.write(resource.model_dump_json().encode() + b"\n")


def resources(row: dict[str, Any], protocol: Protocol) -> Iterator[Any]:
    """The two resources of a row, validated by fhir.resources."""
    from fhir.resources.R4B.observation import Observation
    from fhir.resources.R4B.provenance import Provenance

    name = judged(row)
    yield Observation.model_validate(_observation(name, row, protocol))
    yield Provenance.model_validate(_provenance(name, row))


def _observation(name: str, row: dict[str, Any], protocol: Protocol) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": name,
        "status": "final",
        "code": _concept("protocol", protocol.slug, protocol.name),
        "subject": _patient(row),
        "effectiveDateTime": row["reviewed_at"],
        "issued": row["labelled_at"],
        "valueCodeableConcept": _concept(f"protocol:{protocol.slug}", row["label"]),
        "derivedFrom": [_document(row, note) for note in row["notes"]],
        "component": [
            *(_component(key, valueQuantity={"value": row[key]}) for key in NUMBERS),
            *(_component(key, valueString=row[key]) for key in WORDS),
            _component("policy_version", valueInteger=row["policy_version"]),
        ],
    }


def _provenance(name: str, row: dict[str, Any]) -> dict[str, Any]:
    readers = [
        {
            "type": {"coding": [{"system": NAMESPACE, "code": "author" if reading["final"] else "verifier"}]},
            "who": {"identifier": {"system": f"{BASE}:reader", "value": pseudonym(reading["reader"])}},
        }
        for reading in row["readings"]
    ]
    model = {
        "type": {"coding": [{"system": NAMESPACE, "code": "assembler"}]},
        "who": {
            "type": "Device",
            "identifier": {"system": f"{BASE}:release", "value": row["release_sha256"]},
            "display": row["release"],
        },
    }
    return {
        "resourceType": "Provenance",
        "id": f"{name}-provenance",
        "target": [{"reference": f"Observation/{name}"}],
        "occurredDateTime": row["reviewed_at"],
        "recorded": row["labelled_at"],
        "agent": [*readers, model],
        "entity": [{"role": "source", "what": _document(row, note)} for note in row["notes"]],
    }


def pseudonym(username: str) -> str:
    """The same for a reader in every export of this installation."""
    digest = hmac.digest(settings.SECRET_KEY.encode(), f"reader {username}".encode(), hashlib.sha256)
    return digest.hex()[:16]


def _concept(system: str, code: str, display: str | None = None) -> dict[str, Any]:
    coding = {"system": f"{BASE}:{system}", "code": code}
    return {"coding": [coding | ({"display": display} if display else {})]}


def _patient(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "Patient",
        "identifier": {"system": f"{BASE}:site:{row['site']}", "value": row["patient_id"]},
    }


def _document(row: dict[str, Any], note: dict[str, Any]) -> dict[str, Any]:
    """By the id it came with, else by the digest of its text."""
    known = {"system": f"{BASE}:site:{row['site']}:note", "value": note["note_id"]}
    digest = {"system": f"{BASE}:note-sha256", "value": note["sha256"]}
    return {"type": "DocumentReference", "identifier": known if note["note_id"] else digest}


def _component(key: str, **value: Any) -> dict[str, Any]:
    return {"code": _concept("figure", key), **value}
