"""The watch through its real rows, by simulation: predictions in PostgreSQL, the look of a worker, alarms that are stored.

The martingales' own promises are held on arrays by test_martingale; here it is that the wiring keeps them: which case comes
in, in which order, with which lot, and what is told. A look is at a place, so every stream is a hospital of its own.
"""

from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from reviews import jobs, watching
from tests.guarantees.chance import at_most
from tests.reviews.stream import FIRST, arrive, days
from triage import policy
from triage.models import Alarm, Site, Watch

pytestmark = pytest.mark.django_db

DAILY, CHANGED, AFTER = 30, 30, 14  # cases a day; days without change, then with it
SHIFTS = {
    "doubt": {"doubt": 0.12},
    "distance": {"distance": 0.4},
    "length": {"longer": 2.0},
}
LONGEST = 240  # cases after the change
FEW, MANY = 1, pytest.param(10, marks=pytest.mark.campaign)


@pytest.fixture(autouse=True)
def _no_queue(monkeypatch):
    monkeypatch.setattr(jobs, "wake_deliveries", lambda: None)


def hospital(protocol, name):
    place = SimpleNamespace(site=Site.objects.create(slug=name, name=name), protocol=protocol)
    policy.current(place.site, protocol)
    return place


def watched(place, seed, n, change, weekly=False):
    """The alarms of streams after n days, of which those from CHANGED on are changed; looked at once, or every Monday."""
    random = np.random.default_rng(seed)
    for i, day in enumerate(days(n)):
        arrive(place, day, DAILY, random, **(change if i >= CHANGED else {}))
        if weekly and day.weekday() == 6:
            watching.look(place.site, place.protocol, day + timedelta(days=1))
    watching.look(place.site, place.protocol, FIRST + timedelta(days=n))
    return Alarm.objects.filter(site=place.site, kind="stream").order_by("pk")


@pytest.mark.parametrize("streams", [2, pytest.param(20, marks=pytest.mark.campaign)])
def test_hospitals_without_change_stay_quiet(protocol, streams):
    """At most a share RATE ever raises a first alarm; their weeks are flagged in at most one year of twenty."""
    noisy = []
    for i in range(streams):
        place = hospital(protocol, f"quiet-{i}")
        found = watched(place, 100 + i, CHANGED + AFTER, {}, weekly=i % 2 == 0)
        noisy += [place.site.slug] if found else []
        rows = Watch.objects.filter(site=place.site)
        assert sum(n for row in rows for _, n in row.facts["days"]) == DAILY * (CHANGED + AFTER)
    print(f"{len(noisy)} of {streams} quiet hospitals of {DAILY * (CHANGED + AFTER)} cases raised an alarm")
    assert len(noisy) <= at_most(streams, watching.RATE)


@pytest.mark.parametrize("streams", [FEW, MANY])
@pytest.mark.parametrize("measure", SHIFTS)
def test_planted_shifts_are_caught_by_their_own_stream(protocol, measure, streams):
    """Delay in cases after 900 without change, up to the case at which the alarm says that it rose."""
    delays = []
    for i in range(streams):
        place = hospital(protocol, f"{measure}-{i}")
        found = watched(place, 200 + i, CHANGED + AFTER, SHIFTS[measure], weekly=i % 2 == 0)
        alarm = found.filter(measure=measure).first()
        assert alarm, f"{place.site.slug} was not told of"
        seen = alarm.facts["n_before"] + alarm.facts["n_since"]
        delays.append(seen - DAILY * CHANGED)
    print(f"{measure}: delay {np.median(delays):.0f} cases (median of {streams}), longest {max(delays)}")
    assert min(delays) > 0 and max(delays) <= LONGEST
