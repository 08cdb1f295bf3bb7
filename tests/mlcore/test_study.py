"""Every figure of a study is what the stored arrays say, in the paper's tables, in the CSVs and on the page."""

import csv
import json
import re

import numpy as np
import pytest
from sklearn.metrics import fbeta_score, roc_auc_score

from mlcore import backends, calibrate, decision, members, metrics, published, study, study_page, tables
from mlcore.distance import MultiCentroid
from mlcore.uncertainty import CrossConformal
from tests.mlcore import stored


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return stored.study(tmp_path_factory.mktemp("study") / "s")


@pytest.fixture(scope="module")
def figures(plan):
    return study.write(plan)


@pytest.fixture(scope="module")
def found(plan):
    return {backend.name: backend for backend in backends.every(plan)}


def test_an_ensemble_ranks_each_case_by_the_member_that_never_saw_it(plan, found):
    """The naive form: member by member, case by case, from embeddings and logits."""
    labels, n = plan.cohort.labels, len(plan.cohort.labels)
    logits, distances = np.zeros((n, 2)), np.zeros((n, 2))
    new_logits, new_distances, temperatures = [], [], []
    for m in range(3):
        arrays = members.load(plan.path(members.Step("member", "spectral", m)))
        own = MultiCentroid().fit(arrays["training.embeddings"][plan.fold != m], labels[plan.fold != m], 2)
        for i in np.flatnonzero(plan.fold == m):
            logits[i] = arrays["training.logits"][i]
            distances[i] = own.distances(arrays["training.embeddings"][[i]])[0]
        new_logits.append(arrays["test.logits"])
        new_distances.append(own.distances(arrays["test.embeddings"]))
        temperatures.append(arrays["temperature"][0])
    ranks = CrossConformal.fit(
        plan.cohort.spec.labels, labels, plan.fold, logits, distances, np.array(temperatures)
    )
    expected = ranks.apply(np.stack(new_logits), np.stack(new_distances))
    scores = found["spectral/cv"].scores
    assert scores.p_values == pytest.approx(expected.p_values, abs=1e-12)
    assert scores.typicality == pytest.approx(expected.typicality, abs=1e-12)


def test_a_single_model_is_calibrated_on_its_own_share(plan, found):
    step = members.Step("single", "spectral")
    held_out = members.parts(plan, step)[2]
    backend = found["spectral/single"]
    assert sum(backend.ranks.counts.values()) == len(held_out)
    z = members.load(plan.path(step))["test.logits"]
    assert backend.scores.probabilities == pytest.approx(calibrate.probabilities(z, 1.1), abs=1e-12)
    mix = np.bincount(plan.cohort.labels) / 600
    weighed = [backend.weights[backend.truth == c].sum() / backend.weights.sum() for c in range(2)]
    assert weighed == pytest.approx(mix)


def test_dropout_ranks_the_mean_of_its_passes_and_its_entropy(plan, found):
    passes = members.load(plan.path(members.Step("single", "standard")))["test.passes"]
    mean = np.mean([calibrate.probabilities(one, 1.0) for one in passes], axis=0)
    scores = found["standard/mc"].scores
    assert calibrate.probabilities(np.log(mean), found["standard/mc"].ranks.temperature) == pytest.approx(
        scores.probabilities, abs=1e-12
    )
    assert scores.distance == pytest.approx(-(mean * np.log(mean)).sum(axis=1), abs=1e-12)


@pytest.mark.parametrize(("architecture", "algorithm"), tables.BACKENDS)
def test_figures_can_be_computed_again_from_the_predictions(plan, figures, architecture, algorithm):
    path = plan.folder / "predictions" / f"{architecture}-{algorithm}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    column = {
        k: np.array([float(row[k]) for row in rows])
        for k in ("prob_suspicion", "credibility", "runner_up", "typicality")
    }
    truth, said = (
        np.array([row[k] == "suspicion" for row in rows], dtype=int) for k in ("true_label", "label")
    )
    at = figures["backends"][architecture][algorithm]
    assert at["overall"]["auroc"]["value"] == pytest.approx(roc_auc_score(truth, column["prob_suspicion"]))
    assert at["overall"]["f2"]["value"] == pytest.approx(fbeta_score(truth, said, beta=2))
    called = column["prob_suspicion"] >= at["threshold"]
    assert at["overall"]["f2_threshold"]["value"] == pytest.approx(fbeta_score(truth, called, beta=2))
    for alpha in (0.01, 0.02, 0.05):
        decided = decision.decide(
            column["credibility"], column["runner_up"], column["typicality"], alpha, 0.01
        )
        own = at["alpha"][repr(alpha)]
        assert own["coverage"]["value"] == pytest.approx((decided == 0).mean())
        assert list(own["counts"].values()) == np.bincount(decided, minlength=4).tolist()
        clear = (
            fbeta_score(truth[decided == 0], said[decided == 0], beta=2)
            if truth[decided == 0].any()
            else None
        )
        if clear is not None:
            assert own["clear_f2"]["value"] == pytest.approx(clear)
            lift = clear - at["overall"]["f2"]["value"]
            assert own["clear_f2_lift"]["value"] == pytest.approx(lift)


def test_the_ablation_is_the_four_policies(figures, found):
    backend = found["spectral/cv"]
    for policy in decision.POLICIES:
        decided = decision.decide_by(policy, backend.scores, 0.05, 0.01, backend.held_out)
        assert figures["policies"][policy]["coverage"]["value"] == pytest.approx((decided == 0).mean())
    dual = figures["backends"]["spectral"]["cv"]["alpha"]["0.05"]
    assert figures["policies"]["dual"]["risk_kappa"] == dual["risk_kappa"]


def test_the_sensitivity_table_holds_the_design_and_moves_with_the_percentile(plan, figures):
    chosen = figures["sensitivity"]["0.05"]["99"]
    assert chosen["coverage"] == figures["policies"]["dual"]["coverage"]
    for by_percentile in figures["sensitivity"].values():
        covered = [by_percentile[p]["coverage"]["value"] for p in ("90", "95", "99", "99.5", "99.9")]
        assert covered == sorted(covered)
        assert covered[0] < covered[-1]
    typicality = backends.ensemble(plan, "spectral", 0.01).scores.typicality
    assert figures["sensitivity"]["0.01"]["90"]["coverage"]["value"] <= (typicality > 0.1).mean()


def test_the_default_prices_are_the_protocols_own(figures):
    for architecture in ("standard", "spectral"):
        at = figures["backends"][architecture]["cv"]["alpha"]["0.01"]["risk_kappa"]
        assert figures["realities"][metrics.DEFAULT_REALITY][architecture]["value"] == pytest.approx(
            at["value"]
        )


def test_the_yardstick_is_compared_on_the_same_resamples(figures):
    ours = figures["backends"]["spectral"]["cv"]["overall"]
    for key in ("auroc", "average_precision", "f2_threshold"):
        difference = figures["ahead"]["spectral"]["cv"][key]
        assert difference["value"] == pytest.approx(ours[key]["value"] - figures["yardstick"][key]["value"])
        apart = (
            ours[key]["high"]
            - ours[key]["low"]
            + figures["yardstick"][key]["high"]
            - figures["yardstick"][key]["low"]
        )
        assert difference["high"] - difference["low"] < apart


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.1, "ahead"),
        (-0.1, -0.01, "behind"),
        (-0.1, 0.1, "cannot be told apart"),
        (None, None, "cannot be told apart"),
    ],
)
def test_ahead_or_not_goes_by_the_interval(low, high, word):
    assert tables.ahead({"value": 0.0, "low": low, "high": high, "n": 9}) == word


def test_the_same_arrays_give_the_same_files(plan, figures):
    before = {p: p.read_bytes() for p in plan.folder.rglob("*.csv")} | {
        p: p.read_bytes() for p in [plan.folder / "metrics.json"]
    }
    assert len(before) == 9 + 6 + 1
    study.write(plan)
    assert all(p.read_bytes() == content for p, content in before.items())


def test_metrics_json_holds_what_was_returned(plan, figures):
    assert json.loads((plan.folder / "metrics.json").read_text()) == figures
    assert figures["study"]["minimum_n"] == {"0.01": 99, "0.02": 49, "0.05": 19}
    at = figures["backends"]["spectral"]["cv"]
    n = at["calibration"]["suspicion"]["n"]
    promised = 1 - 2 * 0.05 - 2 * 2 * 0.95 / (n + 3)
    assert at["alpha"]["0.05"]["promised"]["suspicion"] == pytest.approx(promised)
    assert figures["backends"]["spectral"]["single"]["alpha"]["0.05"]["promised"]["suspicion"] == 0.95


def read(plan, slug):
    with (plan.folder / "tables" / f"{slug}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables_stand_in_the_papers_rows(plan, figures):
    rows = read(plan, "table-D1")
    ours = [(r["Architecture"], r["UQ algorithm"], r["α"]) for r in rows if r["source"] == "this study"]
    assert ours[:3] == [("Enc. Baseline", "CV Ensemble", a) for a in ("0.01", "0.02", "0.05")]
    assert next(r for r in rows if r["source"] == published.SOURCE)["coverage"] == "0.478"
    assert sum(r["source"] == published.SOURCE for r in rows) == len(published.D1)
    assert len(read(plan, "table-2")) == 12
    assert len(read(plan, "table-3")) == 8
    assert len(read(plan, "table-4")) == 12
    assert len(read(plan, "table-A1")) == 20 + 5
    assert len(read(plan, "table-B1")) == 10


def test_csv_holds_every_figure_in_full(plan, figures):
    row = next(r for r in read(plan, "table-4") if r["Architecture"] == "MD-SN MIL" and r["α"] == "0.02")
    at = figures["backends"]["spectral"]["cv"]["alpha"]["0.02"]["tpdr"]
    assert {
        k: float(row[f"tpdr{end}"]) for k, end in (("value", ""), ("low", "_low"), ("high", "_high"))
    } == {k: at[k] for k in ("value", "low", "high")}
    assert int(row["tpdr_n"]) == at["n"]


@pytest.fixture(scope="module")
def page(plan, figures):
    return (plan.folder / "report.html").read_text(encoding="utf-8")


def ours(page):
    return re.sub(r"<script.*?</script>", "", page, flags=re.S)


def test_the_page_is_one_offline_file_that_names_no_case(page):
    assert not re.search(r"<script[^>]+src", page)
    assert not re.search(r"(src|href|url)\s*[=(]", ours(page))
    assert "research prototype" in page
    assert not re.search(r"\bE17\b|\bT17\b", page)
    assert page.count('class="plotly-graph-div"') == 4


def test_printed_figures_are_grey_and_called_different_data(page, figures):
    rows = re.findall(r'<tr class="published">(.*?)</tr>', ours(page))
    assert len(rows) == 6 + 4 + 6 + 5 + 5 + 10
    assert all("HUFA, different data" in row for row in rows)
    assert "tr.published td { color: #6b7178" in page


def test_the_best_strict_figure_of_a_column_is_bold(page, figures):
    cells = [figures["backends"][a][b]["alpha"]["0.01"]["coverage"]["value"] for a, b in tables.BACKENDS]
    assert f"<strong>{100 * max(cells):.1f} %</strong>" in ours(page)


def test_the_page_says_what_is_promised_and_where_calibration_is_short(page, figures):
    assert "1 − 2α − 2(1 − α)(M − 1)/(n + M)" in page
    n = figures["backends"]["spectral"]["single"]["calibration"]["suspicion"]["n"]
    assert n < 99
    assert f"no guarantee at α = 0.01: {99 - n} short" in page
    assert "A quick run" not in page


def test_findings_are_told_whichever_way_they_fall(figures):
    told = " ".join(study_page.findings(figures))
    for alpha in ("0.01", "0.02", "0.05"):
        assert f"At α = {alpha} the dual veto" in told
        assert f"At α = {alpha} the aim" in told
    worse = json.loads(json.dumps(figures))
    at = worse["backends"]["spectral"]["cv"]["alpha"]["0.05"]
    at["set_coverage"]["suspicion"]["value"] = 0.9
    at["clear_f2"] = {"value": None, "low": None, "high": None, "n": 0}
    told = " ".join(study_page.findings(worse))
    assert "falls short for suspicion, 0.900" in told
    assert "with no target among them" in told


def test_the_veto_is_told_by_how_many_it_defers(figures, found):
    scores = found["spectral/cv"].scores
    vetoed = int((backends.decide(scores, 0.05) == decision.ATYPICAL).sum())
    settled = figures["policies"]["aleatoric"]["clear_f2"]["n"]
    sentence = f"the distance veto defers {vetoed} of the {settled} cases"
    assert sentence in study_page.findings(figures)[-1]


def test_the_planes_lines_are_the_thresholds(plan, found):
    drawn = study_page.plane(plan, found["spectral/single"], 0.05)
    limits = found["spectral/single"].ranks.thresholds(0.05, 0.01)
    dashed = sorted(t.x[0] for t in drawn.data if t.line.dash == "dash")
    boundaries = np.array([limits["suspicion"]["probability"], 1 - limits["non_suspicion"]["probability"]])
    assert dashed == pytest.approx(sorted(np.log(boundaries / (1 - boundaries))))
    marks = {t.name.split(" (")[0]: (t.marker.symbol, len(t.x)) for t in drawn.data if t.mode == "markers"}
    counts = np.bincount(backends.decide(found["spectral/single"].scores, 0.05), minlength=4)
    assert marks["clear"] == ("circle", counts[0])
    assert marks["deferred: ambiguous"] == ("square", counts[1] + counts[2])
    assert marks["deferred: epistemic"] == ("triangle-up", counts[3])
    shapes = {t.fillpattern.shape for t in drawn.data if t.fillpattern.shape}
    assert shapes <= {"/", "x"}
    assert "/" in shapes


def test_a_single_models_clear_cases_lie_outside_the_hatched_zones(plan, found):
    backend = found["spectral/single"]
    limits = backend.ranks.thresholds(0.05, 0.01)
    q = backend.scores.probabilities[:, 1]
    low, high = sorted([limits["suspicion"]["probability"], 1 - limits["non_suspicion"]["probability"]])
    clear = backends.decide(backend.scores, 0.05) == 0
    assert not ((q > low) & (q < high) & clear).any()
    far = np.array([limits[label]["distance"] for label in plan.cohort.spec.labels])[backend.scores.label]
    assert (backend.scores.distance[clear] <= far[clear]).all()


def test_more_than_two_labels(tmp_path):
    plan = stored.study(tmp_path / "s", "maude-severity-en", n=800)
    figures = study.write(plan)
    page = (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    assert set(figures["backends"]["spectral"]["cv"]["alpha"]["0.05"]["set_coverage"]) == set(
        plan.cohort.spec.labels
    )
    assert "no zones are drawn" in page
    assert "They answer another question" in page
    assert f'<th scope="col">{plan.cohort.spec.labels[3]}</th>' in page
