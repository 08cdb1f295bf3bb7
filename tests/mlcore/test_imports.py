"""What a web process may load: the numpy part of mlcore brings neither torch nor Django with it."""

import subprocess
import sys

LIGHT = (
    "bundle, calibrate, compat, conformal, decision, distance, errors, folds, metrics, protocols, records, report, "
    "uncertainty, certify, recalibrate"
)


def test_the_numpy_part_loads_without_torch_or_django():
    heavy = "{'torch', 'transformers', 'django', 'accelerate', 'captum'}"
    program = f"import sys; from mlcore import {LIGHT}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
