"""TF-IDF with logistic regression as a release of its own kind, on which the same dual veto stands.

A note is a window: its row of TF-IDF has length one in each of two blocks, words and characters (`baseline`). All that
follows is linear in that row: its logits, and its embedding, which is the truncated SVD of the words (latent semantic
analysis, Deerwester et al. 1990). So a case is the mean of its notes, each by the length of its row before it was
normalised, and what is kept of a note serves whatever notes come later. Scores without torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse
from scipy.special import softmax
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from mlcore import baseline, bundle, folds, metrics
from mlcore.calibrate import fit_temperature
from mlcore.chunks import Window
from mlcore.errors import DataError, ModelError
from mlcore.protocols import ProtocolSpec
from mlcore.records import Record

if TYPE_CHECKING:
    from mlcore.loop import Clock, TrainConfig

NAME = "tfidf"
DIRECTIONS = 64
LEAST_NOTES = 5
FOLDS = 3
STRENGTHS = (1.0, 10.0)
SOLVER: dict[str, Any] = {
    "solver": "liblinear",
    "dual": True,
    "tol": 0.1,
    "max_iter": 1000,
    "random_state": 13,
}
MODEL, TERMS = "encoder/model.safetensors", "encoder/vocabulary.json"
UNKNOWN = "ꙮ"
NO_WORDS = (
    f"Hardly a word stands in {LEAST_NOTES} of the notes to learn from: give more notes, or longer ones."
)

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Outputs(NamedTuple):
    """Logits (n, K), embeddings (n, DIRECTIONS) and note weights of n cases, float64."""

    logits: Floats
    embeddings: Floats
    weights: list[Floats]


@dataclass
class Terms:
    """Notes to vectors.

    words, letters: the terms of both blocks, F together. idf: (F,). weights: (F, K) logits a term is worth. columns: the
    positions among the F of the words that the SVD stands on. directions: (len(columns), d) of it.
    """

    words: list[str]
    letters: list[str]
    idf: Floats
    weights: Floats
    columns: Ints
    directions: Floats
    counters: tuple[CountVectorizer, CountVectorizer] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ModelError for arrays of shapes that do not go together."""
        terms, d = len(self.words) + len(self.letters), self.directions.shape[-1]
        fit = self.idf.shape == (terms,) and self.weights.shape[:1] == (terms,)
        if not fit or self.directions.shape != (len(self.columns), d) or (self.columns >= terms).any():
            raise ModelError(f"The weights do not fit the {terms} terms: copy or train the bundle again.")
        self.counters = baseline.counters((self.words, self.letters))

    @property
    def width(self) -> int:
        """Of a note's vector: its logits, its embedding, and the length of its row."""
        return int(self.weights.shape[1] + self.directions.shape[1] + 1)

    @property
    def mask_id(self) -> int:
        """The character that stands for a hidden one: a word of it is in no vocabulary, but keeps its neighbours apart."""
        return ord(UNKNOWN)

    def windows(self, notes: Sequence[str]) -> list[Window]:
        """A window for each note, a character a token. A blank note gives none, a case without any text an empty one.

        Raises DataError for a case without notes.
        """
        if not notes:
            raise DataError("A case has no notes: give each case at least one, be it empty.")
        found = [_window(i, text) for i, text in enumerate(notes) if text and not text.isspace()]
        return found or [_window(0, "")]

    def encode(self, windows: Sequence[Window], precision: str = "fp32") -> Vectors:
        """Vectors (n, width) of windows in their order; each is the same in any company, whatever precision is named."""
        if not windows:
            return np.zeros((0, self.width), np.float32)
        x, lengths = self.rows([text_of(window) for window in windows])
        parts = [x @ self.weights, x[:, self.columns] @ self.directions, lengths[:, None]]
        return np.hstack(parts).astype(np.float32)

    def rows(self, texts: Sequence[str]) -> tuple[sparse.csr_matrix, Floats]:
        """(n, F) TF-IDF of texts, each block of length one, or zero; (n,) the length of both together before."""
        return weighted([counter.transform(texts) for counter in self.counters], self.idf)

    def shares(self, window: Window, spans: Sequence[tuple[int, int]]) -> Floats:
        """(n, K) what each word [start, end) adds to the logits of its note: the gradient times the value of its terms.

        A term's value is shared among its places. Terms of two words in a row are nobody's.
        """
        text = text_of(window)
        counts = sparse.hstack([counter.transform([text]) for counter in self.counters], "csr")
        each = np.zeros(len(self.idf))
        x = self.rows([text])[0]
        each[x.indices] = x.data
        each[counts.indices] /= counts.data
        alone = [counter.transform([text[start:end] for start, end in spans]) for counter in self.counters]
        found: Floats = sparse.hstack(alone, "csr") @ (each[:, None] * self.weights)
        return found


@dataclass(frozen=True)
class Linear:
    """What makes a case of its notes. intercept: (K,)."""

    intercept: Floats

    def predict(self, vectors: Sequence[Vectors]) -> Outputs:
        """Outputs of cases given as (n_i, width) each, one case at a time: to the bit the same in any company."""
        k = len(self.intercept)
        found = [(note_weights(v[:, -1]), v[:, :-1].astype(np.float64)) for v in vectors]
        pooled = np.stack([w @ v for w, v in found])
        return Outputs(pooled[:, :k] + self.intercept, pooled[:, k:], [w for w, _ in found])


def note_weights(lengths: npt.NDArray[np.floating[Any]]) -> Floats:
    """(n,) shares of a case's notes by the length of their rows; equal ones where no term is known, none of no notes."""
    long = lengths.astype(np.float64)
    return long / long.sum() if long.sum() > 0 else np.full(len(long), 1 / max(1, len(long)))


def weighted(counts: Sequence[sparse.csr_matrix], idf: Floats) -> tuple[sparse.csr_matrix, Floats]:
    """(n, F) (1 + ln count) · idf of blocks of counts side by side, each block of length one; (n,) both lengths as one."""
    blocks, squares, at = [], np.zeros(counts[0].shape[0]), 0
    for block in counts:
        x = block.astype(np.float64)
        x.data = (np.log(x.data) + 1) * idf[at + x.indices]
        own = np.asarray(x.multiply(x).sum(axis=1)).ravel()
        x.data /= np.sqrt(np.repeat(own, np.diff(x.indptr)))
        blocks.append(x)
        squares += own
        at += block.shape[1]
    return sparse.hstack(blocks, "csr"), np.sqrt(squares)


def text_of(window: Window) -> str:
    """The text of a window, or of what hiding left of it."""
    return "".join(map(chr, window.ids))


def _window(note: int, text: str) -> Window:
    places = np.arange(len(text), dtype=np.int32)
    return Window(note, 0, len(text), list(map(ord, text)), np.column_stack([places, places + 1]))


@dataclass
class Model:
    """What fit_model made; to `train.train` the same as train.Model.

    temperature: divides the logits. chosen: the strength kept, and why. epochs: none.
    """

    encoder: Terms
    head: Linear
    temperature: float
    chosen: dict[str, Any]
    epochs: list[dict[str, float]] = field(default_factory=list)

    def outputs(self, cases: Sequence[Sequence[str]]) -> Outputs:
        """Outputs of n cases, each given as its notes in order, as a Scorer gives them."""
        windows = [self.encoder.windows(notes) for notes in cases]
        vectors = self.encoder.encode([window for case in windows for window in case])
        return self.head.predict(np.split(vectors, np.cumsum([len(case) for case in windows])[:-1]))

    def save(self, folder: Path) -> None:
        """Write the bundle's encoder and head, for `load`."""
        terms = self.encoder
        (folder / "encoder").mkdir(parents=True, exist_ok=True)
        _write(folder / "encoder/config.json", {"model_type": NAME, "directions": terms.directions.shape[1]})
        _write(folder / TERMS, {"words": terms.words, "letters": terms.letters})
        arrays = {"idf": terms.idf, "weights": terms.weights, "directions": terms.directions}
        tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
        save_file(tensors | {"columns": terms.columns}, folder / MODEL)
        save_file({"intercept": self.head.intercept}, folder / bundle.HEAD)

    def facts(self, source: str | Path, config: TrainConfig) -> dict[str, Any]:
        """What the card says of this kind."""
        terms = self.encoder
        settings = {"seed": config.seed, "validation": config.validation, "folds": FOLDS}
        return {
            "kind": NAME,
            "encoder": {
                "source": str(source),
                "words": len(terms.words),
                "letters": len(terms.letters),
                "width": terms.width,
            },
            "head": {"kind": "logistic regression", "strength": self.chosen["strength"]},
            "windows": {"unit": "note"},
            "config": settings | {"strengths": list(STRENGTHS), "directions": DIRECTIONS},
        }


def _write(file: Path, what: Any) -> None:
    file.write_text(json.dumps(what) + "\n", encoding="utf-8")


def load(folder: Path) -> tuple[Terms, Linear]:
    """What Model.save wrote, bit for bit. Raises ModelError when it cannot be read or does not fit together."""
    try:
        terms = json.loads((folder / TERMS).read_text(encoding="utf-8"))
        arrays = load_file(folder / MODEL)
        columns = arrays.pop("columns").astype(np.int64)
        wide = {name: array.astype(np.float64) for name, array in arrays.items()}
        intercept = load_file(folder / bundle.HEAD)["intercept"].astype(np.float64)
        return Terms(terms["words"], terms["letters"], columns=columns, **wide), Linear(intercept)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"The terms in {folder / 'encoder'} cannot be read: copy or train the bundle again."
        ) from error


# Training.


def fit_model(
    records: Sequence[Record],
    labels: Ints,
    groups: Sequence[str],
    spec: ProtocolSpec,
    config: TrainConfig,
    fit: Ints,
    validation: Ints,
    clock: Clock,
) -> Model:
    """Train on the rows `fit` and `validation`; no text or label of another row is read.

    Terms, what they weigh by, and the SVD come from `fit` alone; the regression learns from both, as no epoch is chosen:
    its strength and the temperature come from scores out of fold, whole groups (n,) together.
    Raises DataError where a label has fewer than two groups, or hardly a word stands in the notes.
    """
    seen = np.concatenate([fit, validation])
    y = labels[seen]
    fold = _folds(y, [groups[i] for i in seen.tolist()], spec, config.seed)
    with clock.stage("terms"):
        terms, counted = _terms([list(records[i].texts) for i in fit.tolist()], len(spec.labels), config.seed)
        rest = terms.rows([text for i in validation.tolist() for text in records[i].texts])
        x = sparse.vstack(
            [
                _pooled(*weighted(counted, terms.idf), [len(records[i].texts) for i in fit.tolist()]),
                _pooled(*rest, [len(records[i].texts) for i in validation.tolist()]),
            ],
            "csr",
        )
    with clock.stage("linear model", len(STRENGTHS) * FOLDS + 1) as tell:
        chosen, logits = choose(x, y, fold, spec, tell)
        weights, intercept = regression(x, y, len(spec.labels), chosen["strength"])
        terms.weights = _stored(weights)
    return Model(terms, Linear(intercept), fit_temperature(logits, y), chosen)


def _folds(y: Ints, groups: Sequence[str], spec: ProtocolSpec, seed: int) -> Ints:
    found = folds.folds(y, groups, FOLDS, seed)
    for c, name in enumerate(spec.labels):
        if len(np.unique(found[y == c])) < 2:
            raise DataError(f"The cases labelled {name} are of fewer than two groups: give cases of more.")
    return found


def _terms(cases: Sequence[Sequence[str]], classes: int, seed: int) -> tuple[Terms, list[sparse.csr_matrix]]:
    """Terms of the notes of cases, without weights yet, and the counts of every note."""
    notes = [text for case in cases for text in case]
    both = baseline.counters()
    try:
        counts = [counter.fit_transform(notes).tocsr() for counter in both]
    except ValueError:
        raise DataError(NO_WORDS) from None
    words, letters = ([str(term) for term in counter.get_feature_names_out()] for counter in both)
    often = np.concatenate([block.getnnz(axis=0) for block in counts])
    idf = _stored(np.log((1 + len(notes)) / (1 + often)) + 1)
    columns = np.flatnonzero(often[: len(words)] >= LEAST_NOTES)
    if len(columns) < 2:
        raise DataError(NO_WORDS)
    x = weighted(counts, idf)[0][:, columns]
    svd = TruncatedSVD(min(DIRECTIONS, *(n - 1 for n in x.shape)), random_state=seed).fit(x)
    weights = np.zeros((len(idf), classes))
    return Terms(words, letters, idf, weights, columns, _stored(svd.components_.T)), counts


def _stored(array: Floats) -> Floats:
    """As `save` and `load` would give it back."""
    return array.astype(np.float32).astype(np.float64)


def _pooled(rows: sparse.csr_matrix, lengths: Floats, notes: Sequence[int]) -> sparse.csr_matrix:
    """(n, F) of cases from the rows of their notes, in order. notes: (n,) how many each has."""
    parts = np.split(lengths, np.cumsum(notes)[:-1])
    starts = np.concatenate([[0], np.cumsum(notes)])
    mean = (np.concatenate([note_weights(part) for part in parts]), np.arange(len(lengths)), starts)
    return sparse.csr_matrix(mean, shape=(len(notes), len(lengths))) @ rows


def regression(x: sparse.csr_matrix, y: Ints, classes: int, strength: float) -> tuple[Floats, Floats]:
    """Weights (F, K) and intercept (K,) of balanced logistic regressions, each class against the rest; K = 2 needs one.

    By dual coordinate descent (Yu, Huang & Lin 2011), the quickest where terms are many times the cases.
    """
    ways = [1] if classes == 2 else range(classes)
    model = LogisticRegression(C=strength, class_weight="balanced", **SOLVER)
    fitted = [(model.fit(x, y == c).coef_[0], float(model.intercept_[0])) for c in ways]
    weights, intercept = np.column_stack([w for w, _ in fitted]), np.array([b for _, b in fitted])
    if classes == 2:
        return np.column_stack([-weights, weights]) / 2, np.array([-intercept[0], intercept[0]]) / 2
    return weights, intercept


def choose(
    x: sparse.csr_matrix, y: Ints, fold: Ints, spec: ProtocolSpec, tell: Callable[[int], None]
) -> tuple[dict[str, Any], Floats]:
    """The strength with the highest average precision of the watched labels out of fold, and its logits (n, K)."""
    watched = [spec.labels.index(label) for label in spec.watched]
    tried: dict[float, Floats] = {strength: np.zeros((len(y), len(spec.labels))) for strength in STRENGTHS}
    for done, (strength, held_out) in enumerate((s, f) for s in STRENGTHS for f in range(FOLDS)):
        rows = fold == held_out
        weights, intercept = regression(x[~rows], y[~rows], len(spec.labels), strength)
        tried[strength][rows] = x[rows] @ weights + intercept
        tell(done + 1)
    found = {
        strength: float(
            metrics.average_precision(softmax(z, axis=1)[:, watched].sum(axis=1), np.isin(y, watched))
        )
        for strength, z in tried.items()
    }
    best = max(STRENGTHS, key=lambda strength: found[strength])
    named = f"average precision of {', '.join(spec.watched)}"
    why = f"highest {named}, out of {FOLDS} folds, of the strengths {', '.join(f'{s:g}' for s in STRENGTHS)}"
    told = [{"strength": strength, named: value} for strength, value in found.items()]
    return {"strength": best, "metric": named, "value": found[best], "tried": told, "why": why}, tried[best]
