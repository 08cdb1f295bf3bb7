"""The demonstration's past: dated over its weeks, read out by the rules of the app, and left with something to do."""

from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db.models import F
from django.utils import timezone

from reviews import invented
from reviews.management.commands.demo import _ready
from reviews.models import Adjudication, Label, Review
from tests import factories
from triage import policy, sampling
from triage.models import AuditEvent, Membership, Policy, Watch

pytestmark = pytest.mark.django_db
N = 96


@pytest.fixture
def people(site):
    found = [get_user_model().objects.create_user(name) for name in ("una", "otro", "jefa")]
    roles = ("reader", "reader", "lead")
    Membership.objects.bulk_create(
        [Membership(user=user, site=site, role=role) for user, role in zip(found, roles, strict=True)]
    )
    return found


@pytest.fixture
def lived(site, protocol, people):
    """Of the cases every other one is deferred, every fourth drawn, all are read by two, and who reads errs often."""
    begins = invented.start(timezone.localdate())
    facts = policy.FIRST | {"audit_rate": 0.2, "version": 1, "reason": "-", "at": begins, "starts_at": begins}
    Policy.objects.create(site=site, protocol=protocol, **facts)
    protocol.double_share = 1.0
    protocol.save()
    for i in range(N):
        case = factories.case(site, protocol)
        factories.prediction(case, 0.6, 0.3 if i % 2 else 0.001, 0.5, lot=0.1 if i % 4 < 2 else 0.9)
    truth = dict.fromkeys(site.patient_set.values_list("pseudonym", flat=True), 1)
    *readers, lead = people
    return invented.live(site, protocol, truth, readers, lead, timezone.localdate())


def test_cases_come_evenly_over_the_weeks_and_all_but_the_last_are_read_out(site, protocol, lived):
    dial, begins = policy.current(site, protocol), invented.start(timezone.localdate())
    came = list(policy.standing(site, protocol).order_by("case"))
    days = [one.at for one in came]
    assert days == sorted(days) and begins < days[0] < days[-1] < timezone.now()
    read = set(Review.objects.values_list("prediction", flat=True))
    until = begins + timedelta(weeks=invented.WEEKS - invented.UNREAD)
    assert read == {one.pk for one in came if one.at < until and sampling.asks(dial, one)}
    assert Review.objects.count() == lived > 60


def test_what_the_readings_come_to_is_settled_by_the_rule_and_some_of_it_waits_for_a_lead(lived):
    disputes = Adjudication.objects.all()
    assert 0 < disputes.filter(closed_at=None).count() <= invented.UNSETTLED
    assert disputes.exclude(closed_at=None).filter(review__isnull=False).exists()
    assert set(Label.objects.values_list("provenance", flat=True)) == {"agreed", "adjudicated"}
    firsts, seconds = Review.objects.filter(double=True), Review.objects.filter(double=False)
    assert set(seconds.values_list("mode", flat=True)) == {"blind", "adjudication"}
    drawn = firsts.filter(prediction__lot__lt=0.2)
    assert set(drawn.values_list("mode", flat=True)) == {"blind"}
    assert set(firsts.exclude(pk__in=drawn).values_list("mode", flat=True)) == {"assisted"}
    assert (
        AuditEvent.objects.filter(verb="review.submit").count()
        == Review.objects.exclude(mode="adjudication").count()
    )


def test_readings_follow_what_they_read_and_labels_their_reading(site, lived):
    assert not Review.objects.filter(at__lte=F("prediction__at")).exists()
    assert not Review.objects.filter(at__gt=timezone.now()).exists()
    assert not Label.objects.exclude(at=F("review__at")).exists()
    for dispute in Adjudication.objects.filter(review__isnull=False):
        assert dispute.opened_at < dispute.closed_at == dispute.review.at
    assert Watch.objects.filter(site=site).count() >= invented.WEEKS


def test_the_ready_line_counts_every_case_and_says_where_a_hold_is_on(site, other_site, protocol):
    for place in (site, other_site):
        policy.current(place, protocol)
        factories.prediction(factories.case(place, protocol), 0.9, 0.001, 0.5)
        factories.prediction(factories.case(place, protocol), 0.6, 0.3, 0.5)
    dials = [policy.current(place, protocol) for place in (site, other_site)]
    plain = "demo ready: 4 cases, 2 automatic, 2 deferred (2 ambiguous, 0 novel, 0 atypical)"
    assert _ready(dials) == plain
    dials[1] = policy.hold(other_site, protocol, reason="Deriva.")
    held = "demo ready: 4 cases, 1 automatic, 3 deferred (2 ambiguous, 0 novel, 0 atypical, 1 held)"
    assert _ready(dials) == held + "; automation is on hold at Hospital Sur: every case there is read"
