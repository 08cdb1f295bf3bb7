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

from mlcore.errors import BundleError

FORMAT = 1
CARD, HEAD, CALIBRATION, SUMS = "card.json", "head.safetensors", "calibration.safetensors", "SHA256SUMS"
REQUIRED = (CARD, HEAD, CALIBRATION, "encoder/config.json")
ADMITTED = {".json", ".safetensors", ".txt"}
AGAIN = "copy or train the bundle again"


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
        what = "is not listed in" if name in names else "is missing but listed in"
        raise BundleError(f"{folder}: {name} {what} {SUMS}: {AGAIN}.")
    for name in names:
        if _sha256(folder / name) != listed[name]:
            raise BundleError(f"{folder}: {name} was altered since the bundle was sealed: {AGAIN}.")
    read_card(folder)
    return _sha256(folder / SUMS)


def read_card(folder: Path) -> dict[str, Any]:
    """card.json. Raises BundleError when it is missing, no JSON object, or of an unknown format."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise BundleError(f"{folder} has no readable {CARD}: {AGAIN}.") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else None
        raise BundleError(
            f"{folder} is of format {found!r}, this version reads {FORMAT}: train it with this version."
        )
    return card


def save_arrays(folder: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write calibration.safetensors. Views are copied first: safetensors would write the memory behind them."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / CALIBRATION)


def load_arrays(folder: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of calibration.safetensors. Raises BundleError when they cannot be read."""
    try:
        arrays: dict[str, NDArray[np.generic]] = load_file(folder / CALIBRATION)
    except (OSError, SafetensorError, ValueError):
        raise BundleError(f"{folder}: {CALIBRATION} cannot be read: {AGAIN}.") from None
    return arrays


def _admitted(folder: Path) -> list[str]:
    """Sorted names of the files the sums must cover, none of them opened beyond its first bytes."""
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder: give the folder that train wrote.")
    entries = sorted(folder.rglob("*"))
    for path in entries:
        _check_kind(path, folder)
    names = [path.relative_to(folder).as_posix() for path in entries if path.is_file()]
    missing = [name for name in REQUIRED if name not in names]
    if not any(name.startswith("encoder/") and name.endswith(".safetensors") for name in names):
        missing.append("encoder/model.safetensors")
    if missing:
        raise BundleError(f"{folder} lacks {', '.join(missing)}: {AGAIN}.")
    return [name for name in names if name != SUMS]


def _check_kind(path: Path, folder: Path) -> None:
    name = path.relative_to(folder).as_posix()
    if path.is_symlink() or not (path.is_dir() or path.is_file()):
        raise BundleError(
            f"{folder}: {name} is a link or not a plain file, which a bundle may not hold: {AGAIN}."
        )
    if path.is_dir() or name == SUMS:
        return
    if path.suffix not in ADMITTED or _packed(path):
        raise BundleError(
            f"{folder}: {name} could run code when opened; a bundle holds JSON, text and safetensors only."
        )


def _packed(path: Path) -> bool:
    """Whether a file begins like a pickle or a zip, whatever its name; safetensors has { as ninth byte."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] != b"{" if path.suffix == ".safetensors" else start.startswith((b"\x80", b"PK"))


def _listed(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        raise BundleError(f"{folder} has no readable {SUMS}: {AGAIN}.") from None
    pairs = [line.split("  ", 1) for line in lines]
    if any(len(pair) != 2 for pair in pairs):
        raise BundleError(f"{folder}: {SUMS} is not a list of sums: {AGAIN}.")
    return {name: digest for digest, name in pairs}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
