"""A study's tables in the paper's layout: our figures with their intervals, the printed ones in grey under them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcore import page, published
from mlcore.published import ALGORITHMS, ALPHAS, ARCHITECTURES, SOURCE, STRICT

if TYPE_CHECKING:
    from mlcore.mil import Kind

Figure = Mapping[str, Any]
OURS = "this study"


@dataclass(frozen=True)
class Column:
    """One kind of figure. key: its name in metrics.json; better: +1 where more is, -1 where less is, 0 for neither."""

    key: str
    title: str
    group: str = ""
    better: int = 0
    percent: bool = False


@dataclass(frozen=True)
class Row:
    """Heads, and figures {value, low, high, n} by column key. printed: of the paper; strict: the best may be bold."""

    heads: tuple[str, ...]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    printed: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Table:
    """heads: names of the columns that say what a row is of. note: stands under the table."""

    slug: str
    title: str
    note: str
    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: Sequence[Row]


# The paper's.

F2 = "Discriminative (F2 ↑)"
ECE = "Calibration (ECE ↓)"
TRIAGE = "Triage efficiency & safety"
D1_COLUMNS = (
    Column("f2", "Binary", F2, 1),
    Column("clear_f2", "Clear", F2, 1),
    Column("ece", "Binary", ECE, -1),
    Column("clear_ece", "Clear", ECE, -1),
    Column("coverage", "Coverage ↑", TRIAGE, 1, percent=True),
    Column("tpdr", "TPDR ↓", TRIAGE, -1, percent=True),
    Column("aurc", "AURC ↓", TRIAGE, -1),
    Column("risk_kappa", "Risk-Kappa ↑", TRIAGE, 1),
)
BY_KEY = {
    "coverage": Column("coverage", "Coverage ↑", "", 1, percent=True),
    "tpdr": Column("tpdr", "TPDR ↓", "", -1, percent=True),
    "clear_f2": Column("clear_f2", "Clear F2 ↑", "", 1),
    "clear_ece": Column("clear_ece", "Clear ECE ↓", "", -1),
    "risk_kappa": Column("risk_kappa", "Risk-Kappa ↑", "", 1),
}
POLICIES = {
    "aleatoric": "Aleatoric Only (MCP)",
    "epistemic": "Epistemic Only (MCMD)",
    "standard": "Standard Uncertainty",
    "dual": "Dual Veto (Hybrid)",
}
BACKENDS: tuple[tuple[Kind, str], ...] = (
    ("baseline", "cv"),
    ("standard", "mc"),
    ("standard", "cv"),
    ("spectral", "mc"),
    ("spectral", "single"),
    ("spectral", "cv"),
)


def of_paper(figures: Figure) -> list[Table]:
    """Tables 2, 3, 4, A1, B1 and D1 of what metrics.json holds."""
    return [_table2(figures), _table3(figures), _table4(figures), _a1(figures), _b1(figures), _d1(figures)]


def _table2(figures: Figure) -> Table:
    return Table(
        "table-2",
        "Table 2. Discrimination, calibration and triage at α = 0.01",
        "Binary: every case decided for the label of the largest p-value, where the paper takes that of the largest "
        "probability; Clear: the automatic cases alone. MC dropout is the head's. Best of each column in bold.",
        ("Architecture", "UQ algorithm"),
        D1_COLUMNS,
        [row for backend in BACKENDS for row in _pair(figures, *backend, STRICT, 2)],
    )


def _d1(figures: Figure) -> Table:
    of = [(*b, alpha) for b in BACKENDS for alpha in (ALPHAS if b[1] == "cv" else (STRICT,))]
    return Table(
        "table-D1",
        "Table D1. All architectures, algorithms and risk tolerances",
        "As Table 2. Best of each column among the rows at α = 0.01 in bold; the paper prints the baseline at 0.01 alone.",
        ("Architecture", "UQ algorithm", "α"),
        D1_COLUMNS,
        [row for backend in of for row in _pair(figures, *backend, 3)],
    )


def _table4(figures: Figure) -> Table:
    keys = ("coverage", "tpdr", "clear_f2", "clear_ece", "risk_kappa")
    of = [(name, "cv", alpha) for name in ("standard", "spectral") for alpha in ALPHAS]
    rows = [row for backend in of for row in _pair(figures, *backend, 3)]
    return Table(
        "table-4",
        "Table 4. The dial: fold ensembles by risk tolerance",
        "α trades what is automated against what it is worth.",
        ("Architecture", "α"),
        tuple(BY_KEY[key] for key in keys),
        [
            Row((row.heads[0], row.heads[2]) if not row.printed else row.heads, row.figures, row.printed)
            for row in rows
        ],
    )


def _pair(figures: Figure, architecture: str, algorithm: str, alpha: float, heads: int) -> list[Row]:
    """Our row of a backend at α and, where there is one, the printed row."""
    ours = figures["backends"][architecture][algorithm]
    names = (ARCHITECTURES[architecture], ALGORITHMS[algorithm], repr(alpha))[:heads]
    found = [Row(names, ours["overall"] | ours["alpha"][repr(alpha)], strict=alpha == STRICT)]
    printed = published.D1.get((architecture, algorithm, alpha))
    return [*found, _printed(printed)] if printed else found


def _printed(values: Mapping[str, published.Printed], called: str = "") -> Row:
    cells = {key: {"value": v, "low": low, "high": high, "n": None} for key, (v, low, high) in values.items()}
    return Row((f"{SOURCE}: {called}" if called else SOURCE,), cells, printed=True)


def _table3(figures: Figure) -> Table:
    rows = []
    for policy, name in POLICIES.items():
        rows += [Row((name,), figures["policies"][policy]), _printed(published.POLICIES[policy])]
    return Table(
        "table-3",
        "Table 3. What each safeguard does alone: MD-SN, fold ensemble, α = 0.05",
        "Standard uncertainty defers what has more predictive entropy than 90 % of the calibration cases.",
        ("Deferral policy",),
        tuple(BY_KEY[key] for key in ("coverage", "clear_f2", "risk_kappa")),
        rows,
    )


def _a1(figures: Figure) -> Table:
    keys = ("coverage", "clear_f2", "tpdr", "risk_kappa")
    rows = []
    for gain, by_percentile in figures["sensitivity"].items():
        for percentile, found in by_percentile.items():
            printed = published.SENSITIVITY.get((float(gain), float(percentile)))
            rows.append(Row((gain, f"{float(percentile):g}th"), found, strict=True))
            if printed:
                values = {k: (v, None, None) for k, v in zip(keys, printed[1:], strict=True)}
                rows.append(_printed(values, printed[0].lower()))
    return Table(
        "table-A1",
        "Table A1. Sensitivity to the two constants of the distance: MD-SN, fold ensemble, α = 0.05",
        "Every pair, centroids placed anew from the stored embeddings. The design uses 0.05 and the 99th percentile; "
        "nothing is chosen by this table, which stands on test cases. Best of each column in bold.",
        ("Inertia (Δ)", "Dist. percentile"),
        tuple(BY_KEY[key] for key in keys),
        rows,
    )


def _b1(figures: Figure) -> Table:
    columns = []
    for name in ("standard", "spectral"):
        covered = figures["backends"][name]["cv"]["alpha"][repr(STRICT)]["coverage"]["value"]
        columns.append(Column(name, f"{ARCHITECTURES[name]} ({100 * covered:.1f} % cov.)"))
    rows = []
    for name, (weights, *kappas) in published.REALITIES.items():
        rows.append(Row((name, *map(str, weights)), figures["realities"][name]))
        rows.append(
            _printed({k: (v, None, None) for k, v in zip(("standard", "spectral"), kappas, strict=True)})
        )
    return Table(
        "table-B1",
        "Table B1. Risk-Kappa under five prices of error and deferral: fold ensembles, α = 0.01",
        "Targets against the rest. The paper's own ensembles cover 63.5 % and 67.7 %.",
        ("Health-economic reality", "FN", "FP", "Def_TN", "Def_TP"),
        tuple(columns),
        rows,
    )


# Beyond the paper's.


def beyond(figures: Figure) -> list[Table]:
    """What automatic cases are worth, what the prediction sets hold, and the yardstick."""
    return [_worth(figures), _sets(figures), _yardstick(figures)]


def _every(figures: Figure) -> Iterable[tuple[tuple[str, str], Figure]]:
    for architecture, algorithm in BACKENDS:
        names = (ARCHITECTURES[architecture], ALGORITHMS[algorithm])
        yield names, figures["backends"][architecture][algorithm]


def _worth(figures: Figure) -> Table:
    return Table(
        "table-automatic",
        "What is automatic, and what it is worth",
        "NPV and PPV: of automatic cases given no target, and of those given one, the share that are right. Conformal sets alone do not promise them. "
        "E-AURC: the part of AURC that a perfect ranking would save. Class-balanced ECE: averaged over the labels given.",
        ("Architecture", "UQ algorithm", "α"),
        (
            Column("npv", "NPV ↑", "Automatic cases", 1),
            Column("ppv", "PPV ↑", "Automatic cases", 1),
            Column("clear_balanced_ece", "Class-balanced ECE ↓", "Automatic cases", -1),
            Column("balanced_ece", "Class-balanced ECE ↓", "Every case", -1),
            Column("e_aurc", "E-AURC ↓", "Every case", -1),
            Column("auroc", "AUROC ↑", "Every case", 1),
            Column("average_precision", "Average precision ↑", "Every case", 1),
        ),
        [
            Row((*names, alpha), found["overall"] | at, strict=alpha == repr(STRICT))
            for names, found in _every(figures)
            for alpha, at in found["alpha"].items()
        ],
    )


def _sets(figures: Figure) -> Table:
    labels = figures["study"]["labels"]
    rows = []
    for names, found in _every(figures):
        for alpha, at in found["alpha"].items():
            held = {f"set:{label}": at["set_coverage"][label] for label in labels}
            promised = {
                f"promised:{label}": {
                    "value": at["promised"][label],
                    "low": None,
                    "high": None,
                    "n": found["calibration"][label]["n"],
                }
                for label in labels
            }
            known = [cell["value"] for cell in held.values() if cell["value"] is not None]
            aim = "reached" if all(value >= 1 - float(alpha) for value in known) else "not reached"
            rows.append(Row((*names, alpha, f"{1 - float(alpha):g}", aim), held | promised))
    return Table(
        "table-sets",
        "How often the prediction set holds the true label",
        "Found: on test cases of each label; a test set resolves no finer than one case in n. Promised: what is proved for "
        "a new case of the same kind, with n calibration cases of the label.",
        ("Architecture", "UQ algorithm", "α", "1 − α", "By every label"),
        (
            *(Column(f"set:{label}", label, "Found") for label in labels),
            *(Column(f"promised:{label}", label, "Promised") for label in labels),
        ),
        rows,
    )


def _yardstick(figures: Figure) -> Table:
    ours = [
        Row(
            (" ".join(names), ahead(figures["ahead"][architecture][algorithm]["auroc"])),
            found["overall"] | {f"{k}:more": v for k, v in figures["ahead"][architecture][algorithm].items()},
        )
        for (architecture, algorithm), (names, found) in zip(BACKENDS, _every(figures), strict=True)
    ]
    more = "More than TF-IDF, paired"
    return Table(
        "table-yardstick",
        "Against TF-IDF with logistic regression",
        "TF-IDF of words 1–2 and characters 3–5, trained on the same file. F2 at the threshold that is best on "
        "out-of-fold scores, for every row. Ahead or behind: the interval of the paired difference leaves out 0 for "
        "AUROC.",
        ("Model", "AUROC against TF-IDF"),
        (
            Column("auroc", "AUROC ↑", "", 1),
            Column("average_precision", "Average precision ↑", "", 1),
            Column("f2_threshold", "F2 at its threshold ↑", "", 1),
            Column("auroc:more", "AUROC", more),
            Column("average_precision:more", "Average precision", more),
            Column("f2_threshold:more", "F2", more),
        ),
        [Row(("TF-IDF", "the yardstick"), figures["yardstick"]), *ours],
    )


def ahead(difference: Figure) -> str:
    """What an interval of a paired difference says in words."""
    if difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return "cannot be told apart"
    return "ahead" if difference["low"] > 0 else "behind"


# Rendering.


def to_html(table: Table) -> str:
    """The table as HTML, figures over their intervals, printed rows grey."""
    best = _best(table)
    body = "".join(_html_row(table, row, best) for row in table.rows)
    note = f"<caption>{page.text(table.note)}</caption>"
    return (
        f'<h3 id="{table.slug}">{page.text(table.title)}</h3>'
        f'<div class="wide"><table>{note}<thead>{_html_head(table)}</thead><tbody>{body}</tbody></table></div>'
    )


def _html_head(table: Table) -> str:
    grouped = any(column.group for column in table.columns)
    span = ' rowspan="2"' if grouped else ""
    heads = "".join(f'<th scope="col"{span}>{page.text(head)}</th>' for head in table.heads)
    titles = "".join(f'<th scope="col">{page.text(column.title)}</th>' for column in table.columns)
    if not grouped:
        return f"<tr>{heads}{titles}</tr>"
    groups: list[list[Any]] = []
    for column in table.columns:
        if groups and groups[-1][0] == column.group:
            groups[-1][1] += 1
        else:
            groups.append([column.group, 1])
    over = "".join(f'<th scope="colgroup" colspan="{n}">{page.text(name)}</th>' for name, n in groups)
    return f"<tr>{heads}{over}</tr><tr>{titles}</tr>"


def _html_row(table: Table, row: Row, best: Mapping[str, float]) -> str:
    span = f' colspan="{len(table.heads)}"' if row.printed else ""
    heads = "".join(f"<td{span}>{page.text(head)}</td>" for head in row.heads)
    cells = "".join(_html_cell(row, column, best) for column in table.columns)
    return f'<tr class="published">{heads}{cells}</tr>' if row.printed else f"<tr>{heads}{cells}</tr>"


def _html_cell(row: Row, column: Column, best: Mapping[str, float]) -> str:
    found = row.figures.get(column.key)
    if found is None:
        return "<td>–</td>"
    value = _shown(found["value"], column)
    if row.strict and found["value"] is not None and found["value"] == best.get(column.key):
        value = f"<strong>{value}</strong>"
    under = [] if found["low"] is None else [_between(found["low"], found["high"], column)]
    under += [] if found["n"] is None else [f"n = {found['n']}"]
    return f"<td><span>{value}</span>{''.join(f'<span>{line}</span>' for line in under)}</td>"


def _shown(value: float | None, column: Column) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if column.percent else page.number(value)


def _between(low: float, high: float, column: Column) -> str:
    scale, digits = (100, 1) if column.percent else (1, 3)
    ends = [page.rounded(scale * end, digits) for end in (low, high)]
    return f"{ends[0]} to {ends[1]}" if low < 0 else f"{ends[0]}–{ends[1]}"


def _best(table: Table) -> dict[str, float]:
    """By column that has a better side, the best of our strict rows."""
    found = {}
    for column in table.columns:
        values = [
            row.figures[column.key]["value"] for row in table.rows if row.strict and column.key in row.figures
        ]
        known = [value for value in values if value is not None]
        if known and column.better:
            found[column.key] = max(known) if column.better > 0 else min(known)
    return found


def write_csv(table: Table, path: Path) -> None:
    """One line a row, every figure in full with low, high and n; `source` tells ours from the printed."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        spread = [
            f"{c.key}{end}".replace(":", "_") for c in table.columns for end in ("", "_low", "_high", "_n")
        ]
        rows.writerow(["source", *table.heads, *spread])
        heads: tuple[str, ...] = ()
        for row in table.rows:
            heads = heads if row.printed else row.heads
            cells = [row.figures.get(column.key, {}) for column in table.columns]
            values = [cell.get(key) for cell in cells for key in ("value", "low", "high", "n")]
            rows.writerow(
                [SOURCE if row.printed else OURS, *heads, *("" if v is None else repr(v) for v in values)]
            )
