"""What deferral is worth, written down: figures against plain counting, the oracle, and the files."""

import csv
import json

import numpy as np
import pytest

from mlcore import deferral, deferral_report, protocols
from mlcore.deferral import NO_OPINION, Cases, Choice, Learned, Router
from mlcore.deferral_report import Result

SPEC = protocols.HIV_SUSPICION_ES
ON = deferral.metric(SPEC)
TRUTH = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
FIRST = [1, 1, 0, 0, 1, 0, 0, 0, 0, 0]  # two misses, one alarm: F1 = 4 / 7
SECOND = [0, 1, 1, 0, 0, 1, 0, 0, 0, NO_OPINION]
RISKS = [0.2, 0.1, 0.9, 0.8, 0.7, 0.6, 0.3, 0.3, 0.3, 0.95]
ROUTER = Router(("risk",), np.zeros(1), np.ones(1), np.ones(1), 0.0, 0.65)


def result(threshold=0.65, reason=None):
    values = np.log(np.array(RISKS) / (1 - np.array(RISKS)))[:, None]
    test = Cases(values, *map(np.array, (TRUTH, FIRST, SECOND)), [f"P{i}" for i in range(10)])
    choice = Choice(0.65, 0.4, 0.8, 0.6)
    facts = {"n": 10, "errors": 3, "helps": 2, "spoils": 2, "effective": 10.0, "oracle": 0.2}
    router = Router(
        *(getattr(ROUTER, name) for name in ("names", "mean", "scale", "coefficients", "intercept")),
        threshold,
    )
    budgets = dict.fromkeys((0.1, 1.0), choice) | {0.1: Choice(1.0, 0.0, 0.6, 0.6)}
    learned = Learned(router, choice, None, budgets, facts, reason)
    return Result(SPEC, ON, 0.5, learned, test, {"protocol": SPEC.slug, "primary": "<one>"})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deferral")
    return deferral_report.write(result(), folder), folder


def test_the_figures_are_those_counted_by_hand(written):
    """Deferred are P9 (no opinion), P2 (mended), P3 (still missed) and P4 (mended): 3 hits, 1 miss, no alarm."""
    figures, _ = written
    values = {
        key: figures[key]["value"]
        for key in figures
        if isinstance(figures[key], dict) and "ci" in figures[key]
    }
    assert values["f1_primary"] == pytest.approx(4 / 7)
    assert values["f1_secondary"] == pytest.approx(4 / 7)  # hits P1, P2; misses P0, P3; alarm P5
    assert values["f1_deferred"] == values["f1_oracle"] == pytest.approx(6 / 7)
    assert (values["share_deferred"], values["calls_saved"]) == pytest.approx((0.4, 0.6))
    assert values["gain"] == values["oracle_gain"] == pytest.approx(2 / 7)
    assert values["recovered"] == pytest.approx(1)
    assert values["right_where_first_errs"] == pytest.approx(2 / 3)
    assert values["wrong_where_first_right"] == pytest.approx(3 / 7)
    assert values["errs_among_deferred"] == pytest.approx(3 / 4)
    assert figures["right_where_first_errs"]["n"] == 3 and figures["f1_deferred"]["n"] == 10
    assert figures["deferred_cases"] == {"n": 4, "mended": 2, "spoilt": 0, "no_opinion": 1}


def test_every_figure_has_an_interval_around_it(written):
    figures, _ = written
    for key in ("f1_primary", "f1_secondary", "f1_deferred", "share_deferred", "gain"):
        low, high = figures[key]["ci"]
        assert low <= figures[key]["value"] <= high, key
        assert low < high


def test_the_curve_has_a_point_for_each_budget(written):
    figures, _ = written
    none, some = figures["curve"]
    assert (none["budget"], none["share"]["value"], none["f1"]["value"]) == pytest.approx((0.1, 0, 4 / 7))
    assert (some["budget"], some["share"]["value"], some["f1"]["value"]) == pytest.approx((1, 0.4, 6 / 7))


def test_the_files_say_the_same_and_the_page_needs_no_network(written):
    figures, folder = written
    assert json.loads((folder / "metrics.json").read_text("utf-8")) == json.loads(json.dumps(figures))
    rows = list(csv.DictReader((folder / "table.csv").open(encoding="utf-8", newline="")))
    assert [row["System"] for row in rows] == [
        deferral_report.SYSTEMS[name] for name in ("primary", "secondary", "deferred", "oracle")
    ]
    assert float(rows[2]["f1"]) == figures["f1_deferred"]["value"]
    page = (folder / "report.html").read_text("utf-8")
    assert "&lt;one&gt;" in page and "<one>" not in page
    assert "src=" not in page.split("</script>")[-1]
    saved = json.loads((folder / "router.json").read_text("utf-8"))
    assert Router.from_dict(saved).threshold == 0.65


def test_where_nothing_is_deferred_the_reason_and_the_untested_threshold_stand(tmp_path):
    reason = (deferral.NEVER, {"errors": 3, "n": 10})
    made = result(deferral.NOBODY, reason)
    figures = deferral_report.write(made, tmp_path)
    assert (figures["share_deferred"]["value"], figures["calls_saved"]["value"]) == (0, 1)
    assert figures["f1_deferred"] == figures["f1_primary"]
    assert figures["recovered"]["value"] == 0
    assert figures["f1_untested"]["value"] == pytest.approx(6 / 7)
    assert "3 of 10 cases" in figures["reason"]
    assert "3 of 10 cases" in (tmp_path / "report.html").read_text("utf-8")
    told = deferral_report.text_table(figures)
    assert "The tuned threshold, untested" in told and "40.0 %" in told


def test_where_the_oracle_gains_nothing_no_share_of_it_is_told(tmp_path):
    made = result()
    blind = Cases(made.test.values, made.test.truth, made.test.first, made.test.first, made.test.groups)
    figures = deferral_report.write(Result(SPEC, ON, 0.5, made.learned, blind), tmp_path)
    assert figures["oracle_gain"]["value"] == 0
    assert figures["recovered"]["value"] is None
