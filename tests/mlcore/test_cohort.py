import numpy as np
import pytest
from plotly import graph_objects as go

from mlcore import cohort
from mlcore.cohort import Row, Term, aggregate, terms


def case(**importance):
    return {word: Term(value, value, 0.0) for word, value in importance.items()}


def test_the_formula_worked_by_hand():
    """Two of four cases hold muguet with .16 and .36: log2(1.5) · (.4 + .6) / 4."""
    rows = {
        r.word: r for r in aggregate([case(muguet=0.16), case(muguet=0.36, vhc=0.25), case(), case(tos=1.0)])
    }
    assert rows["muguet"].score == pytest.approx(np.log2(1.5) / 4)
    assert rows["vhc"].score == pytest.approx(np.log2(1.25) * 0.5 / 4)
    assert rows["muguet"].cases == 2 and rows["muguet"].baseline == 0.0


def test_one_document_that_sees_nothing_else_does_not_outweigh_what_all_share():
    """Means alone would put the outlier first: .95/10 against .08."""
    cases = [case(muguet=0.08) for _ in range(9)] + [case(muguet=0.05, essure=0.95)]
    assert np.mean([0.95] + [0.0] * 9) > 0.08
    assert [r.word for r in aggregate(cases)] == ["muguet", "essure"]


def test_a_word_of_every_second_case_scores_alike_in_small_and_large_groups():
    small = [case(vhc=0.1), case()] * 3
    large = [case(vhc=0.1), case()] * 300
    assert aggregate(small)[0].score == pytest.approx(aggregate(large)[0].score)


def test_weights_count_as_copies_would():
    cases = [case(vhc=0.1, tos=0.3), case(tos=0.2), case(ana=0.4)]
    copied = {r.word: r for r in aggregate([cases[0]] * 3 + [cases[1]] + [cases[2]] * 2)}
    for row in aggregate(cases, [3.0, 1.0, 2.0]):
        assert row.score == pytest.approx(copied[row.word].score)
        assert row.margin == pytest.approx(copied[row.word].margin)
        assert row.direction == pytest.approx(copied[row.word].direction)


def test_direction_is_weighted_by_importance_and_bounded():
    cases = [{"tos": Term(0.09, 2.0, 0.5)}, {"tos": Term(0.01, -9.0, 0.1)}]
    (row,) = aggregate(cases)
    assert row.direction == pytest.approx((0.3 - 0.1) / 0.4)
    assert (row.margin, row.distance) == (pytest.approx(-3.5), pytest.approx(0.3))
    assert aggregate([{"tos": Term(0.0, 1.0, 0.0)}])[0].direction == 0.0


def test_places_of_a_word_are_taken_together_whatever_their_case():
    found = terms([("Muguet", 0.1, 0.5, 0.2), ("muguet", 0.2, -0.1, 0.1), ("de", 0.9, 1.0, 1.0)])
    assert found == {"muguet": Term(pytest.approx(0.3), pytest.approx(0.4), pytest.approx(0.3))}


@pytest.mark.parametrize(
    ("word", "stays"),
    [
        ("vhc", True),
        ("cd4", True),
        ("no", True),
        ("sin", True),
        ("la", False),
        ("with", False),
        ("x", False),
        ("2", False),
        ("<", False),
        ("5l", False),
        ("e\u0301dema", True),
    ],
)
def test_words_without_meaning_of_their_own_are_left_out(word, stays):
    assert cohort.meaningful(word) == stays


def test_no_cases_no_words():
    assert aggregate([]) == [] and aggregate([{}, {}]) == []


def test_against_calibration_and_only_what_names_nobody():
    rows = aggregate([case(vhc=0.1, ana=0.2)] * 4 + [case(vhc=0.1)])
    compared = {r.word: r.baseline for r in cohort.against(rows, {"vhc": 0.125})}
    assert compared == {"vhc": 0.125, "ana": 0.0}
    assert [r.word for r in cohort.kept(rows)] == ["vhc"]


def test_the_figure_is_one_plotly_draws_and_its_words_are_no_html():
    rows = [
        Row("<b>vhc", 0.3, 0.1, 0.9, 4, 0.1, 0.0),
        Row("tos", 0.2, 0.2, -0.9, 3, -0.1, 0.0),
        Row("y/o", 0.1, 0.0, 0.1, 2, 0.0, 0.0),
    ]
    names = {"group": "Atypical", "baseline": "Calibration", "score": "weight"}
    drawn = go.Figure(cohort.figure(rows, names, has_baseline=True))
    hatched, solid = drawn.data
    assert hatched.marker.pattern.shape == "/" and list(hatched.x) == [0.0, 0.2, 0.1]
    assert list(solid.y) == ["y/o", "tos", "&lt;b&gt;vhc"] and list(solid.x) == [0.1, 0.2, 0.3]
    assert list(solid.marker.color) == [cohort.MIXED, cohort.AWAY, cohort.TOWARD]
    assert len(go.Figure(cohort.figure(rows, names, has_baseline=False)).data) == 1


@pytest.mark.parametrize(
    ("text", "word", "is_one"),
    [
        ("Varón de [EDAD] años", "EDAD", True),
        ("[EDAD]", "EDAD", True),
        ("[edad años", "edad", False),
        ("a]", "a", False),
    ],
)
def test_a_placeholder_stands_in_brackets(text, word, is_one):
    start = text.index(word)
    assert cohort.placeholder(text, start, start + len(word)) is is_one
