"""`manage.py study` on an invented cohort: killed in the middle, run to its end, and one sentence for bad input."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from django.core.management import call_command

from mlcore.errors import DataError
from tests.conftest import ROOT
from triage import synthetic

SLUG = "hiv-suspicion-es"


def write(path, n, seed, prefix, change=lambda record: record):
    made = synthetic.generate(n, seed, suspects=0.4, foreign=0, prefix=prefix)
    rows = (change(synthetic.as_record(patient, labelled=True)) for patient in made)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return write(folder / "train.jsonl", 130, 31, "T"), write(folder / "test.jsonl", 60, 32, "E")


def command(files, output, *more):
    given = ["--protocol", SLUG, "--train", str(files[0]), "--test", str(files[1]), "--output", str(output)]
    return [sys.executable, "manage.py", "study", *given, "--quick", *more]


def start(files, output, *more):
    """In a session of its own, so that a signal to the group reaches what Ctrl-C in a terminal would reach."""
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command(files, output, *more), cwd=ROOT, env=os.environ, **quiet)


def wait_for_models(output, count):
    deadline = time.monotonic() + 120
    while len(list(output.glob("distances/*.safetensors"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_workers_to_end(session):
    deadline = time.monotonic() + 30
    while any(_session(process) == session for process in Path("/proc").iterdir()):
        assert time.monotonic() < deadline, "workers outlived the study"
        time.sleep(0.1)


def _session(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, IndexError):
        return None


def run(train, test, output, **more):
    call_command("study", protocol=SLUG, train=train, test=test, output=output, quick=True, **more)


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """The folder of a study that was killed after a model and then run to its end, and what was there before that."""
    output = tmp_path_factory.mktemp("study") / "s"
    killed = start(files, output)
    wait_for_models(output, 1)
    killed.kill()
    killed.communicate()
    wait_for_workers_to_end(killed.pid)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*.safetensors")}
    with redirect_stdout(io.StringIO()) as told, redirect_stderr(io.StringIO()) as errors:
        run(*files, output)
    return output, before, told.getvalue(), errors.getvalue()


@pytest.mark.campaign
def test_ctrl_c_ends_it_in_a_sentence_with_its_workers(files, tmp_path):
    running = start(files, tmp_path / "s")
    wait_for_models(tmp_path / "s", 1)
    os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    wait_for_workers_to_end(running.pid)
    assert running.returncode == 130
    assert "Traceback" not in errors
    assert errors.endswith("Stopped. The same command goes on where it stopped.\n")


def test_a_killed_study_goes_on_where_it_stopped(finished):
    output, before, _, _ = finished
    kept = [path for path in before if path.parent.name == "distances"]
    assert kept
    assert all(path.stat().st_mtime_ns == before[path] for path in kept)
    assert len(list(output.glob("members/*.safetensors"))) == 9 + 2 + 1


def test_it_writes_what_it_says_and_says_what_it_found(finished):
    output, _, told, errors = finished
    names = {path.name for path in output.iterdir()}
    assert {"report.html", "metrics.json", "tables", "predictions", "study.json"} <= names
    assert "the dual veto" in told
    assert "12/12" in errors
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "A quick run" in page
    figures = json.loads((output / "metrics.json").read_text())
    assert figures["study"]["cases"]["test"] == {"non_suspicion": 36, "suspicion": 24}
    assert figures["study"]["intervals"].startswith("95 % percentile bootstrap, 200 resamples")
    assert figures["study"]["folds"]["count"] == 3
    assert figures["backends"]["spectral"]["cv"]["overall"]["auroc"]["value"] > 0.6


def test_a_model_made_again_alone_gives_the_same_figures(files, finished):
    output = finished[0]
    before = (output / "metrics.json").read_bytes()
    for folder in ("members", "distances"):
        (output / folder / "standard-02.safetensors").unlink()
    run(*files, output, jobs=1)
    assert (output / "metrics.json").read_bytes() == before


def test_a_folder_of_another_study_is_refused(files, finished, tmp_path):
    other = write(tmp_path / "other.jsonl", 50, 33, "E")
    with pytest.raises(DataError, match=r"holds another study \(other test\): name a new folder"):
        run(files[0], other, finished[0])


def test_unlabelled_test_cases_are_told(files, tmp_path):
    def unlabelled(record):
        return {key: value for key, value in record.items() if key != "label"}

    test = write(tmp_path / "t.jsonl", 20, 3, "E", unlabelled)
    with pytest.raises(DataError, match=r"t\.jsonl has 20 record\(s\) without a label"):
        run(files[0], test, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_one_class_only_is_told(files, tmp_path):
    train = write(tmp_path / "t.jsonl", 40, 3, "T", lambda record: record | {"label": 0})
    with pytest.raises(DataError, match=r"t\.jsonl has no record labelled suspicion"):
        run(train, files[1], tmp_path / "s")


def test_too_few_of_a_label_are_told(files, tmp_path):
    train = write(tmp_path / "t.jsonl", 40, 3, "T")
    with pytest.raises(DataError, match=r"has 1\d independent case\(s\) labelled suspicion"):
        run(train, files[1], tmp_path / "s")


def test_a_case_in_both_files_is_told(files, tmp_path):
    with pytest.raises(DataError, match="stand in the training and the test file"):
        run(files[0], files[0], tmp_path / "s")


def test_an_unknown_protocol_is_told(files, tmp_path):
    with pytest.raises(DataError, match="'covid' is not known"):
        call_command("study", protocol="covid", train=files[0], test=files[1], output=tmp_path / "s")


@pytest.mark.parametrize(
    ("given", "sentence"), [({"folds": 1}, "2 to 50 members"), ({"jobs": 0}, "at least one")]
)
def test_impossible_numbers_are_told(files, tmp_path, given, sentence):
    with pytest.raises(DataError, match=sentence):
        run(*files, tmp_path / "s", **given)
