"""What a model card says is what card.json, the held-out cases and an evaluation say."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mlcore import bundle, model_card, protocols, report
from mlcore.calibrate import Calibration
from mlcore.errors import DataError
from mlcore.records import labels_array
from mlcore.scorer import Scorer
from tests.mlcore.conftest import SPEC, cases

SEVERITY = protocols.MAUDE_SEVERITY_EN


@pytest.fixture(scope="module")
def sealed(trained):
    return bundle.read_card(trained), bundle.load_arrays(trained), bundle.verify(trained)


@pytest.fixture(scope="module")
def text(sealed):
    return model_card.render(*sealed, SPEC)


def test_it_says_what_it_is_and_what_it_was_made_of(sealed, text):
    card, _, sha256 = sealed
    assert text.startswith("# Model card: Suspicion of HIV infection\n")
    for part in (
        model_card.NOTICE,
        sha256,
        card["data"]["sha256"],
        card["data"]["split_sha1"],
        card["trained_at"],
        f"epoch {card['chosen']['epoch']} of {len(card['epochs'])}",
        card["chosen"]["why"],
        f"numpy {card['versions']['numpy']}",
    ):
        assert part in text
    for name, counts in card["data"]["shares"].items():
        assert f"| {name} | {counts['non_suspicion']} | {counts['suspicion']} |" in text
    assert "nan" not in text


def test_it_is_the_same_each_time(sealed, text):
    assert model_card.render(*sealed, SPEC) == text


def test_a_class_too_small_for_an_alpha_is_told(sealed):
    card, arrays, sha256 = sealed
    n = {label: at["n"] for label, at in card["calibration"].items()}
    text = model_card.render(card, arrays, sha256, SPEC)
    for label, at in card["calibration"].items():
        for alpha in model_card.ALPHAS:
            told = f"as another label than {label} at α = {alpha}: its {n[label]} calibration cases" in text
            assert told == (at["minimum_alpha"] > alpha)
    assert "No guarantee" not in text


def test_an_evaluation_stands_in_it_and_anothers_is_refused(sealed, trained, tmp_path):
    card, arrays, sha256 = sealed
    records, scorer = cases(60, 12), Scorer.load(trained)
    scores = scorer.score_records([record.texts for record in records])[0]
    ids = [record.patient_id for record in records]
    found = report.Evaluation(
        SPEC, ids, ids, labels_array(records), scores, scorer.calibration, "bundle", sha256, "test.jsonl"
    )
    figures = json.loads(json.dumps(report.measure(found)))
    text = model_card.render(card, arrays, sha256, SPEC, figures)
    assert "## Evaluated on test.jsonl" in text
    assert f"| AUROC | {model_card.interval(figures['overall']['auroc'])} |" in text
    assert model_card.interval(figures["alpha"]["0.05"]["coverage"]) in text
    with pytest.raises(DataError, match="another bundle"):
        model_card.render(card, arrays, sha256, SPEC, figures | {"sha256": "0"})


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        (None, "Whole groups stand on one side, as the file gives them, or a patient's cases"),
        ({"from": "labels"}, "All cases of a patient stand on one side"),
        ({"near_duplicates": {"groups": 2}}, "Whole groups of near-identical cases, found before the split,"),
    ],
)
def test_it_says_what_the_split_kept_together(sealed, origin, told):
    card, arrays, sha256 = sealed
    text = model_card.render({**card, "data": {**card["data"], "origin": origin}}, arrays, sha256, SPEC)
    assert told in text and text.count("stand on one side") == 1


def test_the_validation_share_teaches_the_linear_release_alone(sealed, text):
    card, arrays, sha256 = sealed
    linear = {**card, "kind": "tfidf", "epochs": [], "chosen": {"strength": 1.0, "why": "tried"}}
    assert "The validation share teaches too" in model_card.render(linear, arrays, sha256, SPEC)
    assert "teaches too" not in text


def test_a_weighted_calibration_says_why_its_held_out_cases_are_not_told(sealed, text):
    card, arrays, sha256 = sealed
    weighted = arrays | {model_card.WEIGHTED: np.ones(3)}
    told = model_card.render(card, weighted, sha256, SPEC).split("## On the held-out calibration cases")[1]
    assert told.strip().startswith("No figures: this calibration weighs its cases")
    assert "No figures" not in text


def held_out():
    """Eight cases of four labels; «Other» is in every set, and twice taken for a malfunction."""
    truth = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    p = np.full((8, 4), 0.01)
    p[np.arange(8), truth] = 0.8
    p[:, 0] = np.maximum(p[:, 0], 0.2)
    p[:2, 1] = 0.9
    ranked = np.sort(p, axis=1)
    label = p.argmax(axis=1)
    ones = np.ones(8)
    scores = model_card.Scores(p, p, p, p, label, ranked[:, -1], ranked[:, -2], ones, ones)
    return truth, scores, ones


def test_the_catch_all_and_what_it_is_confused_with():
    first, second = model_card.confusion(SEVERITY, *held_out())
    assert first.startswith("Other catches most of what it is not: at α = 0.05")
    assert "100.0% of Malfunction, 100.0% of Injury, 100.0% of Death" in first
    assert "100.0% of all cases" in first
    assert "Other is most often confused with Malfunction, which is in the set of 100.0% of its 2" in second
    assert "Other 0, Malfunction 2, Injury 0, Death 0" in second


def test_shares_of_all_cases_follow_the_weights():
    truth, scores, _ = held_out()
    p = scores.p_values.copy()
    p[2, 0] = 0.01
    weight = np.array([1, 1, 7, 1, 1, 1, 1, 1.0])
    first, _ = model_card.confusion(SEVERITY, truth, replace(scores, p_values=p), weight)
    assert "12.5% of Malfunction" in first
    assert "50.0% of all cases" in first


def test_held_out_figures_are_those_of_the_calibration(sealed, text):
    _, arrays, _ = sealed
    ranks = Calibration.from_arrays(arrays)
    scores = ranks.held_out_scores(
        arrays["held_out.logits"], arrays["held_out.distances"], arrays["held_out.truth"]
    )
    inside = scores.p_values[arrays["held_out.truth"] == 1] > 0.05
    row = next(
        line
        for line in text.split("prediction set at α = 0.05")[1].splitlines()
        if line.startswith("| suspicion |")
    )
    cells = [float(cell.split()[0]) for cell in row.split("|")[2:4]]
    assert cells == pytest.approx(inside.mean(axis=0), abs=6e-4)


@pytest.mark.parametrize("gone", ["held_out.logits", "held_out.truth"])
def test_without_held_out_cases_it_says_less(sealed, gone):
    card, arrays, sha256 = sealed
    kept = {name: array for name, array in arrays.items() if name != gone}
    text = model_card.render(card, kept, sha256, SPEC)
    assert "held-out calibration cases" not in text
    assert "## Limitations" in text


def test_a_cell_cannot_break_its_table():
    assert model_card.table(("a",), [("x|y\nz",)]) == "| a |\n| --- |\n| x&#124;y z |"
