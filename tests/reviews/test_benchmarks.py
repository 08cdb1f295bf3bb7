"""The benchmarks measure what they say: a queue with its orders, searches and saves; a long record, marked and scrolled."""

import time
from contextlib import nullcontext

import pytest

from reviews import benchmarks, queue, search
from reviews.models import Label, Review
from triage.models import AuditEvent


@pytest.mark.django_db(transaction=True)
def test_the_queue_benchmark_opens_saves_searches_and_exports_what_it_says():
    figures = benchmarks.queue_figures(rows=400, times=20, clients=0)
    assert {f"search_{name}_p50_ms" for name in benchmarks.WORDS} <= figures.keys()
    assert all(value >= 0 for value in figures.values())
    assert figures["cases"] == figures["export_rows"] == 400
    assert Label.objects.count() == 400 and Review.objects.filter(seconds=20).count() == 20
    hits = AuditEvent.objects.filter(verb="notes.search").values_list("details__hits", flat=True)
    assert max(hits) == 30 and min(hits) <= 1


@pytest.mark.django_db
def test_the_words_of_the_benchmark_stand_in_as_many_notes_as_it_says():
    place, _ = benchmarks._workplace(1000)
    found = {name: search.Search(place.protocol, word)._all() for name, word in benchmarks.WORDS.items()}
    assert [len(found[name]) for name in ("rare", "some", "common")] == [2, 40, 400]
    assert len(found["everywhere"]) == search.FEW + 1


@pytest.mark.django_db
def test_a_client_saves_the_verdicts_it_is_given():
    place, user = benchmarks._workplace(50)
    cases = [case for case in (queue.take_next(place, user), 41, 42) if case]
    for case in cases:
        queue.hold(case, user)
    start = time.time() + 5
    assert benchmarks.save_for("reader", cases, start) >= start
    assert set(Label.objects.values_list("case", flat=True)) == set(cases)


@pytest.mark.browser
@pytest.mark.django_db
def test_a_long_record_is_scrolled_to_its_end_in_each_view(chromium):
    figures = benchmarks.scroll_figures(words=1200, notes=4, start=lambda: nullcontext(chromium))
    assert figures["words"] == 1200 and figures["marks"] > 40
    for view in ("words", "strange", "plain"):
        assert figures[f"{view}_frames"] > 5
        assert 0 < figures[f"{view}_p50_ms"] <= figures[f"{view}_p95_ms"] <= figures[f"{view}_worst_ms"]
    assert figures["p95_frame_ms"] == max(figures["words_p95_ms"], figures["strange_p95_ms"])
