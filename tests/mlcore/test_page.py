"""What reports are made of: text stays text, numbers are told with care, the page needs no network."""

import re

import numpy as np
import pytest
from plotly import graph_objects as go

from mlcore import page


@pytest.mark.parametrize(
    ("value", "digits", "told"),
    [(-0.0001, 3, "0.000"), (0.0, 1, "0.0"), (-0.25, 2, "-0.25"), (99.96, 1, "100.0"), (0.1235, 3, "0.123")],
)
def test_rounding_leaves_no_minus_before_a_zero(value, digits, told):
    assert page.rounded(value, digits) == told


def test_a_figure_that_cannot_be_said_is_a_dash():
    cell = page.interval({"value": None, "low": None, "high": None, "n": 0})
    assert re.findall(r"<span>(.*?)</span>", cell) == ["–", "– to –", "n = 0"]


def test_words_are_escaped_and_cells_are_not():
    assert page.paragraph("a < b", "notice") == '<p class="notice">a &lt; b</p>'
    assert page.listed(["<i>"]) == "<ul><li>&lt;i&gt;</li></ul>"
    made = page.table(("<h>",), [("<b>x</b>",)])
    assert '<th scope="col">&lt;h&gt;</th>' in made
    assert "<td><b>x</b></td>" in made
    assert "thead" not in page.table((), [("x",)])


def test_the_document_holds_plotly_and_asks_no_one():
    made = page.document("A & B", [page.figure(go.Figure(), "c < d")])
    assert "<title>A &amp; B</title>" in made
    assert "c &lt; d" in made
    assert "Plotly" in made
    ours = re.sub(r"<script.*?</script>", "", made, flags=re.S)
    assert not re.search(r"(src|href|url)\s*[=(]", ours)


def test_wilson_intervals_hold_their_share():
    low, high = page.wilson(np.array([0, 5, 10]), 10)
    assert (low <= [0, 0.5, 1]).all() and (high >= [0, 0.5, 1]).all()
    assert high[1] - low[1] == pytest.approx(0.527, abs=0.001)  # (0.237, 0.763), Newcombe 1998


def test_line_names_are_kept_apart():
    drawn = page.plot("x", "y")
    x = np.array([0.0, 1.0])
    page.lines(
        drawn, x, [(np.array([0.0, 0.5]), "a", "#000", "solid"), (np.array([0.0, 0.5]), "b", "#000", "dot")]
    )
    heights = sorted(note.y for note in drawn.layout.annotations)
    assert heights[1] - heights[0] == pytest.approx(0.03)
