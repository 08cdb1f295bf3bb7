"""What `manage.py benchmark` times on the triage side. Everything happens in a database of its own, dropped after."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest import mock

import numpy as np
from django.conf import settings
from django.db import connection
from django.test.utils import override_settings
from safetensors.numpy import save as save_safetensors

from mlcore import decision, openfda
from triage import dial, intake, jobs, policy, registry, scoring, synthetic, tally
from triage.access import Workplace
from triage.models import Calibration, Case, Membership, Prediction, Protocol, Release, Site, Tally

Figures = dict[str, float]
SLUG = "hiv-suspicion-es"
PREDICTIONS = 1_000_000
WORKERS = 2
SEED = 2026

FILL = """
    INSERT INTO triage_prediction (case_id, site_id, protocol_id, release_id, calibration_id, note_ids, notes_sha256,
        logits, probabilities, p_values, distances, label, credibility, runner_up, typicality, urgency, current)
    SELECT n, %(site)s, %(protocol)s, %(release)s, %(calibration)s, ARRAY[n], n::text, '{0,0}', '{0.5,0.5}', '{1,0}',
        '{1,1}', (random() < 0.2)::int, greatest(a, b), least(a, b), ceil(random() * 500) / 501, random(), true
    FROM (SELECT n, ceil(random() * 500) / 501 AS a, ceil(power(random(), 6) * 500) / 501 AS b
          FROM generate_series(1, %(rows)s) AS n) AS drawn
"""


@contextmanager
def scratch_database() -> Iterator[None]:
    """A migrated, empty database; the one in use is not touched."""
    usual = connection.settings_dict["NAME"]
    connection.settings_dict["TEST"]["NAME"] = "centinela_benchmark"
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        yield
    finally:
        connection.creation.destroy_test_db(usual, verbosity=0)


def milliseconds(work: Callable[[int], object], times: int) -> list[float]:
    """Wall time of ``work(0) … work(times - 1)``, each in milliseconds."""
    taken = []
    for i in range(times):
        start = time.perf_counter()
        work(i)
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def percentiles(name: str, taken: list[float]) -> Figures:
    return {f"{name}_p50_ms": median(taken), f"{name}_p95_ms": quantiles(taken, n=20)[-1]}


def dial_figures(rows: int = PREDICTIONS) -> Figures:
    """A preview, a curve and a turn over ``rows`` predictions of one site, beside reading every row and deciding in numpy.

    A preview is all that the page asks for at once: outcomes now and then, cases that change hands, figures of 1,000
    calibration cases with intervals, a week. ``between``: at settings that lie between the steps of the tally. A turn is
    the next version and its event, committed, without the wake-up of workers.
    """
    place = _workplace()
    _fill(place, rows)
    today = policy.current(place.site, place.protocol)
    random = np.random.default_rng(SEED)
    alphas = random.choice(tally.EDGES[1:], 43, replace=False).tolist()
    between = random.uniform(0.001, 0.2, 13).tolist()

    def preview(alpha: float) -> None:
        dial.preview(place, today, tally.Setting(alpha, 0.01), 0.01)

    milliseconds(lambda i: preview(alphas[40 + i]), 3)
    previews = milliseconds(lambda i: preview(alphas[i]), 40)
    milliseconds(lambda i: preview(between[10 + i]), 3)
    others = milliseconds(lambda i: preview(between[i]), 10)
    curve = milliseconds(lambda i: tally.curve(place.site, place.protocol, dial.ALPHAS, 0.01), 10)
    with mock.patch.object(jobs, "wake_after_turn"):
        turns = milliseconds(lambda i: _turn(place, i), 20)
    naive = milliseconds(lambda i: _naive(place, alphas[i]), 1)
    return percentiles("preview", previews) | {
        "preview_between_p50_ms": median(others),
        "curve_ms": median(curve),
        "turn_ms": median(turns),
        "naive_preview_ms": naive[0],
        "predictions": rows,
        "curve_points": len(dial.ALPHAS),
        "tally_rows": Tally.objects.count(),
    }


def _turn(place: Workplace, i: int) -> None:
    alpha, version = dial.ALPHAS[i], policy.latest(place.site, place.protocol).version
    settings = {"alpha": alpha, "floor": 0.01, "base_version": version}
    policy.turn(place.site, place.protocol, **settings, reason="benchmark", author=None)


def _workplace() -> Workplace:
    site = Site.objects.create(slug="benchmark", name="Benchmark")
    protocol = Protocol.objects.get(slug=SLUG)
    return Workplace(site, protocol, Membership(site=site, role="admin"))


def _fill(place: Workplace, rows: int) -> None:
    release = Release.objects.create(
        protocol=place.protocol, name="benchmark", sha256="0" * 64, card={}, active=True
    )
    calibration = Calibration.objects.create(
        release=release, counts=[500, 500], typical_counts=[400, 400], arrays=b"", held_out=_held_out()
    )
    keys = {"site": place.site, "protocol": place.protocol, "release": release, "calibration": calibration}
    with connection.cursor() as cursor:
        cursor.execute("SELECT setseed(0.5); SET session_replication_role = replica")
        cursor.execute(FILL, {name: row.pk for name, row in keys.items()} | {"rows": rows})
        cursor.execute("SET session_replication_role = origin")
        tally.fold(at_least=1)
        cursor.execute("VACUUM ANALYZE triage_prediction, triage_tally")


def _held_out(n: int = 1000) -> bytes:
    """Calibration cases as FILL draws predictions, every hundredth of them wrong."""
    random = np.random.default_rng(SEED)
    first, second = (np.ceil(random.random(n) ** power * 500) / 501 for power in (1, 6))
    label = (random.random(n) < 0.2).astype(np.int64)
    numbers = {"credibility": np.maximum(first, second), "runner_up": np.minimum(first, second)}
    numbers |= {"typicality": np.ceil(random.random(n) * 500) / 501, "weight": np.where(label, 0.5, 1.0)}
    return save_safetensors({"truth": label ^ (np.arange(n) % 100 == 0), "label": label, **numbers})


def _naive(place: Workplace, alpha: float) -> list[int]:
    rows = Prediction.objects.filter(site=place.site, protocol=place.protocol, current=True)
    numbers = np.array(list(rows.values_list("credibility", "runner_up", "typicality").iterator())).T
    return np.bincount(decision.decide(*numbers, alpha, 0.01), minlength=4).tolist()


def scoring_figures(patients: int = 150) -> Figures:
    """Notes a second through two real worker processes, then the share of one process's time inside the encoder.

    First with an encoder of MiniLM's shape (6 layers, 384 wide) and random weights, about the lightest one would put in
    production, then with the compact encoder, so light that rows weigh as much as reading. Both releases are trained
    on invented patients.
    """
    with tempfile.TemporaryDirectory() as folder, override_settings(RELEASES_DIR=Path(folder) / "releases"):
        small = _flow(_train(Path(folder) / "small", _small_encoder(Path(folder) / "encoder")), patients)
        compact = _flow(_train(Path(folder) / "compact", "compact"), 4 * patients)
    return {**small, **{f"compact_{name}": figure for name, figure in compact.items()}, "workers": WORKERS}


def _flow(bundle: Path, patients: int) -> Figures:
    """Two new sites' patients through the bundle: the first by the workers, the second by this process."""
    registry.install(bundle)
    sites = [Site.objects.create(slug=f"{bundle.name}-{i}", name="Benchmark") for i in range(2)]
    scoring.drain()  # what other releases left
    notes = _deliver(sites[0], patients, SEED)
    seconds = _through_workers(sites[0])
    _deliver(sites[1], patients // 3, SEED + 1)
    return {"notes_per_s": notes / seconds, **_shares_of_a_drain(), "notes": notes}


def _invented() -> list[Any]:
    from mlcore import records
    from mlcore.protocols import get

    lines = _lines(synthetic.generate(100, SEED + 2, suspects=0.4, foreign=0, prefix="T"), labelled=True)
    return [row for row in records.read(lines, "t.jsonl", get(SLUG)) if isinstance(row, records.Record)]


def _train(folder: Path, encoder: str | Path) -> Path:
    from mlcore import train
    from mlcore.protocols import get

    train.train(_invented(), get(SLUG), encoder, folder, train.TrainConfig(epochs=1))
    return folder


def _small_encoder(folder: Path) -> Path:
    from transformers import BertConfig, BertModel

    from mlcore import compact

    tokenizer = compact.tokenizer((text for record in _invented() for text in record.texts), 8000)
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), **shape), add_pooling_layer=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _lines(patients: Iterator[synthetic.Patient], labelled: bool) -> BytesIO:
    rows = (json.dumps(synthetic.as_record(p, labelled=labelled), ensure_ascii=False) for p in patients)
    return BytesIO("\n".join(rows).encode())


def _deliver(site: Site, patients: int, seed: int) -> int:
    protocol = Protocol.objects.get(slug=SLUG)
    lines = _lines(synthetic.generate(patients, seed), labelled=False)
    return intake.receive(site, protocol, lines, "benchmark.jsonl", by=None).notes_new


def _through_workers(site: Site) -> float:
    """Seconds until every waiting case is scored; the clock starts when every worker has its model's libraries."""
    environment = os.environ | {
        "DATABASE_URL": settings.DATABASE_URL.rsplit("/", 1)[0] + "/" + connection.settings_dict["NAME"],
        "REDIS_URL": settings.REDIS_URL.rsplit("/", 1)[0] + "/2",
        "RELEASES_DIR": str(settings.RELEASES_DIR),
    }
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "work", "--queues", "encode"]
    running = [subprocess.Popen(command, env=environment) for _ in range(WORKERS)]
    cases = Case.objects.filter(site=site)
    scored = cases.filter(status="scored")
    try:
        while not scored.exists():
            time.sleep(0.01)
        start, before = time.perf_counter(), scored.count()
        while cases.exclude(status="scored").exists():
            time.sleep(0.02)
        taken = time.perf_counter() - start
    finally:
        for process in running:
            process.kill()
            process.wait()
    return taken * cases.count() / (cases.count() - before)


def _shares_of_a_drain() -> Figures:
    from mlcore.scorer import Scorer

    spent = {"windows": 0.0, "encode": 0.0, "score": 0.0}
    with ExitStack() as stack:
        for name in spent:
            stack.enter_context(mock.patch.object(Scorer, name, _timed(getattr(Scorer, name), name, spent)))
        total = milliseconds(lambda _: scoring.drain(), 1)[0] / 1000
    return {
        "encoder_share": spent["encode"] / total,
        "tokenizer_share": spent["windows"] / total,
        "head_share": spent["score"] / total,
    }


def _timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[name] += time.perf_counter() - start

    return timed


DEVICES = {
    "FRN": "Pump, Infusion",
    "LWS": "Defibrillator, Implantable",
    "BZD": "Ventilator",
    "FTL": "Mesh, Surgical",
}
KINDS = ("Malfunction", "Malfunction", "Injury", "Injury", "Death", "Other", "No answer provided")
EVENTS = (
    "It was reported that the device stopped without an alarm while the patient was being treated.",
    "The user heard a click and the display went dark; the therapy was continued with another unit.",
    "The patient was taken back to the operating room and the device was removed.",
    "Family states that the patient was found unresponsive at home.",
    "No consequence for the patient was reported and the unit was kept for inspection.",
    "The connector was found cracked on arrival, before first use.",
)
NARRATIVES = (
    "The unit was returned, and the fault could not be reproduced on the bench.",
    "The device history record was reviewed; no deviation was found.",
    "Further information was asked for and has not been received.",
)


def openfda_figures(reports: int = 1_000_000) -> Figures:
    """Invented reports as openFDA ships them: read alone, plain and zipped, then taken in from the archive.

    Every hundredth has no narrative. ``cpu``: processor time of this process alone, without PostgreSQL's. ``grown``: the
    most memory this process held until then, above what it held when reading began.
    """
    site, protocol = (
        Site.objects.create(slug="fda", name="FDA"),
        Protocol.objects.get(slug="maude-severity-en"),
    )
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "events.json", Path(folder) / "device-event-0001-of-0001.json.zip"
        _ship(plain, reports)
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            archive.write(plain, plain.name)
        sizes = {"plain_mib": plain.stat().st_size / 2**20, "zip_mib": packed.stat().st_size / 2**20}
        start = _held_mib()
        figures: Figures = {}
        for name, path in {"plain": plain, "zip": packed}.items():
            with _timing(figures, f"read_{name}", reports):
                _read_alone(path, protocol)
        figures["read_grown_mib"] = _most_mib() - start
        with packed.open("rb") as source, _timing(figures, "intake", reports):
            run = intake.receive(site, protocol, source, packed.name, by=None)
        figures["intake_grown_mib"] = _most_mib() - start
    landed = {"notes_new": run.notes_new, "rejected": run.lines_rejected, "cases": Case.objects.count()}
    return {"reports": run.lines, **sizes, **figures, **landed}


@contextmanager
def _timing(figures: Figures, name: str, reports: int) -> Iterator[None]:
    clock, processor = time.perf_counter(), time.process_time()
    yield
    figures[f"{name}_per_s"] = reports / (time.perf_counter() - clock)
    figures[f"{name}_per_cpu_s"] = reports / (time.process_time() - processor)


def _ship(path: Path, reports: int) -> None:
    """A file of so many invented reports, in the layout openFDA uses, written one by one."""
    drawn = random.Random(SEED)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"meta": {"disclaimer": "Invented."}, "results": [')
        for number in range(reports):
            file.write((",\n" if number else "\n") + json.dumps(_report(number, drawn), indent=1))
        file.write("\n]}\n")


def _report(number: int, drawn: random.Random) -> dict[str, Any]:
    code = drawn.choice(list(DEVICES))
    told = " ".join([*drawn.choices(EVENTS, k=drawn.randint(2, 5)), f"Complaint {drawn.getrandbits(40):x}."])
    texts = {
        "Description of Event or Problem": told,
        "Additional Manufacturer Narrative": drawn.choice(NARRATIVES),
    }
    keyed = [
        {"mdr_text_key": f"{number}{i}", "text_type_code": kind, "patient_sequence_number": "1", "text": text}
        for i, (kind, text) in enumerate(texts.items())
    ]
    device = {
        "brand_name": f"MODEL {drawn.randint(1, 400)}",
        "generic_name": DEVICES[code].upper(),
        "manufacturer_d_name": f"MAKER {drawn.randint(1, 90)}",
        "device_report_product_code": code,
        "openfda": {"device_name": DEVICES[code], "device_class": "2", "regulation_number": "880.5725"},
    }
    return {
        "report_number": f"{drawn.randint(10**6, 10**7)}-2020-{number:07}",
        "mdr_report_key": str(10**7 + number),
        "event_type": drawn.choice(KINDS),
        "date_received": f"20{drawn.randint(10, 24)}{drawn.randint(1, 12):02}{drawn.randint(1, 28):02}",
        "device": [device],
        "patient": [
            {"patient_sequence_number": "1", "sequence_number_outcome": ["Other"], "patient_age": "61 YR"}
        ],
        "mdr_text": keyed if number % 100 else [],
        "product_problems": ["Device Stopped"],
        "source_type": ["Health Professional"],
        "adverse_event_flag": "Y",
        "reporter_occupation_code": "OTHER HEALTH CARE PROFESSIONAL",
    }


def _read_alone(path: Path, protocol: Protocol) -> Counter[str]:
    with path.open("rb") as source:
        return Counter(type(item).__name__ for item in openfda.read(source, protocol.spec, path.name))


def _held_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _most_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
