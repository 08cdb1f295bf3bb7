"""A release's model card in Markdown, out of its bundle alone and, where there is one, an evaluation's metrics.json.

After Mitchell et al. 2019, «Model Cards for Model Reporting». All it says of training was written into card.json by
`train`; what it says of held-out cases is computed from those in the bundle, so that it can be written again at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcore import decision, metrics, outcomes
from mlcore.calibrate import Calibration, Scores
from mlcore.errors import DataError
from mlcore.metrics import Floats
from mlcore.protocols import ProtocolSpec

ALPHAS = (0.01, 0.02, 0.05)
FLOOR = 0.01
WEIGHTED = "calibration.weights.0"
PARTS = ("fit", "validation", "calibration")
NOTICE = "Research prototype, not for clinical decision-making: not a medical device, validated for no site."
KINDS = {
    "encoder": "A text encoder whose window vectors are pooled by a head",
    "tfidf": "TF-IDF of words (one and two) and characters (three to five), with logistic regression: the honest yardstick",
}
INTENDED = (
    "To study selective classification: the release settles clear cases and hands the rest to a reader with the reason. "
    "Its labels, probabilities and sets are no diagnosis, no finding about a product or a person, and no ground for "
    "leaving a report unread outside a study that reads a sample of what was settled."
)
INDEPENDENT = (
    "Intervals: 95 % percentile bootstrap over cases; near-identical cases are not resampled together."
)

GROUPS = {
    "f1": "F1 of the likeliest label",
    "f1_macro": "the same, mean over the labels",
    "f1_weighted": "the same, mean by how often each is true",
    "f1_given": "F1 of the label given (largest p-value)",
    "f1_given_macro": "the same, mean over the labels",
    "f1_given_weighted": "the same, mean by how often each is true",
    "f2_of": "F2",
    "tpdr_of": "TPDR",
    "clear_f2_of": "Clear F2",
    "set_coverage": "Own label in the set",
    "in_set": "In the set of",
    "recall": "Found among automatic cases",
}

Arrays = Mapping[str, NDArray[np.generic]]
Row = Sequence[object]


def render(
    card: Mapping[str, Any],
    arrays: Arrays,
    sha256: str,
    spec: ProtocolSpec,
    figures: Mapping[str, Any] | None = None,
) -> str:
    """The card of a bundle as one Markdown document.

    arrays: of its calibration. figures: what `evaluate` wrote of it. Raises DataError for figures of another bundle.
    """
    if figures is not None and figures.get("sha256") != sha256:
        raise DataError("The figures are of another bundle: evaluate this one and give its metrics.json.")
    held_out = _held_out(arrays)
    parts = [
        f"# Model card: {spec.names['en']['protocol']}",
        f"**{NOTICE}**",
        *_identity(card, sha256, spec),
        "## Intended use",
        INTENDED,
        *_data(card),
        *_training(card),
        *_folds(card),
        *(_evaluated(spec, figures) if figures else []),
        *(_on_held_out(spec, *held_out) if held_out else _untold(arrays)),
        *_resolution(card),
        *_limitations(card, spec, held_out),
        "## Versions",
        ", ".join(f"{name} {version}" for name, version in card.get("versions", {}).items()),
    ]
    return "\n\n".join(parts) + "\n"


def _identity(card: Mapping[str, Any], sha256: str, spec: ProtocolSpec) -> list[str]:
    encoder, head = card.get("encoder", {}), card.get("head", {})
    unit = {"patient": "a patient with all notes", "note": "a single note"}[spec.unit]
    rows = [
        ("Kind", KINDS[card.get("kind", "encoder")]),
        ("Encoder", _told(encoder)),
        ("Head", _told(head)),
        ("Protocol", f"`{spec.slug}`, in `{spec.language}`; a case is {unit}"),
        ("Labels, least severe first", ", ".join(spec.labels)),
        ("Looked for; critical", f"{', '.join(spec.targets)}; {', '.join(spec.critical) or 'none'}"),
        ("Trained at", card.get("trained_at", "unknown")),
        ("SHA-256 of the bundle", f"`{sha256}`"),
    ]
    return ["## What it is", table(("", ""), rows)]


def _data(card: Mapping[str, Any]) -> list[str]:
    data = card.get("data", {})
    shares = {part: data["shares"][part] for part in PARTS if part in data.get("shares", {})}
    labels = card["labels"]
    rows = [
        (part, *(counts[label] for label in labels), sum(counts.values())) for part, counts in shares.items()
    ]
    total = [sum(counts[label] for counts in shares.values()) for label in labels]
    facts = (
        f"{data.get('cases')} cases, SHA-256 `{data.get('sha256')}`; split SHA-1 `{data.get('split_sha1')}`."
    )
    origin = f"Labels: {_told(data['origin'])}." if data.get("origin") else ""
    return [
        "## Training data",
        " ".join(filter(None, (facts, _together(data.get("origin") or {}), _shares(card), origin))),
        table(("Share", *labels, "all"), [*rows, ("all", *total, sum(total))]),
    ]


def _together(origin: Mapping[str, Any]) -> str:
    """What no split parted."""
    if "near_duplicates" in origin:
        return "Whole groups of near-identical cases, found before the split, stand on one side."
    if origin.get("from") == "labels":
        return "All cases of a patient stand on one side; near-identical cases of different patients may not."
    return (
        "Whole groups stand on one side, as the file gives them, or a patient's cases where it gives none; near-identical "
        "cases of different groups may not."
    )


def _shares(card: Mapping[str, Any]) -> str:
    if card.get("kind") != "tfidf":
        return "The calibration share only calibrates."
    return (
        "The calibration share only calibrates. The validation share teaches too: no epoch is to be chosen, so that the "
        "regression learns from both other shares, and its strength and temperature come from scores out of fold."
    )


def _training(card: Mapping[str, Any]) -> list[str]:
    chosen, epochs = card.get("chosen", {}), card.get("epochs", [])
    kept = f"epoch {chosen['epoch']} of {len(epochs)}" if epochs else f"strength {chosen.get('strength')}"
    seconds = card.get("seconds", {}).values()
    spent = f"{sum(s['cpu'] for s in seconds):.0f} s of processor" if seconds else "time unknown"
    told = [
        "## Training",
        f"Kept: {kept}, chosen when it was trained. Why: {chosen.get('why', 'not written down')}. "
        f"Temperature {card.get('temperature', float('nan')):.3f}; {spent}.",
    ]
    if rows := epochs or chosen.get("tried", []):
        told.append(_records(rows))
    return [*told, f"Settings: {_told(card.get('config', {}))}."]


def _folds(card: Mapping[str, Any]) -> list[str]:
    """The table that crossfit.train_folds wrote, F1 of each label on each fold, and which release is kept."""
    found, labels = card.get("folds"), card["labels"]
    if not found:
        return []
    means = ("f1_macro", "f1_weighted")
    rows = [
        (
            row["fold"],
            row["cases"],
            *(f"{x:.4f}" for x in (*(row["f1"][n] for n in labels), *(row[m] for m in means))),
        )
        for row in found["table"]
    ]
    over = [*(found["f1"][name] for name in labels), *(found[name] for name in means)]
    last = ("mean ± sd", "", *(f"{x['mean']:.4f} ± {x['sd']:.4f}" for x in over))
    return [
        "## Folds",
        f"This release is the best of {found['count']}: fold {found['fold']} is kept. Why: {found['why']}. Each fold's release "
        "learned from the other folds and is measured here on its own, by the most probable label, weighted to the file's "
        "mix of labels. The calibration share is in no fold. What is expected of new cases is the mean, not the best; the "
        "standard deviation is over folds.",
        table(("Fold", "n", *(f"F1 of {name}" for name in labels), "macro F1", "weighted F1"), [*rows, last]),
    ]


def _evaluated(spec: ProtocolSpec, figures: Mapping[str, Any]) -> list[str]:
    """Every figure of metrics.json that has n and an interval: with every case decided, then by α."""
    meanings = GROUPS | outcomes.meanings(spec)
    told = [
        f"## Evaluated on {figures['notes']}",
        f"{figures['labelled']} labelled cases. {figures['intervals']}.",
        table(
            ("Every case decided", "Figure, 95 % interval, n"), _flat(figures.get("overall", {}), meanings)
        ),
    ]
    for alpha, at in figures.get("alpha", {}).items():
        counts = ", ".join(f"{name} {n}" for name, n in at["counts"].items())
        told += [
            f"### At α = {alpha}",
            f"{counts}.",
            table(("", "Figure, 95 % interval, n"), _flat(at, meanings)),
        ]
    return told


def _flat(part: Mapping[str, Any], meanings: Mapping[str, str], names: tuple[str, ...] = ()) -> Iterator[Row]:
    for name, inner in part.items():
        if isinstance(inner, Mapping) and {"value", "low", "high", "n"} <= inner.keys():
            missed = f"; missed {inner['missed']}" if "missed" in inner else ""
            yield (" / ".join((*names, meanings.get(name, name))), f"{interval(inner)}{missed}")
        elif isinstance(inner, Mapping):
            yield from _flat(inner, meanings, (*names, meanings.get(name, name)))


# The held-out cases.


def _held_out(arrays: Arrays) -> tuple[NDArray[np.int64], Scores, Floats] | None:
    """Truth (n,), scores as if new, and weights (n,) to the training file's mix; None where the bundle keeps none.

    A weighted calibration ranks by weights it keeps sorted by class, so that its cases cannot be read anew from it.
    """
    needed = ("truth", "logits", "distances")
    if any(f"held_out.{name}" not in arrays for name in needed) or WEIGHTED in arrays:
        return None
    truth, logits, far = (arrays[f"held_out.{name}"] for name in needed)
    scores = Calibration.from_arrays(arrays).held_out_scores(logits, far, truth)
    weight = arrays.get("held_out.weight", np.ones(len(truth)))
    return truth.astype(np.int64), scores, weight.astype(np.float64)


def _untold(arrays: Arrays) -> list[str]:
    """Why nothing is said of the held-out cases of a weighted calibration; of a bundle that keeps none, nothing."""
    if WEIGHTED not in arrays:
        return []
    return [
        "## On the held-out calibration cases",
        "No figures: this calibration weighs its cases and keeps their weights apart from them, sorted within each label, so "
        "that no case can be ranked anew against the others.",
    ]


def _on_held_out(spec: ProtocolSpec, truth: NDArray[np.int64], scores: Scores, weight: Floats) -> list[str]:
    """Figures of each label on the calibration cases, each ranked against the others only."""
    named = {"given": scores.label, "likeliest": scores.probabilities.argmax(axis=1)}
    own = {
        f"{name}/{label}": metric
        for name, said in named.items()
        for label, metric in _by_label(spec, truth, said, weight).items()
    }
    for alpha in ALPHAS:
        own |= {f"{alpha}/{name}": m for name, m in outcomes.held(spec, truth, scores, alpha).items()}
    found = outcomes.figures(own, [str(i) for i in range(len(truth))])
    names = spec.labels
    told = [
        "## On the held-out calibration cases",
        f"{len(truth)} cases the model did not learn from, each ranked against the others only. {INDEPENDENT} F1 is "
        "weighted to the training file's mix of labels.",
        table(
            ("Label", "F1 of the label given (largest p-value)", "F1 of the likeliest label"),
            [(name, *(interval(found[said][name]) for said in named)) for name in names],
        ),
    ]
    for alpha in ALPHAS:
        sets = found[str(alpha)]["in_set"]
        rows = [(true, *(interval(sets[true][name]) for name in names)) for true in names]
        told += [
            f"How often each label is in the prediction set at α = {alpha}, by the true label; its own at least {1 - alpha:g}:",
            table(("True label", *names), rows),
            _decided(spec, truth, scores, alpha),
        ]
    return told


def _by_label(
    spec: ProtocolSpec, truth: NDArray[np.int64], said: NDArray[np.int64], weight: Floats
) -> outcomes.Metrics:
    def f1(label: int, w: Floats) -> Floats:
        return metrics.f_beta(truth, said, {label}, 1.0, w * weight)

    return {name: (partial(f1, c), truth == c) for c, name in enumerate(spec.labels)}


def _decided(spec: ProtocolSpec, truth: NDArray[np.int64], scores: Scores, alpha: float) -> str:
    """What would have been settled without a reader, and what of the watched labels would have been missed so."""
    decisions = decision.decide(scores.credibility, scores.runner_up, scores.typicality, alpha, FLOOR)
    automatic = decisions == decision.AUTOMATIC
    told = [f"{int(automatic.sum())} of {len(truth)} automatic at a typicality floor of {FLOOR}"]
    for label, figure in outcomes.recalls(spec, truth, scores, decisions).items():
        told.append(f"{label}: {figure['n']} automatic, {figure['missed']} of them missed")
    return "; ".join(told) + "."


def _resolution(card: Mapping[str, Any]) -> list[str]:
    limits = {label: card["calibration"][label] for label in card["labels"]}
    rows = [
        (label, at["n"], f"{at['minimum_alpha']:.4f}", at["correct"], f"{at['minimum_typicality']:.4f}")
        for label, at in limits.items()
    ]
    few = [
        f"- Nothing can be settled as another label than {label} at α = {alpha}: its {at['n']} calibration cases cannot "
        "exclude it, so that it is in every set."
        for alpha in ALPHAS
        for label, at in limits.items()
        if at["minimum_alpha"] > alpha
    ]
    head = ("Label", "n", "Smallest α", "Correctly classified", "Smallest typicality")
    return ["## What the calibration can resolve", table(head, rows), *(["\n".join(few)] if few else [])]


def _limitations(
    card: Mapping[str, Any], spec: ProtocolSpec, held_out: tuple[NDArray[np.int64], Scores, Floats] | None
) -> list[str]:
    shares = card.get("data", {}).get("shares", {})
    total = {label: sum(counts[label] for counts in shares.values()) for label in card["labels"]}
    rarest = min(total, key=lambda label: total[label]) if total else None
    told = [f"- The rarest label, {rarest}, has {total[rarest]} cases in all."] if rarest else []
    if held_out:
        told += [f"- {sentence}" for sentence in confusion(spec, *held_out)]
    told += [
        "- Labels are what the source recorded, not what happened; an error of the source is learned.",
        "- Class-conditional guarantees hold for cases drawn like the training file; other sites, years, devices or ways of "
        "writing are not promised, and the watch has to be kept.",
        "- Text in another language than the protocol's is out of scope.",
    ]
    return ["## Limitations", "\n".join(told)]


def confusion(
    spec: ProtocolSpec, truth: NDArray[np.int64], scores: Scores, weight: Floats, alpha: float = ALPHAS[-1]
) -> list[str]:
    """Sentences on the label that catches most of what it is not, and on what cases of it are taken for.

    The catch-all is the label that is most often in the sets at alpha of cases of other labels, each true label alike.
    """
    k = len(spec.labels)
    sets = scores.p_values > alpha
    inside = np.array([[_mean(sets[truth == t, c], weight[truth == t]) for c in range(k)] for t in range(k)])
    catches = [np.nanmean(np.delete(inside[:, c], c)) for c in range(k)]
    worst = int(np.nanargmax(catches))
    every = _mean(sets[:, worst], weight)
    name, n = spec.labels[worst], int((truth == worst).sum())
    taken = int(np.argmax(np.where(np.arange(k) == worst, -1.0, np.nan_to_num(inside[worst]))))
    given = np.bincount(scores.label[truth == worst], minlength=k)
    spread = ", ".join(f"{label} {count}" for label, count in zip(spec.labels, given.tolist(), strict=True))
    others = ", ".join(f"{inside[t, worst]:.1%} of {spec.labels[t]}" for t in range(k) if t != worst)
    return [
        f"{name} catches most of what it is not: at α = {alpha} it is in the prediction set of {others} (held-out cases), "
        f"and of {every:.1%} of all cases at the training file's mix.",
        f"{name} is most often confused with {spec.labels[taken]}, which is in the set of {inside[worst, taken]:.1%} of "
        f"its {n} held-out cases. With every case decided they are given: {spread}.",
    ]


def _mean(inside: NDArray[np.bool_], weight: Floats) -> float:
    return float(np.average(inside, weights=weight)) if len(inside) else float("nan")


# Markdown.


def table(head: Row, rows: Iterator[Row] | Sequence[Row]) -> str:
    """A Markdown table; what would end a cell is written as a code of its own."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "&#124;").replace("\n", " ")


def interval(figure: Mapping[str, Any]) -> str:
    """«.91 (.88–.93), n = 120»; a dash for what cannot be said."""
    if figure["value"] is None:
        return f"–, n = {figure['n']}"
    low, high = ("–" if figure[end] is None else f"{figure[end]:.3f}" for end in ("low", "high"))
    return f"{figure['value']:.3f} ({low} to {high}), n = {figure['n']}"


def _records(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of plain values as a table; what is nested is left out."""
    names = [name for name, value in rows[0].items() if isinstance(value, int | float | str)]
    return table(names, [[row.get(name, "–") for name in names] for row in rows])


def _told(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_cell(value)}" for name, value in facts.items())
