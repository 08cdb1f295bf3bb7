"""The printed figures agree with one another wherever the paper prints one twice."""

import pytest

from mlcore import metrics, published


def test_the_ablation_ends_where_table_d1_stands():
    at = published.D1["spectral", "cv", 0.05]
    assert {key: at[key] for key in published.POLICIES["dual"]} == published.POLICIES["dual"]


def test_the_default_prices_give_the_risk_kappas_of_table_d1():
    _, standard, spectral = published.REALITIES[metrics.DEFAULT_REALITY]
    assert published.D1["standard", "cv", 0.01]["risk_kappa"][0] == standard
    assert published.D1["spectral", "cv", 0.01]["risk_kappa"][0] == spectral


@pytest.mark.parametrize("name", published.REALITIES)
def test_the_prices_are_those_risk_kappa_is_asked_for(name):
    fn, fp, negative, positive = published.REALITIES[name][0]
    automatic, defer = metrics.REALITIES[name]
    assert automatic == ((0.0, fp), (fn, 0.0))
    assert defer == (negative, positive)


def test_the_chosen_constants_give_the_dual_veto():
    _, coverage, clear_f2, tpdr, kappa = published.SENSITIVITY[0.05, 99.0]
    at = published.D1["spectral", "cv", 0.05]
    assert (coverage, clear_f2, kappa) == (at["coverage"][0], at["clear_f2"][0], at["risk_kappa"][0])
    assert tpdr == pytest.approx(at["tpdr"][0], abs=0.0011)  # 10.1 % there, 10.2 % in Table D1


@pytest.mark.parametrize("place", published.D1)
def test_every_interval_holds_its_figure(place):
    for value, low, high in published.D1[place].values():
        assert 0 <= low <= value <= high <= 1


def test_what_does_not_depend_on_alpha_does_not_change_with_it():
    for architecture in ("standard", "spectral"):
        rows = [published.D1[architecture, "cv", alpha] for alpha in (0.01, 0.02, 0.05)]
        for key in ("f2", "ece", "aurc"):
            assert len({row[key] for row in rows}) == 1
