"""Learned deferral: the threshold by hand and by a naive twin, planted complementary errors, and nothing to gain."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from mlcore import cues, deferral, metrics, protocols
from mlcore.calibrate import Calibration
from mlcore.deferral import EVERYBODY, NO_OPINION, NOBODY, Cases, Router
from mlcore.errors import DataError
from mlcore.records import NoteText, Record

SPANISH, MAUDE = protocols.HIV_SUSPICION_ES, protocols.MAUDE_SEVERITY_EN
TARGET, MACRO = deferral.metric(SPANISH), deferral.metric(MAUDE)
NAMES = ("doubt", "noise")


def cases(truth, first, second, values=None, groups=None, weights=()):
    n = len(truth)
    made = np.zeros((n, 1)) if values is None else values
    groups = groups or [f"g{i}" for i in range(n)]
    return Cases(made, *map(np.array, (truth, first, second)), groups, np.array(weights, dtype=float))


def planted(n, k, seed, complementary=True):
    """n cases whose first errs almost always, and almost only, where «doubt» is high; the second is right there or nowhere."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(k, n, p=np.array([0.7, 0.3]) if k == 2 else np.array([0.1, 0.35, 0.4, 0.15]))
    other = (truth + rng.integers(1, k, n)) % k
    doubtful = rng.random(n) < 0.15
    first = np.where(doubtful ^ (rng.random(n) < 0.01), other, truth)
    second_right = (
        doubtful ^ (rng.random(n) < 0.01) if complementary else (first == truth) & (rng.random(n) < 0.5)
    )
    second = np.where(second_right, truth, other)
    values = np.column_stack([doubtful + rng.normal(0, 0.15, n), rng.normal(size=n)])
    return cases(truth, first, second, values)


# The threshold.

# Risk falls from left to right; deferring turns: a miss found, nothing, an alarm taken back, a hit lost.
RISK = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
BY_HAND = cases([1, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 0], [1, 0, 0, 0, 1, 0])


def test_the_curve_by_hand():
    at = deferral.curve(RISK, BY_HAND, TARGET)
    assert at.threshold.tolist() == [NOBODY, 0.8, 0.7, 0.6, 0.5, 0.4, EVERYBODY]
    assert at.share == pytest.approx(np.arange(7) / 6)
    # hits, misses, alarms: (2, 1, 1), (3, 0, 1), the same, (3, 0, 0), (2, 1, 0) and no more change
    assert at.value == pytest.approx([4 / 6, 6 / 7, 6 / 7, 1, 4 / 5, 4 / 5, 4 / 5])


@pytest.mark.parametrize(
    ("budget", "threshold", "value"),
    [(1, 0.6, 1), (0.5, 0.6, 1), (0.49, 0.8, 6 / 7), (0.1, NOBODY, 4 / 6), (0, 1, 4 / 6)],
)
def test_the_best_threshold_within_the_budget_defers_as_few_as_do(budget, threshold, value):
    choice = deferral.tune(RISK, BY_HAND, TARGET, budget)
    assert (choice.threshold, choice.value, choice.before) == pytest.approx((threshold, value, 4 / 6))
    assert choice.share <= budget
    assert (choice.threshold < RISK).mean() == pytest.approx(choice.share)


def test_equal_risks_are_deferred_together():
    at = deferral.curve(np.array([0.9, 0.6, 0.6, 0.6, 0.5, 0.5]), BY_HAND, TARGET)
    assert at.threshold.tolist() == [NOBODY, 0.6, 0.5, EVERYBODY]
    assert at.share == pytest.approx([0, 1 / 6, 4 / 6, 1])
    assert deferral.tune(np.full(6, 0.5), BY_HAND, TARGET, 0.99).threshold == NOBODY


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("on", "k"), [(TARGET, 2), (MACRO, 4), (deferral.metric(MAUDE, "target"), 4)])
def test_the_curve_is_that_of_a_naive_twin(on, k, weighted):
    rng = np.random.default_rng(k)
    truth, first, second = rng.integers(0, k, (3, 80))
    second[rng.random(80) < 0.2] = NO_OPINION
    w = rng.uniform(0.2, 2, 80) if weighted else np.ones(80)
    risk = rng.integers(1, 15, 80) / 15
    at = deferral.curve(risk, cases(truth, first, second, weights=w), on)
    assert len(at.threshold) == len(np.unique(risk)) + 1
    for threshold, share, value in zip(*at, strict=True):
        label = [
            s if r > threshold and s != NO_OPINION else f for f, s, r in zip(first, second, risk, strict=True)
        ]
        assert share == pytest.approx(w[risk > threshold].sum() / w.sum())
        if on.name == "macro":
            assert value == pytest.approx(float(metrics.macro_f1(truth, label, k, w)))
        else:
            assert value == pytest.approx(float(metrics.f_beta(truth, label, {k - 1}, 1.0, w)))


def test_risks_that_are_none_are_refused():
    for risk in (0.0, 1.1, np.nan):
        with pytest.raises(DataError, match="Risks must lie above 0"):
            deferral.curve(np.array([risk, *RISK[1:]]), BY_HAND, TARGET)


def test_the_metric_is_macro_only_for_more_than_two_labels():
    assert (TARGET.name, MACRO.name) == ("target", "macro")
    assert TARGET.of == (frozenset({1}),)
    with pytest.raises(DataError, match="use target or macro"):
        deferral.metric(SPANISH, "accuracy")


# What is learned.


@pytest.mark.parametrize("aim", ["errs", "helps"])
@pytest.mark.parametrize(("k", "on"), [(2, TARGET), (4, MACRO)])
def test_planted_complementary_errors_are_recovered(k, on, aim):
    learned = deferral.fit(NAMES, planted(1500, k, 1), on, budget=0.3, aim=aim)
    test = planted(3000, k, 2)
    after = test.after(learned.router.defers(test.values))
    before, oracle = on(test.truth, test.first), on(test.truth, test.after(test.helps))
    assert (on(test.truth, after) - before) / (oracle - before) >= 0.8
    assert learned.reason is None and learned.why == ""
    doubt, noise = learned.router.coefficients
    assert doubt > 10 * abs(noise)


def test_a_second_model_that_is_weaker_overall_helps_all_the_same():
    made = planted(1500, 2, 1)
    learned = deferral.fit(NAMES, made, TARGET)
    assert learned.facts["f1_second"] < learned.facts["f1_first"] < learned.choice.value


def test_where_the_second_is_never_right_nobody_is_deferred_and_the_reason_says_so():
    made = planted(800, 2, 3, complementary=False)
    learned = deferral.fit(NAMES, made, TARGET)
    assert learned.router.threshold == NOBODY
    assert not learned.router.defers(made.values).any()
    assert "the second is never right" in learned.why
    assert f"{int(made.errs.sum())} of 800" in learned.why


def test_where_the_second_spoils_more_than_it_mends_the_reason_tells_how_often_it_is_right():
    rng = np.random.default_rng(4)
    truth = (rng.random(900) < 0.3).astype(int)
    first = np.where(rng.random(900) < 0.1, 1 - truth, truth)
    second = np.where(rng.random(900) < 0.6, 1 - truth, truth)
    made = cases(truth, first, second, rng.normal(size=(900, 2)))
    learned = deferral.fit(NAMES, made, TARGET)
    assert learned.router.threshold == NOBODY
    assert f"right in {int(made.helps.sum())} of the {int(made.errs.sum())}" in learned.why
    assert learned.facts["oracle"] == pytest.approx(
        float(TARGET(truth, made.after(made.helps)) - TARGET(truth, first))
    )


def test_a_gain_that_chance_could_give_is_not_taken_unless_it_is_asked_for():
    """Errors of both models are independent of all features: a tuned threshold finds a gain, new folds do not."""
    refused = 0
    for seed in range(8):
        learned = deferral.fit(NAMES, independent(seed), TARGET)
        assert learned.choice.value >= learned.choice.before
        assert (learned.router.threshold == NOBODY) == (
            learned.choice.share == 0 or learned.gain.above < deferral.SURE
        )
        refused += learned.router.threshold == NOBODY
    assert refused >= 7
    plain = deferral.fit(NAMES, independent(0), TARGET, sure=0)
    assert plain.router.threshold == plain.choice.threshold


def independent(seed):
    rng = np.random.default_rng(seed)
    truth = (rng.random(400) < 0.3).astype(int)
    first, second = (np.where(rng.random(400) < 0.15, 1 - truth, truth) for _ in range(2))
    return cases(truth, first, second, rng.normal(size=(400, 2)))


def test_too_few_errors_teach_nothing():
    made = planted(400, 2, 5)
    few = np.flatnonzero(made.errs)[:6]
    first = made.truth.copy()
    first[few] = made.first[few]
    learned = deferral.fit(NAMES, cases(made.truth, first, made.second, made.values), TARGET)
    assert learned.router.threshold == NOBODY
    assert "at least 10 patients are needed, and there are 6" in learned.why
    many_of_one = cases(made.truth, made.first, made.second, made.values, ["a"] * 399 + ["b"])
    assert "there are 1;" in deferral.fit(NAMES, many_of_one, TARGET).why


@pytest.mark.parametrize("budget", [0.02, 0.05, 0.1])
def test_the_budget_is_kept(budget):
    made = planted(1500, 2, 1)
    learned = deferral.fit(NAMES, made, TARGET, budget=budget, sure=0)
    assert learned.choice.share <= budget
    assert learned.router.defers(planted(3000, 2, 2).values).mean() <= budget + 0.02
    assert all(choice.share <= b + 1e-9 for b, choice in learned.budgets.items())
    values = [choice.value for choice in learned.budgets.values()]
    assert values == sorted(values)


def test_learning_twice_gives_the_same_router_and_json_gives_it_back():
    made = planted(600, 2, 6)
    one, two = (deferral.fit(NAMES, made, TARGET) for _ in range(2))
    assert one.router.to_dict() == two.router.to_dict()
    back = Router.from_dict(json.loads(json.dumps(one.router.to_dict())))
    assert np.array_equal(back.risk(made.values), one.router.risk(made.values))
    assert (back.threshold, back.names, back.aim) == (one.router.threshold, NAMES, "errs")
    with pytest.raises(DataError, match="learn it again"):
        Router.from_dict({"features": {"doubt": {}}})


def test_a_case_without_an_opinion_keeps_the_first_label():
    made = cases([1, 1], [0, 0], [1, NO_OPINION])
    assert made.after(np.array([True, True])).tolist() == [1, 0]
    assert made.helps.tolist() == [True, False]


def test_a_budget_outside_0_to_1_is_refused():
    with pytest.raises(DataError, match="between 0 and 1"):
        deferral.fit(NAMES, planted(100, 2, 1), TARGET, budget=1.5)


def test_cases_without_a_target_are_refused():
    made = planted(100, 2, 1)
    with pytest.raises(DataError, match="No case to learn from is of a label"):
        deferral.fit(NAMES, made[made.truth == 0], TARGET)


# Whom it is learned on.


def test_cases_with_a_learned_note_or_in_the_group_of_one_are_not_new():
    from mlcore.train import note_digests

    def record(i, *texts, group=""):
        return Record(f"P{i}", [NoteText(text) for text in texts], 0, i, group)

    learned = [record(0, "a", "b")]
    asked = [record(1, "b", "x"), record(2, "y"), record(3, "z", group="g"), record(4, "a", group="g")]
    assert deferral.new_to(asked, [note_digests(learned)]).tolist() == [False, True, False, False]
    assert deferral.new_to(asked, []).all()


def test_drawn_cases_weigh_as_the_stream():
    labels = np.array([0] * 90 + [1] * 10)
    drawn = np.zeros(100, dtype=bool)
    drawn[:9] = drawn[90:96] = True
    w = deferral.as_stream(labels, drawn)
    assert w.mean() == pytest.approx(1)
    assert w[9:].sum() / w.sum() == pytest.approx(0.1)


# Features.


@pytest.fixture
def scores():
    rng = np.random.default_rng(7)
    truth = np.arange(60) % 2
    logits = rng.normal(size=(60, 2)) + 2 * np.eye(2)[truth]
    calibration = Calibration.fit(SPANISH.labels, logits, -logits, truth, 1.0)
    return calibration.apply(logits[:3], -logits[:3])


def test_features_are_the_scores_and_the_cues_by_name(scores):
    notes = [["Niega fiebre."], ["Posible neumonía, amoxicilina 500 mg."], [""]]
    names, values = deferral.features(SPANISH, scores, notes)
    of = dict(zip(names, values.T, strict=True))
    assert len(names) == len(set(names)) == values.shape[1]
    q = softmax(scores.logits, axis=1)
    assert of["prob_suspicion"] == pytest.approx(q[:, 1])
    assert of["margin"] == pytest.approx(np.abs(q[:, 0] - q[:, 1]))
    assert of["entropy"] == pytest.approx(-(q * np.log(q)).sum(axis=1))
    assert of["p_non_suspicion"] == pytest.approx(scores.p_values[:, 0])
    assert of["typicality"] == pytest.approx(scores.typicality)
    assert set(cues.NAMES) <= set(names)
    assert of["negation"].tolist() == [50, 0, 0]
    assert np.isfinite(values).all()


def test_the_second_model_is_asked_or_given_and_must_answer_in_labels():
    notes = [["a"], ["b"]]
    assert deferral.labels_of([0, NO_OPINION], notes, 2).tolist() == [0, NO_OPINION]
    assert deferral.labels_of(lambda found: [len(found) - 1] * 2, notes, 2).tolist() == [1, 1]
    for wrong in ([0], [0, 2], [0, -2], [0.5, 1], lambda found: None):
        with pytest.raises(DataError, match="one label in 0 to 1"):
            deferral.labels_of(wrong, notes, 2)
