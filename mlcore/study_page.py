"""A study as one offline, printable page: what it finds in words, the paper's tables, its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from plotly import graph_objects as go
from scipy.special import logit

from mlcore import backends, metrics, outcomes, page, tables
from mlcore.backends import FLOOR, Backend
from mlcore.decision import AMBIGUOUS, ATYPICAL, AUTOMATIC, NOVEL
from mlcore.distance import INERTIA_GAIN
from mlcore.members import YARDSTICK, Plan, read_card
from mlcore.metrics import Floats
from mlcore.published import ABLATION, ALGORITHMS, ARCHITECTURES, STRICT
from mlcore.report import MAPPED

Figures = Mapping[str, Any]
TEAL, PURPLE = "#4f9aa0", "#9b2f6a"
MARKS = (
    ("clear", (AUTOMATIC,), "circle", "#2563a8"),
    ("deferred: ambiguous", (AMBIGUOUS, NOVEL), "square", "#d08b1d"),
    ("deferred: epistemic", (ATYPICAL,), "triangle-up", "#111418"),
)
EDGE = 1e-3
END = float(logit(1 - EDGE)) + 0.1
TICKS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
NOTICE = (
    "Centinela is a research prototype. It is not a medical device and is not validated for clinical decisions. Grey rows "
    "are the figures printed in the paper, on a cohort that is not public: different data, shown for orientation and "
    "comparable in kind only."
)
PAPERS = "hiv-suspicion-es"
ANOTHER = "They answer another question than this study's."
QUICK = (
    "A quick run: fewer folds, smaller encoders trained for fewer epochs, fewer resamples. It shows that everything works "
    "on these files and what kind of answer to expect, not what the method reaches."
)
PROMISE = (
    "A single model's p-values are split-conformal: for each label, a new case of the same kind has its true label in the "
    "set with a chance of at least 1 − α. A fold ensemble's are cross-conformal: each member ranks a case among the cases "
    "of the fold it never saw, and the ranks are pooled. That promises at least 1 − 2α − 2(1 − α)(M − 1)/(n + M) for M "
    "members and n calibration cases of the label, less than 1 − α; near 1 − α is what is observed, not what is proved."
)
MINIMUM = (
    "A label with fewer calibration cases than the smallest n for α can never be left out of a set at that α: then there is "
    "nothing to read off, and every case is deferred or stands on the other labels alone."
)


def write_page(plan: Plan, found: Sequence[Backend], figures: Figures) -> str:
    """The report; it asks nothing of any network and names no case."""
    by_name = {backend.name: backend for backend in found}
    of_paper = {table.slug: tables.to_html(table) for table in tables.of_paper(figures)}
    beyond = {table.slug: tables.to_html(table) for table in tables.beyond(figures)}
    spec = plan.cohort.spec
    return page.document(
        f"Study of {spec.names['en']['protocol']}",
        [
            _facts(plan, figures),
            page.paragraph(NOTICE if spec.slug == PAPERS else f"{NOTICE} {ANOTHER}", "notice"),
            *([page.paragraph(QUICK, "notice")] if plan.config.reduced else []),
            "<h2>What it finds</h2>",
            page.listed(findings(figures)),
            "<h2>The paper's tables</h2>",
            *(of_paper[slug] for slug in ("table-2", "table-3", "table-4")),
            "<h2>The policy plane</h2>",
            *_planes(plan, by_name),
            "<h2>Reliability and risk</h2>",
            page.figure(_reliability(plan, found), _reliability_caption(plan)),
            page.figure(
                _risk(plan, found),
                "Error rate of the most confident cases. Labels are those of the largest p-value.",
            ),
            "<h2>What stands behind the figures</h2>",
            beyond["table-automatic"],
            page.paragraph(PROMISE),
            beyond["table-sets"],
            page.paragraph(MINIMUM),
            _minimum(figures),
            beyond["table-yardstick"],
            "<h2>The paper's appendices</h2>",
            *(of_paper[slug] for slug in ("table-A1", "table-B1", "table-D1")),
            "<h2>The models</h2>",
            _members(plan, figures),
        ],
    )


# Words.


def _facts(plan: Plan, figures: Figures) -> str:
    facts, config = figures["study"], plan.config
    rows = [
        ("Protocol", f"{plan.cohort.spec.names['en']['protocol']} ({facts['protocol']})"),
        ("Target", ", ".join(facts["targets"])),
        *(
            (
                f"{name.capitalize()} cases",
                f"{facts[name]['cases']} ({_mix(facts['cases'][name])}), {facts['notes'][name]} notes, "
                f"SHA-256 {facts[name]['sha256'][:16]}…",
            )
            for name in ("training", "test")
        ),
        ("Encoder", facts["encoder"]["source"]),
        ("Folds", f"{config.folds}, grouped and stratified, SHA-1 {facts['folds']['sha1']}"),
        (
            "Distance",
            f"inertia gain {INERTIA_GAIN}, typicality floor {facts['floor']} (99th percentile)",
        ),
        ("MC dropout", f"{config.passes} passes"),
        ("Intervals", facts["intervals"]),
        ("Versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
    ]
    return page.table((), [(page.text(name), page.text(value)) for name, value in rows])


def _mix(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {n}" for label, n in counts.items())


def findings(figures: Figures) -> list[str]:
    """What the figures say, one sentence each, favourable or not."""
    chief = figures["backends"]["spectral"]["cv"]
    return [_on_yardstick(figures), *_on_lift(chief), *_on_sets(chief), _on_veto(figures)]


def _on_yardstick(figures: Figures) -> str:
    ours = figures["backends"]
    told = []
    for architecture, algorithm in tables.BACKENDS:
        word = tables.ahead(figures["ahead"][architecture][algorithm]["auroc"])
        value = ours[architecture][algorithm]["overall"]["auroc"]["value"]
        told.append(f"{_called(architecture, algorithm)} {page.number(value)} ({word})")
    return f"AUROC of TF-IDF {_ci(figures['yardstick']['auroc'])}; against it: {'; '.join(told)}."


def _on_lift(chief: Figures) -> list[str]:
    binary = chief["overall"]["f2"]
    told = []
    for alpha, at in chief["alpha"].items():
        clear = at["clear_f2"]
        if clear["value"] is None or clear["low"] is None:
            told.append(
                f"At α = {alpha} the dual veto on the MD-SN ensemble settles {_percent(at['coverage'])} of the cases, with no "
                "target among them to speak of a clear F2."
            )
            continue
        apart = clear["low"] > binary["high"]
        lift = at["clear_f2_lift"]
        told.append(
            f"At α = {alpha} the dual veto on the MD-SN ensemble settles {_percent(at['coverage'])} of the cases, with a "
            f"clear F2 of {_ci(clear)} against {_ci(binary)} with every case decided: the intervals "
            f"{'do not overlap' if apart else 'overlap'} (paired difference {_ci(lift)})."
        )
    return told


def _on_sets(chief: Figures) -> list[str]:
    told = []
    for alpha, at in chief["alpha"].items():
        short = [
            f"{label}, {_ci(cell)} (n = {cell['n']})"
            for label, cell in at["set_coverage"].items()
            if cell["value"] is not None and cell["value"] < 1 - float(alpha)
        ]
        reached = f"falls short for {', '.join(short)}" if short else "reaches it for every label"
        told.append(
            f"At α = {alpha} the aim for the MD-SN ensemble's sets is {1 - float(alpha):g}; it {reached}."
        )
    return told


def _on_veto(figures: Figures) -> str:
    many, single = (figures["backends"]["spectral"][how]["veto"] for how in ("cv", "single"))
    dual, alone = figures["policies"]["dual"]["clear_f2"], figures["policies"]["aleatoric"]["clear_f2"]
    return (
        f"At α = {ABLATION} the distance veto defers {alone['n'] - dual['n']} of the {alone['n']} cases that conformal sets "
        f"alone would settle; clear F2 {_ci(alone)} before, {_ci(dual)} after. Of the test cases it labels correctly the "
        f"ensemble's veto takes {_share(many)}, where {100 * FLOOR:g} % is aimed at; a single pass's takes {_share(single)}. "
        "An ensemble's typicality is a mean of its members' ranks: one member that finds a case usual keeps it above the "
        "floor, so its veto takes fewer the more its members disagree."
    )


def _called(architecture: str, algorithm: str) -> str:
    """In words; the paper calls its single pass MD-SN, as it calls the architecture."""
    return (
        f"{ARCHITECTURES[architecture]}, {'single pass' if algorithm == 'single' else ALGORITHMS[algorithm]}"
    )


def _ci(figure: Figures) -> str:
    return f"{page.number(figure['value'])} [{page.number(figure['low'])}, {page.number(figure['high'])}]"


def _share(figure: Figures) -> str:
    low, high = (page.number(100 * figure[end]) for end in ("low", "high"))
    return f"{_percent(figure)} [{low}, {high}] (n = {figure['n']})"


def _percent(figure: Figures) -> str:
    return "none" if figure["value"] is None else f"{100 * figure['value']:.1f} %"


def _minimum(figures: Figures) -> str:
    facts = figures["study"]
    needed = facts["minimum_n"]
    rows = []
    for architecture, algorithm in tables.BACKENDS:
        limits = figures["backends"][architecture][algorithm]["calibration"]
        for label, at in limits.items():
            enough = [
                "enough" if at["n"] >= n else f"no guarantee at α = {alpha}: {n - at['n']} short"
                for alpha, n in needed.items()
            ]
            rows.append([_called(architecture, algorithm), label, str(at["n"]), *enough, str(at["correct"])])
    head = ("Model", "Label", "n", *(f"α = {a}: n ≥ {n}" for a, n in needed.items()), "Correctly classified")
    return page.table(head, [[page.text(cell) for cell in row] for row in rows])


def _members(plan: Plan, figures: Figures) -> str:
    rows, whole = [], 0.0
    for step in plan.steps:
        if step == YARDSTICK:
            continue
        name, card = step.name, figures["members"][step.name]
        kept = next(e for e in card["epochs"] if e["epoch"] == card["chosen"]["epoch"])
        seconds = sum(stage["cpu"] for stage in read_card(plan.path(step))["seconds"].values())
        whole += seconds
        centroids = ", ".join(f"{label} {n}" for label, n in card["centroids"].items())
        rows.append(
            (
                name,
                f"{kept['epoch']} of {len(card['epochs'])}",
                page.number(kept.get("validation_auroc")),
                centroids,
                f"{seconds:.0f} s",
            )
        )
    head = ("Model", "Epoch kept", "AUROC on its validation share", "Centroids", "Processor")
    table = page.table(head, [[page.text(cell) for cell in row] for row in rows])
    return table + page.paragraph(f"Training took {whole / 60:.0f} minutes of processor in all.")


# Figure 1.


def _planes(plan: Plan, by_name: Mapping[str, Backend]) -> list[str]:
    exact = "The lines are its thresholds."
    pooled = (
        "The lines are those of all members' out-of-fold scores together; members rank by their own, so that a case near a "
        "line may stand on its other side."
    )
    drawn = []
    for name, alpha, lines in (
        ("spectral/single", STRICT, exact),
        ("spectral/cv", ABLATION, pooled),
    ):
        backend = by_name[name]
        called = _called(backend.architecture, backend.algorithm)
        if len(plan.cohort.spec.labels) > 2:
            lines = "With more than two labels sets are no strip of one probability: no zones are drawn."
        short = [
            label for label, at in backend.ranks.thresholds(alpha, FLOOR).items() if at["probability"] == 0
        ]
        if short:
            lines = f"Too few calibration cases of {', '.join(short)} to leave it out of any set at this α. {lines}"
        caption = f"{called} at α = {alpha}, {_shown(backend)} test cases. {lines}"
        drawn.append(page.figure(plane(plan, backend, alpha), caption))
    return drawn


def _shown(backend: Backend) -> str:
    n = len(backend.scores)
    return f"{MAPPED} drawn from {n}" if n > MAPPED else str(n)


def plane(plan: Plan, backend: Backend, alpha: float) -> go.Figure:
    """Figure 1: probability of the target (logit scale) by distance to the label's nearest centroid, with zones."""
    spec, scores = plan.cohort.spec, backend.scores
    x, y = _squeezed(outcomes.target_score(spec, scores)), scores.distance
    ticks = {"tickvals": _squeezed(np.array(TICKS)), "ticktext": [f"{t:g}" for t in TICKS]}
    drawn = page.plot("probability of the target", "distance to the label's nearest centroid", height=460)
    top = float(y.max()) * 1.05
    ends = (max(-END, float(x.min()) - 0.3), min(END, float(x.max()) + 0.3))
    if len(spec.labels) == 2:
        _zones(drawn, plan, backend, alpha, ends, top)
    shown = np.random.default_rng(metrics.SEED).permutation(len(scores))[:MAPPED]
    decisions = backends.decide(scores, alpha)
    for name, reasons, symbol, hue in MARKS:
        of = shown[np.isin(decisions[shown], reasons)]
        outline = {"color": "#fff", "width": 0.5}
        marker = {"symbol": symbol, "color": hue, "size": 8, "opacity": 0.75, "line": outline}
        drawn.add_scatter(x=x[of], y=y[of], mode="markers", marker=marker, name=f"{name} ({len(of)})")
    drawn.update_xaxes(range=ends, **ticks)
    drawn.update_yaxes(range=[min(0.0, float(y.min())), top])
    return _with_legend(drawn)


def _squeezed(probabilities: Floats) -> Floats:
    squeezed: Floats = logit(np.clip(probabilities, EDGE, 1 - EDGE))
    return squeezed


def _zones(
    drawn: go.Figure, plan: Plan, backend: Backend, alpha: float, ends: tuple[float, float], top: float
) -> None:
    """Hatched: between the conformal boundaries diagonally, beyond the distance thresholds crosswise."""
    spec = plan.cohort.spec
    (target,) = spec.target_indices
    limits = backend.ranks.thresholds(alpha, FLOOR)
    own, other = limits[spec.labels[target]], limits[spec.labels[1 - target]]
    left, right = ends
    with np.errstate(divide="ignore"):  # a threshold that nothing reaches stands at infinity
        boundaries = logit([own["probability"], 1 - other["probability"]])
    low, high = sorted(np.clip(boundaries, left, right).tolist())
    _hatch(drawn, (low, high, 0.0, top), "/", TEAL, "ambiguous")
    for start, end, limit in ((left, low, other["distance"]), (high, right, own["distance"])):
        height = float(np.clip(limit, 0.0, top))
        if start < end and height < top:
            _hatch(drawn, (start, end, height, top), "x", PURPLE, "epistemic")
            drawn.add_scatter(
                x=[start, end],
                y=[height, height],
                mode="lines",
                line={"color": PURPLE, "width": 2},
                showlegend=False,
                hoverinfo="skip",
            )
    for boundary in (low, high):
        line = {"color": TEAL, "dash": "dash", "width": 2}
        drawn.add_scatter(
            x=[boundary, boundary], y=[0.0, top], mode="lines", line=line, showlegend=False, hoverinfo="skip"
        )


def _hatch(drawn: go.Figure, box: tuple[float, float, float, float], shape: str, hue: str, name: str) -> None:
    x0, x1, y0, y1 = box
    drawn.add_scatter(
        x=[x0, x1, x1, x0, x0],
        y=[y0, y0, y1, y1, y0],
        mode="none",
        fill="toself",
        fillcolor="rgba(0,0,0,0)",
        fillpattern={"shape": shape, "fgcolor": hue, "size": 9, "solidity": 0.12},
        hoverinfo="skip",
        showlegend=False,
        name=name,
    )


def _with_legend(drawn: go.Figure) -> go.Figure:
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    return drawn.update_layout(showlegend=True, legend=legend, margin={"l": 60, "r": 20, "t": 60, "b": 50})


# Reliability and risk.


def _styled(found: Sequence[Backend]) -> list[tuple[Backend, str, str]]:
    return [
        (b, page.HUES[i % len(page.HUES)], page.DASHES[i % len(page.DASHES)]) for i, b in enumerate(found)
    ]


def _reliability(plan: Plan, found: Sequence[Backend]) -> go.Figure:
    spec = plan.cohort.spec
    positive = metrics.is_target(plan.cohort.truth, spec.target_indices)
    drawn = page.plot("claimed", "found", xaxis={"range": [0, 1]}, yaxis={"range": [0, 1]}, height=440)
    dotted = {"color": page.MUTED, "dash": "dot"}
    drawn.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=dotted, name="as claimed")
    for backend, hue, dash in _styled(found):
        x, y, low, high = _binned(outcomes.target_score(spec, backend.scores), positive)
        error = None
        if backend.name == "spectral/cv":
            error = {"type": "data", "array": high - y, "arrayminus": y - low}
        name = _called(backend.architecture, backend.algorithm)
        line = {"color": hue, "dash": dash, "width": 2}
        drawn.add_scatter(x=x, y=y, error_y=error, mode="markers+lines", line=line, name=name)
    return _with_legend(drawn)


def _binned(claimed: Floats, positive: Any) -> tuple[Floats, Floats, Floats, Floats]:
    bins = np.minimum((claimed * metrics.BINS).astype(int), metrics.BINS - 1)
    rows = []
    for b in np.unique(bins):
        inside = bins == b
        hits, n = int(positive[inside].sum()), int(inside.sum())
        (low,), (high,) = page.wilson(np.array([hits]), n)
        rows.append((float(claimed[inside].mean()), hits / n, float(low), float(high)))
    x, y, low, high = map(np.array, zip(*rows, strict=True))
    return x, y, low, high


def _reliability_caption(plan: Plan) -> str:
    n = len(plan.cohort.test)
    return f"Probability of the target, claimed and found in ten equal bins; n = {n}. 95 % intervals of the MD-SN ensemble."


def _risk(plan: Plan, found: Sequence[Backend]) -> go.Figure:
    drawn = page.plot("coverage, the most confident first", "error rate", height=440)
    for backend, hue, dash in _styled(found):
        wrong = backend.scores.label != plan.cohort.truth
        covered, risk = metrics.risk_coverage(outcomes.certainty(backend.scores), wrong)
        line = {"color": hue, "dash": dash, "width": 2}
        name = _called(backend.architecture, backend.algorithm)
        drawn.add_scatter(x=covered, y=risk, mode="lines", line=line, name=name)
    return _with_legend(drawn)
