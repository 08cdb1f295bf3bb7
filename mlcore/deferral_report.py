"""What deferral to a second model is worth on cases it was not learned on, written down as the paper's table and more.

F1 before and after, the share deferred and the calls saved, against the oracle that defers exactly where the second is
right and the first wrong (L2D-Clinical, arXiv 2604.13285). Every figure {value, low, high, n}, groups resampled whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from plotly import graph_objects as go

from mlcore import deferral, metrics, outcomes, page, tables
from mlcore.deferral import Bools, Cases, Floats, Ints, Learned, Metric
from mlcore.metrics import Weighted
from mlcore.protocols import ProtocolSpec
from mlcore.tables import Column, Row, Table

Figures = dict[str, Any]
Named = dict[str, tuple[Weighted, Bools]]
SYSTEMS = {
    "primary": "First model alone",
    "secondary": "Second model alone",
    "deferred": "Learned deferral",
    "untested": "The tuned threshold, untested",
    "oracle": "Oracle: the second where it is right and the first wrong",
}
COLUMNS = (
    Column("f1", "F1 ↑", "", 1),
    Column("accuracy", "Accuracy ↑", "", 1),
    Column("share", "Asked of the second ↓", "", -1, percent=True),
    Column("saved", "Calls saved ↑", "", 1, percent=True),
)


@dataclass(frozen=True)
class Result:
    """What was learned, on whom it is judged, and what is said of both: about holds plain facts for metrics.json."""

    spec: ProtocolSpec
    on: Metric
    budget: float
    learned: Learned
    test: Cases
    about: Mapping[str, Any] = field(default_factory=dict)


def measure(result: Result) -> Figures:
    """All figures of the test cases: of each of SYSTEMS, their differences, and by budget."""
    test, on = result.test, result.on
    deferred = result.learned.router.defers(test.values)
    named: Named = {}
    for name, (given, asked) in _systems(result, deferred).items():
        named |= {f"systems/{name}/{key}": metric for key, metric in _worth(test, on, given, asked).items()}
    named |= _compared(test, on, deferred)
    for budget, choice in result.learned.budgets.items():
        asked = _above(result, choice.threshold)
        worth = _worth(test, on, test.after(asked), asked)
        named |= {f"curve/{budget!r}/{key}": worth[key] for key in ("f1", "share")}
    return outcomes.figures(named, test.groups)


def _above(result: Result, threshold: float) -> Bools:
    """(n,) whether each test case's risk is above a threshold, whatever the router's own is."""
    return result.learned.router.risk(result.test.values) > threshold


def _systems(result: Result, deferred: Bools) -> dict[str, tuple[Ints, Bools]]:
    """By name the (n,) labels each system gives and whether it asks the second for them."""
    test = result.test
    none, all_of = np.zeros(len(test.truth), dtype=bool), np.ones(len(test.truth), dtype=bool)
    tuned = _above(result, result.learned.choice.threshold)
    found = {
        "primary": (test.first, none),
        "secondary": (test.second, all_of),
        "deferred": (test.after(deferred), deferred),
        "untested": (test.after(tuned), tuned),
        "oracle": (test.after(test.helps), test.helps),
    }
    if result.learned.reason is None:
        del found["untested"]
    return found


def _worth(test: Cases, on: Metric, given: Ints, asked: Bools) -> Named:
    everyone = np.ones(len(given), dtype=bool)
    return {
        "f1": (partial(on, test.truth, given), everyone),
        "accuracy": (partial(metrics.share, given == test.truth, everyone), everyone),
        "share": (partial(metrics.share, asked, everyone), everyone),
        "saved": (partial(metrics.share, ~asked, everyone), everyone),
    }


def _compared(test: Cases, on: Metric, deferred: Bools) -> Named:
    """Paired differences, what the oracle would gain and how much of it is recovered, and who is right where."""
    everyone = np.ones(len(deferred), dtype=bool)
    after, oracle = test.after(deferred), test.after(test.helps)

    def more(given: Ints, than: Ints, w: Floats) -> Floats:
        return on(test.truth, given, w) - on(test.truth, than, w)

    def recovered(w: Floats) -> Floats:
        whole = more(oracle, test.first, w)
        share: Floats = np.divide(
            more(after, test.first, w), whole, out=np.full(whole.shape, np.nan), where=whole > deferral.SLACK
        )
        return share

    right = test.second == test.truth
    return {
        "gain": (partial(more, after, test.first), everyone),
        "gain_over_secondary": (partial(more, after, test.second), everyone),
        "oracle_gain": (partial(more, oracle, test.first), everyone),
        "recovered": (recovered, everyone),
        "right_where_first_errs": (partial(metrics.share, right, test.errs), test.errs),
        "wrong_where_first_right": (partial(metrics.share, ~right, ~test.errs), ~test.errs),
        "agreement": (partial(metrics.share, test.first == test.second, everyone), everyone),
        "errs_among_deferred": (partial(metrics.share, test.errs, deferred), deferred),
    }


# Written down.


def write(result: Result, folder: Path) -> Figures:
    """metrics.json, router.json, table.csv and report.html in a folder, made if missing; returns what metrics.json holds."""
    folder.mkdir(parents=True, exist_ok=True)
    found = measure(result)
    figures = told(result, found)
    _json(folder / "metrics.json", figures)
    _json(folder / "router.json", result.learned.router.to_dict() | dict(result.about))
    tables.write_csv(table(result, found), folder / "table.csv")
    (folder / "report.html").write_text(_page(result, found, figures), encoding="utf-8")
    return figures


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def told(result: Result, found: Figures) -> Figures:
    """What metrics.json holds: figures as {value, ci: [low, high], n}, and how the threshold was come by."""
    learned, systems = result.learned, found["systems"]
    choice, gain = learned.choice, learned.gain
    named = {f"f1_{name}": of["f1"] for name, of in systems.items()}
    named |= {"share_deferred": systems["deferred"]["share"], "calls_saved": systems["deferred"]["saved"]}
    named |= {key: value for key, value in found.items() if key not in ("systems", "curve")}
    if "untested" in systems:
        named["share_untested"] = systems["untested"]["share"]
    return {
        **result.about,
        "metric": result.on.name,
        "budget": result.budget,
        "aim": learned.router.aim,
        "intervals": f"95 % percentile bootstrap, {metrics.REPLICATES} resamples of whole groups, seed {metrics.SEED}",
        **{key: _with_ci(figure) for key, figure in named.items()},
        "deferred_cases": _counts(result),
        "reason": learned.why or None,
        "tuning": {
            **learned.facts,
            **choice._asdict(),
            "in_force": learned.router.threshold,
            "cross_fitted_gain": None if gain is None else gain._asdict(),
        },
        "curve": [
            {
                "budget": budget,
                "threshold": tuned.threshold,
                "tuned_share": tuned.share,
                **{
                    name: _with_ci(found["curve"][repr(budget)][key])
                    for name, key in (("f1", "f1"), ("share", "share"))
                },
            }
            for budget, tuned in learned.budgets.items()
        ],
        "coefficients": dict(zip(learned.router.names, learned.router.coefficients.tolist(), strict=True)),
    }


def _with_ci(figure: Mapping[str, Any]) -> Figures:
    return {"value": figure["value"], "ci": [figure["low"], figure["high"]], "n": figure["n"]}


def _counts(result: Result) -> dict[str, int]:
    """Of the deferred test cases: how many, mended (wrong, then right), spoilt (right, then wrong), without an opinion."""
    test = result.test
    deferred = result.learned.router.defers(test.values)
    right = test.after(deferred) == test.truth
    return {
        "n": int(deferred.sum()),
        "mended": int((test.errs & right).sum()),
        "spoilt": int((~test.errs & ~right).sum()),
        "no_opinion": int((deferred & (test.second == deferral.NO_OPINION)).sum()),
    }


def table(result: Result, found: Figures) -> Table:
    """The paper's table: each system with its F1 and what it asks of the second."""
    sought = result.spec.target_name if result.on.name == "target" else "the mean over the labels"
    return Table(
        "table-deferral",
        "F1 before and after",
        f"F1 of {sought}, on test cases neither model learned and the router was not tuned on. The oracle knows the truth: "
        "it is what any rule could gain at most.",
        ("System",),
        COLUMNS,
        [
            Row((SYSTEMS[name],), figures, strict=name != "oracle")
            for name, figures in found["systems"].items()
        ],
    )


def text_table(found: Figures) -> str:
    """The table as plain text, a line a system, from what `told` gives."""
    lines = [f"{'':<58}{'F1':<24}deferred"]
    for name, words in SYSTEMS.items():
        if (f1 := found.get(f"f1_{name}")) is None:
            continue
        share = {"primary": 0.0, "secondary": 1.0}.get(name)
        known = found.get({"deferred": "share_deferred", "untested": "share_untested"}.get(name, ""))
        share = known["value"] if known else share
        asked = "" if share is None else f"{100 * share:.1f} %"
        low, high = f1["ci"]
        lines.append(
            f"{words:<58}{page.number(f1['value'])} ({page.number(low)}–{page.number(high)})   {asked}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _page(result: Result, found: Figures, figures: Figures) -> str:
    learned = result.learned
    parts = [
        page.table((), [(page.text(k), f"<code>{page.text(v)}</code>") for k, v in _facts(result)]),
        page.paragraph(NOTICE, "notice"),
        *([page.paragraph(learned.why, "notice")] if learned.reason else []),
        tables.to_html(table(result, found)),
        "<h2>What there was to gain</h2>",
        page.table(
            ("", "On test cases"), [(page.text(MEANINGS[key]), page.interval(found[key])) for key in MEANINGS]
        ),
        page.paragraph(_counted(figures)),
        "<h2>By budget</h2>",
        page.figure(_curve_plot(result, found), CURVE_CAPTION),
        "<h2>What the router looks at</h2>",
        page.paragraph(COEFFICIENTS),
        page.table(("Feature", "Coefficient", "Mean", "Standard deviation"), _coefficients(learned)),
        "<h2>How it was learned</h2>",
        page.listed(_how(result)),
    ]
    return page.document("Deferral to a second model", parts)


NOTICE = (
    "Centinela is a research prototype, not a medical device. These figures describe this pair of models on this file; a "
    "second model's label is an opinion, not a reading."
)
MEANINGS = {
    "gain": "F1 more than the first model alone, paired",
    "gain_over_secondary": "F1 more than the second model alone, paired",
    "oracle_gain": "F1 an oracle would gain over the first",
    "recovered": "Share of the oracle's gain that is recovered",
    "right_where_first_errs": "How often the second is right where the first errs",
    "wrong_where_first_right": "How often the second is wrong where the first is right",
    "agreement": "How often both give the same label",
    "errs_among_deferred": "How often the first errs among deferred cases",
}
CURVE_CAPTION = (
    "For each budget the threshold that was best on cases out of fold, and what it comes to on test cases: the share really "
    "deferred (it may be under or over the budget) and F1 with its 95 % interval. These thresholds are as tuned, without the "
    "check against chance. The line across is the first model alone."
)
COEFFICIENTS = (
    "Change of the log-odds for one standard deviation more of a feature, the others held. Features that say much the same "
    "(probabilities, entropy, margin) share their weight, so read them together. Cues are counts in a hundred words."
)


def _facts(result: Result) -> list[tuple[str, str]]:
    return [(key.replace("_", " ").capitalize(), str(value)) for key, value in result.about.items()]


def _counted(figures: Figures) -> str:
    of = figures["deferred_cases"]
    return (
        f"Of {of['n']} deferred test cases {of['mended']} were mended (the first wrong, the second right), {of['spoilt']} spoilt, "
        f"and for {of['no_opinion']} the second gave no opinion."
    )


def _curve_plot(result: Result, found: Figures) -> go.Figure:
    points = sorted((at["share"]["value"], at["f1"]) for at in found["curve"].values())
    x = np.array([100 * share for share, _ in points])
    value, low, high = (
        np.array([f1[key] for _, f1 in points], dtype=np.float64) for key in ("value", "low", "high")
    )
    drawn = page.plot("Share deferred, %", "F1")
    page.band(drawn, x, low, high, page.ACCENT)
    line = {"color": page.ACCENT, "width": 2}
    drawn.add_scatter(x=x, y=value, mode="lines+markers", line=line, name="Learned deferral")
    drawn.add_hline(y=found["systems"]["primary"]["f1"]["value"], line={"color": page.MUTED, "dash": "dot"})
    return drawn


def _coefficients(learned: Learned) -> list[tuple[str, ...]]:
    router = learned.router
    by_size = np.argsort(-np.abs(router.coefficients), kind="stable")
    return [
        (
            page.text(router.names[i]),
            *(
                f"<span>{page.rounded(float(of[i]), 3)}</span>"
                for of in (router.coefficients, router.mean, router.scale)
            ),
        )
        for i in by_size
    ]


def _how(result: Result) -> list[str]:
    facts, choice, gain = result.learned.facts, result.learned.choice, result.learned.gain
    aim = {"errs": "the first model errs", "helps": "the first model errs and the second is right"}
    said = [
        f"Learned on {facts['n']} cases that neither model learned, weighted to the training file's mix of labels (they count "
        f"as {facts['effective']:.0f}): the first errs in {facts['errors']}, the second is right in {facts['helps']} of these and "
        f"wrong in {facts['spoils']} where the first is right; an oracle would gain {facts['oracle']:.3f} of F1 there.",
        f"A logistic regression on standardised features predicts that {aim[result.learned.router.aim]}. Its threshold is the "
        f"one of the highest F1 among those that defer at most {100 * result.budget:.1f} %, on risks from {deferral.FOLDS} folds "
        "that keep groups whole. No test case had a part in either.",
        "p-values and typicality of cases that calibrated a model are ranked against the others only, as a new case's are.",
    ]
    if gain is not None:
        said.append(
            f"Out of fold the risks tell these cases from the others with an AUROC of {facts['auroc']:.2f}. As tuned the threshold "
            f"defers {100 * choice.share:.1f} % of the cases learned on (F1 {choice.before:.3f} to {choice.value:.3f}). "
            "Where regression and threshold are both made anew without a fold and tried on it, F1 changes by "
            f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}), above 0 in {100 * gain.above:.0f} % of resamples."
        )
    return said
