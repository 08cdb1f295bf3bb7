"""The written evaluation: every figure can be computed again from predictions.csv; the page is whole and offline."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import average_precision_score, fbeta_score, roc_auc_score

from mlcore import compat, decision, metrics, outcomes, protocols, report
from mlcore.calibrate import Calibration
from mlcore.distance import MultiCentroid
from mlcore.errors import BundleError

SPEC = protocols.MAUDE_SEVERITY_EN


def draw(seed, n, shares):
    random = np.random.default_rng(seed)
    truth = random.choice(len(shares), size=n, p=shares)
    logits = random.normal(size=(n, len(shares)))
    logits[np.arange(n), truth] += 4
    distances = np.abs(random.normal(size=(n, len(shares)))) + (truth[:, None] != np.arange(len(shares)))
    return logits, distances, truth


def evaluated(spec=SPEC, n=400, labelled=True, calibrated_on=2000, groups=None):
    shares = [0.1, 0.4, 0.3, 0.2] if len(spec.labels) == 4 else [0.7, 0.3]
    logits, distances, truth = draw(1, calibrated_on, shares)
    calibration = Calibration.fit(spec.labels, logits, distances, truth, 1.2)
    logits, distances, truth = draw(2, n, shares)
    truth = truth if labelled else np.full(n, -1)
    ids = [f"patient-{i:06}" if i else '=1+1,"<b>' for i in range(n)]
    return report.Evaluation(
        spec,
        ids,
        groups or ids,
        truth,
        calibration.apply(logits, distances),
        calibration,
        "release <1>",
        "ab" * 32,
        "notes.jsonl.gz",
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "deep" / "er"
    return report.write(evaluated(), folder), folder


def rows(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predictions_hold_every_number_to_the_last_bit(written):
    evaluation, found = evaluated(), rows(written[1])
    scores = evaluation.scores
    assert [row["case_id"] for row in found] == evaluation.ids
    assert [row["true_label"] for row in found] == [SPEC.labels[c] for c in evaluation.truth]
    assert [row["label"] for row in found] == [SPEC.labels[c] for c in scores.label]
    for c, label in enumerate(SPEC.labels):
        assert [float(row[f"prob_{label}"]) for row in found] == scores.probabilities[:, c].tolist()
        assert [float(row[f"p_{label}"]) for row in found] == scores.p_values[:, c].tolist()
    for name in ("credibility", "runner_up", "distance", "typicality"):
        assert [float(row[name]) for row in found] == getattr(scores, name).tolist()


def test_columns_stand_in_the_promised_order(written):
    head = (written[1] / "predictions.csv").read_text().splitlines()[0]
    labels = (
        ",".join(f"prob_{label}" for label in SPEC.labels),
        ",".join(f"p_{label}" for label in SPEC.labels),
    )
    assert (
        head == f"case_id,true_label,{labels[0]},{labels[1]},label,credibility,runner_up,distance,typicality"
    )


def test_every_figure_can_be_computed_again_from_the_predictions(written):
    figures = json.loads((written[1] / "metrics.json").read_text())
    found = rows(written[1])
    column = {
        name: np.array([float(row[name]) for row in found])
        for name in found[0]
        if "label" not in name[-6:] and name != "case_id"
    }
    truth, label = (np.array([row[name] for row in found]) for name in ("true_label", "label"))
    dead, said = truth == "Death", label == "Death"
    overall = figures["overall"]
    assert overall["auroc"]["value"] == pytest.approx(roc_auc_score(dead, column["prob_Death"]), abs=1e-12)
    assert overall["average_precision"]["value"] == pytest.approx(
        average_precision_score(dead, column["prob_Death"]), abs=1e-12
    )
    assert overall["f2"]["value"] == pytest.approx(fbeta_score(dead, said, beta=2), abs=1e-12)
    for alpha in (0.01, 0.02, 0.05):
        at = figures["alpha"][repr(alpha)]
        numbers = column["credibility"], column["runner_up"], column["typicality"]
        decisions = decision.decide(*numbers, alpha, figures["floor"])
        automatic = decisions == 0
        assert list(at["counts"].values()) == [int((decisions == d).sum()) for d in range(4)]
        assert at["coverage"]["value"] == pytest.approx(automatic.mean(), abs=1e-12)
        assert at["tpdr"]["value"] == pytest.approx((~automatic)[dead].mean(), abs=1e-12)
        assert at["tpdr"]["n"] == dead.sum()
        assert at["ppv"]["value"] == pytest.approx(dead[automatic & said].mean(), abs=1e-12)
        assert at["npv"]["value"] == pytest.approx((~dead)[automatic & ~said].mean(), abs=1e-12)
        assert at["npv"]["n"] == (automatic & ~said).sum()
        expected = fbeta_score(dead[automatic], said[automatic], beta=2)
        assert at["clear_f2"]["value"] == pytest.approx(expected, abs=1e-12)
        expected = metrics.ece(column["prob_Death"][automatic], dead[automatic])
        assert at["clear_ece"]["value"] == pytest.approx(float(expected), abs=1e-12)
        for name in SPEC.labels:
            expected = (column[f"p_{name}"][truth == name] > alpha).mean()
            assert at["set_coverage"][name]["value"] == pytest.approx(expected, abs=1e-12)
            assert at["set_coverage"][name]["n"] == (truth == name).sum()


def test_a_report_of_four_labels_names_the_target_and_no_side(written):
    page = re.sub(r"<script.*?</script>", "", (written[1] / "report.html").read_text(), flags=re.S)
    assert not re.findall(
        r"\b(?:positive|negative|suspicion|NPV|PPV)\w*", re.sub(r"<[^>]*>", " ", page), re.I
    )
    for said in (
        "TPDR of Death",
        "F1 of Malfunction",
        "Macro F1",
        "Death found among automatic cases",
        "set holds Other",
    ):
        assert said in page
    at = written[0]["alpha"]["0.01"]
    assert at["in_set"]["Death"]["Death"] == at["set_coverage"]["Death"]
    assert at["tpdr_of"]["Death"] == at["tpdr"] and at["recall"]["Death"]["n"] > 0


def test_a_report_of_two_labels_keeps_the_papers_words(tmp_path):
    report.write(evaluated(protocols.HIV_SUSPICION_ES), tmp_path)
    page = (tmp_path / "report.html").read_text()
    for said in ("NPV", "PPV", "the target against the rest", ">TPDR</th>"):
        assert said in page
    assert "Label by label" not in page and "set holds" not in page


def test_every_interval_holds_its_figure(written):
    figures = written[0]
    at_alpha = [
        at
        for by_alpha in figures["alpha"].values()
        for name, at in by_alpha.items()
        if name in outcomes.meanings(SPEC)
    ]
    overall = [at for name, at in figures["overall"].items() if name in outcomes.meanings(SPEC)]
    for at in [*overall, *figures["overall"]["f1"].values(), *at_alpha]:
        assert at["low"] <= at["value"] <= at["high"]
        assert at["n"] > 0


def test_the_same_scores_give_the_same_files(written, tmp_path):
    report.write(evaluated(), tmp_path)
    for name in ("metrics.json", "predictions.csv"):
        assert (tmp_path / name).read_bytes() == (written[1] / name).read_bytes()


def test_the_page_is_one_offline_file(written):
    page = (written[1] / "report.html").read_text(encoding="utf-8")
    ours = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "research prototype" in ours
    assert not re.search(r"(src|href|url)\s*[=(]", ours)
    assert not re.search(r"<script[^>]+src", page)
    assert page.count('class="plotly-graph-div"') == 5


def test_the_page_names_no_case_and_escapes_what_it_shows(written):
    page = (written[1] / "report.html").read_text(encoding="utf-8")
    assert "patient-000017" not in page
    assert "=1+1" not in page
    assert "release &lt;1&gt;" in page
    assert "<1>" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)


def test_labels_are_escaped_everywhere(tmp_path):
    spec = dataclasses.replace(protocols.ADE_EN, labels=("<b>no", "yes&"), targets=("yes&",))
    report.write(evaluated(spec), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "&lt;b&gt;no" in page


def test_the_page_says_where_there_is_no_guarantee(tmp_path):
    figures = report.write(evaluated(calibrated_on=800), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    n = figures["calibration"]["Other"]["n"]
    assert 49 < n < 99
    assert f"No guarantee at α = 0.01 for Other: {n} calibration cases cannot exclude it." in page
    assert page.count("No guarantee") == 1


def test_without_labels_there_are_predictions_and_it_says_so(tmp_path):
    figures = report.write(evaluated(protocols.HIV_SUSPICION_ES, labelled=False), tmp_path)
    assert "overall" not in figures
    assert figures["labelled"] == 0
    assert set(figures["alpha"]["0.01"]) == {"counts"}
    assert {row["true_label"] for row in rows(tmp_path)} == {""}
    assert "Predictions only" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_figures_stand_on_the_labelled_cases_alone(tmp_path):
    whole = evaluated(protocols.HIV_SUSPICION_ES)
    known = np.arange(400) % 2 == 0
    figures = report.measure(report.Evaluation(**{**vars(whole), "truth": np.where(known, whole.truth, -1)}))
    assert (figures["cases"], figures["labelled"]) == (400, 200)
    expected = roc_auc_score(whole.truth[known], whole.scores.probabilities[known, 1])
    assert figures["overall"]["auroc"]["value"] == pytest.approx(expected, abs=1e-12)
    assert sum(figures["alpha"]["0.01"]["counts"].values()) == 400


def test_a_file_of_one_class_leaves_figures_undefined(tmp_path):
    whole = evaluated(protocols.HIV_SUSPICION_ES)
    figures = report.write(report.Evaluation(**{**vars(whole), "truth": np.zeros(400, dtype=int)}), tmp_path)
    assert figures["overall"]["auroc"] == {"value": None, "low": None, "high": None, "n": 400}
    assert json.loads((tmp_path / "metrics.json").read_text()) == figures


# The authors' choices beside ours.


def embedded(truth, seed):
    places = 3 * np.eye(2, 5)
    return places[truth] + np.random.default_rng(seed).normal(size=(len(truth), 5))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """An evaluation, what the authors' choices are fitted on, embeddings of its cases, and its figures beside theirs."""
    whole = evaluated(protocols.HIV_SUSPICION_ES)
    logits, _, truth = draw(1, 2000, [0.7, 0.3])
    held_out = {"held_out.embedding": embedded(truth, 5), "held_out.logits": logits, "held_out.truth": truth}
    distance = MultiCentroid().fit(embedded(truth, 6), truth, 2)
    new = embedded(whole.truth, 7)
    other = report.other_ways(distance, held_out, new, whole.scores, 1.2, report.ALPHAS)
    evaluation = dataclasses.replace(whole, other=other)
    folder = tmp_path_factory.mktemp("compared")
    return evaluation, (distance, held_out, new), report.write(evaluation, folder), folder


def test_the_other_way_is_compat_on_the_same_cases(compared):
    evaluation, (distance, held_out, new), figures, _ = compared
    truth, logits = evaluation.truth, evaluation.scores.logits
    for alpha in report.ALPHAS:
        made = compat.fit(distance, *held_out.values(), alpha, 1.2)
        decisions, label = made.decide(new, logits)
        at, automatic = figures["compat"][repr(alpha)], decisions == 0
        assert at["coverage"]["value"] == pytest.approx(automatic.mean())
        assert at["tpdr"]["value"] == pytest.approx((~automatic)[truth == 1].mean())
        clear = fbeta_score(truth[automatic], label[automatic], beta=2)
        assert at["clear_f2"]["value"] == pytest.approx(clear)
        seen = held_out["held_out.truth"] == 1
        strange = 1 - softmax(held_out["held_out.logits"][seen] / 1.2, axis=1)[:, 1]
        inside = 1 - softmax(logits[truth == 1] / 1.2, axis=1)[:, 1] <= np.quantile(strange, 1 - alpha)
        assert at["set_coverage"]["suspicion"]["value"] == pytest.approx(inside.mean())


def test_the_page_sets_both_ways_side_by_side(compared):
    figures, page = compared[2], (compared[3] / "report.html").read_text(encoding="utf-8")
    assert page.count("<td>the authors&#x27; choices</td>") + page.count("<td>the authors' choices</td>") == 3
    assert all(sentence.split(":")[0] in page.replace("&#x27;", "'") for sentence in compat.REPRODUCED)
    assert f"<span>{figures['compat']['0.01']['coverage']['value']:.3f}</span>" in page


def test_without_the_question_nothing_is_compared(written):
    assert "compat" not in written[0]
    assert "published code" not in (written[1] / "report.html").read_text(encoding="utf-8")


def test_a_bundle_without_its_calibration_cases_is_told(compared):
    evaluation, (distance, held_out, new), *_ = compared
    fewer = {name: array for name, array in held_out.items() if name != "held_out.embedding"}
    with pytest.raises(BundleError, match="train it again with this version, or leave out --compare-compat"):
        report.other_ways(distance, fewer, new, evaluation.scores, 1.2, [0.05])


def test_whole_groups_are_resampled():
    """Forty groups of ten say less than four hundred patients: the interval is wider, the figure the same."""
    apart = report.measure(evaluated())["overall"]["auroc"]
    grouped = report.measure(evaluated(groups=[f"G{i % 4}" for i in range(400)]))["overall"]["auroc"]
    assert apart["value"] == grouped["value"]
    assert (apart["low"], apart["high"]) != (grouped["low"], grouped["high"])
