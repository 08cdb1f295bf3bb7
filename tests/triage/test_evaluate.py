"""`manage.py evaluate`: a real small bundle over a file, and one sentence for whatever goes wrong."""

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from django.core.management import call_command
from sklearn.metrics import roc_auc_score

from mlcore import bundle
from mlcore.errors import BundleError, CentinelaError, DataError
from triage import synthetic
from triage.management.command import SentenceCommand

ROOT = Path(__file__).resolve().parents[2]


def notes_file(path, labelled=True, rows=90):
    made = synthetic.generate(rows, 12, foreign=0, suspects=0.4, prefix="E")
    lines = [
        json.dumps(synthetic.as_record(patient, labelled=labelled), ensure_ascii=False) for patient in made
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run(bundle_folder, notes, folder, **options):
    call_command("evaluate", bundle=bundle_folder, notes=notes, report=folder, **options)


@pytest.fixture(scope="module")
def evaluated(bundle_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    run(bundle_folder, notes_file(folder / "notes.jsonl"), folder / "report", alpha=[0.1, 0.05])
    return folder / "report"


def predictions(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_files_tell_of_this_bundle_and_these_notes(evaluated, bundle_folder):
    figures = json.loads((evaluated / "metrics.json").read_text())
    assert figures["sha256"] == bundle.verify(bundle_folder)
    assert (figures["cases"], figures["labelled"], figures["notes"]) == (90, 90, "notes.jsonl")
    assert list(figures["alpha"]) == ["0.05", "0.1"]
    rows = predictions(evaluated)
    truth = np.array([row["true_label"] == "suspicion" for row in rows])
    score = np.array([float(row["prob_suspicion"]) for row in rows])
    assert figures["overall"]["auroc"]["value"] == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    assert "research prototype" in (evaluated / "report.html").read_text(encoding="utf-8")


def test_predictions_are_the_scorers_own(evaluated, bundle_folder):
    from mlcore.scorer import Scorer

    made = synthetic.generate(90, 12, foreign=0, suspects=0.4, prefix="E")
    records = [synthetic.as_record(patient, labelled=True) for patient in list(made)[:5]]
    texts = [
        [note if isinstance(note, str) else note["text"] for note in record["notes"]] for record in records
    ]
    scores = Scorer.load(bundle_folder).score_records(texts)[0]
    rows = predictions(evaluated)[:5]
    assert [row["case_id"] for row in rows] == [record["patient_id"] for record in records]
    assert [float(row["prob_suspicion"]) for row in rows] == pytest.approx(
        scores.probabilities[:, 1].tolist(), abs=1e-6
    )


def test_a_file_without_labels_gives_predictions_and_says_so(bundle_folder, tmp_path, capsys):
    run(bundle_folder, notes_file(tmp_path / "n.jsonl", labelled=False, rows=8), tmp_path / "r")
    assert "predictions only" in capsys.readouterr().out
    assert {row["true_label"] for row in predictions(tmp_path / "r")} == {""}
    assert "overall" not in json.loads((tmp_path / "r" / "metrics.json").read_text())


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_an_alpha_that_is_none_is_refused_before_anything_is_read(alpha, tmp_path):
    with pytest.raises(DataError, match="between 0 and 1"):
        run(tmp_path / "gone", tmp_path / "gone.jsonl", tmp_path / "r", alpha=[alpha])


def test_bad_lines_are_named(bundle_folder, tmp_path):
    (tmp_path / "n.jsonl").write_text("{}\nno\n")
    with pytest.raises(DataError, match=r"Line 1: .* Line 2: "):
        run(bundle_folder, tmp_path / "n.jsonl", tmp_path / "r")


def test_a_report_folder_that_is_a_file_is_refused(bundle_folder, tmp_path):
    notes = notes_file(tmp_path / "n.jsonl", rows=3)
    with pytest.raises(DataError, match="cannot be written"):
        run(bundle_folder, notes, notes)


@pytest.fixture
def other_card(bundle_folder, tmp_path):
    """The bundle under a card with something else in it, sealed anew."""

    def made(**changes):
        folder = tmp_path / "other"
        subprocess.run(["cp", "-r", str(bundle_folder), str(folder)], check=True)
        bundle.seal(folder, {**bundle.read_card(folder), **changes})
        return folder

    return made


def test_a_protocol_that_is_not_known_is_refused(other_card, tmp_path):
    with pytest.raises(DataError, match="'covid' is not known"):
        run(other_card(protocol="covid"), notes_file(tmp_path / "n.jsonl", rows=3), tmp_path / "r")


def test_other_labels_are_refused(other_card, tmp_path):
    with pytest.raises(BundleError, match="other labels"):
        run(other_card(labels=["a", "b"]), notes_file(tmp_path / "n.jsonl", rows=3), tmp_path / "r")


def test_the_authors_choices_stand_beside_ours(bundle_folder, tmp_path, capsys):
    notes = notes_file(tmp_path / "n.jsonl", rows=60)
    run(bundle_folder, notes, tmp_path / "r", alpha=[0.05], compare_compat=True)
    told = capsys.readouterr().out
    figures = json.loads((tmp_path / "r" / "metrics.json").read_text())
    theirs = figures["compat"]["0.05"]
    assert set(theirs["set_coverage"]) == {"suspicion", "non_suspicion"}
    assert theirs["coverage"]["n"] == figures["alpha"]["0.05"]["coverage"]["n"] == 60
    assert "alpha 0.05, by the choices of the paper's published code:" in told
    assert f"Coverage: {theirs['coverage']['value']:.3f}" in told
    assert "By the choices of the paper" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")


def test_a_bundle_that_cannot_be_compared_is_told_before_anything_is_scored(other_card, tmp_path):
    folder = other_card()
    arrays = bundle.load_arrays(folder)
    bundle.save_arrays(folder, {k: a for k, a in arrays.items() if k != "held_out.embedding"})
    bundle.seal(folder, bundle.read_card(folder))
    with pytest.raises(BundleError, match="train it again with this version"):
        run(folder, notes_file(tmp_path / "n.jsonl", rows=3), tmp_path / "r", compare_compat=True)


def test_without_labels_there_is_nothing_to_compare_by(bundle_folder, tmp_path):
    notes = notes_file(tmp_path / "n.jsonl", labelled=False, rows=3)
    with pytest.raises(DataError, match="leave out --compare-compat"):
        run(bundle_folder, notes, tmp_path / "r", compare_compat=True)


def test_an_altered_bundle_is_refused(other_card, tmp_path):
    folder = other_card()
    with (folder / bundle.HEAD).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="altered"):
        run(folder, notes_file(tmp_path / "n.jsonl", rows=3), tmp_path / "r")


def test_from_the_command_line_an_error_is_one_sentence_and_exit_code_2(tmp_path):
    command = [sys.executable, "manage.py", "evaluate", "--bundle", str(tmp_path / "gone")]
    command += ["--notes", "x.jsonl", "--report", str(tmp_path / "r")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path / 'gone'} is not a folder: give the folder that train wrote.\n"
    assert done.stdout == ""


class Failing(SentenceCommand):
    requires_system_checks = []
    error: Exception

    def handle(self, **options):
        raise self.error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (CentinelaError("One sentence."), "One sentence.\n"),
        (OSError(errno.ENOSPC, "No space", "/x"), "The disk is full (/x): make room and run it again.\n"),
        (OSError(errno.EDQUOT, "Quota"), "The disk is full (no file named): make room and run it again.\n"),
    ],
)
def test_a_sentence_command_ends_with_the_sentence(error, sentence, capsys):
    command = Failing()
    command.error = error
    with pytest.raises(SystemExit) as ended:
        command.run_from_argv(["manage.py", "failing"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError(errno.EIO, "other")])
def test_a_sentence_command_hides_no_defect(error):
    command = Failing()
    command.error = error
    with pytest.raises(type(error)):
        command.run_from_argv(["manage.py", "failing"])
