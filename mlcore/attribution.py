"""Which words moved a case, which way, and which made it strange (paper, appendix C.1, stages 1 to 3).

A word is one place in one note. Attention chooses the words, or their weight in a linear model (`tfidf`); hiding each
in turn says what it does: its tokens are taken out («deletion») or replaced by the mask token («mask») in every window
that holds them, those windows alone are encoded again, and the case is scored as a whole. One pass gives both the margin
and the distance.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import logsumexp, softmax

from mlcore import distance as distances
from mlcore.chunks import Window
from mlcore.distance import MultiCentroid
from mlcore.errors import DataError
from mlcore.scorer import Floats, Scorer, Vectors
from mlcore.tfidf import Terms

if TYPE_CHECKING:
    from mlcore.encoder import Encoder, Precision

WORD = re.compile(
    r"(?:\w[\u0300-\u036f\u20d0-\u20ff]*)+|[^\w\s.,;:()\[\]{}¿?¡!\"'«»…/\\_\u200b-\u200f\u2010-\u2027-]+"
)
GAP = re.compile(r"[ \t\u00a0]*[-/]?[ \t\u00a0]*")
NOISE_FACTOR = 10.0
LEAST_FLOOR = 1e-5
TOP = 50
ATTENTION_TOKENS = 1536
SCREENED = 400
PHRASE_LENGTHS, PHRASES_TRIED, PHRASES_KEPT, PHRASE_GAIN = (2, 3), 12, 10, 0.05
NEAREST = 3

Method = Literal["mask", "deletion", "gradients", "ablation"]
METHODS: tuple[Method, ...] = get_args(Method)
Hiding = Literal["mask", "deletion"]
HIDINGS: tuple[Hiding, ...] = get_args(Hiding)
DEFAULT: Hiding = "deletion"  # a mask token may itself carry evidence where it was not trained on
Sign = Literal["toward", "away"] | None
Span = tuple[int, int, int]
Group = tuple[Span, ...]


@dataclass(frozen=True)
class Word:
    """One word of a case.

    note, start, end: code points [start, end) of the note's text. importance: its share of what all words count.
    margin: how much the margin of the targets falls when the word is hidden; above 0 it speaks for them.
    distance: how much nearer the case comes to the centroids of its label when the word is hidden; above 0 it makes the
    record stranger. None where the method does not tell. sign: None where margin is within the noise («undetermined»).
    """

    note: int
    start: int
    end: int
    importance: float
    margin: float
    distance: float | None
    sign: Sign


@dataclass(frozen=True)
class Phrase:
    """Neighbouring words that carry more together than one by one.

    words: how many. margin, distance, sign: of hiding all of them at once. beyond: |margin| less the margins of those of
    its words that work the same way, above 0.
    """

    note: int
    start: int
    end: int
    words: int
    margin: float
    distance: float
    sign: Sign
    beyond: float


@dataclass(frozen=True)
class Part:
    """A window that was encoded, with its weight in the case; weights sum to 1."""

    note: int
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Neighbour:
    """A calibration case nearby. label: its true class. given: the class the rule gave it, None where not kept."""

    label: int
    given: int | None
    distance: float


@dataclass(frozen=True)
class Explanation:
    """What a case's reader is shown.

    words: most important first. phrases: largest `beyond` first. windows: in reading order. nearest: NEAREST of each
    class, nearest first. noise_floor: the largest |margin| that arithmetic alone can make. attentions: whether the
    model says which words count, by attention or weight; where not, occlusion alone chose them. label: the case's, whose centroids distances speak of.
    """

    words: list[Word]
    phrases: list[Phrase]
    windows: list[Part]
    nearest: list[Neighbour]
    noise_floor: float
    attentions: bool
    label: int
    method: Method


@dataclass(frozen=True)
class Case:
    """A record as it was read.

    notes: its texts. windows: those encoded. vectors: (n, width), one a window. weights: (n,), sum 1. embedding: (d,).
    spans: for each note that has a window, [start, end) of its words. places: for each word that stands in a window,
    the positions of its tokens in each window that holds it.
    """

    notes: Sequence[str]
    windows: list[Window]
    vectors: Vectors
    weights: Floats
    embedding: Floats
    label: int
    spans: dict[int, list[tuple[int, int]]]
    places: dict[Span, dict[int, list[int]]]


def explain(
    scorer: Scorer,
    notes: Sequence[str],
    method: Method = DEFAULT,
    top: int = TOP,
    vectors: Vectors | None = None,
    known: Mapping[str, NDArray[np.generic]] | None = None,
) -> Explanation:
    """What moved a case.

    top: how many words. vectors: (n, width) of `scorer.windows(notes)` as stored, else they are encoded here; the
    windows that no hidden word touches keep them. known: calibration cases, `embedding` (n, d), `truth` (n,) and `label`
    (n,); without embeddings none is near. Raises DataError for another method, or vectors that do not fit the notes.
    """
    if method not in METHODS:
        raise DataError(f"There is no explanation by {method!r}: use one of {', '.join(METHODS)}.")
    case = read(scorer, notes, vectors)
    told = gives_attentions(scorer.encoder)
    if method == "gradients" or method == "ablation":
        words, floor = _counterview(scorer, case, method, top, told)
        phrases: list[Phrase] = []
    else:
        words, phrases, floor = _occlusion(scorer, case, method, top, told)
    parts = [
        Part(w.note, w.start, w.end, float(weight))
        for w, weight in zip(case.windows, case.weights, strict=True)
    ]
    near = nearest(scorer.distance, case.embedding, known or {})
    return Explanation(words, phrases, parts, near, floor, told, case.label, method)


def read(scorer: Scorer, notes: Sequence[str], vectors: Vectors | None = None) -> Case:
    """The record with its words, as `explain` takes it. Raises DataError for vectors that do not fit its windows."""
    windows = scorer.windows(notes)
    if vectors is None:
        vectors = scorer.encoder.encode(windows, "fp32")
    if vectors.shape != (len(windows), scorer.encoder.width):
        raise DataError(f"Vectors {vectors.shape} do not fit {len(windows)} windows: encode the notes again.")
    scores, embeddings, weights = scorer.score([vectors])
    spans = {note: words_of(notes[note]) for note in sorted({w.note for w in windows})}
    places: dict[Span, dict[int, list[int]]] = defaultdict(dict)
    for i, window in enumerate(windows):
        for span, positions in _tokens_of_words(spans[window.note], window).items():
            places[span][i] = positions
    return Case(notes, windows, vectors, weights[0], embeddings[0], int(scores.label[0]), spans, dict(places))


def words_of(text: str) -> list[tuple[int, int]]:
    """[start, end) of each word: letters and digits with their combining marks, or signs that carry meaning (+ < %)."""
    return [match.span() for match in WORD.finditer(text)]


def _tokens_of_words(spans: Sequence[tuple[int, int]], window: Window) -> dict[Span, list[int]]:
    """Positions in the window of the tokens of each word it holds; a token belongs to the word where it begins."""
    starts = np.array([start for start, _ in spans])
    found: dict[Span, list[int]] = defaultdict(list)
    for position, (start, end) in enumerate(window.offsets.tolist()):
        i = int(np.searchsorted(starts, start, side="right")) - 1
        if end > start and i >= 0 and start < spans[i][1]:
            found[(window.note, *spans[i])].append(position)
    return found


def choose(scorer: Scorer, case: Case, how: Hiding, top: int, attentions: bool) -> dict[Span, float]:
    """The `top` words by importance, most important first, with their importance (stages 1 and 2)."""
    if isinstance(scorer.encoder, Terms):
        importance = {span: abs(margin) for span, margin in shares(scorer, scorer.encoder, case).items()}
    else:
        importance = _attended(scorer.encoder, case) if attentions else _screened(scorer, case, how)
    total = sum(importance.values()) or 1.0
    order = sorted(importance, key=lambda span: (-importance[span], span))
    return {span: importance[span] / total for span in order[:top]}


def gives_attentions(encoder: Encoder | Terms) -> bool:
    """Whether the encoder tells the attention of each token to each (B, heads, T, T), or each word's weight."""
    if isinstance(encoder, Terms):
        return True
    import torch

    ids = torch.full((1, 3), encoder.mask_id, device=encoder.device)
    try:
        with torch.inference_mode(), encoder._eager() as model:
            out = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True)
    except (TypeError, ValueError):  # the model knows no such argument, or no eager attention
        return False
    last = (getattr(out, "attentions", None) or [None])[-1]
    return isinstance(last, torch.Tensor) and last.shape[-2:] == ids.shape[-1:] * 2


def _attended(encoder: Encoder, case: Case) -> dict[Span, float]:
    """Attention of each word times its window's weight; a word in two windows counts once, by the mean."""
    from mlcore.encoder import batches

    attention: dict[int, Floats] = {}
    for run in batches([len(w.ids) for w in case.windows], ATTENTION_TOKENS):
        attention |= zip(run, encoder.attention([case.windows[i] for i in run]), strict=True)
    return {
        span: float(
            np.mean([attention[i][positions].sum() * case.weights[i] for i, positions in held.items()])
        )
        for span, held in case.places.items()
    }


def shares(scorer: Scorer, terms: Terms, case: Case) -> dict[Span, float]:
    """What the terms of each word add to the margin of a linear model, to first order, in logits (`tfidf.Terms.shares`)."""
    logits = scorer.score([case.vectors])[0].logits[0]
    target = np.isin(scorer.card["labels"], scorer.card["targets"])
    slope = softmax(np.where(target, logits, -np.inf)) - softmax(np.where(target, -np.inf, logits))
    found: dict[Span, float] = {}
    for window, weight in zip(case.windows, case.weights.tolist(), strict=True):
        spans = case.spans[window.note]
        added = weight * (terms.shares(window, spans) @ slope) if spans else []
        found |= {(window.note, *span): float(m) for span, m in zip(spans, added, strict=True)}
    return found


def _screened(scorer: Scorer, case: Case, how: Hiding) -> dict[Span, float]:
    """|Fall of the margin| with each word hidden wherever it stands, shared among its places.

    At most SCREENED windows are encoded for it, those of the heaviest windows' and the rarest words first.
    """
    alike: dict[str, list[Span]] = defaultdict(list)
    for note, start, end in sorted(case.places):
        alike[case.notes[note][start:end].lower()].append((note, start, end))
    touched = {word: {i for span in spans for i in case.places[span]} for word, spans in alike.items()}
    order = sorted(alike, key=lambda word: (-max(case.weights[i] for i in touched[word]), len(touched[word])))
    passes = np.cumsum([len(touched[word]) for word in order])
    tried = [word for word, n in zip(order, passes, strict=True) if n <= SCREENED]
    falls = occlude(scorer, case, [tuple(alike[word]) for word in tried], how, "auto").margin
    return {
        span: abs(float(fall)) / len(alike[word])
        for word, fall in zip(tried, falls, strict=True)
        for span in alike[word]
    }


@dataclass(frozen=True)
class Occluded:
    """margin, distance: (n,) how much each falls with each group of words hidden. floor: as Explanation.noise_floor."""

    margin: Floats
    distance: Floats
    floor: float


def occlude(
    scorer: Scorer, case: Case, groups: Sequence[Group], how: Hiding, precision: Precision = "fp32"
) -> Occluded:
    """Hide each group of words in turn (stage 3).

    Only windows that hold a hidden word are encoded, together and by length; each is compared with itself as it stands,
    encoded in the same precision and company, so that nothing but the hidden words differs. The noise is what company
    alone changes: the margin once more with the heaviest of these windows encoded by itself.
    """
    held = [_positions(case, group) for group in groups]
    again = sorted({i for positions in held for i in positions})
    mask_id = scorer.encoder.mask_id
    variants = [hide(case.windows[i], positions, how, mask_id) for of in held for i, positions in of.items()]
    encoded = iter(scorer.encoder.encode([*(case.windows[i] for i in again), *variants], precision))
    base = case.vectors.copy()
    for i in again:
        base[i] = next(encoded)
    cases = [base]
    for of in held:
        cases.append(base.copy())
        for i in of:
            cases[-1][i] = next(encoded)
    if again:
        heaviest = max(again, key=lambda i: case.weights[i])
        cases.append(base.copy())
        cases[-1][heaviest] = scorer.encoder.encode([case.windows[heaviest]], precision)[0]
    margins, far = outcome(scorer, cases, case.label)
    noise = abs(float(margins[-1] - margins[0]))
    n = len(groups) + 1
    return Occluded(margins[0] - margins[1:n], far[0] - far[1:n], max(NOISE_FACTOR * noise, LEAST_FLOOR))


def _positions(case: Case, group: Group) -> dict[int, list[int]]:
    """Positions of the tokens of a group of words, in each window that holds any."""
    found: dict[int, list[int]] = defaultdict(list)
    for span in group:
        for i, positions in case.places[span].items():
            found[i] += positions
    return found


def hide(window: Window, positions: Sequence[int], how: Hiding, mask_id: int) -> Window:
    """The window with those tokens replaced by the mask token, or without them."""
    gone = set(positions)
    if how == "mask":
        return replace(window, ids=[mask_id if i in gone else token for i, token in enumerate(window.ids)])
    kept = [i for i in range(len(window.ids)) if i not in gone]
    return replace(window, ids=[window.ids[i] for i in kept], offsets=window.offsets[kept])


def outcome(scorer: Scorer, cases: Sequence[Vectors], label: int) -> tuple[Floats, Floats]:
    """(n,) margin of the targets over the other labels, in logits, and (n,) distance to the centroids of `label`."""
    scores, _, _ = scorer.score(cases)
    target = np.isin(scorer.card["labels"], scorer.card["targets"])
    margin = logsumexp(scores.logits[:, target], axis=1) - logsumexp(scores.logits[:, ~target], axis=1)
    return margin, scores.distances[:, label]


def sign(margin: float, floor: float) -> Sign:
    """Which way a fall of the margin points; None within the noise."""
    if abs(margin) <= floor:
        return None
    return "toward" if margin > 0 else "away"


def _occlusion(
    scorer: Scorer, case: Case, how: Hiding, top: int, attentions: bool
) -> tuple[list[Word], list[Phrase], float]:
    """Words, phrases and noise floor; words and phrases are hidden in one batch."""
    importance = choose(scorer, case, how, top, attentions)
    phrases = _candidates(case, importance)
    inside = sorted({span for phrase in phrases for span in phrase} - importance.keys())
    alone = [*importance, *inside]
    found = occlude(scorer, case, [*((span,) for span in alone), *phrases], how)
    falls = list(zip(found.margin.tolist(), found.distance.tolist(), strict=True))
    margins = {span: margin for span, (margin, _) in zip(alone, falls, strict=False)}
    words = [
        Word(*span, importance[span], margin, far, sign(margin, found.floor))
        for span, (margin, far) in zip(importance, falls, strict=False)
    ]
    kept = [
        _phrase(phrase, *fall, [margins[span] for span in phrase], found.floor)
        for phrase, fall in zip(phrases, falls[len(alone) :], strict=True)
    ]
    return words, _strongest(kept, found.floor), found.floor


def _counterview(
    scorer: Scorer, case: Case, method: Literal["gradients", "ablation"], top: int, attentions: bool
) -> tuple[list[Word], float]:
    """As `counterview.explain`; of a linear model the gradients are its words' shares, and ablation masks each in turn."""
    if not isinstance(scorer.encoder, Terms):
        from mlcore import counterview

        return counterview.explain(scorer, case, method, top, attentions)
    margins = shares(scorer, scorer.encoder, case)
    importance = choose(scorer, case, "mask", top, attentions)
    floor = LEAST_FLOOR
    if method == "ablation":
        hidden = occlude(scorer, case, [(span,) for span in importance], "mask")
        margins, floor = dict(zip(importance, hidden.margin.tolist(), strict=True)), hidden.floor
    return [
        Word(*span, share, margins[span], None, sign(margins[span], floor))
        for span, share in importance.items()
    ], floor


def _candidates(case: Case, importance: Mapping[Span, float]) -> list[Group]:
    """Two or three neighbouring words, first and last among the chosen, by what they count on average."""
    found: list[Group] = []
    for note, spans in case.spans.items():
        for n in PHRASE_LENGTHS:
            for i in range(len(spans) - n + 1):
                group = tuple((note, *span) for span in spans[i : i + n])
                if group[0] in importance and group[-1] in importance and _joined(case, group):
                    found.append(group)
    found.sort(key=lambda group: (-sum(importance.get(span, 0.0) for span in group) / len(group), group))
    return found[:PHRASES_TRIED]


def _joined(case: Case, group: Group) -> bool:
    """Whether the words were read and nothing that ends a clause stands between them."""
    text = case.notes[group[0][0]]
    gaps = (text[left[2] : right[1]] for left, right in pairwise(group))
    return all(span in case.places for span in group) and all(map(GAP.fullmatch, gaps))


def _phrase(group: Group, margin: float, distance: float, alone: Sequence[float], floor: float) -> Phrase:
    beyond = abs(margin) - sum(abs(one) for one in alone if one * margin > 0)
    note, start, _ = group[0]
    return Phrase(note, start, group[-1][2], len(group), margin, distance, sign(margin, floor), beyond)


def _strongest(phrases: Sequence[Phrase], floor: float) -> list[Phrase]:
    """Those that carry PHRASE_GAIN of themselves more than their words, none overlapping a stronger one.

    A third word must bring PHRASE_GAIN more again.
    """
    kept: list[Phrase] = []
    for p in sorted(phrases, key=lambda p: -p.beyond / (1 + PHRASE_GAIN * p.words)):
        apart = all(p.note != q.note or p.end <= q.start or q.end <= p.start for q in kept)
        if p.beyond > max(floor, PHRASE_GAIN * abs(p.margin)) and apart:
            kept.append(p)
    return sorted(kept, key=lambda p: -p.beyond)[:PHRASES_KEPT]


def nearest(
    distance: MultiCentroid, embedding: Floats, known: Mapping[str, NDArray[np.generic]], each: int = NEAREST
) -> list[Neighbour]:
    """The `each` calibration cases of each class nearest to an embedding (d,), by the distance's own metric.

    That is the Euclidean distance between normalised embeddings, whitened by the pooled covariance. known: as in `explain`.
    """
    if "embedding" not in known:
        return []
    apart = distances.normalise(known["embedding"]) - distances.normalise(embedding[None])
    far = np.linalg.norm(solve_triangular(distance.cholesky_, apart.T, lower=True), axis=0)
    given = known["label"].tolist() if "label" in known else [None] * len(far)
    found = []
    for label in np.unique(known["truth"]).tolist():
        rows = np.flatnonzero(known["truth"] == label)
        for row in rows[np.argsort(far[rows], kind="stable")][:each].tolist():
            found.append(Neighbour(label, given[row], float(far[row])))
    return found
