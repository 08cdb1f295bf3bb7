"""The figures printed in Morales-Sánchez, Montalvo and Martínez 2026 (arXiv:2605.21256), as they stand there.

They describe the HUFA cohort (1,373 test patients), which is not public: different data from anything measured here.
Each figure is (value, low, high), low and high None where the paper prints none.
"""

from __future__ import annotations

Printed = tuple[float, float | None, float | None]

SOURCE = "HUFA, different data"
ALPHAS = (0.01, 0.02, 0.05)
STRICT, ABLATION = 0.01, 0.05
ARCHITECTURES = {"baseline": "Enc. Baseline", "standard": "Standard MIL", "spectral": "MD-SN MIL"}
ALGORITHMS = {"cv": "CV Ensemble", "mc": "MC Dropout", "single": "MD-SN"}
MEASURED = ("f2", "clear_f2", "ece", "clear_ece", "coverage", "tpdr", "aurc", "risk_kappa")

# Table D1, which holds Tables 2 and 4: architecture, algorithm, α; the figures in the order of MEASURED, then their
# intervals.
_D1 = """
baseline cv     0.01  0.769 0.973 0.077 0.031 47.8 50.5 0.026 0.377
  0.722-0.811 0.958-0.985 0.063-0.092 0.021-0.042 45.2-50.3 43.9-57.3 0.020-0.032 0.341-0.410
standard mc     0.01  0.835 0.975 0.033 0.011 68.8 34.2 0.007 0.579
  0.793-0.874 0.954-0.991 0.024-0.043 0.006-0.016 66.4-71.2 28.2-40.5 0.005-0.009 0.543-0.616
standard cv     0.01  0.823 0.979 0.018 0.009 63.5 29.6 0.007 0.546
  0.776-0.864 0.965-0.991 0.010-0.025 0.004-0.015 60.8-66.1 23.6-35.7 0.005-0.010 0.507-0.582
standard cv     0.02  0.823 0.954 0.018 0.012 75.4 19.4 0.007 0.644
  0.776-0.864 0.931-0.973 0.010-0.025 0.006-0.019 73.0-77.6 14.4-24.6 0.005-0.010 0.606-0.679
standard cv     0.05  0.823 0.902 0.018 0.015 91.1 7.0 0.007 0.747
  0.776-0.864 0.872-0.929 0.010-0.025 0.008-0.024 89.7-92.6 3.9-10.5 0.005-0.010 0.705-0.783
spectral mc     0.01  0.839 0.973 0.044 0.031 70.2 30.6 0.011 0.602
  0.797-0.877 0.955-0.988 0.034-0.054 0.024-0.039 67.8-72.5 24.7-37.0 0.006-0.016 0.566-0.639
spectral single 0.01  0.813 0.966 0.028 0.026 70.7 31.9 0.012 0.601
  0.767-0.856 0.945-0.983 0.019-0.038 0.017-0.034 68.4-73.0 25.9-38.2 0.006-0.020 0.565-0.638
spectral cv     0.01  0.821 0.982 0.022 0.021 67.7 33.2 0.006 0.576
  0.774-0.864 0.979-0.995 0.013-0.031 0.015-0.027 65.3-70.4 27.1-40.2 0.004-0.008 0.539-0.613
spectral cv     0.02  0.821 0.969 0.022 0.028 77.4 24.8 0.006 0.665
  0.774-0.864 0.954-0.983 0.013-0.031 0.021-0.036 75.2-79.8 19.4-30.7 0.004-0.008 0.629-0.701
spectral cv     0.05  0.821 0.913 0.022 0.029 91.3 10.2 0.006 0.755
  0.774-0.864 0.888-0.935 0.013-0.031 0.021-0.038 89.8-92.7 6.2-14.2 0.004-0.008 0.717-0.794
"""
PERCENT = {"coverage", "tpdr"}


def _read_d1() -> dict[tuple[str, str, float], dict[str, Printed]]:
    lines = _D1.strip().splitlines()
    table = {}
    for row, under in zip(lines[::2], lines[1::2], strict=True):
        architecture, algorithm, alpha, *values = row.split()
        table[architecture, algorithm, float(alpha)] = {
            name: _printed(name, value, *span.split("-"))
            for name, value, span in zip(MEASURED, values, under.split(), strict=True)
        }
    return table


def _printed(name: str, *values: str) -> Printed:
    value, low, high = (round(float(v) / 100, 6) if name in PERCENT else float(v) for v in values)
    return value, low, high


D1 = _read_d1()

# Table 3: deferral policies on MD-SN, α = 0.05.
POLICIES: dict[str, dict[str, Printed]] = {
    "aleatoric": {
        "coverage": (0.926, 0.910, 0.940),
        "clear_f2": (0.902, 0.875, 0.926),
        "risk_kappa": (0.751, 0.713, 0.789),
    },
    "epistemic": {
        "coverage": (0.988, 0.982, 0.993),
        "clear_f2": (0.831, 0.785, 0.872),
        "risk_kappa": (0.788, 0.742, 0.834),
    },
    "standard": {
        "coverage": (0.993, 0.989, 0.997),
        "clear_f2": (0.824, 0.777, 0.866),
        "risk_kappa": (0.788, 0.741, 0.833),
    },
    "dual": {
        "coverage": (0.913, 0.898, 0.927),
        "clear_f2": (0.913, 0.888, 0.935),
        "risk_kappa": (0.755, 0.717, 0.794),
    },
}

# Table A1: (inertia gain, percentile) -> coverage, clear F2, TPDR, Risk-Kappa, with the name of its part.
SENSITIVITY: dict[tuple[float, float], tuple[str, float, float, float, float]] = {
    (0.01, 90.0): ("Strict extreme", 0.843, 0.946, 0.197, 0.721),
    (0.05, 90.0): ("Smooth degradation", 0.847, 0.945, 0.197, 0.724),
    (0.05, 95.0): ("Smooth degradation", 0.875, 0.935, 0.161, 0.746),
    (0.05, 99.0): ("Chosen optimum", 0.913, 0.913, 0.101, 0.755),
    (0.10, 99.9): ("Loose extreme", 0.924, 0.904, 0.087, 0.752),
}

# Table B1: name -> FN, FP, deferred TN, deferred TP; Risk-Kappa of Standard MIL and MD-SN MIL (CV ensemble, α = 0.01).
REALITIES: dict[str, tuple[tuple[float, float, float, float], float, float]] = {
    "Zero-Cost Deferral (Maximum Caution)": ((1.0, 1.0, 0.0, 0.0), 0.948, 0.960),
    "Extreme Epidemiological (Resource-Rich)": ((1.0, 0.25, 0.1, 0.25), 0.695, 0.723),
    "Default Baseline (Preventative Medicine)": ((1.0, 0.5, 0.25, 0.5), 0.546, 0.576),
    "Symmetric Control (Classification Baseline)": ((1.0, 1.0, 0.5, 0.5), 0.475, 0.513),
    "High Admin Burden (Resource-Constrained)": ((1.0, 0.75, 0.5, 0.75), 0.432, 0.463),
}
