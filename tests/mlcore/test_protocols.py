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
