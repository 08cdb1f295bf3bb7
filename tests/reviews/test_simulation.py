import json

import pytest

from mlcore.errors import CentinelaError
from reviews import simulation, simulation_page
from reviews.management.commands.simulate_year import check
from reviews.models import Label, Review
from triage import registry, synthetic
from triage.models import Case, Policy, Prediction, Watch


@pytest.fixture
def three_weeks(transactional_db, settings, tmp_path, bundle_folder, monkeypatch):
    settings.RELEASES_DIR = tmp_path / "releases"
    monkeypatch.setattr(simulation, "WEEKS", 3)
    registry.install(bundle_folder)
    return simulation.run(simulation.Year(notes=8_000, drift=0))


def test_three_weeks_add_up_and_every_case_is_automatic_or_read(three_weeks):
    [month] = three_weeks["months"]
    assert month["cases"] == Case.objects.count() == sum(month["outcomes"].values()) > 100
    assert month["notes"] > month["cases"]
    deferred = month["cases"] - month["outcomes"].get("automatic", 0)
    assert month["reads"] == Review.objects.count() == Label.objects.count() >= deferred
    assert Label.objects.filter(propensity=1).count() == deferred
    assert month["coverage"]["n"] == month["cases"]
    assert month["coverage"]["value"] * month["cases"] == pytest.approx(month["outcomes"].get("automatic", 0))
    assert month["missed"] <= month["passed"] and month["found"] <= month["drawn"] <= month["passed"]
    days = set(Prediction.objects.dates("at", "day"))
    assert min(days) >= simulation.FIRST_MONDAY and (max(days) - min(days)).days < 21
    assert Watch.objects.count() >= 2 and Policy.objects.get().hold_on_alarm


def test_readers_err_at_their_rates():
    hospital = object.__new__(simulation._Hospital)
    hospital.year = simulation.Year(sensitivity=0.9, specificity=0.98)
    hospital.chance = simulation.random.Random(3)
    truth = simulation.np.repeat([0, 1], 20_000)
    verdicts = hospital._verdicts(truth)
    assert abs(verdicts[truth == 1].mean() - 0.9) < 0.01
    assert abs(verdicts[truth == 0].mean() - 0.02) < 0.005


def test_the_drift_puts_a_header_on_every_note_and_takes_the_signs_from_some_suspects(monkeypatch):
    monkeypatch.setattr(simulation, "LOST", 0.5)
    before = list(simulation.arriving(400, 5, drifted=False))
    after = list(simulation.arriving(400, 5, drifted=True))
    assert [p.patient_id for p in before] == [p.patient_id for p in after]
    assert [p.label for p in before] == [p.label for p in after]
    assert all(note.text.startswith(simulation.HEADER) for p in after for note in p.notes)
    suspects = [i for i, patient in enumerate(before) if patient.label]
    lost = [i for i in suspects if _texts(after[i]) != [simulation.HEADER + t for t in _texts(before[i])]]
    assert abs(len(lost) / len(suspects) - simulation.LOST) < 0.2
    assert not any(
        _texts(after[i]) != [simulation.HEADER + t for t in _texts(before[i])]
        for i in range(400)
        if i not in suspects
    )


def _texts(patient: synthetic.Patient) -> list[str]:
    return [note.text for note in patient.notes]


FIGURES = {
    "year": vars(simulation.Year()),
    "seconds": 1.0,
    "months": [
        simulation._told(
            1, simulation.Month(notes=9, cases=3, passed=2, missed=1, events=["2025-01-12: <alarm>"])
        ),
        simulation._told(2, simulation.Month()),
    ],
}


def test_the_report_says_what_happened_and_dashes_where_nothing_did():
    table = simulation_page.table(FIGURES)
    assert "500.0 (12.6–987.4)" in table and "<alarm>" in table and "–" in table
    page = simulation_page.written(FIGURES)
    assert "&lt;alarm&gt;" in page and "<alarm>" not in page and "invented" in page
    assert json.dumps(FIGURES)


@pytest.mark.parametrize("wrong", [{"notes": 10}, {"drift": 13}, {"sensitivity": 0}, {"specificity": 1.1}])
def test_a_year_that_cannot_be_is_refused(wrong):
    with pytest.raises(CentinelaError, match=r"must be at least|are shares"):
        check(simulation.Year(**wrong))
