"""An evaluation written down: metrics.json, predictions.csv, and report.html, offline and printable."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly import graph_objects as go

from mlcore import calibrate, compat, conformal, decision, metrics, outcomes
from mlcore import page as kit
from mlcore.calibrate import Calibration, Scores
from mlcore.decision import AUTOMATIC
from mlcore.distance import MultiCentroid
from mlcore.errors import BundleError
from mlcore.metrics import Floats
from mlcore.protocols import ProtocolSpec

ALPHAS = (0.01, 0.02, 0.05)
FLOOR = 0.01
CURVE = np.linspace(0.002, 0.2, 100)
MAPPED = 3000


@dataclass(frozen=True)
class OtherWay:
    """What `compat` makes of the same cases at one α: decisions (n,), label given (n,), sets (n, K) of bool."""

    decisions: NDArray[np.int8]
    label: NDArray[np.int64]
    sets: NDArray[np.bool_]


@dataclass(frozen=True)
class Evaluation:
    """What was scored: ids (n), truth (n,) with -1 where unknown, scores, and what they came from.

    groups: (n) whom each case belongs to; the bootstrap draws whole groups. other: by α, what the authors' choices make of the same cases; empty where that was not asked.
    """

    spec: ProtocolSpec
    ids: Sequence[str]
    groups: Sequence[str]
    truth: NDArray[np.int64]
    scores: Scores
    calibration: Calibration
    bundle: str
    sha256: str
    notes: str
    alphas: Sequence[float] = ALPHAS
    other: Mapping[float, OtherWay] = field(default_factory=dict)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n,) whether the truth of each case is known."""
        return self.truth >= 0


def held_out_of(
    arrays: Mapping[str, NDArray[np.generic]],
) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]:
    """Embeddings, logits and truth of a bundle's calibration cases. Raises BundleError for one that lacks them."""
    try:
        return arrays["held_out.embedding"], arrays["held_out.logits"], arrays["held_out.truth"]
    except KeyError:
        raise BundleError(
            "The bundle does not hold what its calibration cases came to (held_out.embedding, held_out.logits), by which "
            "the authors' thresholds are set: train it again with this version, or leave out --compare-compat."
        ) from None


def other_ways(
    distance: MultiCentroid,
    held_out: Mapping[str, NDArray[np.generic]],
    embeddings: Floats,
    scores: Scores,
    temperature: float,
    alphas: Sequence[float],
) -> dict[float, OtherWay]:
    """What the authors' choices make of n cases at each α (`compat`).

    held_out: a bundle's arrays, with what its calibration cases came to. embeddings: (n, d) of the cases of scores.
    Raises BundleError for a bundle that does not hold them.
    """
    seen = held_out_of(held_out)
    found = {}
    strange = conformal.nonconformity(calibrate.probabilities(scores.logits, temperature))
    for alpha in alphas:
        made = compat.fit(distance, *seen, alpha, temperature)
        decisions, label = made.decide(embeddings, scores.logits)
        found[alpha] = OtherWay(decisions, label, strange <= made.class_thresholds)
    return found


def write(evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """Write the three files into a folder, made if missing; returns what metrics.json holds."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = measure(evaluation)
    text = json.dumps(figures, ensure_ascii=False, indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    at = folder / "predictions.csv"
    write_predictions(evaluation.spec, evaluation.ids, evaluation.truth, evaluation.scores, at)
    (folder / "report.html").write_text(page(evaluation, figures), encoding="utf-8")
    return figures


def write_predictions(
    spec: ProtocolSpec, ids: Sequence[str], truth: NDArray[np.int64], scores: Scores, path: Path
) -> None:
    """One row a case, floats in full so that every metric can be computed again to the last digit.

    truth: (n,) with -1 where unknown.
    """
    s = scores
    head = ["case_id", "true_label", *(f"prob_{label}" for label in spec.labels)]
    head += [
        *(f"p_{label}" for label in spec.labels),
        "label",
        "credibility",
        "runner_up",
        "distance",
        "typicality",
    ]
    numbers = np.column_stack([s.probabilities, s.p_values]).tolist()
    ends = np.column_stack([s.credibility, s.runner_up, s.distance, s.typicality]).tolist()
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(head)
        for case_id, true, values, label, end in zip(ids, truth, numbers, s.label, ends, strict=True):
            true_label = spec.labels[true] if true >= 0 else ""
            rows.writerow([case_id, true_label, *map(repr, values), spec.labels[label], *map(repr, end)])


# The figures.


def measure(evaluation: Evaluation) -> dict[str, Any]:
    """All figures with n and 95 % intervals, over the labelled cases; undefined ones are None."""
    spec, known = evaluation.spec, evaluation.known
    result: dict[str, Any] = {
        "protocol": spec.slug,
        "labels": list(spec.labels),
        "targets": list(spec.targets),
        "bundle": evaluation.bundle,
        "sha256": evaluation.sha256,
        "notes": evaluation.notes,
        "cases": len(known),
        "labelled": int(known.sum()),
        "floor": FLOOR,
        "intervals": f"95 % percentile bootstrap, {metrics.REPLICATES} resamples, seed {metrics.SEED}",
        "calibration": evaluation.calibration.limits(),
        "alpha": {repr(alpha): {"counts": _counts(evaluation, alpha)} for alpha in evaluation.alphas},
    }
    if not known.any():
        return result
    return _merged(_merged(result, _figures(evaluation)), _recalls(evaluation))


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    spec, known = evaluation.spec, evaluation.known
    truth, scores = evaluation.truth[known], outcomes.chosen(evaluation.scores, known)
    overall = outcomes.overall(spec, truth, scores) | outcomes.by_label(spec, truth, scores)
    named = {f"overall/{name}": metric for name, metric in overall.items()}
    for alpha in evaluation.alphas:
        decisions = _decide(scores, alpha)
        at_alpha = outcomes.decided(spec, truth, scores, decisions)
        at_alpha |= outcomes.decided_by_target(spec, truth, scores, decisions)
        at_alpha |= outcomes.covered(spec, truth, scores, alpha) | outcomes.held(spec, truth, scores, alpha)
        named |= {f"alpha/{alpha!r}/{name}": metric for name, metric in at_alpha.items()}
    for alpha, other in evaluation.other.items():
        at_alpha = _other_metrics(evaluation, other)
        named |= {f"compat/{alpha!r}/{name}": metric for name, metric in at_alpha.items()}
    return outcomes.figures(named, [evaluation.groups[i] for i in np.flatnonzero(known).tolist()])


def _recalls(evaluation: Evaluation) -> dict[str, Any]:
    known = evaluation.known
    truth, scores = evaluation.truth[known], outcomes.chosen(evaluation.scores, known)
    at = {
        repr(alpha): {"recall": outcomes.recalls(evaluation.spec, truth, scores, _decide(scores, alpha))}
        for alpha in evaluation.alphas
    }
    return {"alpha": at}


def _other_metrics(evaluation: Evaluation, other: OtherWay) -> outcomes.Metrics:
    spec, known = evaluation.spec, evaluation.known
    truth, sets = evaluation.truth[known], other.sets[known]
    scores = replace(outcomes.chosen(evaluation.scores, known), label=other.label[known])
    covered: outcomes.Metrics = {
        f"set_coverage/{name}": (partial(metrics.share, sets[:, c], truth == c), truth == c)
        for c, name in enumerate(spec.labels)
    }
    return outcomes.decided(spec, truth, scores, other.decisions[known]) | covered


def _merged(result: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The result with the figures found added, dictionaries one into the other."""
    for key, value in found.items():
        result[key] = _merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


def _counts(evaluation: Evaluation, alpha: float) -> dict[str, int]:
    counted = np.bincount(_decide(evaluation.scores, alpha), minlength=len(decision.NAMES))
    return dict(zip(decision.NAMES, counted.tolist(), strict=True))


def _decide(scores: Scores, alpha: float) -> NDArray[np.int8]:
    return decision.decide(scores.credibility, scores.runner_up, scores.typicality, alpha, FLOOR)


# The page.

NOTICE = (
    "Centinela is a research prototype. It is not a medical device and is not validated for clinical decisions; "
    "these figures describe this bundle on this file and promise nothing about another site."
)


def page(evaluation: Evaluation, figures: dict[str, Any]) -> str:
    """The report as one HTML document that asks nothing of any network and names no case."""
    labelled = figures["labelled"] > 0
    title = f"Evaluation of {evaluation.bundle}"
    parts = [
        _facts(evaluation, figures),
        f'<p class="notice" role="note">{NOTICE}</p>',
        *(_results(evaluation, figures) if labelled else [UNLABELLED]),
        *(_compared(evaluation, figures) if "compat" in figures else []),
        *_decided(evaluation, figures),
        *(_plots_of_truth(evaluation) if labelled else []),
        *_limits(figures),
    ]
    return kit.document(title, parts)


DIAL = (
    "Coverage is the share of cases settled without a reader; TPDR the share of true targets handed to one. Clear "
    "figures, NPV and PPV (the share of automatic negatives and targets that are right) stand on automatic cases alone."
)
DIAL_OF_TARGET = (
    "Coverage is the share of cases settled without a reader; TPDR of {target} the share of true cases of {target} handed "
    "to one. Clear figures, and what is right among those called {target} and among the others, stand on automatic cases "
    "alone."
)
UNLABELLED = (
    "<h2>Predictions only</h2><p>The file carries no labels, so nothing here says how good the predictions are: "
    "no discrimination, calibration or predictive value can be computed. Add a label to each record to measure them.</p>"
)


def _facts(evaluation: Evaluation, figures: dict[str, Any]) -> str:
    spec = evaluation.spec
    known = evaluation.truth[evaluation.known]
    mix = ", ".join(f"{label} {int((known == c).sum())}" for c, label in enumerate(spec.labels))
    labelled = f"{figures['labelled']} of them labelled ({mix})" if len(known) else "none of them labelled"
    rows = [
        ("Protocol", f"{spec.names['en']['protocol']} ({spec.slug})"),
        ("Target", ", ".join(spec.targets)),
        ("Notes", f"{evaluation.notes}: {figures['cases']} cases, {labelled}"),
        ("SHA-256 of the bundle", evaluation.sha256),
        ("Intervals", figures["intervals"]),
    ]
    return kit.table((), [(kit.text(name), f"<code>{kit.text(value)}</code>") for name, value in rows])


def _results(evaluation: Evaluation, figures: dict[str, Any]) -> list[str]:
    spec, meanings = evaluation.spec, outcomes.meanings(evaluation.spec)
    overall = [
        (kit.text(meanings[name]), kit.interval(value))
        for name, value in figures["overall"].items()
        if name in meanings
    ]
    names = [name for name in meanings if name not in figures["overall"]]
    rows = []
    for alpha, at in figures["alpha"].items():
        rows.append((kit.text(alpha), *(kit.interval(at[name]) for name in names)))
    covered = [
        (kit.text(alpha), *(kit.interval(at["set_coverage"][label]) for label in evaluation.spec.labels))
        for alpha, at in figures["alpha"].items()
    ]
    return [
        "<h2>Every case decided</h2>",
        "<p>What the model is worth before anything is deferred: "
        f"{kit.text(_sought(spec))} against the rest.</p>",
        kit.table(("Metric", "Figure, 95 % interval, n"), overall),
        *(_by_label(spec, figures) if len(spec.labels) > 2 else []),
        "<h2>The dial</h2>",
        f"<p>{DIAL if len(spec.labels) == 2 else kit.text(DIAL_OF_TARGET.format(target=_sought(spec)))}</p>",
        kit.table(("α", *(meanings[name] for name in names)), rows),
        *(_by_target(spec, figures) if len(spec.labels) > 2 else []),
        "<h2>What the p-values promise</h2>",
        "<p>For each true label, how often it is in the prediction set; at least 1 − α is promised.</p>",
        kit.table(("α", *evaluation.spec.labels), covered),
        *(_held(spec, figures) if len(spec.labels) > 2 else []),
    ]


def _sought(spec: ProtocolSpec) -> str:
    """What is looked for, as a sentence names it: with two labels the paper's word."""
    return "the target" if len(spec.labels) == 2 else spec.target_name


def _by_label(spec: ProtocolSpec, figures: dict[str, Any]) -> list[str]:
    """F1 of each label: an average alone would hide the weakest."""
    overall = figures["overall"]
    ways = ("f1", "f1_given")
    rows = [
        (f"F1 of {kit.text(label)}", *(kit.interval(overall[way][label]) for way in ways))
        for label in spec.labels
    ]
    for name, words in (
        ("macro", "Macro F1, every label alike"),
        ("weighted", "Weighted F1, by how often true"),
    ):
        rows.append((words, *(kit.interval(overall[f"{way}_{name}"]) for way in ways)))
    parts = [
        "<h2>Label by label</h2>",
        "<p>The likeliest label is how classifiers are scored. The label given, by which the dial decides, has the largest "
        "p-value: ranks weigh every label alike, so that it names a rare one far more often.</p>",
        kit.table(("Metric", "Likeliest label", "Label given"), rows),
    ]
    if len(spec.targets) > 1:
        own = [(f"F2 of {kit.text(name)}", kit.interval(overall["f2_of"][name])) for name in spec.targets]
        parts.append(kit.table(("Metric", "Figure, 95 % interval, n"), own))
    return parts


def _by_target(spec: ProtocolSpec, figures: dict[str, Any]) -> list[str]:
    """Each target apart where there are several, and what automation makes of the labels that matter most."""
    parts = []
    if len(spec.targets) > 1:
        head = [f"{name} of {target}" for name in ("TPDR", "Clear F2") for target in spec.targets]
        rows = [
            (
                kit.text(alpha),
                *(kit.interval(at[key][t]) for key in ("tpdr_of", "clear_f2_of") for t in spec.targets),
            )
            for alpha, at in figures["alpha"].items()
        ]
        parts.append(kit.table(("α", *head), rows))
    recalls = [
        (
            kit.text(alpha),
            *(
                f"{kit.interval(at['recall'][name])} missed {at['recall'][name]['missed']}"
                for name in spec.watched
            ),
        )
        for alpha, at in figures["alpha"].items()
    ]
    said = ", ".join(spec.watched)
    return [
        *parts,
        f"<p>Of the automatic cases that truly are {kit.text(said)}, how many were called so; Clopper and Pearson’s interval.</p>",
        kit.table(("α", *(f"{name} found among automatic cases" for name in spec.watched)), recalls),
    ]


def _held(spec: ProtocolSpec, figures: dict[str, Any]) -> list[str]:
    """What stands in the sets of each true label: where a weak label hides, and what it is confused with."""
    parts = [
        "<p>For each true label, how often the prediction set holds each label: the true one, and what stands beside it.</p>"
    ]
    for alpha, at in figures["alpha"].items():
        rows = [
            (kit.text(true), *(kit.interval(at["in_set"][true][label]) for label in spec.labels))
            for true in spec.labels
        ]
        parts.append(kit.table((f"truth, α = {alpha}", *(f"set holds {n}" for n in spec.labels)), rows))
    return parts


COMPARED = ("coverage", "tpdr", "clear_f2")


def _compared(evaluation: Evaluation, figures: dict[str, Any]) -> list[str]:
    """What the corrections change: this bundle's figures over those by the authors' choices."""
    rows = []
    for alpha, other in figures["compat"].items():
        for name, at in (("this bundle", figures["alpha"][alpha]), ("the authors' choices", other)):
            cells = [at[key] for key in COMPARED]
            cells += [at["set_coverage"][label] for label in evaluation.spec.labels]
            rows.append((kit.text(alpha), name, *map(kit.interval, cells)))
    meanings = outcomes.meanings(evaluation.spec)
    head = (
        "α",
        "",
        *(meanings[key] for key in COMPARED),
        *(f"Set holds {n}" for n in evaluation.spec.labels),
    )
    return [
        "<h2>By the choices of the paper's published code</h2>",
        "<p>The same bundle and cases, decided as that code decides. A set should hold each label at least 1 − α of the "
        "time.</p>",
        kit.table(head, rows),
        kit.listed(compat.REPRODUCED),
        "<p>Not reproduced:</p>",
        kit.listed(compat.NOT_REPRODUCED),
    ]


def _decided(evaluation: Evaluation, figures: dict[str, Any]) -> list[str]:
    rows = [(kit.text(alpha), *map(str, at["counts"].values())) for alpha, at in figures["alpha"].items()]
    head = ("α", *(f"{sign[0]} {name}" for sign, name in zip(kit.SIGNS, decision.NAMES, strict=True)))
    n = len(evaluation.scores)
    return [
        "<h2>Where the cases go</h2>",
        kit.table(head, rows),
        *(_crossed(evaluation, alpha) for alpha in evaluation.alphas if evaluation.known.any()),
        kit.figure(_dial_plot(evaluation.scores), f"Share of cases by α, typicality floor {FLOOR}; n = {n}."),
        kit.figure(_map_plot(evaluation), _map_caption(evaluation)),
    ]


def _crossed(evaluation: Evaluation, alpha: float) -> str:
    """Table of true label by what became of the case."""
    spec, known = evaluation.spec, evaluation.known
    decisions, label = _decide(evaluation.scores, alpha)[known], evaluation.scores.label[known]
    column = np.where(decisions == AUTOMATIC, label, len(spec.labels) - 1 + decisions)
    width = len(spec.labels) + len(decision.NAMES) - 1
    counts = [
        np.bincount(column[evaluation.truth[known] == c], minlength=width) for c in range(len(spec.labels))
    ]
    head = (f"truth, α = {alpha!r}", *(f"automatic: {label}" for label in spec.labels), *decision.NAMES[1:])
    return kit.table(
        head, [(kit.text(name), *map(str, row)) for name, row in zip(spec.labels, counts, strict=True)]
    )


def _plots_of_truth(evaluation: Evaluation) -> list[str]:
    n = int(evaluation.known.sum())
    reliability, table = _reliability(evaluation)
    return [
        "<h2>Figures on the labelled cases</h2>",
        kit.figure(
            reliability,
            f"Probability of {_sought(evaluation.spec)}, claimed and found, with 95 % intervals; n = {n}.",
        ),
        table,
        kit.figure(
            _validity_plot(evaluation), f"Share of each true label left out of the prediction set; n = {n}."
        ),
        kit.figure(_risk_plot(evaluation), f"Error rate of the most confident cases; n = {n}."),
    ]


def _limits(figures: dict[str, Any]) -> list[str]:
    head = ("Label", "n", "Smallest α", "Correctly classified", "Smallest typicality")
    rows = [
        (
            kit.text(label),
            str(at["n"]),
            kit.number(at["minimum_alpha"]),
            str(at["correct"]),
            kit.number(at["minimum_typicality"]),
        )
        for label, at in figures["calibration"].items()
    ]
    short = [
        f"No guarantee at α = {alpha} for {label}: {at['n']} calibration cases cannot exclude it."
        for alpha in figures["alpha"]
        for label, at in figures["calibration"].items()
        if at["minimum_alpha"] > float(alpha)
    ]
    short += [
        f"No veto at a typicality floor of {FLOOR} for {label}: {at['correct']} correctly classified cases cannot show it."
        for label, at in figures["calibration"].items()
        if at["minimum_typicality"] > FLOOR
    ]
    return [
        "<h2>What the calibration can resolve</h2>",
        kit.table(head, rows),
        *(f"<p>{kit.text(sentence)}</p>" for sentence in short),
    ]


# The plots.


def _dial_plot(scores: Scores) -> go.Figure:
    figure = kit.plot("α", "share of cases", yaxis={"range": [0, 1]})
    n = len(scores)
    counts = np.array([np.bincount(_decide(scores, alpha), minlength=4) for alpha in CURVE.tolist()])
    kit.band(figure, CURVE, *kit.wilson(counts[:, AUTOMATIC], n), hue=kit.SIGNS[AUTOMATIC][2])
    named = zip(kit.SIGNS, decision.NAMES, counts.T / n, strict=True)
    kit.lines(figure, CURVE, [(y, f"{sign} {name}", hue, dash) for (sign, _, hue, dash), name, y in named])
    return figure


def _map_plot(evaluation: Evaluation) -> go.Figure:
    """Each case by probability of the target and distance, with the sign of what became of it."""
    scores, figure = (
        evaluation.scores,
        kit.plot(f"probability of {_sought(evaluation.spec)}", "distance to the label's nearest centroid"),
    )
    target = scores.probabilities[:, list(evaluation.spec.target_indices)].sum(axis=1)
    shown = np.random.default_rng(metrics.SEED).permutation(len(scores))[:MAPPED]
    decisions = _decide(scores, evaluation.alphas[0])
    for reason, (_, symbol, hue, _) in enumerate(kit.SIGNS):
        of = shown[decisions[shown] == reason]
        marker = {"symbol": symbol, "color": hue, "size": 7, "opacity": 0.6}
        points = {"x": target[of], "y": scores.distance[of], "name": decision.NAMES[reason]}
        figure.add_scatter(mode="markers", marker=marker, showlegend=True, **points)
    figure.update_layout(showlegend=True)
    return figure


def _map_caption(evaluation: Evaluation) -> str:
    n, alpha = len(evaluation.scores), evaluation.alphas[0]
    drawn = f"{MAPPED} drawn at random from {n}" if n > MAPPED else f"n = {n}"
    return f"What becomes of each case at α = {alpha!r}; {drawn}."


def _reliability(evaluation: Evaluation) -> tuple[go.Figure, str]:
    known, spec = evaluation.known, evaluation.spec
    claimed = evaluation.scores.probabilities[known][:, list(spec.target_indices)].sum(axis=1)
    found = metrics.is_target(evaluation.truth[known], spec.target_indices)
    bins = np.minimum((claimed * metrics.BINS).astype(int), metrics.BINS - 1)
    rows = []
    for b in np.unique(bins):
        inside = bins == b
        hits, n = int(found[inside].sum()), int(inside.sum())
        (low,), (high,) = kit.wilson(np.array([hits]), n)
        rows.append((float(claimed[inside].mean()), hits / n, float(low), float(high), n))
    x, y, low, high, _ = map(np.array, zip(*rows, strict=True))
    figure = kit.plot("claimed", "found", xaxis={"range": [0, 1]}, yaxis={"range": [0, 1]})
    kit.lines(figure, np.array([0.0, 1.0]), [(np.array([0.0, 1.0]), "as claimed", kit.MUTED, "dot")])
    error = {"type": "data", "array": high - y, "arrayminus": y - low}
    figure.add_scatter(
        x=x, y=y, error_y=error, mode="markers+lines", line={"color": kit.ACCENT}, name="found"
    )
    cells = [(*map(kit.number, row[:4]), str(row[4])) for row in rows]
    return figure, kit.table(("Claimed", "Found", "Low", "High", "n"), cells)


def _validity_plot(evaluation: Evaluation) -> go.Figure:
    figure = kit.plot("α", "left out of the set")
    lines: list[kit.Line] = [(CURVE, "at most this", kit.MUTED, "dot")]
    for c, label in enumerate(evaluation.spec.labels):
        own = evaluation.scores.p_values[evaluation.truth == c, c]
        if len(own):
            missed = np.searchsorted(np.sort(own), CURVE, side="right")
            kit.band(figure, CURVE, *kit.wilson(missed, len(own)), hue=kit.HUES[c % len(kit.HUES)])
            name = f"{label}, n = {len(own)}"
            lines.append(
                (missed / len(own), name, kit.HUES[c % len(kit.HUES)], kit.DASHES[c % len(kit.DASHES)])
            )
    kit.lines(figure, CURVE, lines)
    return figure


def _risk_plot(evaluation: Evaluation) -> go.Figure:
    known, scores = evaluation.known, evaluation.scores
    label = scores.label[known]
    sure = scores.probabilities[known][np.arange(len(label)), label]
    covered, risk = metrics.risk_coverage(sure, label != evaluation.truth[known])
    figure = kit.plot("coverage, the most confident first", "error rate")
    kit.lines(figure, covered, [(risk, "error rate", kit.ACCENT, "solid")])
    return figure
