"""The scrolling benchmark measures what it says: a long record, marked, scrolled to its end in a real browser."""

from contextlib import nullcontext

import pytest

from reviews import benchmarks

pytestmark = [pytest.mark.browser, pytest.mark.django_db]


def test_a_long_record_is_scrolled_to_its_end_in_each_view(chromium):
    figures = benchmarks.scroll_figures(words=1200, notes=4, start=lambda: nullcontext(chromium))
    assert figures["words"] == 1200 and figures["marks"] > 40
    for view in ("words", "strange", "plain"):
        assert figures[f"{view}_frames"] > 5
        assert 0 < figures[f"{view}_p50_ms"] <= figures[f"{view}_p95_ms"] <= figures[f"{view}_worst_ms"]
    assert figures["p95_frame_ms"] == max(figures["words_p95_ms"], figures["strange_p95_ms"])
