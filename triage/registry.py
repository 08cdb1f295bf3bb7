"""Releases: installed bundles, checked before they are believed, loaded once per process."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef
from django.utils.translation import gettext_noop
from safetensors.numpy import save as save_safetensors

from mlcore import bundle
from mlcore.calibrate import Calibration as Ranks
from mlcore.errors import BundleError, CentinelaError
from triage import audit, jobs
from triage.access import sites_using
from triage.models import Calibration, Case, Prediction, Protocol, Release, Site

MOVED = gettext_noop(
    "Another release became active while this page was open. Look at it as it is now, then decide again."
)
FOREIGN = gettext_noop(
    "%(folder)s was trained for the protocol «%(protocol)s», which is not known here as it was then: update the server, "
    "or train the release again."
)
NOT_COPIED = gettext_noop(
    "%(folder)s could not be copied to %(target)s (%(reason)s): make room there, or check its permissions."
)
ANOTHER = gettext_noop("%(folder)s is not the bundle its name says: install the release again.")
AFRESH = {"status": Case.Status.PENDING, "claim": None, "claimed_at": None, "attempts": 0, "failure": ""}
# The notes as they are now, digested as scoring.Read.notes_sha256 does.
STAND = """
    UPDATE triage_prediction AS prediction SET current = true FROM triage_case
    WHERE triage_case.id = prediction.case_id AND prediction.release_id = %(release)s
        AND (%(site)s::bigint IS NULL OR triage_case.site_id = %(site)s)
        AND prediction.calibration_id = (
            SELECT id FROM triage_calibration
            WHERE release_id = %(release)s AND active AND coalesce(site_id, triage_case.site_id) = triage_case.site_id
            ORDER BY site_id LIMIT 1)
        AND prediction.notes_sha256 = (
            SELECT encode(sha256(convert_to(string_agg(
                id || ':' || sha256 || chr(10), '' ORDER BY written_at, id), 'UTF8')), 'hex')
            FROM triage_note WHERE patient_id = triage_case.patient_id
                AND (triage_case.note_id IS NULL OR id = triage_case.note_id))
"""
HELD_OUT = "held_out."
LEFT = 24 * 3600  # seconds after which a copy that was begun and not ended is nobody's any more
READ_AS_NEW = ("truth", "label", "credibility", "runner_up", "typicality", "p_values", "weight")

if TYPE_CHECKING:
    from mlcore.scorer import Scorer


def folder(release: Release) -> Path:
    return settings.RELEASES_DIR / release.sha256


class ReleaseMoved(CentinelaError):
    """Another release became active since the page was opened."""


def install(source: Path, *, actor: Any = None, shadow: bool = False) -> tuple[Release, bool]:
    """Check the bundle, copy it, and make it its protocol's active release; (release, whether it was new).

    ``shadow`` only installs it: it waits to be scored in shadow, compared and promoted. The first release of a protocol
    is active in any case. Predictions of other releases are kept but no longer stand; ``stand`` says which do.
    Raises BundleError for a bundle that is damaged or for a protocol unknown here.
    """
    sha256 = bundle.verify(source)
    card = bundle.read_card(source)
    arrays = bundle.load_arrays(source)
    ranks = Ranks.from_arrays(arrays)
    protocol = Protocol.objects.filter(slug=card.get("protocol")).first()
    known = protocol is not None and list(ranks.labels) == protocol.labels
    if not known or card.get("targets") != protocol.targets:
        raise BundleError(FOREIGN, folder=str(source), protocol=str(card.get("protocol")))
    _copy(source, settings.RELEASES_DIR / sha256)
    with transaction.atomic():
        active = _active(protocol)
        release, new = Release.objects.get_or_create(
            sha256=sha256,
            defaults={"protocol": protocol, "name": f"{card['trained_at'][:10]} {sha256[:8]}", "card": card},
        )
        if new:
            _calibrate(release, ranks, arrays)
            audit.record("release.install", release, site=None, actor=actor, details={"sha256": sha256})
        if active is None or not (shadow or release == active):
            _activate(release, actor)
    release.refresh_from_db()
    return release, new


def _active(protocol: Protocol) -> Release | None:
    """The active release; nobody makes it another until commit. The protocol's row stays free: a switch takes minutes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('triage_release'), %s)", [protocol.pk])
    return Release.objects.filter(protocol=protocol, active=True).first()


def activate(
    release: Release,
    *,
    actor: Any,
    reason: str,
    instead_of: int,
    details: dict[str, Any] | None = None,
    before: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Promote a release, or return to a former one; how many cases stand by its scores at once, and how many wait.

    details: of the event, besides its own. before: called once the files were read, before the transaction. check: called
    within it, also at its end; where it raises, nothing was done. ReleaseMoved when ``instead_of`` is not the id of the
    active one; BundleError when the files cannot be used.
    """
    if damage := _damaged(folder(release)):
        raise damage
    before()
    with transaction.atomic():
        active = _active(release.protocol)
        if active is None or active.pk != instead_of or active == release:
            raise ReleaseMoved(MOVED)
        return _activate(release, actor, reason, details or {}, check)


def _copy(source: Path, target: Path) -> None:
    """Never a half-copied release: the folder appears under its name only when it is whole."""
    if target.exists() and not _damaged(target):
        return
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        _copy_whole(source, partial, target)
    except OSError as error:
        where = {
            "folder": str(source),
            "target": str(target.parent),
            "reason": error.strerror or type(error).__name__,
        }
        raise BundleError(NOT_COPIED, **where) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_whole(source: Path, partial: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    if bundle.verify(partial) != target.name:
        raise BundleError(
            gettext_noop("%(folder)s changed while it was copied: install it again."), folder=str(source)
        )
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def sweep() -> None:
    """Remove what installations that were killed left half copied."""
    for partial in settings.RELEASES_DIR.glob("*.part"):
        if time.time() - partial.lstat().st_ctime > LEFT:
            shutil.rmtree(partial, ignore_errors=True)


def _damaged(target: Path) -> BundleError | None:
    try:
        sha256 = bundle.verify(target)
    except BundleError as error:
        return error
    return None if sha256 == target.name else BundleError(ANOTHER, folder=str(target))


def _calibrate(release: Release, ranks: Ranks, arrays: dict[str, Any]) -> Calibration:
    held_out = {name: arrays[HELD_OUT + name] for name in READ_AS_NEW if HELD_OUT + name in arrays}
    return Calibration.objects.create(
        release=release,
        counts=[len(scores) for scores in ranks.scores],
        typical_counts=[len(distances) for distances in ranks.distances],
        arrays=ranks.to_bytes(),
        held_out=save_safetensors(held_out),
    )


def _activate(
    release: Release,
    actor: Any,
    reason: str = "",
    more: dict[str, Any] | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Locks the release before the cases, as scoring does, and the cases in order, as intake does."""
    former = Release.objects.filter(protocol=release.protocol, active=True)
    replaced = former.values_list("sha256", flat=True).first() or ""
    former.update(active=False)
    Release.objects.filter(pk=release.pk).update(active=True)
    found = stand(release, check=check)
    Case.objects.filter(protocol=release.protocol, status=Case.Status.QUARANTINED).update(**AFRESH)
    details = {"sha256": release.sha256, "instead_of": replaced, "reason": reason} | (more or {}) | found
    for site in [None, *sites_using(release.protocol)]:
        audit.record("release.activate", release, site=site, actor=actor, details=details)
        if site is not None:
            jobs.wake_after_turn(site.pk, release.protocol_id)
    transaction.on_commit(jobs.wake_scoring, robust=True)
    check()
    return found


@transaction.atomic
def stand(
    release: Release, site: Site | None = None, check: Callable[[], None] = lambda: None
) -> dict[str, int]:
    """Make the release's predictions stand: those by the calibration in force, over the notes as they are now.

    Cases without one wait to be scored; those in quarantine stay there. Everything at once, so that no case is ever
    without its score but those that wait; no model runs. {"scored": cases that stand, "pending": cases that wait}.
    """
    where = {"protocol": release.protocol} | ({"site": site} if site else {})
    cases = Case.objects.filter(**where)
    list(cases.select_for_update(no_key=True).order_by("pk").values_list("pk"))
    check()
    Prediction.objects.filter(**where, current=True).update(current=False)
    check()
    with connection.cursor() as cursor:
        cursor.execute(STAND, {"release": release.pk, "site": site and site.pk})
    check()
    scored = Exists(Prediction.objects.filter(case=OuterRef("pk"), current=True))
    cases.filter(scored).exclude(status=Case.Status.SCORED).update(**AFRESH | {"status": Case.Status.SCORED})
    waits = cases.filter(~scored)
    waits.filter(status__in=[Case.Status.CLAIMED, Case.Status.SCORED]).update(**AFRESH)
    return {"scored": cases.filter(scored).count(), "pending": waits.filter(status="pending").count()}


def damage(release: Release) -> BundleError | None:
    """What keeps a release from being used, as its files are now."""
    return _damaged_as_of(folder(release), _state(folder(release)))


def problems() -> list[str]:
    """What keeps active releases from being used, a sentence each."""
    return [
        f"The release {release.name} cannot be used: {found}"
        for release in Release.objects.filter(active=True)
        if (found := damage(release))
    ]


@lru_cache(maxsize=16)
def _damaged_as_of(target: Path, state: tuple) -> BundleError | None:
    """Read once for each state of the files: /readyz is asked often, by anybody."""
    return _damaged(target)


def _state(target: Path) -> tuple:
    files = [(str(path), path.lstat()) for path in sorted(target.rglob("*"))]
    return tuple((name, facts.st_size, facts.st_ino, facts.st_ctime_ns) for name, facts in files)


@lru_cache(maxsize=4)
def scorer(sha256: str) -> Scorer:
    """The loaded release, verified. Only worker processes call this: it imports torch."""
    from mlcore.scorer import Scorer

    target = settings.RELEASES_DIR / sha256
    if damage := _damaged(target):
        raise damage
    return Scorer.load(target, verify=False)


def calibration(release: Release, site_id: int) -> Calibration:
    """The site's own calibration of the release, else the one for all."""
    active = release.calibration_set.filter(active=True)
    return active.filter(site_id=site_id).first() or active.get(site=None)
