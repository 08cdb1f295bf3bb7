"""What a study's models may see, what is run again, and which folder is taken."""

import dataclasses
import json

import numpy as np
import pytest

from mlcore import members
from mlcore.errors import DataError
from mlcore.records import NoteText, Record
from mlcore.train import TrainConfig
from tests.mlcore import stored
from tests.mlcore.conftest import SPEC
from tests.mlcore.conftest import cases as made

MEMBER = members.Step("member", "spectral", 1)
SINGLE = members.Step("single", "standard")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return stored.study(tmp_path_factory.mktemp("study") / "s")


def with_groups(cohort):
    training = [dataclasses.replace(r, group=f"g{i // 3}") for i, r in enumerate(cohort.training)]
    return members.Cohort(cohort.spec, training, cohort.test)


@pytest.mark.parametrize("step", [MEMBER, SINGLE])
def test_what_calibrates_is_never_trained_on(plan, step):
    fit, validation, held_out = members.parts(plan, step)
    together = np.concatenate([fit, validation, held_out])
    assert sorted(together) == list(range(600))
    for part in (fit, validation, held_out):
        assert set(plan.cohort.labels[part]) == {0, 1}
    if step.kind == "member":
        assert (plan.fold[held_out] == step.fold).all()


def test_groups_stay_whole_in_folds_and_validation_shares(plan, tmp_path):
    grouped = members.Plan(with_groups(plan.cohort), plan.config, tmp_path)
    for part in members.parts(grouped, MEMBER):
        inside = {grouped.cohort.groups[i] for i in part}
        assert len(part) == 3 * len(inside)


def test_every_case_is_held_out_by_one_member(plan):
    rows = [members.parts(plan, members.Step("member", "baseline", m))[2] for m in range(3)]
    assert sorted(np.concatenate(rows)) == list(range(600))


def test_distances_stand_on_the_models_own_training_cases(plan):
    """A held-out case moved far away moves no centroid."""
    arrays = members.load(plan.path(MEMBER))
    held_out = members.parts(plan, MEMBER)[2]
    moved = arrays | {"training.embeddings": arrays["training.embeddings"].copy()}
    moved["training.embeddings"][held_out] += 50
    before, after = (members._distances(plan, MEMBER, a) for a in (arrays, moved))
    assert (before["test.0.05"] == after["test.0.05"]).all()
    assert not np.allclose(before["held_out.0.05"], after["held_out.0.05"])
    assert set(before) == {
        f"{n}.{g}" for n in ("held_out", "test", "centroids") for g in (0.01, 0.02, 0.05, 0.1)
    }


def test_a_stored_step_is_done_and_its_arrays_are_kept_to_the_bit(plan):
    assert all(plan.done(step) for step in plan.steps)
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array([True])}
    path = plan.folder / "members" / "x.safetensors"
    members.store(path, arrays, "f" * 64, {"epochs": [1]})
    again = members.load(path)
    assert (again["a"] == arrays["a"]).all()
    assert again["b"].dtype == bool
    assert members.read_card(path) == {"epochs": [1]}
    assert [p.name for p in path.parent.glob("*.part")] == []


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:500])])
def test_a_missing_or_damaged_file_is_not_done(tmp_path, damage):
    plan = stored.study(tmp_path / "s", n=240, m=40)
    damage(plan.path(MEMBER))
    assert [step for step in plan.steps if not plan.done(step)] == [MEMBER]
    damage(plan.distances_path(SINGLE))
    assert [step for step in plan.steps if not plan.done(step)] == [SINGLE, MEMBER]


def test_fingerprints_follow_data_config_and_versions(plan, monkeypatch):
    def fingerprint(of):
        return of.fingerprint(MEMBER)

    changed = dataclasses.replace(plan.cohort.training[0], notes=[NoteText("otra")])
    cohort = members.Cohort(plan.cohort.spec, [changed, *plan.cohort.training[1:]], plan.cohort.test)
    other = [
        members.Plan(cohort, plan.config, plan.folder),
        members.Plan(plan.cohort, dataclasses.replace(plan.config, folds=4), plan.folder),
        members.Plan(plan.cohort, dataclasses.replace(plan.config, seed=4), plan.folder),
    ]
    same = members.Plan(plan.cohort, dataclasses.replace(plan.config, replicates=7), plan.folder)
    own = fingerprint(plan)
    assert fingerprint(same) == own
    assert len({own, *map(fingerprint, other)}) == 4
    assert own != plan.fingerprint(SINGLE)
    monkeypatch.setattr(members, "versions", lambda: {"torch": "0"})
    assert fingerprint(plan) != own


def test_the_same_study_may_go_on_in_its_folder(plan):
    held = {path: path.read_bytes() for path in plan.folder.rglob("*") if path.is_file()}
    members.open_folder(members.Plan(plan.cohort, plan.config, plan.folder))
    assert {path: path.read_bytes() for path in plan.folder.rglob("*") if path.is_file()} == held
    assert plan.folder / members.STUDY in held and len(held) > 1


def test_a_folder_of_another_study_is_refused_with_what_differs(plan):
    test = plan.cohort.test[1:]
    other = members.Plan(
        members.Cohort(plan.cohort.spec, plan.cohort.training, test), plan.config, plan.folder
    )
    with pytest.raises(DataError, match=r"holds another study \(other test\): name a new folder"):
        members.open_folder(other)


def test_a_folder_with_something_else_in_it_is_refused(plan, tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="something else"):
        members.open_folder(members.Plan(plan.cohort, plan.config, tmp_path))
    with pytest.raises(DataError, match="something else"):
        members.open_folder(members.Plan(plan.cohort, plan.config, tmp_path / "thesis.txt"))


def test_study_json_names_no_case(plan):
    text = (plan.folder / members.STUDY).read_text()
    assert json.loads(text)["training"]["cases"] == 600
    assert "T17" not in text


def test_too_few_cases_of_a_label_are_told():
    cohort = stored.cohort("hiv-suspicion-es", 40, 20)
    with pytest.raises(DataError, match=r"has \d+ independent case\(s\) labelled suspicion: .* at least 20"):
        cohort.check(3)


@pytest.mark.parametrize(
    ("where", "change", "told"),
    [
        ("training", {"label": 2}, r"1 case\(s\) in the training file have no label"),
        ("training", {"label": None}, r"1 case\(s\) in the training file have no label"),
        ("test", {"label": 7}, r"1 case\(s\) in the test file have no label"),
        ("test", {"notes": []}, r"1 case\(s\) in the test file have no note"),
    ],
)
def test_cases_that_cannot_be_studied_are_told_before_anything_is_trained(where, change, told):
    training, test = made(80, 1), made(40, 2)
    chosen = {"training": training, "test": test}[where]
    chosen[3] = dataclasses.replace(chosen[3], **change)
    with pytest.raises(DataError, match=told):
        members.Cohort(SPEC, training, test).check(3)
    with pytest.raises(DataError, match="There is no case in the test file"):
        members.Cohort(SPEC, made(80, 1), []).check(3)


@pytest.mark.parametrize("wrong", [{"folds": 1}, {"passes": 1}, {"replicates": 0}])
def test_settings_that_cannot_be_used_are_told(wrong):
    with pytest.raises(DataError, match="it must be at least"):
        members.StudyConfig(**wrong)


def test_groups_count_once():
    cohort = stored.cohort("hiv-suspicion-es", 400, 20)
    one = [dataclasses.replace(r, group="one" if r.label else r.patient_id) for r in cohort.training]
    with pytest.raises(DataError, match=r"has 1 independent case\(s\) labelled suspicion"):
        members.Cohort(cohort.spec, one, cohort.test).check(3)


def test_a_case_in_both_files_is_told():
    cohort = stored.cohort("hiv-suspicion-es", 400, 20)
    twice = Record(cohort.training[0].patient_id, [NoteText("a")], 0, 1)
    with pytest.raises(DataError, match=r"1 case\(s\) or group\(s\) stand in the training and the test file"):
        members.Cohort(cohort.spec, cohort.training, [*cohort.test, twice]).check(3)


def test_a_frozen_encoder_reads_each_window_once_for_all_members(roberta, tmp_path):
    spec = stored.cohort("hiv-suspicion-es", 1, 1).spec
    test = [dataclasses.replace(r, patient_id=f"E{r.patient_id}") for r in made(12, 8)]
    small = TrainConfig(epochs=2, hidden=8)
    config = members.StudyConfig(encoder=str(roberta), folds=2, passes=3, train=small)
    plan = members.Plan(members.Cohort(spec, made(80, 7), test), config, tmp_path / "s")
    members.open_folder(plan)
    members.compute(plan, members.Step("member", "standard", 0))
    size = (plan.folder / "vectors.bin").stat().st_size
    members.compute(plan, SINGLE)
    assert (plan.folder / "vectors.bin").stat().st_size == size
    arrays = members.load(plan.path(SINGLE))
    held_out = members.parts(plan, SINGLE)[2]
    assert arrays["training.logits"].shape == (80, 2)
    assert arrays["test.embeddings"].shape == (12, 8)
    assert arrays["held_out.passes"].shape == (3, len(held_out), 2)
    assert members.load(plan.distances_path(SINGLE))["held_out.0.05"].shape == (len(held_out), 2)
    assert members.read_card(plan.path(SINGLE))["chosen"]["epoch"] in (1, 2)
    assert plan.done(SINGLE)
