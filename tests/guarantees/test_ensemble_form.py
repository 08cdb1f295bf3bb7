"""The fold ensemble by simulation: members are trained in every draw, and its stated guarantee is held and can be reached."""

import numpy as np
import pytest
from scipy.stats import binom, norm

from mlcore import conformal
from mlcore.uncertainty import CrossConformal, guaranteed_coverage

ALPHAS = (0.01, 0.05, 0.1)
LABELS = ("no", "yes")
TEMPERATURES = np.array([0.8, 0.9, 1.0, 1.1, 1.2])
MEMBERS = len(TEMPERATURES)
WIDTH = 6


def cases(random, n):
    truth = np.repeat([0, 1], n)
    x = random.normal(size=(2 * n, WIDTH))
    x[:, 0] += 1.5 * truth
    return x, truth


def train(x, truth):
    """A linear discriminant: the class means and a precision."""
    means = np.stack([x[truth == c].mean(axis=0) for c in range(2)])
    residuals = x - means[truth]
    return means, np.linalg.inv(residuals.T @ residuals / len(x) + 0.1 * np.eye(x.shape[1]))


def predict(member, x):
    """Logits and distances to the class means."""
    means, precision = member
    squares = np.stack([np.einsum("nd,de,ne->n", x - mean, precision, x - mean) for mean in means], axis=1)
    return -squares / 2, np.sqrt(squares)


def ensemble(random, n):
    """A calibrated ensemble of MEMBERS on n cases of each class, and its members."""
    x, truth = cases(random, n)
    fold = np.concatenate([random.permutation(n) % MEMBERS for _ in range(2)])
    members = [train(x[fold != m], truth[fold != m]) for m in range(MEMBERS)]
    logits, distances = np.empty((2 * n, 2)), np.empty((2 * n, 2))
    for m, member in enumerate(members):
        logits[fold == m], distances[fold == m] = predict(member, x[fold == m])
    return CrossConformal.fit(LABELS, truth, fold, logits, distances, TEMPERATURES), members


def scores(random, n, new):
    """Scores of `new` cases of each class by an ensemble of n a class, and their truth."""
    fitted, members = ensemble(random, n)
    x, truth = cases(random, new)
    logits, distances = map(np.stack, zip(*(predict(member, x) for member in members), strict=True))
    return fitted.apply(logits, distances), truth


def covered(n, draws, seed):
    """How many of the draws' new cases, one of each class, are in their prediction set at each alpha."""
    random, kept = np.random.default_rng(seed), np.zeros((2, len(ALPHAS)), dtype=int)
    for _ in range(draws):
        p = scores(random, n, 1)[0].p_values
        kept += p[[0, 1], [0, 1]][:, None] > np.array(ALPHAS)
    return kept


def bands(n, draws):
    """Of each alpha: the least count that is stated, and the band of these calm members around 1 - alpha, give or take two
    ranks; to one in ten thousand."""
    alphas = np.array(ALPHAS)
    stated = [binom.ppf(1e-4, draws, guaranteed_coverage(alpha, n, MEMBERS)) for alpha in ALPHAS]
    least = binom.ppf(1e-4, draws, 1 - alphas - 2 / (n + 1))
    most = binom.ppf(1 - 1e-4, draws, np.minimum(1.0, 1 - alphas + 2 / (n + 1)))
    return np.array(stated), least, most


@pytest.mark.parametrize("n", [30, 100, 400])
def test_each_class_is_covered_as_stated(n):
    kept, (stated, least, most) = covered(n, draws=1000, seed=n), bands(n, draws=1000)
    assert (kept >= stated).all()
    assert ((kept >= least) & (kept <= most)).all()


def vetoes(draws, seed, n=400):
    """Share of correct new cases found atypical at .01, about 300 correct calibration cases a class."""
    random, found = np.random.default_rng(seed), []
    for _ in range(draws):
        new, truth = scores(random, n, 200)
        found.append((new.typicality[new.label == truth] <= 0.01).mean())
    return float(np.mean(found))


def test_the_veto_of_members_that_agree_takes_one_in_a_hundred_familiar_cases():
    assert 0.005 <= vetoes(draws=60, seed=1) <= 0.015


@pytest.mark.parametrize(
    ("agreement", "least", "most"), [(1.0, 0.008, 0.012), (0.7, 0.0001, 0.005), (0.4, 0.0, 0.001)]
)
def test_the_veto_of_members_that_disagree_takes_fewer(agreement, least, most):
    """Ten valid rankings of the same familiar cases, of this correlation; each alone takes one in a hundred."""
    random = np.random.default_rng(2)
    shared, own = random.normal(size=40_000), random.normal(size=(10, 40_000))
    distances = np.sqrt(agreement) * shared + np.sqrt(1 - agreement) * own
    known = [norm.ppf((np.arange(400) + 0.5) / 400)] * 10
    alone = (conformal.rank_p(distances[0], known[0]) <= 0.01).mean()
    together = (conformal.pooled_p(distances, known) <= 0.01).mean()
    print(f"agreement {agreement}: one member takes {alone:.4f}, ten together {together:.4f}")
    assert alone == pytest.approx(0.01, abs=0.003)
    assert least <= together <= most


def left_out_by_opposites(alpha, level, draws, seed, n=2000):
    """Two members, each a valid ranking, that order the strangest 2 alpha of cases in opposite ways."""

    def turned(x):
        return np.where(x > 1 - 2 * alpha, 2 - 2 * alpha - x, x)

    random, left_out = np.random.default_rng(seed), []
    for _ in range(draws):
        known = [np.sort(random.random(n)), np.sort(turned(random.random(n)))]
        x = random.random(200)
        alone = conformal.rank_p(turned(x), known[1])
        pooled = conformal.pooled_p(np.stack([x, turned(x)]), known)
        left_out.append([(alone <= level).mean(), (pooled <= level).mean()])
    return np.mean(left_out, axis=0)


def test_no_more_than_the_stated_guarantee_could_be_promised():
    """Each member alone leaves out alpha; pooled, nearly twice as much: 1 - alpha is observed, never promised."""
    alone, pooled = left_out_by_opposites(alpha=0.1, level=0.11, draws=300, seed=3)
    assert alone == pytest.approx(0.11, abs=0.005)
    assert 0.18 <= pooled <= 1 - guaranteed_coverage(0.11, 4000, 2)


def by_heart(random, n, new):
    """p-values of new cases of class 0 among cases each member was trained on, in a width that is learned by heart."""

    def wide(cases_and_truth):
        x, truth = cases_and_truth
        return np.column_stack([x, random.normal(size=(len(x), 24))]), truth

    x, truth = wide(cases(random, n))
    member, fresh = train(x, truth), wide(cases(random, new))[0][:new]
    known = predict(member, x[truth == 0])[1][:, 0]
    folds = [np.sort(known[m::MEMBERS]) for m in range(MEMBERS)]
    return conformal.pooled_p([predict(member, fresh)[1][:, 0]] * MEMBERS, folds)


def test_cases_ranked_by_members_that_saw_them_would_break_it():
    """What the folds mend: to members that know their calibration cases new ones look strange, beyond the statement."""
    random = np.random.default_rng(4)
    kept = np.mean([(by_heart(random, 30, 20) > 0.1).mean() for _ in range(100)])
    assert kept < guaranteed_coverage(0.1, 30, MEMBERS) - 0.1


@pytest.mark.campaign
@pytest.mark.parametrize("n", [30, 100, 400])
def test_each_class_is_covered_as_stated_campaign(n, capsys):
    kept, (stated, least, most) = covered(n, draws=3_000, seed=n + 1), bands(n, draws=3_000)
    assert (kept >= stated).all()
    assert ((kept >= least) & (kept <= most)).all()
    with capsys.disabled():
        for alpha, rates in zip(ALPHAS, (kept / 3_000).T, strict=True):
            promised = guaranteed_coverage(alpha, n, MEMBERS)
            told = ", ".join(f"{rate:.4f}" for rate in rates)
            print(
                f"\n{MEMBERS} members, n = {n}, alpha = {alpha}: observed {told}; stated {promised:.3f}",
                end="",
            )


@pytest.mark.campaign
def test_the_ensembles_veto_takes_one_in_a_hundred_familiar_cases_campaign(capsys):
    rate = vetoes(draws=1000, seed=2)
    with capsys.disabled():
        print(f"\nensemble's veto of correct familiar cases at a floor of .01: {rate:.4f}")
    assert 0.005 <= rate <= 0.015
