"""The manual's commands in a row, and bad input answered by one sentence and exit code 2."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest
from django.core.management import call_command

from reviews import adjudication
from tests.conftest import ROOT
from tests.reviews.conftest import cleaned
from triage import access, scoring, synthetic
from triage.models import Case, Prediction

SPANISH = "hiv-suspicion-es"


def write(path, patients, labelled):
    rows = (json.dumps(synthetic.as_record(p, labelled=labelled), ensure_ascii=False) for p in patients)
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


@pytest.mark.django_db
def test_train_evaluate_install_import_score_export(tmp_path, settings, site, protocol, reader):
    settings.RELEASES_DIR = tmp_path / "releases"
    training = write(
        tmp_path / "t.jsonl", synthetic.generate(260, 8, suspects=0.4, foreign=0, prefix="T"), True
    )
    bundle, report = tmp_path / "bundle", tmp_path / "report"
    call_command("train", protocol=SPANISH, notes=training, encoder="compact", output=bundle)
    test = write(tmp_path / "e.jsonl", synthetic.generate(60, 9, suspects=0.4, foreign=0, prefix="E"), True)
    call_command("evaluate", bundle=bundle, notes=test, report=report)
    figures = json.loads((report / "metrics.json").read_text())
    assert figures["overall"]["auroc"]["value"] > 0.75
    rows = list(csv.DictReader((report / "predictions.csv").open(encoding="utf-8", newline="")))
    assert len(rows) == 60

    call_command("install_release", bundle)
    incoming = write(
        tmp_path / "i.jsonl", synthetic.generate(60, 9, suspects=0.4, foreign=0, prefix="E"), False
    )
    call_command("import_notes", incoming, protocol=SPANISH, site=site.slug)
    assert scoring.drain() == 60
    by_patient = {row["case_id"]: row for row in rows}
    for stored in Prediction.objects.select_related("case__patient"):
        evaluated = by_patient[stored.case.patient.pseudonym]
        assert float(evaluated["credibility"]) == stored.credibility
        assert float(evaluated["runner_up"]) == stored.runner_up
        assert float(evaluated["typicality"]) == pytest.approx(stored.typicality, abs=0.02)

    case = Case.objects.order_by("pk").first()
    place = access.Workplace(site, protocol, reader.memberships.get())
    from reviews import queue

    assert queue.hold(case.pk, reader)
    adjudication.decide(place, reader, case, cleaned(case, reader))
    for form in ("jsonl", "csv"):
        target = tmp_path / f"labels.{form}"
        call_command("export_labels", protocol=SPANISH, format=form, output=target)
        assert "suspicion" in target.read_text(encoding="utf-8")


BAD = {
    "train: unknown protocol": [
        "train",
        "--protocol",
        "nope",
        "--notes",
        "x",
        "--encoder",
        "compact",
        "--output",
        "o",
    ],
    "train: missing file": [
        "train",
        "--protocol",
        SPANISH,
        "--notes",
        "x",
        "--encoder",
        "compact",
        "--output",
        "o",
    ],
    "evaluate: missing bundle": ["evaluate", "--bundle", "/nowhere", "--notes", "x", "--report", "r"],
    "install: missing bundle": ["install_release", "/nowhere"],
    "import: unknown protocol": ["import_notes", "README.md", "--protocol", "nope", "--site", "norte"],
    "export: unknown protocol": [
        "export_labels",
        "--protocol",
        "nope",
        "--format",
        "csv",
        "--output",
        "/tmp/x.csv",
    ],
    "demo: no cases": ["demo", "--cases", "0", "--no-serve"],
    "demo: no such port": ["demo", "--port", "99999"],
    "benchmark: unknown": ["benchmark", "nope"],
}


@pytest.mark.parametrize("command", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence_and_exit_code_2(command):
    ran = subprocess.run(
        [sys.executable, "manage.py", *command], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stderr.strip()


def test_a_port_in_use_is_said_before_anything_is_built():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ran = subprocess.run(
            [sys.executable, "manage.py", "demo", "--port", port],
            cwd=ROOT,
            env=os.environ,
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 2
    assert port in ran.stderr
