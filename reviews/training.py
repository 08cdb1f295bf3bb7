"""The next release from labels: every standing label teaches, the random audit sample alone calibrates."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Max, Min
from django.utils.translation import gettext_noop

from mlcore import bundle, conformal
from mlcore.errors import DataError
from mlcore.recalibrate import MORE, by_propensity
from mlcore.records import NoteText, Record
from reviews import audited, recalibration
from reviews.models import Label
from triage import audit, policy, registry, tasks
from triage.models import Note, Policy, Protocol, Site, Task

CHUNK = 1000
ENCODER, CONFIG = "compact", None  # as `manage.py train` has them
INSTALLED = gettext_noop("The release is installed beside the active one. Compare it before it is promoted.")
TOO_SMALL = gettext_noop(
    "The audit sample is too small to calibrate a release for alpha %(alpha)s: %(wanting)s must be read first. Labels of "
    "the queue train and do not calibrate."
)
STAGES = {
    "windows": gettext_noop("Cutting the notes"),
    "linear model": gettext_noop("Weighing words"),
    "encoder": gettext_noop("Making the encoder"),
    "training": gettext_noop("Training"),
    "calibration": gettext_noop("Calibrating"),
    "saving": gettext_noop("Writing the release"),
}


@dataclass(frozen=True)
class Cases:
    """records: to train on, those of the audit sample marked. origin: where their labels came from, for the card."""

    records: list[Record]
    origin: dict[str, Any]


def cases(protocol: Protocol, sites: Sequence[Site]) -> Cases:
    """Every standing label of the sites with the text it was given for; cases of one patient are one group.

    Raises DataError where the audit sample has too few cases of a label for the strictest α in force at the sites.
    """
    drawn = [case for site in sites for case in audited.sample(site, protocol).closed]
    least = min((case.rate for case in drawn), default=1.0)
    counts_as = {
        case.case: float(u)
        for case, u in zip(drawn, by_propensity([case.rate for case in drawn], least), strict=True)
    }
    dials = [policy.current(site, protocol) for site in sites]
    _check(protocol, drawn, counts_as, min((dial.alpha for dial in dials), default=policy.FIRST["alpha"]))
    records, provenance = [], Counter()
    for record, given in _records(protocol, sites, counts_as):
        records.append(record)
        provenance[given] += 1
    return Cases(records, _origin(protocol, sites, drawn, provenance))


def _check(protocol: Protocol, drawn: list[audited.Drawn], counts_as: dict[int, float], alpha: float) -> None:
    """A case held out for calibration is no case to fit on, so nothing is begun that could not be calibrated."""
    weight: Counter[int] = Counter()
    for case in drawn:
        weight[case.label] += counts_as[case.case]
    lacking = {
        label: n for c, label in enumerate(protocol.labels) if (n := conformal.minimum_n(alpha, weight[c]))
    }
    if lacking:
        wanting = [(MORE, {"n": n, "label": label}) for label, n in lacking.items()]
        raise DataError(TOO_SMALL, alpha=f"{alpha:g}", wanting=wanting)


def _records(
    protocol: Protocol, sites: Sequence[Site], counts_as: dict[int, float]
) -> Iterator[tuple[Record, str]]:
    found = Label.objects.filter(case__protocol=protocol, case__site__in=sites, withdrawn_at=None)
    rows = found.order_by("case__site__slug", "case__patient__pseudonym", "pk").values_list(
        "case",
        "case__site__slug",
        "case__patient__pseudonym",
        "label",
        "provenance",
        "review__prediction__note_ids",
        "notes_sha256",
    )
    standing = _standing(protocol, sites, counts_as)
    chunk: list[tuple[Any, ...]] = []
    for row in rows.iterator(chunk_size=CHUNK):
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield from _chunk(chunk, counts_as, standing)
            chunk = []
    yield from _chunk(chunk, counts_as, standing)


def _standing(protocol: Protocol, sites: Sequence[Site], counts_as: dict[int, float]) -> set[tuple[int, str]]:
    """(case, notes) of the sample: a label over earlier notes of such a case was not drawn with it."""
    stands = [
        row for site in sites for row in policy.standing(site, protocol).values_list("case", "notes_sha256")
    ]
    return {row for row in stands if row[0] in counts_as}


def _chunk(
    rows: list[tuple[Any, ...]], counts_as: dict[int, float], standing: set[tuple[int, str]]
) -> Iterator[tuple[Record, str]]:
    wanted = {note for row in rows for note in row[5]}
    notes = {
        pk: NoteText(text, written_at, specialty)
        for pk, text, written_at, specialty in Note.objects.filter(pk__in=wanted)
        .order_by()
        .values_list("pk", "text", "written_at", "specialty")
    }
    for case, site, pseudonym, label, provenance, ids, notes_sha256 in rows:
        weight = counts_as[case] if (case, notes_sha256) in standing else 0.0
        whom = f"{site}/{pseudonym}"
        yield Record(whom, [notes[pk] for pk in ids], label, 0, whom, weight), provenance


def _origin(
    protocol: Protocol, sites: Sequence[Site], drawn: list[audited.Drawn], provenance: Counter[str]
) -> dict[str, Any]:
    under = Policy.objects.filter(
        protocol=protocol,
        site__in=sites,
        reviews__final_label__isnull=False,
        reviews__final_label__withdrawn_at=None,
    )
    spans = under.values_list("site__slug").annotate(Min("version"), Max("version")).order_by("site__slug")
    return {
        "from": "labels",
        "sites": [site.slug for site in sites],
        "provenance": dict(sorted(provenance.items())),
        "policies": {site: [first, last] for site, first, last in spans},
        "audit_sample": len(drawn),
        "audit_share": len(drawn) / max(provenance.total(), 1),
        "rates": {f"{rate:g}": n for rate, n in sorted(Counter(case.rate for case in drawn).items())},
    }


def ask(site: Site, protocol: Protocol, *, by: Any, reason: str) -> Task:
    """Put the training of a release from this site's labels in line, unless one is there already (then that task)."""
    with transaction.atomic():
        Protocol.objects.select_for_update(no_key=True).get(pk=protocol.pk)
        if found := recalibration.open_task(site, protocol, Task.Kind.TRAIN):
            return found
        return tasks.ask(Task.Kind.TRAIN, protocol, site=site, by=by, params={"reason": reason})


def named(protocol: str, sites: list[str]) -> tuple[list[Record], dict[str, Any]]:
    """For the command line: the cases of these sites, every site without names; with an event in the trail of each.

    Raises DataError for a protocol or a site that is not known, and as ``cases``.
    """
    asked = Protocol.objects.filter(slug=protocol).first()
    if asked is None:
        raise DataError(f"Protocol {protocol!r} is not known here: run `manage.py migrate` first.")
    found = Site.objects.filter(slug__in=sites) if sites else Site.objects.all()
    if unknown := sorted(set(sites) - {site.slug for site in found}):
        raise DataError(f"Site {unknown[0]!r} is not known: name one that is.")
    return _disclosed(asked, list(found.order_by("slug")), None, "command line")


def _disclosed(
    protocol: Protocol, sites: Sequence[Site], by: Any, reason: str
) -> tuple[list[Record], dict[str, Any]]:
    """The cases, once the trail of every site says that its labels and their notes are trained on."""
    found = cases(protocol, sites)
    facts = {"cases": len(found.records), "reason": reason} | found.origin
    for site in sites:
        audit.record("labels.train", protocol, site=site, actor=by, details=facts)
    return found.records, found.origin


def run(task: Task, progress: tasks.Progress) -> dict[str, Any]:
    """Train a release from the labels of the task's site and install it beside the active one, to be scored in shadow.

    A run that was cut off goes on from its last epoch.
    """
    progress(recalibration.READING, 0, 1)
    records, origin = _disclosed(task.protocol, [task.site], task.by, task.params["reason"])
    folder = settings.RELEASES_DIR / "staging" / f"task-{task.pk}"
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _forget(folder, task.asked_at.timestamp())
    if not (folder / bundle.SUMS).exists():
        shutil.rmtree(folder, ignore_errors=True)
        _train(records, origin, task, folder, progress)
    release, _new = registry.install(folder, actor=task.by, shadow=True)
    shutil.rmtree(folder)
    progress.say(INSTALLED)
    return {"release": release.pk, "cases": len(records), "audit_sample": origin["audit_sample"]}


def _forget(folder: Path, asked_at: float) -> None:
    """Remove what the task left before it was asked for once more: labels have come since. A second: file systems' clocks are coarse."""
    for left in folder.parent.glob(f"{folder.name}*"):
        if left.name.split(".")[0] == folder.name and left.lstat().st_ctime < asked_at - 1:
            shutil.rmtree(left, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of trainings that ended: those of one that is done are gone already."""
    found = {path: path.name.split(".")[0] for path in (settings.RELEASES_DIR / "staging").glob("task-*")}
    open_ = Task.objects.filter(kind=Task.Kind.TRAIN, status__in=["pending", "claimed"]) if found else ()
    wanted = {f"task-{task.pk}" for task in open_}
    for path, name in found.items():
        if name not in wanted:
            shutil.rmtree(path, ignore_errors=True)


def _train(
    records: list[Record], origin: dict[str, Any], task: Task, folder: Path, progress: tasks.Progress
) -> None:
    from mlcore.train import train

    def told(stage: str, done: int, total: int) -> None:
        progress(STAGES.get(stage, stage), done, total)

    train(records, task.protocol.spec, ENCODER, folder, CONFIG, told, origin)
