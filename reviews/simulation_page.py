"""The report of a simulated year: a table for the terminal, a page for the shelf."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlcore import page

HEAD = (
    "month",
    "notes",
    "cases",
    "coverage",
    "missed/1,000",
    "audit says",
    "read",
    "hours",
    "alarms and turns",
)
EXPLAINED = (
    "Coverage is the share of cases settled without a reader. Missed is the number of true suspects in a thousand cases that "
    "were settled as «no suspicion»; the truth is known here, as it never is in a hospital. «Audit says» is what the hospital "
    "itself can know of it: the same share among the automatic cases drawn at random and read, by readers who err. "
    "Intervals are 95 %, Clopper and Pearson."
)


def table(figures: dict[str, Any]) -> str:
    """One line a month."""
    lines = ["{:<6}{:>8}{:>8}  {:<22}{:<22}{:<24}{:>7}{:>7}".format(*HEAD[:-1])]
    for month in figures["months"]:
        shares = [_short(month[name], digits) for name, digits in SHARES]
        plain = "{month:<6}{notes:>8,}{cases:>8,}".format(**month)
        lines.append(
            plain + "  {:<22}{:<22}{:<24}".format(*shares) + f"{month['reads']:>7,}{month['hours']:>7.0f}"
        )
        lines += [f"        {event}" for event in month["events"]]
    return "\n".join([*lines, f"{figures['seconds']:.0f} seconds"])


SHARES = (("coverage", 3), ("missed_per_1000", 1), ("audited_per_1000", 1))


def _short(figure: dict[str, Any], digits: int) -> str:
    if figure["value"] is None:
        return "–"
    low, value, high = (page.rounded(figure[name], digits) for name in ("low", "value", "high"))
    return f"{value} ({low}–{high})"


def written(figures: dict[str, Any]) -> str:
    """The report as one offline page."""
    year, months = figures["year"], figures["months"]
    said = (
        f"About {year['notes']:,} notes in a year; readers find {year['sensitivity']:.0%} of the suspects and clear "
        f"{year['specificity']:.0%} of the others. "
        + (f"The record system changes in month {year['drift']}." if year["drift"] else "Nothing changes.")
    )
    parts = [
        page.paragraph("Every patient here is invented. Research prototype.", "notice"),
        page.paragraph(said),
    ]
    parts += [page.paragraph(EXPLAINED), page.table(HEAD, [_row(month) for month in months])]
    parts += [page.figure(_curve(months, name, axis), caption) for name, axis, caption in DRAWN]
    return page.document("A simulated year", parts)


DRAWN = (
    ("coverage", "automatic share of cases", "Coverage by month, with its 95 % interval."),
    (
        "missed_per_1000",
        "missed in 1,000 automatic",
        "True suspects among a thousand cases settled as «no suspicion».",
    ),
    ("audited_per_1000", "found by audit in 1,000", "The same as the audit sample shows it."),
)


def _row(month: dict[str, Any]) -> list[str]:
    shares = [page.text(_short(month[name], digits)) for name, digits in SHARES]
    counts = [f"{month[name]:,}" for name in ("notes", "cases")]
    events = page.listed(month["events"]) if month["events"] else ""
    return [str(month["month"]), *counts, *shares, f"{month['reads']:,}", f"{month['hours']:.0f}", events]


def _curve(months: list[dict[str, Any]], name: str, axis: str) -> Any:
    known = [month for month in months if month[name]["value"] is not None]
    x = np.array([float(month["month"]) for month in known])
    value, low, high = (
        np.array([float(month[name][end]) for month in known]) for end in ("value", "low", "high")
    )
    drawn = page.plot("month", axis)
    if len(x):
        page.band(drawn, x, low, high, page.ACCENT)
        page.lines(drawn, x, [(value, "", page.ACCENT, "solid")])
    drawn.update_yaxes(rangemode="tozero")
    return drawn
