"""The promises of the checks of a week, by simulation: flagged where the mix moved, and no more than stated where not."""

import numpy as np
import pytest

from mlcore import two_sample
from mlcore.two_sample import Sample
from tests.guarantees.chance import at_most

LANGUAGES, SPECIALTIES = ["es", "en", "other"], [f"ward {i}" for i in range(12)]
USUAL = 0.6 ** np.arange(12) / (0.6 ** np.arange(12)).sum()


def window(random, n, words=6.0, wards=USUAL):
    return Sample(
        {
            "distance": random.chisquare(5, size=n),
            "length": np.exp(random.normal(words, 0.5, size=n)).round(),
        },
        {
            "language": random.choice(LANGUAGES, p=[0.95, 0.04, 0.01], size=n).tolist(),
            "specialty": random.choice(SPECIALTIES, p=wards, size=n).tolist(),
        },
    )


def flagged_weeks(random, weeks, n, rate):
    """Weeks with any flag when each may spend the whole rate, each against a reference of its own."""
    return sum(
        any(
            row.flagged
            for row in two_sample.week_checks(window(random, n), window(random, 10 * n), rate, weeks=1)
        )
        for _ in range(weeks)
    )


@pytest.mark.parametrize("n", [20, 200])
def test_weeks_without_change_are_flagged_no_more_than_stated(n, monkeypatch):
    monkeypatch.setattr(two_sample, "DRAWS", 999)
    assert flagged_weeks(np.random.default_rng(n), 300, n, 0.2) <= at_most(300, 0.2)


@pytest.mark.campaign
def test_years_without_change_are_flagged_no_more_than_stated():
    """40 years of 53 weeks against one reference each."""
    random, flagged = np.random.default_rng(0), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_sample, "DRAWS", 4_999)
        for _ in range(40):
            reference = window(random, 800)
            weeks = (two_sample.week_checks(window(random, 100), reference) for _ in range(two_sample.WEEKS))
            flagged += any(row.flagged for week in weeks for row in week)
    print(f"{flagged} of 40 years without change had a flagged week")
    assert flagged <= at_most(40, 0.05)


def test_a_week_of_longer_notes_or_of_another_mix_is_flagged():
    random = np.random.default_rng(0)
    other = np.roll(USUAL, 1)
    for sample, name in (
        (window(random, 150, words=6.4), "length"),
        (window(random, 150, wards=other), "specialty"),
    ):
        rows = {row.name: row for row in two_sample.week_checks(sample, window(random, 3000))}
        assert [key for key, row in rows.items() if row.flagged] == [name]
