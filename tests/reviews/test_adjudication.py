"""A verdict is stored once, whatever comes twice, at once or late; and can be taken back."""

from datetime import timedelta

import pytest
from django.http import Http404
from django.utils import timezone

from reviews import adjudication, queue
from reviews.adjudication import Conflict
from reviews.models import Draft, Label, Lease, Review
from tests.reviews.conftest import ambiguous, cleaned
from tests.reviews.test_queue import at_once
from triage.models import AuditEvent, Prediction


def submitted(place, user, verdict="suspicion", **changes):
    case = ambiguous(place)
    queue.hold(case.pk, user)
    return adjudication.decide(place, user, case, cleaned(case, user, verdict, **changes))


@pytest.mark.django_db(transaction=True)
def test_promise_11_fifty_verdicts_on_one_lease_one_is_accepted(place, reader, deferred):
    queue.hold(deferred.pk, reader)
    sent = [cleaned(deferred, reader, comment=str(i)) for i in range(50)]
    answers = at_once(lambda i: adjudication.decide(place, reader, deferred, sent[i]), 50)
    accepted = [answer for answer in answers if isinstance(answer, Review)]
    assert len(accepted) == 1
    assert sum(isinstance(answer, Conflict) for answer in answers) == 49
    assert Review.objects.count() == Label.objects.count() == 1
    assert AuditEvent.objects.filter(verb="review.submit").count() == 1
    assert not Lease.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_same_verdict_sent_twenty_times_at_once_is_one_review(place, reader, deferred):
    queue.hold(deferred.pk, reader)
    sent = cleaned(deferred, reader)
    answers = at_once(lambda _: adjudication.decide(place, reader, deferred, sent), 20)
    assert {answer.pk for answer in answers} == {Review.objects.get().pk}
    assert AuditEvent.objects.filter(verb="review.submit").count() == 1


@pytest.mark.django_db
def test_undecided_makes_no_label_and_leaves_the_case_to_others(place, reader, lead):
    review = submitted(place, reader, "undecided")
    assert review.label is None and not Label.objects.exists()
    assert queue.take_next(place, reader) is None
    assert queue.take_next(place, lead) == review.case_id


@pytest.mark.django_db
def test_a_lapsed_lease_still_counts_until_somebody_takes_the_case(place, reader, lead, deferred):
    queue.hold(deferred.pk, reader)
    Lease.objects.update(until=timezone.now())
    assert adjudication.decide(place, reader, deferred, cleaned(deferred, reader)).label == 1


@pytest.mark.django_db
def test_a_case_another_reader_took_over_is_refused_by_name(place, reader, lead, deferred):
    queue.hold(deferred.pk, reader)
    Lease.objects.update(until=timezone.now())
    queue.hold(deferred.pk, lead)
    with pytest.raises(Conflict, match="jefa"):
        adjudication.decide(place, reader, deferred, cleaned(deferred, reader))


@pytest.mark.django_db
def test_without_a_lease_there_is_no_verdict(place, reader, deferred):
    with pytest.raises(Conflict):
        adjudication.decide(place, reader, deferred, cleaned(deferred, reader))
    assert not Review.objects.exists()


@pytest.mark.django_db
def test_a_labelled_case_takes_no_second_verdict(place, reader, lead):
    first = submitted(place, lead)
    queue.hold(first.case_id, reader)
    with pytest.raises(Conflict):
        adjudication.decide(place, reader, first.case, cleaned(first.case, reader))
    assert Label.objects.count() == 1 and Lease.objects.count() == 1


@pytest.mark.django_db
def test_the_key_of_another_case_or_a_withdrawn_verdict_is_no_answer(place, reader, deferred):
    first = submitted(place, reader)
    queue.hold(deferred.pk, reader)
    with pytest.raises(Conflict):
        adjudication.decide(
            place, reader, deferred, cleaned(deferred, reader, client_key=str(first.client_key))
        )
    adjudication.withdraw(place, reader, first.pk)
    with pytest.raises(Conflict):
        adjudication.decide(
            place, reader, first.case, cleaned(first.case, reader, client_key=str(first.client_key))
        )


@pytest.mark.django_db
def test_a_failure_leaves_nothing_behind(place, reader, deferred, monkeypatch):
    queue.hold(deferred.pk, reader)
    adjudication.save_draft(reader, deferred, "suspicion", "a medias", [])

    def broken(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr("triage.audit.record", broken)
    with pytest.raises(RuntimeError):
        adjudication.decide(place, reader, deferred, cleaned(deferred, reader))
    assert not Review.objects.exists() and not Label.objects.exists()
    assert Lease.objects.exists() and Draft.objects.get().comment == "a medias"


@pytest.mark.django_db
def test_taken_back_the_case_waits_again_with_what_was_decided(place, reader):
    review = submitted(place, reader, comment="ojo")
    adjudication.withdraw(place, reader, review.pk)
    assert Label.objects.get().withdrawn_at is not None
    draft = Draft.objects.get()
    assert (draft.choice, draft.comment) == ("suspicion", "ojo")
    assert Lease.objects.get().reader == reader
    again = adjudication.decide(place, reader, review.case, cleaned(review.case, reader, "non_suspicion"))
    assert Label.objects.get(withdrawn_at=None).review == again
    verbs = list(
        AuditEvent.objects.filter(verb__startswith="review").order_by("pk").values_list("verb", flat=True)
    )
    assert verbs == ["review.submit", "review.withdraw", "review.submit"]


@pytest.mark.django_db
def test_only_ones_own_last_ten_verdicts_can_be_taken_back(place, reader, lead):
    reviews = [submitted(place, reader) for _ in range(11)]
    for i, review in enumerate(reviews):
        Review.objects.filter(pk=review.pk).update(at=timezone.now() - timedelta(hours=11 - i))
    with pytest.raises(Http404):
        adjudication.withdraw(place, lead, reviews[5].pk)
    with pytest.raises(Conflict):
        adjudication.withdraw(place, reader, reviews[0].pk)
    adjudication.withdraw(place, reader, reviews[1].pk)
    with pytest.raises(Conflict):
        adjudication.withdraw(place, reader, reviews[1].pk)
    with pytest.raises(Conflict):
        adjudication.withdraw(place, reader, reviews[0].pk)


@pytest.mark.django_db
def test_every_past_decision_can_be_reproduced_from_what_is_stored(place, reader):
    from mlcore import decision

    submitted(place, reader)
    for review in Review.objects.select_related("prediction", "policy"):
        numbers = [[getattr(review.prediction, name)] for name in ("credibility", "runner_up", "typicality")]
        [code] = decision.decide(*numbers, review.policy.alpha, review.policy.typicality_floor)
        assert decision.NAMES[code] == "ambiguous"


@pytest.mark.django_db(transaction=True)
def test_new_notes_and_a_verdict_at_once_never_both_win(place, reader, deferred):
    """The verdict locks the prediction it is given on: either it is in before the notes, or it is refused."""
    queue.hold(deferred.pk, reader)
    sent = cleaned(deferred, reader)

    def work(i):
        if i:
            return Prediction.objects.filter(case=deferred).update(current=False)
        return adjudication.decide(place, reader, deferred, sent)

    answer, _ = at_once(work, 2)
    assert isinstance(answer, (Review, Conflict))
    assert Review.objects.count() == isinstance(answer, Review)
