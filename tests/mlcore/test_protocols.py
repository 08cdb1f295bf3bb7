"""The shipped questions, and how a label in a file is understood."""

import numpy as np
import pytest

from mlcore import protocols
from mlcore.errors import DataError


@pytest.mark.parametrize("spec", protocols.SHIPPED.values(), ids=lambda spec: spec.slug)
def test_a_shipped_protocol_is_whole(spec):
    k = len(spec.labels)
    costs = np.array(spec.cost_automatic)
    assert costs.shape == (k, k)
    assert len(spec.cost_defer) == k
    assert set(spec.targets) | set(spec.critical) <= set(spec.labels)
    assert (np.diag(costs) == 0).all()
    assert costs.max() == 1
    for names in spec.names.values():
        assert set(names) == {"protocol", *spec.labels}
        assert len(set(names.values())) == k + 1


def test_the_papers_matrix():
    spec = protocols.get("hiv-suspicion-es")
    assert spec.cost_automatic == ((0.0, 0.5), (1.0, 0.0))
    assert spec.cost_defer == (0.25, 0.5)


def test_the_severity_matrix_prices_what_is_understated():
    spec = protocols.MAUDE_SEVERITY_EN
    costs, read = np.array(spec.cost_automatic), np.array(spec.cost_defer)
    for truth in range(4):
        assert (np.diff(costs[truth, : truth + 1]) < 0).all()  # the further understated, the dearer
        assert (np.diff(costs[truth, truth:]) > 0).all()
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    assert all(costs[i, j] < costs[j, i] for i, j in pairs)  # overstating is cheaper
    assert costs[3, :3].min() > costs[:3].max()  # a death settled as anything else is the catastrophe
    assert len(set(read)) == 1 and read.max() < costs[3, :3].min() / 10
    assert spec.watched == spec.critical == ("Death",)


def test_a_chance_of_death_of_one_in_eighty_is_worth_a_reading():
    spec = protocols.MAUDE_SEVERITY_EN
    random = np.random.default_rng(1)
    rest = random.dirichlet(np.ones(3), 1000)
    probabilities = np.column_stack([0.9875 * rest, np.full(1000, 0.0125)])
    settled = probabilities @ np.array(spec.cost_automatic)[:, :3]
    assert (settled >= (probabilities @ np.array(spec.cost_defer))[:, None] - 1e-12).all()


@pytest.mark.parametrize("value", ["suspicion", " Suspicion ", "Sospecha", 1, "1", 1.0, "1.0"])
def test_a_label_is_understood_by_name_or_position(value):
    assert protocols.HIV_SUSPICION_ES.label_index(value) == 1


@pytest.mark.parametrize(
    "value", ["", "maybe", 2, -1, "2", 0.5, True, None, [1], float("nan"), "inf", "protocol"]
)
def test_anything_else_is_refused_naming_the_labels(value):
    with pytest.raises(DataError, match="0 or non_suspicion, 1 or suspicion"):
        protocols.HIV_SUSPICION_ES.label_index(value)


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(
        DataError, match="'covid' is not known: use one of hiv-suspicion-es, maude-severity-en, ade-en"
    ):
        protocols.get("covid")


def test_target_indices():
    assert protocols.MAUDE_SEVERITY_EN.target_indices == (3,)
