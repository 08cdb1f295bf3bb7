"""Releases: installed bundles, checked before they are believed, loaded once per process."""

from __future__ import annotations

import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction
from safetensors.numpy import save as save_safetensors

from mlcore import bundle
from mlcore.calibrate import Calibration as Ranks
from mlcore.errors import BundleError, CentinelaError
from triage import audit
from triage.models import Calibration, Case, Prediction, Protocol, Release

HELD_OUT = "held_out."
READ_AS_NEW = ("truth", "label", "credibility", "runner_up", "typicality", "weight")

if TYPE_CHECKING:
    from mlcore.scorer import Scorer


def folder(release: Release) -> Path:
    return settings.RELEASES_DIR / release.sha256


def install(source: Path, *, actor: Any = None) -> tuple[Release, bool]:
    """Check the bundle, copy it, and make it its protocol's active release; (release, whether it was new).

    Every case of the protocol waits to be scored again; predictions of other releases are kept but no longer stand.
    Raises BundleError for a bundle that is damaged or for a protocol unknown here.
    """
    sha256 = bundle.verify(source)
    card = bundle.read_card(source)
    arrays = bundle.load_arrays(source)
    ranks = Ranks.from_arrays(arrays)
    protocol = Protocol.objects.filter(slug=card.get("protocol")).first()
    known = protocol is not None and list(ranks.labels) == protocol.labels
    if not known or card.get("targets") != protocol.targets:
        raise BundleError(
            f"{source} was trained for the protocol «{card.get('protocol')}», which is not known here."
        )
    _copy(source, settings.RELEASES_DIR / sha256)
    with transaction.atomic():
        Protocol.objects.select_for_update().get(pk=protocol.pk)
        release, new = Release.objects.get_or_create(
            sha256=sha256,
            defaults={"protocol": protocol, "name": f"{card['trained_at'][:10]} {sha256[:8]}", "card": card},
        )
        if new:
            _calibrate(release, ranks, arrays)
        if not release.active:
            _activate(release, actor)
    return release, new


def _copy(source: Path, target: Path) -> None:
    """Never a half-copied release: the folder appears under its name only when it is whole."""
    if target.exists() and not _damaged(target):
        return
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        _copy_whole(source, partial, target)
    except OSError as error:
        reason = error.strerror or "see the disk's free space"
        raise BundleError(
            f"{source} could not be copied to {target.parent} ({reason}): make room there, or check its permissions."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_whole(source: Path, partial: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    if bundle.verify(partial) != target.name:
        raise BundleError(f"{source} changed while it was copied: install it again.")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _damaged(target: Path) -> str:
    try:
        sha256 = bundle.verify(target)
    except CentinelaError as error:
        return str(error)
    return "" if sha256 == target.name else f"{target} is not the bundle its name says."


def _calibrate(release: Release, ranks: Ranks, arrays: dict[str, Any]) -> Calibration:
    held_out = {name: arrays[HELD_OUT + name] for name in READ_AS_NEW if HELD_OUT + name in arrays}
    return Calibration.objects.create(
        release=release,
        counts=[len(scores) for scores in ranks.scores],
        typical_counts=[len(distances) for distances in ranks.distances],
        arrays=ranks.to_bytes(),
        held_out=save_safetensors(held_out),
    )


def _activate(release: Release, actor: Any) -> None:
    """Locks the release before the cases, as scoring does, and the cases in order, as intake does."""
    Release.objects.filter(protocol=release.protocol, active=True).update(active=False)
    release.active = True
    release.save(update_fields=["active"])
    cases = Case.objects.filter(protocol=release.protocol)
    list(cases.select_for_update().order_by("pk").values_list("pk"))
    cases.exclude(status="pending").update(
        status="pending", claim=None, claimed_at=None, attempts=0, failure=""
    )
    Prediction.objects.filter(protocol=release.protocol, current=True).update(current=False)
    audit.record("release.activate", release, site=None, actor=actor, details={"sha256": release.sha256})


def problems() -> list[str]:
    """What keeps active releases from being used, a sentence each."""
    return [
        f"The release {release.name} cannot be used: {reason}"
        for release in Release.objects.filter(active=True)
        if (reason := _damaged_as_of(folder(release), _state(folder(release))))
    ]


@lru_cache(maxsize=16)
def _damaged_as_of(target: Path, state: tuple) -> str:
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
    if reason := _damaged(target):
        raise BundleError(reason)
    return Scorer.load(target, verify=False)


def calibration(release: Release, site_id: int) -> Calibration:
    """The site's own calibration of the release, else the one for all."""
    active = release.calibration_set.filter(active=True)
    return active.filter(site_id=site_id).first() or active.get(site=None)
