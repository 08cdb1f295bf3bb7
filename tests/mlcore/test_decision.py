"""The rule: by hand, against a naive twin, and as the prediction set it stands for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlcore import conformal, decision
from mlcore.calibrate import Scores
from mlcore.decision import AMBIGUOUS, ATYPICAL, AUTOMATIC, NOVEL
from mlcore.errors import DataError

RANKS = st.sampled_from([0.005, 0.01, 0.02, 0.05, 0.3, 1.0])


def naive(credibility, runner_up, typicality, alpha, floor):
    if runner_up > alpha:
        return AMBIGUOUS
    if credibility <= alpha:
        return NOVEL
    return ATYPICAL if typicality <= floor else AUTOMATIC


@pytest.mark.parametrize(
    ("credibility", "runner_up", "typicality", "expected"),
    [
        (0.9, 0.01, 0.5, "automatic"),
        (0.9, 0.05, 0.5, "automatic"),  # runner_up equal to alpha is out of the set
        (0.9, 0.0500001, 0.5, "ambiguous"),
        (0.05, 0.01, 0.5, "novel"),  # credibility equal to alpha is out of the set
        (0.0500001, 0.01, 0.5, "automatic"),
        (0.9, 0.01, 0.01, "atypical"),  # typicality equal to the floor is atypical
        (0.9, 0.01, 0.0100001, "automatic"),
        (0.9, 0.2, 0.0, "ambiguous"),  # the first reason that applies
        (0.04, 0.01, 0.0, "novel"),
    ],
)
def test_hand_worked_cases(credibility, runner_up, typicality, expected):
    found = decision.decide([credibility], [runner_up], [typicality], 0.05, 0.01)
    assert decision.NAMES[found[0]] == expected
    assert found.dtype == np.int8


@given(
    arrays(np.float64, (20, 3), elements=RANKS),
    RANKS.filter(lambda a: a < 1),
    st.sampled_from([0, 0.01, 0.3]),
)
def test_decide_equals_the_naive_twin_ties_included(numbers, alpha, floor):
    credibility, runner_up = numbers[:, :2].max(axis=1), numbers[:, :2].min(axis=1)
    found = decision.decide(credibility, runner_up, numbers[:, 2], alpha, floor)
    expected = [naive(*row, alpha, floor) for row in zip(credibility, runner_up, numbers[:, 2], strict=True)]
    assert found.tolist() == expected


@given(
    arrays(np.float64, (30, 4), elements=RANKS), arrays(np.float64, (30, 4), elements=st.floats(0, 1)), RANKS
)
def test_automatic_is_a_prediction_set_of_the_label_alone(p, probabilities, alpha):
    if alpha == 1:
        return
    ranking = decision.rank(p, probabilities)
    found = decision.decide(ranking.credibility, ranking.runner_up, np.ones(30), alpha, 0.01)
    inside = conformal.prediction_set(p, alpha)
    assert np.array_equal(found == AUTOMATIC, inside.sum(axis=1) == 1)
    assert np.array_equal(found == NOVEL, inside.sum(axis=1) == 0)
    automatic = found == AUTOMATIC
    assert inside[automatic, ranking.label[automatic]].all()


@given(
    arrays(np.float64, (10, 3), elements=RANKS),
    arrays(np.float64, (10, 3), elements=st.sampled_from([0.1, 0.2])),
)
def test_rank_equals_the_naive_twin(p, probabilities):
    ranking = decision.rank(p, probabilities)
    for i in range(10):
        order = sorted(range(3), key=lambda c: (-p[i, c], -probabilities[i, c], c))
        assert ranking.label[i] == order[0]
        assert ranking.credibility[i] == p[i, order[0]]
        assert ranking.runner_up[i] == p[i, order[1]]


def test_a_tie_goes_to_the_higher_probability_then_the_lower_index():
    p = [[0.5, 0.5, 0.1], [0.5, 0.5, 0.1]]
    ranking = decision.rank(p, [[0.2, 0.7, 0.1], [0.45, 0.45, 0.1]])
    assert ranking.label.tolist() == [1, 0]
    assert ranking.credibility.tolist() == ranking.runner_up.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_missing_number_never_settles_a_case(place):
    numbers = [[0.9], [0.01], [0.5]]
    numbers[place] = [float("nan")]
    with pytest.raises(DataError, match="must be numbers"):
        decision.decide(*numbers, 0.05, 0.01)


@pytest.mark.parametrize(
    ("alpha", "floor"), [(0, 0.01), (1, 0.01), (0.05, -0.1), (0.05, 1), (float("nan"), 0.01)]
)
def test_a_policy_outside_its_range_is_refused(alpha, floor):
    with pytest.raises(DataError, match="must lie"):
        decision.decide([0.9], [0.01], [0.5], alpha, floor)


@pytest.mark.parametrize("p", [[0.1, 0.2], [[0.1]], [[0.1, float("nan")]]])
def test_rank_refuses_other_shapes_and_missing_numbers(p):
    with pytest.raises(DataError):
        decision.rank(p, p)


def test_urgency_is_the_expected_cost_of_passing_over():
    cost = [[0.0, 0.5], [1.0, 0.0]]
    assert decision.urgency([[0.9, 0.1], [0.25, 0.75]], cost).tolist() == [0.1, 0.75]
    severity = [[0, 1, 1], [0.25, 0, 1], [1.0, 1, 0]]
    assert decision.urgency([[0.5, 0.25, 0.25]], severity).tolist() == [0.0625 + 0.25]


def scores_of(seed, n=60):
    """Scores of n cases with two classes, p-values and typicality on a coarse grid so that ties are common."""
    random = np.random.default_rng(seed)
    q = random.random(n).round(1)
    q = np.column_stack([q, 1 - q])
    p = random.integers(1, 11, (n, 2)) / 10
    ranking = decision.rank(p, q)
    typicality = random.integers(1, 101, n) / 100
    return Scores(np.zeros((n, 2)), q, p, np.ones((n, 2)), *ranking, np.ones(n), typicality)


def test_each_policy_defers_for_its_own_reasons_alone():
    s = scores_of(1)
    alpha, floor = 0.3, 0.2
    found = {name: decision.decide_by(name, s, alpha, floor, s) for name in decision.POLICIES}
    size = (s.p_values > alpha).sum(axis=1)
    by_set = np.select([size > 1, size == 0], [AMBIGUOUS, NOVEL], AUTOMATIC)
    strange = s.typicality <= floor
    assert np.array_equal(found["aleatoric"], by_set)
    assert np.array_equal(found["epistemic"], np.where(strange, ATYPICAL, AUTOMATIC))
    assert np.array_equal(found["dual"], np.where((by_set == AUTOMATIC) & strange, ATYPICAL, by_set))
    passed = (found["aleatoric"] == AUTOMATIC) & (found["epistemic"] == AUTOMATIC)
    assert np.array_equal(found["dual"] == AUTOMATIC, passed)
    assert all(decisions.dtype == np.int8 for decisions in found.values())


def with_probability(q):
    n = len(q)
    q = np.column_stack([q, 1 - np.asarray(q)])
    return Scores(np.zeros((n, 2)), q, q, q, np.zeros(n, dtype=np.int64), *[np.ones(n)] * 4)


def test_the_standard_policy_defers_above_the_ninetieth_percentile_of_entropy():
    """Nineteen held-out cases, .51 … .69 from the least sure on: the second least sure is the 18th smallest entropy."""
    held_out = with_probability(np.arange(51, 70) / 100)
    found = decision.decide_by(
        "standard", with_probability([0.5, 0.515, 0.52, 0.48, 0.6, 1.0]), 0.5, 0.5, held_out
    )
    assert [decision.NAMES[d] for d in found] == ["ambiguous", "ambiguous"] + ["automatic"] * 4


def test_the_standard_policy_defers_nothing_where_no_case_can_be_a_tenth():
    assert (
        decision.decide_by("standard", with_probability([0.5]), 0.5, 0.5, with_probability([0.9] * 8))
        == AUTOMATIC
    ).all()
    assert (
        decision.decide_by("standard", with_probability([0.5]), 0.5, 0.5, with_probability([0.9] * 9))
        == AMBIGUOUS
    ).all()


def test_a_policy_of_no_name_or_without_its_reference_is_refused():
    with pytest.raises(DataError, match="one of aleatoric, epistemic, standard, dual"):
        decision.decide_by("hybrid", scores_of(2), 0.05, 0.01)
    with pytest.raises(DataError, match="give held_out"):
        decision.decide_by("standard", scores_of(2), 0.05, 0.01)


def test_entropy_by_hand():
    assert decision.entropy([[1.0, 0.0], [0.5, 0.5]]).tolist() == [0.0, np.log(2)]
    assert decision.entropy(np.full((1, 4), 0.25))[0] == pytest.approx(np.log(4), abs=1e-15)
