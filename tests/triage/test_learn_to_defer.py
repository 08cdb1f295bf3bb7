"""`manage.py learn_to_defer`: two real small releases, and one sentence for whatever goes wrong."""

import json

import numpy as np
import pytest
from django.core.management import call_command

from mlcore import bundle, protocols, records, tfidf
from mlcore.deferral import Router
from mlcore.errors import BundleError, DataError
from mlcore.records import Labelled, NoteText, Record
from mlcore.train import TrainConfig, train
from triage import synthetic
from triage.management.commands import learn_to_defer
from triage.management.commands.learn_to_defer import Release

SPEC = protocols.HIV_SUSPICION_ES
WORDS = [
    first + second
    for first in "bcdfghjk"
    for second in ("ana", "eso", "ilu", "ora", "uti", "axe", "emo", "ipa")
]


def written(path, rows, seed, prefix):
    made = synthetic.generate(rows, seed, foreign=0, suspects=0.4, prefix=prefix)
    lines = [json.dumps(synthetic.as_record(patient, labelled=True), ensure_ascii=False) for patient in made]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The file both releases learned from (as `bundle_folder` did), and another to judge on."""
    folder = tmp_path_factory.mktemp("files")
    return written(folder / "train.jsonl", 640, 11, "T"), written(folder / "test.jsonl", 80, 12, "E")


@pytest.fixture(scope="module")
def second(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second") / "bundle"
    train(records.load_labelled(files[0], SPEC), SPEC, tfidf.NAME, folder, TrainConfig())
    return folder


def run(primary, secondary, files, report, **options):
    train, test = files
    call_command(
        "learn_to_defer",
        primary=primary,
        secondary=secondary,
        train=train,
        test=test,
        report=report,
        **options,
    )


@pytest.fixture(scope="module")
def reported(bundle_folder, second, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run(bundle_folder, str(second), files, folder)
    return json.loads((folder / "metrics.json").read_text("utf-8")), folder


def test_the_report_is_of_these_releases_and_files(reported, bundle_folder, second):
    figures, folder = reported
    assert figures["primary_sha256"] == bundle.verify(bundle_folder)
    assert figures["secondary_sha256"] == bundle.verify(second)
    assert (figures["train_cases"], figures["test_cases"], figures["metric"]) == (640, 80, "target")
    for key in ("f1_primary", "f1_secondary", "f1_deferred", "share_deferred", "calls_saved"):
        low, high = figures[key]["ci"]
        assert 0 <= low <= figures[key]["value"] <= high <= 1
        assert figures[key]["n"] == 80
    assert (folder / "report.html").exists() and (folder / "table.csv").exists()
    router = Router.from_dict(json.loads((folder / "router.json").read_text("utf-8")))
    assert "negation" in router.names and "prob_suspicion" in router.names


def test_only_cases_that_neither_release_learned_teach(reported, bundle_folder, second):
    figures, _ = reported
    shares = [bundle.read_card(folder)["data"]["shares"]["calibration"] for folder in (bundle_folder, second)]
    assert figures["train_cases_new_to_both"] <= min(sum(share.values()) for share in shares)
    assert figures["tuning"]["n"] == figures["train_cases_new_to_both"] > 50


def test_where_nothing_is_deferred_the_reason_stands(bundle_folder, files, tmp_path, capsys):
    run(bundle_folder, str(bundle_folder), files, tmp_path)
    figures = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert figures["share_deferred"]["value"] == 0
    assert (
        figures["f1_deferred"]["value"] == figures["f1_primary"]["value"] == figures["f1_secondary"]["value"]
    )
    assert "the second is never right" in figures["reason"]
    assert figures["reason"] in capsys.readouterr().out


def test_cases_that_calibrated_a_release_are_known_and_ranked_against_the_others(bundle_folder, files):
    """The bundle keeps what its held-out cases came to so."""
    release, kept = Release.open(bundle_folder), bundle.load_arrays(bundle_folder)
    cases = records.load_labelled(files[0], SPEC)
    assert release.met(cases).sum() == len(kept["held_out.truth"])
    new = release.scorer.calibration.apply(kept["held_out.logits"], kept["held_out.distances"])
    member = np.ones(len(new), dtype=bool)
    member[::2] = False
    found = learn_to_defer.as_new(release.scorer.calibration, new, member, kept["held_out.truth"])
    for name in ("label", "credibility", "runner_up", "typicality", "p_values"):
        assert np.array_equal(getattr(found, name)[member], kept[f"held_out.{name}"][member]), name
        assert np.array_equal(getattr(found, name)[~member], getattr(new, name)[~member]), name
    assert not np.array_equal(found.credibility, new.credibility)


def test_a_language_model_is_not_configured(bundle_folder, files, tmp_path):
    with pytest.raises(DataError, match="No language model is configured"):
        run(bundle_folder, "llm", files, tmp_path)


def test_a_file_both_have_learned_is_refused(bundle_folder, second, files, tmp_path):
    release = Release.open(bundle_folder)
    cases = records.load_labelled(files[0], SPEC)
    learned = ~learn_to_defer.deferral.new_to(cases, [release.learned])
    lines = files[0].read_text("utf-8").splitlines()
    only = tmp_path / "learned.jsonl"
    only.write_text("\n".join(lines[i] for i in np.flatnonzero(learned)), encoding="utf-8")
    with pytest.raises(DataError, match="is new to both models"):
        run(bundle_folder, str(second), (only, files[1]), tmp_path / "r")


def test_test_cases_a_release_has_met_are_left_out(bundle_folder, second, files, tmp_path):
    lines = files[0].read_text("utf-8").splitlines()
    both = tmp_path / "both.jsonl"
    both.write_text(files[1].read_text("utf-8") + "\n" + "\n".join(lines[:50]), encoding="utf-8")
    run(bundle_folder, str(second), (files[0], both), tmp_path / "r")
    figures = json.loads((tmp_path / "r" / "metrics.json").read_text("utf-8"))
    assert (figures["test_cases"], figures["test_cases_left_out"]) == (80, 50)
    run(bundle_folder, str(second), files, tmp_path / "again")
    with pytest.raises(DataError, match="has met every case"):
        run(bundle_folder, str(second), (files[1], files[0]), tmp_path / "none")


def test_a_release_that_does_not_tell_what_it_learned_is_refused(bundle_folder, files, tmp_path, monkeypatch):
    known = {k: v for k, v in bundle.load_arrays(bundle_folder).items() if k != "learned.notes"}
    monkeypatch.setattr(bundle, "load_arrays", lambda folder: known)
    with pytest.raises(BundleError, match="which notes it learned"):
        run(bundle_folder, str(bundle_folder), files, tmp_path)


def one(name, line, words, group=""):
    return Record(name, [NoteText(" ".join(words))], 0, line, group)


def test_near_duplicates_are_tied_across_both_files_and_rows_of_one_place_are_not():
    train = [one("A", 1, WORDS), one("B", 2, WORDS[::-1])]
    test = [one("C", 1, sorted(WORDS, key=lambda word: word[1:])), one("D", 2, [*WORDS, "more"])]
    both = [Labelled(records.tied(cases), grouped=True) for cases in (train, test)]
    found, judged = ([case.group for case in cases] for cases in learn_to_defer.tied(*both))
    assert found[0] == judged[1]
    assert len({*found, *judged}) == 3
    named = Labelled([one("A", 1, WORDS, "mine")]), both[1]
    assert learn_to_defer.tied(*named) == (named[0].records, named[1].records)
