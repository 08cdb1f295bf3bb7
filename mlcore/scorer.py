"""A bundle at work: notes in, scores out. Load once a process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlcore import bundle, tfidf
from mlcore.calibrate import Calibration, Scores
from mlcore.chunks import SIZE, Window
from mlcore.distance import MultiCentroid
from mlcore.errors import BundleError
from mlcore.tfidf import Linear, Terms

if TYPE_CHECKING:
    from mlcore.encoder import Encoder
    from mlcore.mil import Head

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class Scorer:
    """Encoder, head, calibration and distance of one bundle. A case's score does not depend on its batch.

    Of two kinds: a Hugging Face encoder with its pooling head, or the terms of `tfidf` with their linear head, which
    need no torch.
    """

    def __init__(
        self,
        encoder: Encoder | Terms,
        head: Head | Linear,
        calibration: Calibration,
        distance: MultiCentroid,
        card: dict[str, Any],
    ) -> None:
        self.encoder = encoder
        self.head = head
        self.calibration = calibration
        self.distance = distance
        self.card = card

    @classmethod
    def load(cls, folder: Path, verify: bool = True) -> Scorer:
        """The bundle in a folder, checked against its sums first.

        Raises BundleError for a bundle that is missing, altered or incomplete, ModelError for weights that do not fit.
        """
        if verify:
            bundle.verify(folder)
        card = bundle.read_card(folder)
        encoder, head = tfidf.load(folder) if card.get("kind") == tfidf.NAME else _neural(folder, card)
        arrays = bundle.load_arrays(folder)
        return cls(encoder, head, Calibration.from_arrays(arrays), MultiCentroid.from_arrays(arrays), card)

    def windows(self, notes: Sequence[str]) -> list[Window]:
        """The windows of a case that are encoded, notes in the order given, the newest last.

        As `mil.windows_of` cuts them, or whole notes (`tfidf`).
        """
        if isinstance(self.encoder, Terms):
            return self.encoder.windows(notes)
        from mlcore import mil

        assert isinstance(self.head, mil.Head)
        return mil.windows_of(self.head.kind, self.size)(notes, self.encoder.tokenizer)

    @property
    def size(self) -> int:
        """The most tokens of a window, as in training."""
        return int(self.card.get("windows", {}).get("size", SIZE))

    def encode(self, windows: Sequence[Window]) -> Vectors:
        """Vectors (n, width) of windows in their order."""
        return self.encoder.encode(windows)

    def score(
        self, vectors: Sequence[Vectors], calibration: Calibration | None = None
    ) -> tuple[Scores, Floats, list[Floats]]:
        """Scores of n cases from their window vectors (n_i, width), their embeddings (n, d) and window weights.

        calibration: another one than the bundle's, such as a site's own.
        """
        logits, embeddings, weights = _predict(self.head, vectors)
        ranks = calibration or self.calibration
        return ranks.apply(logits, case_distances(self.distance, embeddings)), embeddings, weights

    def score_records(self, cases: Sequence[Sequence[str]]) -> tuple[Scores, Floats, list[Floats]]:
        """As score, from the notes of each case."""
        windows = [self.windows(notes) for notes in cases]
        vectors = self.encode([w for case in windows for w in case])
        ends = np.cumsum([len(case) for case in windows])[:-1]
        return self.score(np.split(vectors, ends))


def _neural(folder: Path, card: dict[str, Any]) -> tuple[Encoder, Head]:
    from mlcore import mil
    from mlcore.encoder import Encoder

    try:
        kind, hidden, pooling = card["head"]["kind"], card["head"]["hidden"], card["encoder"]["pooling"]
        labels = card["labels"]
    except KeyError as missing:
        raise BundleError(f"{folder}: card.json lacks {missing}: train the bundle again.") from None
    encoder = Encoder.load(folder / "encoder", pooling)
    head = mil.Head(encoder.width, len(labels), hidden, kind=kind).to(encoder.device)
    mil.load(folder / bundle.HEAD, encoder, head)
    return encoder, head.eval()


def _predict(head: Head | Linear, vectors: Sequence[Vectors]) -> tuple[Floats, Floats, list[Floats]]:
    if isinstance(head, Linear):
        return head.predict(vectors)
    import torch

    from mlcore import mil

    return mil.predict(head, [torch.tensor(v) for v in vectors])


def case_distances(distance: MultiCentroid, embeddings: Floats) -> Floats:
    """(n, K) distances of (n, d) embeddings, one case at a time: to the bit the same in any company."""
    return np.concatenate([distance.distances(row[None]) for row in embeddings])
