"""What every written report is made of: one offline HTML page, its tables, its Plotly figures, one look."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs
from scipy.stats import binomtest

Floats = NDArray[np.float64]

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
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p, ul { max-width: 46rem; } ul { padding-left: 1.25rem; } li { margin: .25rem 0; } .muted, figcaption, caption { color: #59626b; text-align: left; }
.notice { border-left: 4px solid #b7791f; background: #fff; padding: .5rem 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; background: #fff; margin: .5rem 0; }
caption { caption-side: bottom; padding-top: .35rem; max-width: 60rem; }
th, td { border: 1px solid #dfe0db; padding: .3rem .6rem; text-align: left; vertical-align: top;
  font-variant-numeric: tabular-nums; }
td span { white-space: nowrap; } td span + span { display: block; color: #59626b; font-size: 12px; }
tr.published td { color: #6b7178; background: #f4f4f1; } tr.published td span + span { color: #6b7178; }
figure { margin: 1rem 0; background: #fff; border: 1px solid #dfe0db; padding: .5rem; }
code { overflow-wrap: anywhere; }
@page { size: A4 landscape; margin: 12mm; }
@media print { body { background: #fff; padding: 0; max-width: none; font-size: 11px; }
  figure, tr, .notice { break-inside: avoid; } h2, h3 { break-after: avoid; } thead { display: table-header-group; }
  .wide { overflow: visible; } th, td { padding: .15rem .3rem; } }
"""
# A plot keeps the width of the screen unless it is told of the paper's.
PRINTING = """
for (const [event, width] of [["beforeprint", 960], ["afterprint", null]])
  addEventListener(event, () => document.querySelectorAll(".plotly-graph-div").forEach(
    (plot) => Plotly.relayout(plot, {width, autosize: width === null})));
"""


def document(title: str, parts: Iterable[str]) -> str:
    """Parts, each HTML, as one page that asks nothing of any network."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script><script>{PRINTING}</script></head>\n<body><main>\n<h1>{text(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


# Words and tables.


def text(value: object) -> str:
    """The value as text that means nothing to HTML."""
    return html.escape(str(value))


def paragraph(value: object, kind: str = "") -> str:
    """Plain text as a paragraph, of a class where one is given."""
    return f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def number(value: float | None) -> str:
    """Three decimals; a dash where nothing can be said."""
    return "–" if value is None else rounded(value, 3)


def rounded(value: float, digits: int) -> str:
    """That many decimals, and no minus before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def interval(figure: Mapping[str, Any]) -> str:
    """A figure {value, low, high, n} as a cell: the value, under it where it may lie and what it stands on."""
    low, high, value = (number(figure[key]) for key in ("low", "high", "value"))
    return f"<span>{value}</span><span>{low} to {high}</span><span>n = {figure['n']}</span>"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Head as plain text, none where empty; cells as HTML."""
    top = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    over = f"<thead><tr>{top}</tr></thead>" if top else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>{over}<tbody>{body}</tbody></table></div>'


def listed(sentences: Iterable[str]) -> str:
    """Plain sentences as a list."""
    return "<ul>" + "".join(f"<li>{text(sentence)}</li>" for sentence in sentences) + "</ul>"


# Figures.

FONT = {"family": "system-ui, sans-serif", "size": 13, "color": INK}
AXIS = {"gridcolor": LINE, "linecolor": LINE, "zerolinecolor": LINE, "automargin": True}
TEMPLATE = go.layout.Template(
    layout={"font": FONT, "paper_bgcolor": "#fff", "plot_bgcolor": "#fff", "xaxis": AXIS, "yaxis": AXIS}
)


def plot(x: str, y: str, **layout: Any) -> go.Figure:
    """An empty plot with named axes."""
    figure = go.Figure(layout={"template": TEMPLATE, "height": 380, "showlegend": False, **layout})
    figure.update_layout(margin={"l": 60, "r": 130, "t": 20, "b": 50})
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return figure


def figure(drawn: go.Figure, caption: str) -> str:
    """A plot in the page, with what it shows said under it."""
    config = {"displaylogo": False, "modeBarButtons": [["toImage"]], "responsive": True}
    inside = drawn.to_html(full_html=False, include_plotlyjs=False, config=config)
    return f"<figure>{inside}<figcaption>{text(caption)}</figcaption></figure>"


Line = tuple[Floats, str, str, str]


def lines(on: go.Figure, x: Floats, drawn: Sequence[Line]) -> None:
    """Lines (y, name, hue, dash) over one x, each with its name at its end, the names kept apart."""
    for y, name, hue, dash in drawn:
        on.add_scatter(x=x, y=y, mode="lines", line={"color": hue, "dash": dash, "width": 2}, name=name)
    apart, at = 0.06 * max(float(np.max(y)) for y, *_ in drawn), -math.inf
    for y, name, hue, _ in sorted(drawn, key=lambda line: float(line[0][-1])):
        at = max(at + apart, float(y[-1]))
        end = {"x": float(x[-1]), "y": at, "xanchor": "left", "xshift": 6, "showarrow": False}
        on.add_annotation(text=text(name), font={"color": hue}, **end)


def band(on: go.Figure, x: Floats, low: Floats, high: Floats, hue: str) -> None:
    """What lies between two lines, shaded."""
    both = {"x": np.concatenate([x, x[::-1]]), "y": np.concatenate([high, low[::-1]])}
    on.add_scatter(**both, fill="toself", fillcolor=hue, opacity=0.15, line={"width": 0}, hoverinfo="skip")


def wilson(found: NDArray[np.int64], n: int) -> tuple[Floats, Floats]:
    """95 % Wilson intervals of shares found / n: lows and highs."""
    intervals = [binomtest(int(k), n).proportion_ci(method="wilson") for k in found]
    return np.array([i.low for i in intervals]), np.array([i.high for i in intervals])
