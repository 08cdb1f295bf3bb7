"""Releases in folds: who is kept apart from whom, what is measured, which one is kept and what its card says."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mlcore import bundle, crossfit, model_card, train
from mlcore.errors import DataError, ModelError
from mlcore.scorer import Scorer
from tests.mlcore.conftest import SPEC, cases

K = 3
CRITICAL = replace(SPEC, critical=(SPEC.labels[1],))
RECORDS = [replace(r, group=f"g{i // 2}") for i, r in enumerate(cases(240, 7, words=20))]
LABELS = np.array([r.label for r in RECORDS])


@pytest.fixture(scope="module")
def small(config):
    return replace(config, epochs=1, width=16)


@pytest.fixture(scope="module")
def kept(small, tmp_path_factory):
    """Folder and card of the release that is kept, and what was told of each fold."""
    folder, told = tmp_path_factory.mktemp("folds") / "bundle", []
    card = crossfit.train_folds(
        RECORDS, CRITICAL, train.COMPACT, folder, K, small, told=lambda fold, row: told.append(row)
    )
    return folder, card, told


def digests(parts, *names):
    at = [train.LEFT_OUT if name == "left out" else train.PARTS.index(name) for name in names]
    return set(train.note_digests(RECORDS[i] for i in np.flatnonzero(np.isin(parts, at))).tolist())


def test_every_case_is_held_out_once_or_calibrates_every_fold(small):
    parts = np.array(crossfit.fold_parts(RECORDS, SPEC, small, K))
    calibrates = parts == train.PARTS.index("calibration")
    assert (calibrates == calibrates[0]).all(), "the calibration share is one and the same"
    own = (parts == train.LEFT_OUT).sum(axis=0)
    assert (own[~calibrates[0]] == 1).all() and (own[calibrates[0]] == 0).all()
    for row in parts:
        for group in {r.group for r in RECORDS}:
            assert len({p for p, r in zip(row, RECORDS, strict=True) if r.group == group}) == 1
        mix = Counter(LABELS[row == train.LEFT_OUT].tolist())
        assert abs(mix[1] / mix.total() - (LABELS[~calibrates[0]] == 1).mean()) < 0.05


def test_the_kept_release_is_sealed_scores_and_names_its_folds(kept, small):
    folder, card, _ = kept
    bundle.verify(folder)
    assert card == bundle.read_card(folder) | {"format": card["format"]}
    assert card["folds"]["count"] == K and len(card["folds"]["sha1"]) == K
    assert card["data"]["split_sha1"] == card["folds"]["sha1"][card["folds"]["fold"] - 1]
    assert not folder.with_name("bundle.folds").exists()
    assert len(Scorer.load(folder).score_records([RECORDS[0].texts])[0]) == 1


def test_the_notes_that_chose_the_kept_release_count_as_learned(kept, small):
    folder, card, _ = kept
    parts = crossfit.fold_parts(RECORDS, CRITICAL, small, K)[card["folds"]["fold"] - 1]
    arrays = bundle.load_arrays(folder)
    assert digests(parts, "left out")
    assert set(arrays["learned.notes"].tolist()) == digests(parts, "fit", "validation", "left out")
    assert set(arrays["calibrated.notes"].tolist()) == digests(parts, "calibration")


def test_its_model_card_tells_every_fold_their_mean_and_that_it_is_the_best(kept):
    folder, card, told = kept
    text = model_card.render(card, bundle.load_arrays(folder), bundle.verify(folder), CRITICAL)
    part = text.split("## Folds")[1].split("\n## ")[0]
    assert f"This release is the best of {K}: fold {card['folds']['fold']} is kept" in part
    assert card["folds"]["why"] in part
    for row in told:
        figures = [*row["f1"].values(), row["f1_macro"], row["f1_weighted"]]
        cells = (str(row["fold"]), str(row["cases"]), *(f"{x:.4f}" for x in figures))
        assert f"| {' | '.join(cells)} |" in part
    over = card["folds"]["f1_macro"]
    assert "| mean ± sd |" in part and f"{over['mean']:.4f} ± {over['sd']:.4f}" in part


def test_a_fold_is_measured_by_the_most_probable_label_at_the_file_s_prevalence(kept, small):
    folder, card, told = kept
    fold = card["folds"]["fold"]
    assert [row["fold"] for row in told] == [1, 2, 3] and told == card["folds"]["table"]
    parts = crossfit.fold_parts(RECORDS, CRITICAL, small, K)[fold - 1]
    rows = np.flatnonzero(parts == train.LEFT_OUT)
    scores = Scorer.load(folder).score_records([RECORDS[i].texts for i in rows])[0]
    called, truth = scores.logits.argmax(axis=1), LABELS[rows]
    weight = {c: (c == LABELS).sum() / (truth == c).sum() for c in (0, 1)}
    hit = weight[1] * ((called == 1) & (truth == 1)).sum()
    wrong = (
        weight[1] * ((called == 0) & (truth == 1)).sum() + weight[0] * ((called == 1) & (truth == 0)).sum()
    )
    assert np.isclose(told[fold - 1]["f1"][SPEC.labels[1]], 2 * hit / (2 * hit + wrong), atol=1e-5)


def row(fold, critical, macro):
    return {
        "fold": fold,
        "f1": {SPEC.labels[0]: 2 * macro - critical, SPEC.labels[1]: critical},
        "f1_macro": macro,
        "f1_weighted": macro + 0.01,
    }


TABLE = [row(1, 0.70, 0.80), row(2, 0.72, 0.75), row(3, 0.72, 0.78), row(4, 0.72, 0.78)]


def test_the_critical_label_chooses_the_fold_and_macro_f1_where_there_is_none():
    assert crossfit.best(TABLE, CRITICAL)["fold"] == 3
    assert crossfit.best(TABLE, SPEC)["fold"] == 1
    why = crossfit.best(TABLE, CRITICAL)["why"]
    assert why.startswith(f"largest F1 of {SPEC.labels[1]}, which {SPEC.slug} holds critical (0.7200)")


def test_the_table_is_told_with_mean_and_sample_deviation():
    over = crossfit.summary(TABLE)
    assert over["f1"][SPEC.labels[1]] == {"mean": 0.715, "sd": 0.01}
    assert over["f1_macro"]["mean"] == round((0.8 + 0.75 + 2 * 0.78) / 4, 5)
    card = {"labels": list(SPEC.labels), "folds": {"table": TABLE, **over}}
    told = crossfit.lines(card)
    assert len(told) == 6 and len({len(line) for line in told}) == 1
    assert "0.7150 ± 0.0100" in told[-1] and told[1].split()[:3] == ["1", "0.9000", "0.7000"]


def test_folds_that_were_broken_off_go_on_where_they_stopped(kept, small, tmp_path, monkeypatch):
    """The first fold's release is not trained again, and what comes out is the same but for its clock."""
    folder, done = tmp_path / "bundle", []
    real = crossfit.train

    def once(*args):
        if done:
            raise KeyboardInterrupt
        done.append(args[3])
        return real(*args)

    monkeypatch.setattr(crossfit, "train", once)
    with pytest.raises(KeyboardInterrupt):
        crossfit.train_folds(RECORDS, CRITICAL, train.COMPACT, folder, K, small)
    again, seal = [], bundle.seal

    def killed(sealed, card):
        seal(sealed, card)
        if "folds" in card:
            raise KeyboardInterrupt

    def learns_only_what_teaches(fold, row):
        working = folder.with_name("bundle.folds") / f"fold-{fold}"
        parts = crossfit.fold_parts(RECORDS, CRITICAL, small, K)[fold - 1]
        learned = bundle.load_arrays(working)["learned.notes"]
        assert set(learned.tolist()) == digests(parts, "fit", "validation")

    monkeypatch.setattr(crossfit, "train", lambda *args: again.append(args[3].name) or real(*args))
    monkeypatch.setattr(bundle, "seal", killed)
    with pytest.raises(KeyboardInterrupt):
        crossfit.train_folds(RECORDS, CRITICAL, train.COMPACT, folder, K, small)
    assert not folder.exists(), "nothing stands at its place before its card tells of the folds"
    monkeypatch.setattr(bundle, "seal", seal)
    card = crossfit.train_folds(
        RECORDS, CRITICAL, train.COMPACT, folder, K, small, told=learns_only_what_teaches
    )
    assert again == ["fold-2", "fold-3"] and card["folds"] == kept[1]["folds"]
    assert (folder / bundle.CALIBRATION).read_bytes() == (kept[0] / bundle.CALIBRATION).read_bytes()


def test_the_folds_of_other_data_or_settings_are_not_taken_up(small, tmp_path):
    folder = tmp_path / "bundle"
    working = folder.with_name("bundle.folds")
    working.mkdir()
    (working / crossfit.IDENTITY).write_text(json.dumps({"sha1": ["another"]}))
    with pytest.raises(ModelError, match="holds folds of other data, another split"):
        crossfit.train_folds(RECORDS, CRITICAL, train.COMPACT, folder, K, small)


@pytest.mark.parametrize("change", ["seed", "rows", "k"])
def test_other_folds_than_those_of_an_earlier_release_are_refused(kept, small, tmp_path, change):
    records = RECORDS[2:] if change == "rows" else RECORDS
    config = replace(small, seed=99) if change == "seed" else small
    with pytest.raises(DataError, match="The folds are not those of the release to compare with"):
        crossfit.train_folds(
            records, CRITICAL, train.COMPACT, tmp_path / "b", K + (change == "k"), config, like=kept[1]
        )
    assert not any(tmp_path.iterdir())


def test_a_release_without_folds_cannot_be_compared_with(small, tmp_path):
    with pytest.raises(DataError, match="was not trained in folds"):
        crossfit.train_folds(RECORDS, CRITICAL, train.COMPACT, tmp_path / "b", K, small, like={"labels": []})


def test_a_folder_that_holds_something_is_left_alone(small, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ModelError, match="is not an empty folder"):
        crossfit.train_folds(RECORDS, CRITICAL, train.COMPACT, tmp_path, K, small)


def test_the_linear_release_is_trained_in_folds_too(small, tmp_path):
    card = crossfit.train_folds(RECORDS, SPEC, "tfidf", tmp_path / "b", K, small)
    assert len(card["folds"]["table"]) == K and "macro F1" in card["folds"]["why"]
    assert len(Scorer.load(tmp_path / "b").score_records([RECORDS[0].texts])[0]) == 1
