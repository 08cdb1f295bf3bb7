"""`manage.py cohort_words`: the words of groups as files, recorded, with nothing that names anybody."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command

from mlcore.errors import DataError
from tests.triage.test_cohorts import explained, predicted
from triage import synthetic
from triage.models import AuditEvent, Baseline, Explanation

pytestmark = pytest.mark.django_db


@pytest.fixture
def atypical(site, protocol):
    """Five atypical cases with muguet, one of them with fiebre too, and one that waits for its words."""
    rows = [predicted(site, protocol, 1, typicality=0.005) for _ in range(6)]
    for row in rows[1:5]:
        explained(row, Muguet=0.2)
    explained(rows[0], Muguet=0.2, Fiebre=0.9)
    return rows


def test_both_files_hold_the_groups_and_no_rare_word(site, protocol, atypical, tmp_path, capsys):
    Baseline.objects.create(release=atypical[0].release, cases=40, words={"muguet": 0.05})
    out = tmp_path / "words"
    call_command("cohort_words", protocol=protocol.slug, site=site.slug, output=out)
    written = json.loads((out / "words.json").read_text())
    group = written["groups"]["atypical"]
    assert (written["site"], group["members"], group["explained"], group["baseline"]) == ("norte", 6, 5, 40)
    assert [(r["word"], r["cases"], r["baseline"]) for r in group["rows"]] == [("muguet", 5, 0.05)]
    html = (out / "words.html").read_text()
    assert (
        "muguet" in html
        and "fiebre" not in html
        and "n = 5 of 6 cases explained; calibration n = 40." in html
    )
    event = AuditEvent.objects.get(verb="cohort.words")
    assert event.site == site and event.details["cases"]["atypical"] == [5, 6]
    assert "muguet" not in json.dumps(event.details) + capsys.readouterr().out


def test_asking_and_the_period(site, protocol, atypical, tmp_path, capsys):
    run = {"protocol": protocol.slug, "site": site.slug, "output": tmp_path}
    call_command("cohort_words", "--from", "2000-01-01", "--ask", **run)
    assert "Deferred: atypical: 5 of 6 cases explained\n  1 more asked for" in capsys.readouterr().out
    assert Explanation.objects.get(status="pending").priority == Explanation.Priority.COHORT
    call_command("cohort_words", "--to", "2000-01-01", **run)
    assert "Deferred: atypical: 0 of 0" in capsys.readouterr().out


def test_a_baseline_from_a_file_of_labelled_cases(site, protocol, release, tmp_path, capsys):
    lines = (
        json.dumps(synthetic.as_record(p, labelled=True), ensure_ascii=False)
        for p in synthetic.generate(30, 5, prefix="B")
    )
    notes = tmp_path / "notes.jsonl"
    notes.write_text("\n".join(lines), "utf-8")
    call_command(
        "cohort_words", protocol=protocol.slug, site=site.slug, output=tmp_path, baseline=notes, cases=8
    )
    assert "Calibration: 8 of all cases of the file explained" in capsys.readouterr().out
    assert Baseline.objects.get().cases == 8


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"site": "este"}, "Site 'este' is not known: use one of norte"), ({"protocol": "x"}, "Protocol 'x'")],
)
def test_what_is_not_known_is_said(site, protocol, tmp_path, wrong, said):
    run = {"protocol": protocol.slug, "site": site.slug, "output": tmp_path} | wrong
    with pytest.raises(DataError, match=said):
        call_command("cohort_words", **run)


def test_a_baseline_without_a_release_and_a_folder_that_is_a_file(site, protocol, tmp_path):
    run = {"protocol": protocol.slug, "site": site.slug}
    with pytest.raises(DataError, match="install one first"):
        call_command("cohort_words", **run, output=tmp_path, baseline=tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="name another --output"):
        call_command("cohort_words", **run, output=tmp_path / "file")
    assert not AuditEvent.objects.filter(verb="cohort.words").exists()
