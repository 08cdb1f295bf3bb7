"""The example in the package's docstring runs as it stands there, without Django."""

import json
import re
import subprocess
import sys
from pathlib import Path

import mlcore
from tests.mlcore.conftest import cases

ROOT = Path(__file__).resolve().parents[2]


def example():
    lines = re.findall(r"^ {4}(.*)$", mlcore.__doc__, flags=re.M)
    return [line for line in lines if line]


def test_the_example_is_ten_lines_or_fewer():
    assert 5 < len(example()) <= 10


def test_the_example_runs_and_tells_a_label_and_a_decision(tmp_path):
    rows = (
        json.dumps({"patient_id": r.patient_id, "notes": r.texts, "label": r.label}) for r in cases(150, 6)
    )
    (tmp_path / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    program = "\n".join([*example(), "import sys; assert 'django' not in sys.modules"])
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    label, decision = ran.stdout.split()
    assert label in {"suspicion", "non_suspicion"}
    assert decision in {"automatic", "ambiguous", "novel", "atypical"}
