"""An evaluation written down: metrics.json, predictions.csv, and report.html, offline and printable."""

from __future__ import annotations

import csv
import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs
from scipy.stats import binomtest

from mlcore import conformal, decision, metrics
from mlcore.calibrate import Calibration, Scores
from mlcore.decision import AUTOMATIC
from mlcore.metrics import Floats
from mlcore.protocols import ProtocolSpec

ALPHAS = (0.01, 0.02, 0.05)
FLOOR = 0.01
CURVE = np.linspace(0.002, 0.2, 100)
MAPPED = 3000
MEANINGS = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "f2": "F2 with every case decided",
    "ece": "Expected calibration error",
    "aurc": "Area under the risk-coverage curve",
    "coverage": "Coverage",
    "tpdr": "TPDR",
    "clear_f2": "Clear F2",
    "clear_ece": "Clear ECE",
    "npv": "NPV",
    "ppv": "PPV",
    "risk_kappa": "Risk-Kappa",
}


@dataclass(frozen=True)
class Evaluation:
    """What was scored: ids (n), truth (n,) with -1 where unknown, scores, and what they came from."""

    spec: ProtocolSpec
    ids: Sequence[str]
    truth: NDArray[np.int64]
    scores: Scores
    calibration: Calibration
    bundle: str
    sha256: str
    notes: str
    alphas: Sequence[float] = ALPHAS

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n,) whether the truth of each case is known."""
        return self.truth >= 0


def write(evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """Write the three files into a folder, made if missing; returns what metrics.json holds."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = measure(evaluation)
    text = json.dumps(figures, ensure_ascii=False, indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    write_predictions(evaluation, folder / "predictions.csv")
    (folder / "report.html").write_text(page(evaluation, figures), encoding="utf-8")
    return figures


def write_predictions(evaluation: Evaluation, path: Path) -> None:
    """One row a case, floats in full so that every metric can be computed again to the last digit."""
    spec, s = evaluation.spec, evaluation.scores
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
        for case_id, truth, values, label, end in zip(
            evaluation.ids, evaluation.truth, numbers, s.label, ends, strict=True
        ):
            true_label = spec.labels[truth] if truth >= 0 else ""
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
    drawn = metrics.bootstrap(_all_metrics(evaluation), int(known.sum()))
    result["overall"] = {}
    for name, interval in drawn.items():
        *place, last = name.split("/")
        at = result["alpha"][place[0]] if place else result["overall"]
        for step in place[1:]:
            at = at.setdefault(step, {})
        at[last] = {key: _finite(value) for key, value in interval._asdict().items()}
    return result


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _counts(evaluation: Evaluation, alpha: float) -> dict[str, int]:
    counted = np.bincount(_decide(evaluation.scores, alpha), minlength=len(decision.NAMES))
    return dict(zip(decision.NAMES, counted.tolist(), strict=True))


def _decide(scores: Scores, alpha: float) -> NDArray[np.int8]:
    return decision.decide(scores.credibility, scores.runner_up, scores.typicality, alpha, FLOOR)


Metrics = dict[str, tuple[metrics.Weighted, NDArray[np.bool_]]]


def _all_metrics(evaluation: Evaluation) -> Metrics:
    """Every metric as a function of weights over the labelled cases, with the mask of those it stands on."""
    spec, known = evaluation.spec, evaluation.known
    y, label = evaluation.truth[known], evaluation.scores.label[known]
    probabilities = evaluation.scores.probabilities[known]
    targets = spec.target_indices
    positive = metrics.is_target(y, targets)
    score = probabilities[:, list(targets)].sum(axis=1)
    sure = probabilities[np.arange(len(y)), label]
    everyone = np.ones(len(y), dtype=bool)
    named: Metrics = {
        "auroc": (lambda w: metrics.auroc(score, positive, w), everyone),
        "average_precision": (lambda w: metrics.average_precision(score, positive, w), everyone),
        "f2": (lambda w: metrics.f_beta(y, label, targets, weights=w), everyone),
        "ece": (lambda w: metrics.ece(score, positive, w), everyone),
        "aurc": (lambda w: metrics.aurc(sure, label != y, w), everyone),
    }
    for alpha in evaluation.alphas:
        at_alpha = _metrics_at(evaluation, alpha, y, label, score, positive)
        named |= {f"{alpha!r}/{name}": metric for name, metric in at_alpha.items()}
    return named


def _metrics_at(
    evaluation: Evaluation,
    alpha: float,
    y: NDArray[np.int64],
    label: NDArray[np.int64],
    score: Floats,
    positive: NDArray[np.bool_],
) -> Metrics:
    spec, targets = evaluation.spec, evaluation.spec.target_indices
    decisions = _decide(evaluation.scores, alpha)[evaluation.known]
    automatic = decisions == AUTOMATIC
    said = metrics.is_target(label, targets)
    everyone = np.ones(len(y), dtype=bool)
    kappa = partial(metrics.risk_kappa, y, label, decisions, spec.cost_automatic, spec.cost_defer)
    named: Metrics = {
        "coverage": (partial(metrics.coverage, decisions), everyone),
        "tpdr": (partial(metrics.tpdr, decisions, y, targets), positive),
        "clear_f2": (lambda w: metrics.f_beta(y, label, targets, weights=w * automatic), automatic),
        "clear_ece": (lambda w: metrics.ece(score, positive, w * automatic), automatic),
        "npv": (partial(metrics.share, ~positive, automatic & ~said), automatic & ~said),
        "ppv": (partial(metrics.share, positive, automatic & said), automatic & said),
        "risk_kappa": (kappa, everyone),
    }
    sets = conformal.prediction_set(evaluation.scores.p_values[evaluation.known], alpha)
    for c, name in enumerate(spec.labels):
        named[f"set_coverage/{name}"] = (partial(metrics.share, sets[:, c], y == c), y == c)
    return named


# The page.

INK, MUTED, LINE, ACCENT = "#1a1f24", "#59626b", "#dfe0db", "#0b5d66"
SIGNS = (
    ("●", "circle", "#2563a8", "solid"),
    ("■", "square", "#b7791f", "dash"),
    ("◆", "diamond", INK, "dot"),
    ("▲", "triangle-up", MUTED, "dashdot"),
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
HUES = (ACCENT, "#c2570c", "#2563a8", "#b7791f", INK, MUTED)
STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.5rem; background: #f6f6f3; color: #1a1f24;
  font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { max-width: 46rem; } .muted, figcaption, caption { color: #59626b; text-align: left; }
.notice { border-left: 4px solid #b7791f; background: #fff; padding: .5rem 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; background: #fff; margin: .5rem 0; }
th, td { border: 1px solid #dfe0db; padding: .3rem .6rem; text-align: left; vertical-align: top;
  font-variant-numeric: tabular-nums; }
td span { white-space: nowrap; } td span + span { display: block; color: #59626b; font-size: 12px; }
figure { margin: 1rem 0; background: #fff; border: 1px solid #dfe0db; padding: .5rem; }
code { overflow-wrap: anywhere; }
@media print { body { background: #fff; padding: 0; } figure, tr { break-inside: avoid; } }
"""
NOTICE = (
    "Centinela is a research prototype. It is not a medical device and is not validated for clinical decisions; "
    "these figures describe this bundle on this file and promise nothing about another site."
)


def page(evaluation: Evaluation, figures: dict[str, Any]) -> str:
    """The report as one HTML document that asks nothing of any network and names no case."""
    labelled = figures["labelled"] > 0
    title = f"Evaluation of {evaluation.bundle}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _facts(evaluation, figures),
        f'<p class="notice" role="note">{NOTICE}</p>',
        *(_results(evaluation, figures) if labelled else [UNLABELLED]),
        *_decided(evaluation, figures),
        *(_plots_of_truth(evaluation) if labelled else []),
        *_limits(figures),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


DIAL = (
    "Coverage is the share of cases settled without a reader; TPDR the share of true targets handed to one. Clear "
    "figures, NPV and PPV (the share of automatic negatives and targets that are right) stand on automatic cases alone."
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
    return _table(("", ""), [(_text(name), f"<code>{_text(value)}</code>") for name, value in rows])


def _results(evaluation: Evaluation, figures: dict[str, Any]) -> list[str]:
    overall = [(_text(MEANINGS[name]), _interval(value)) for name, value in figures["overall"].items()]
    names = [name for name in MEANINGS if name not in figures["overall"]]
    rows = []
    for alpha, at in figures["alpha"].items():
        rows.append((_text(alpha), *(_interval(at[name]) for name in names)))
    covered = [
        (_text(alpha), *(_interval(at["set_coverage"][label]) for label in evaluation.spec.labels))
        for alpha, at in figures["alpha"].items()
    ]
    return [
        "<h2>Every case decided</h2>",
        "<p>What the model is worth before anything is deferred: the target against the rest.</p>",
        _table(("Metric", "Figure, 95 % interval, n"), overall),
        "<h2>The dial</h2>",
        f"<p>{DIAL}</p>",
        _table(("α", *(MEANINGS[name] for name in names)), rows),
        "<h2>What the p-values promise</h2>",
        "<p>For each true label, how often it is in the prediction set; at least 1 − α is promised.</p>",
        _table(("α", *evaluation.spec.labels), covered),
    ]


def _decided(evaluation: Evaluation, figures: dict[str, Any]) -> list[str]:
    rows = [(_text(alpha), *map(str, at["counts"].values())) for alpha, at in figures["alpha"].items()]
    head = ("α", *(f"{sign[0]} {name}" for sign, name in zip(SIGNS, decision.NAMES, strict=True)))
    n = len(evaluation.scores)
    return [
        "<h2>Where the cases go</h2>",
        _table(head, rows),
        *(_crossed(evaluation, alpha) for alpha in evaluation.alphas if evaluation.known.any()),
        _figure(_dial_plot(evaluation.scores), f"Share of cases by α, typicality floor {FLOOR}; n = {n}."),
        _figure(_map_plot(evaluation), _map_caption(evaluation)),
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
    return _table(
        head, [(_text(name), *map(str, row)) for name, row in zip(spec.labels, counts, strict=True)]
    )


def _plots_of_truth(evaluation: Evaluation) -> list[str]:
    n = int(evaluation.known.sum())
    reliability, table = _reliability(evaluation)
    return [
        "<h2>Figures on the labelled cases</h2>",
        _figure(reliability, f"Probability of the target, claimed and found, with 95 % intervals; n = {n}."),
        table,
        _figure(
            _validity_plot(evaluation), f"Share of each true label left out of the prediction set; n = {n}."
        ),
        _figure(_risk_plot(evaluation), f"Error rate of the most confident cases; n = {n}."),
    ]


def _limits(figures: dict[str, Any]) -> list[str]:
    head = ("Label", "n", "Smallest α", "Correctly classified", "Smallest typicality")
    rows = [
        (
            _text(label),
            str(at["n"]),
            _number(at["minimum_alpha"]),
            str(at["correct"]),
            _number(at["minimum_typicality"]),
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
        _table(head, rows),
        *(f"<p>{_text(sentence)}</p>" for sentence in short),
    ]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Head as plain text, cells as HTML."""
    top = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(value: object) -> str:
    return html.escape(str(value))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(figure: dict[str, Any]) -> str:
    low, high, value = (_number(figure[key]) for key in ("low", "high", "value"))
    return f"<span>{value}</span><span>{low} to {high}, n = {figure['n']}</span>"


# The plots.

FONT = {"family": "system-ui, sans-serif", "size": 13, "color": INK}
AXIS = {"gridcolor": LINE, "linecolor": LINE, "zerolinecolor": LINE, "automargin": True}
TEMPLATE = go.layout.Template(
    layout={"font": FONT, "paper_bgcolor": "#fff", "plot_bgcolor": "#fff", "xaxis": AXIS, "yaxis": AXIS}
)


def _plot(x: str, y: str, **axes: Any) -> go.Figure:
    figure = go.Figure(layout={"template": TEMPLATE, "height": 380, "showlegend": False, **axes})
    figure.update_layout(margin={"l": 60, "r": 130, "t": 20, "b": 50})
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return figure


def _figure(figure: go.Figure, caption: str) -> str:
    config = {"displaylogo": False, "modeBarButtons": [["toImage"]], "responsive": True}
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    return f"<figure>{drawn}<figcaption>{_text(caption)}</figcaption></figure>"


Line = tuple[Floats, str, str, str]


def _lines(figure: go.Figure, x: Floats, lines: Sequence[Line]) -> None:
    """Lines (y, name, hue, dash) over one x, each with its name at its end, the names kept apart."""
    for y, name, hue, dash in lines:
        figure.add_scatter(x=x, y=y, mode="lines", line={"color": hue, "dash": dash, "width": 2}, name=name)
    apart, at = 0.06 * max(float(np.max(y)) for y, *_ in lines), -math.inf
    for y, name, hue, _ in sorted(lines, key=lambda line: float(line[0][-1])):
        at = max(at + apart, float(y[-1]))
        end = {"x": float(x[-1]), "y": at, "xanchor": "left", "xshift": 6, "showarrow": False}
        figure.add_annotation(text=_text(name), font={"color": hue}, **end)


def _band(figure: go.Figure, x: Floats, low: Floats, high: Floats, hue: str) -> None:
    both = {"x": np.concatenate([x, x[::-1]]), "y": np.concatenate([high, low[::-1]])}
    figure.add_scatter(
        **both, fill="toself", fillcolor=hue, opacity=0.15, line={"width": 0}, hoverinfo="skip"
    )


def _wilson(found: NDArray[np.int64], n: int) -> tuple[Floats, Floats]:
    intervals = [binomtest(int(k), n).proportion_ci(method="wilson") for k in found]
    return np.array([i.low for i in intervals]), np.array([i.high for i in intervals])


def _dial_plot(scores: Scores) -> go.Figure:
    figure = _plot("α", "share of cases", yaxis={"range": [0, 1]})
    n = len(scores)
    counts = np.array([np.bincount(_decide(scores, alpha), minlength=4) for alpha in CURVE.tolist()])
    _band(figure, CURVE, *_wilson(counts[:, AUTOMATIC], n), hue=SIGNS[AUTOMATIC][2])
    named = zip(SIGNS, decision.NAMES, counts.T / n, strict=True)
    _lines(figure, CURVE, [(y, f"{sign} {name}", hue, dash) for (sign, _, hue, dash), name, y in named])
    return figure


def _map_plot(evaluation: Evaluation) -> go.Figure:
    """Each case by probability of the target and distance, with the sign of what became of it."""
    scores, figure = (
        evaluation.scores,
        _plot("probability of the target", "distance to the label's nearest centroid"),
    )
    target = scores.probabilities[:, list(evaluation.spec.target_indices)].sum(axis=1)
    shown = np.random.default_rng(metrics.SEED).permutation(len(scores))[:MAPPED]
    decisions = _decide(scores, evaluation.alphas[0])
    for reason, (_, symbol, hue, _) in enumerate(SIGNS):
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
        (low,), (high,) = _wilson(np.array([hits]), n)
        rows.append((float(claimed[inside].mean()), hits / n, float(low), float(high), n))
    x, y, low, high, _ = map(np.array, zip(*rows, strict=True))
    figure = _plot("claimed", "found", xaxis={"range": [0, 1]}, yaxis={"range": [0, 1]})
    _lines(figure, np.array([0.0, 1.0]), [(np.array([0.0, 1.0]), "as claimed", MUTED, "dot")])
    error = {"type": "data", "array": high - y, "arrayminus": y - low}
    figure.add_scatter(x=x, y=y, error_y=error, mode="markers+lines", line={"color": ACCENT}, name="found")
    cells = [(*map(_number, row[:4]), str(row[4])) for row in rows]
    return figure, _table(("Claimed", "Found", "Low", "High", "n"), cells)


def _validity_plot(evaluation: Evaluation) -> go.Figure:
    figure = _plot("α", "left out of the set")
    lines: list[Line] = [(CURVE, "at most this", MUTED, "dot")]
    for c, label in enumerate(evaluation.spec.labels):
        own = evaluation.scores.p_values[evaluation.truth == c, c]
        if len(own):
            missed = np.searchsorted(np.sort(own), CURVE, side="right")
            _band(figure, CURVE, *_wilson(missed, len(own)), hue=HUES[c % len(HUES)])
            name = f"{label}, n = {len(own)}"
            lines.append((missed / len(own), name, HUES[c % len(HUES)], DASHES[c % len(DASHES)]))
    _lines(figure, CURVE, lines)
    return figure


def _risk_plot(evaluation: Evaluation) -> go.Figure:
    known, scores = evaluation.known, evaluation.scores
    label = scores.label[known]
    sure = scores.probabilities[known][np.arange(len(label)), label]
    covered, risk = metrics.risk_coverage(sure, label != evaluation.truth[known])
    figure = _plot("coverage, the most confident first", "error rate")
    _lines(figure, covered, [(risk, "error rate", ACCENT, "solid")])
    return figure
