"""One versioned folder that holds a release, with a SHA-256 over all of it.

    card.json                 what it is, how it was made, how it fared
    encoder/                  config.json, *.safetensors and the tokenizer, as save_pretrained writes them
    head.safetensors          weights of the pooling and the head
    calibration.safetensors   arrays of the calibration and the distance
    SHA256SUMS                one line a file, as `sha256sum -c` reads it

Nothing in it can run code: only JSON, text and safetensors are let in, and everything is checked before it is
opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mlcore.errors import BundleError, gettext_noop

FORMAT = 1
CARD, HEAD, CALIBRATION, SUMS = "card.json", "head.safetensors", "calibration.safetensors", "SHA256SUMS"
REQUIRED = (CARD, HEAD, CALIBRATION, "encoder/config.json")
ADMITTED = {".json", ".safetensors", ".txt"}

UNLISTED = gettext_noop("%(folder)s: %(name)s is not listed in %(sums)s: copy or train the bundle again.")
MISSING = gettext_noop(
    "%(folder)s: %(name)s is missing but listed in %(sums)s: copy or train the bundle again."
)
ALTERED = gettext_noop(
    "%(folder)s: %(name)s was altered since the bundle was sealed: copy or train the bundle again."
)
UNREADABLE = gettext_noop("%(folder)s has no readable %(name)s: copy or train the bundle again.")
DAMAGED = gettext_noop("%(folder)s: %(name)s cannot be read: copy or train the bundle again.")
LACKS = gettext_noop("%(folder)s lacks %(names)s: copy or train the bundle again.")
NO_SUMS = gettext_noop("%(folder)s: %(name)s is not a list of sums: copy or train the bundle again.")
NO_FILE = gettext_noop(
    "%(folder)s: %(name)s is a link or not a plain file, which a bundle may not hold: copy or train the bundle again."
)
RUNS_CODE = gettext_noop(
    "%(folder)s: %(name)s could run code when opened; a bundle holds JSON, text and safetensors only."
)
OTHER_FORMAT = gettext_noop(
    "%(folder)s is of format %(found)s, this version reads %(known)d: train it with this version."
)


def seal(folder: Path, card: dict[str, Any]) -> str:
    """Write the card and the sums of a folder whose other files stand; returns the bundle's SHA-256.

    Raises BundleError when a required file is missing or a file is of a kind that is not let in.
    """
    text = json.dumps({**card, "format": FORMAT}, ensure_ascii=False, indent=2, sort_keys=True)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")
    sums = "".join(f"{_sha256(folder / name)}  {name}\n" for name in _admitted(folder))
    (folder / SUMS).write_text(sums, encoding="utf-8")
    return hashlib.sha256(sums.encode()).hexdigest()


def verify(folder: Path) -> str:
    """The bundle's SHA-256, once every file in it is accounted for and unaltered.

    Raises BundleError for a missing folder or file, a file too many, one of a kind that is not let in (a
    pickle above all), one whose content changed, or a format this version does not read.
    """
    names = _admitted(folder)
    listed = _listed(folder)
    for name in sorted(set(names) ^ set(listed)):
        told = UNLISTED if name in names else MISSING
        raise BundleError(told, folder=str(folder), name=name, sums=SUMS)
    for name in names:
        if _sha256(folder / name) != listed[name]:
            raise BundleError(ALTERED, folder=str(folder), name=name)
    read_card(folder)
    return _sha256(folder / SUMS)


def read_card(folder: Path) -> dict[str, Any]:
    """card.json. Raises BundleError when it is missing, no JSON object, or of an unknown format."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise BundleError(UNREADABLE, folder=str(folder), name=CARD) from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else None
        raise BundleError(OTHER_FORMAT, folder=str(folder), found=repr(found), known=FORMAT)
    return card


def save_arrays(folder: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write calibration.safetensors. Views are copied first: safetensors would write the memory behind them."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / CALIBRATION)


def load_arrays(folder: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of calibration.safetensors. Raises BundleError when they cannot be read."""
    try:
        arrays: dict[str, NDArray[np.generic]] = load_file(folder / CALIBRATION)
    except (OSError, SafetensorError, ValueError):
        raise BundleError(DAMAGED, folder=str(folder), name=CALIBRATION) from None
    return arrays


def _admitted(folder: Path) -> list[str]:
    """Sorted names of the files the sums must cover, none of them opened beyond its first bytes."""
    if not folder.is_dir():
        raise BundleError(
            gettext_noop("%(folder)s is not a folder: give the folder that train wrote."), folder=str(folder)
        )
    entries = sorted(folder.rglob("*"))
    for path in entries:
        _check_kind(path, folder)
    names = [path.relative_to(folder).as_posix() for path in entries if path.is_file()]
    missing = [name for name in REQUIRED if name not in names]
    if not any(name.startswith("encoder/") and name.endswith(".safetensors") for name in names):
        missing.append("encoder/model.safetensors")
    if missing:
        raise BundleError(LACKS, folder=str(folder), names=", ".join(missing))
    return [name for name in names if name != SUMS]


def _check_kind(path: Path, folder: Path) -> None:
    name = path.relative_to(folder).as_posix()
    if path.is_symlink() or not (path.is_dir() or path.is_file()):
        raise BundleError(NO_FILE, folder=str(folder), name=name)
    if path.is_dir() or name == SUMS:
        return
    if path.suffix not in ADMITTED or _packed(path):
        raise BundleError(RUNS_CODE, folder=str(folder), name=name)


def _packed(path: Path) -> bool:
    """Whether a file begins like a pickle or a zip, whatever its name; safetensors has { as ninth byte."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] != b"{" if path.suffix == ".safetensors" else start.startswith((b"\x80", b"PK"))


def _listed(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        raise BundleError(UNREADABLE, folder=str(folder), name=SUMS) from None
    pairs = [line.split("  ", 1) for line in lines]
    if any(len(pair) != 2 for pair in pairs):
        raise BundleError(NO_SUMS, folder=str(folder), name=SUMS)
    return {name: digest for digest, name in pairs}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
