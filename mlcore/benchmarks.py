"""What `manage.py benchmark` times on the science side, each figure beside the same done the way others do it."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.covariance import OAS
from transformers import AutoModel, BertConfig, PretrainedConfig, RobertaConfig

from mlcore import chunks, compact, conformal
from mlcore.chunks import Window
from mlcore.distance import CASES_PER_CENTROID, INERTIA_GAIN, MultiCentroid, normalise
from mlcore.encoder import TOKENS_IN_FLIGHT, TOKENS_PER_BATCH, Encoder, batches, fast_bf16, place
from mlcore.errors import ModelError

Figures = dict[str, float]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SEED = 2026
CASES, WIDTH, PLANTED = 1500, 768, (5, 9)
RANKED = 20_000
WINDOWS, PATIENTS, VOCABULARY = 128, 10_000, 50_262


def seconds(work: Callable[[], object], times: int) -> float:
    """Median wall time of a piece of work, in seconds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


def calibrate_figures() -> Figures:
    """Fitting the distance and ranking p-values: ours, and in the same run the published code's way and crepes'.

    distance_fit_s: CASES embeddings of WIDTH in two classes, the number of centroids chosen, on planted clusters.
    distance_fit_full_s: the same by full k-means over every allowed number. distance_same_k: 1 when both found the same
    numbers of centroids. p_values_ms: RANKED cases against RANKED. p_values_crepes_ms: left out without crepes.
    """
    x, y = planted_embeddings()
    found: list[list[int]] = []
    full = seconds(lambda: found.append(full_fit(x, y)), 1)
    ours = [len(centroids) for centroids in MultiCentroid().fit(x, y, 2).centroids_]
    random = np.random.default_rng(SEED)
    known, new = np.sort(random.random(RANKED)), random.random((RANKED, 1))
    figures = {
        "distance_fit_s": seconds(lambda: MultiCentroid().fit(x, y, 2), 5),
        "distance_fit_full_s": full,
        "distance_same_k": float(found == [ours]),
        "p_values_ms": 1000 * seconds(lambda: conformal.p_values(new, [known]), 50),
    }
    return figures | _crepes_figures(known, new[:, 0])


def planted_embeddings() -> tuple[Floats, Ints]:
    """(CASES, WIDTH) embeddings and their labels, half of each of two classes, around PLANTED directions of each."""
    random = np.random.default_rng(SEED)
    labels = np.arange(CASES) % 2
    x = random.normal(size=(CASES, WIDTH)) * 0.7
    for c, count in enumerate(PLANTED):
        own = np.flatnonzero(labels == c)
        x[own] += random.normal(size=(count, WIDTH))[random.integers(0, count, len(own))]
    return x, labels


def full_fit(embeddings: Floats, labels: Ints) -> list[int]:
    """Centroids of each class as the published code finds them: every allowed number tried, in all dimensions.

    The number kept is the last before one that gains less than INERTIA_GAIN. Means are fitted again for it, then
    the precision of the pooled residuals.
    """
    x = normalise(embeddings)
    residuals, found = [], []
    for c in range(labels.max() + 1):
        points = x[labels == c]
        tried = [_k_means(points, k) for k in range(1, len(points) // CASES_PER_CENTROID + 1)]
        inertia = np.array([means.inertia_ for means in tried])
        poor = np.flatnonzero(1 - inertia[1:] / inertia[:-1] < INERTIA_GAIN)
        kept = _k_means(points, int(poor[0]) + 1 if len(poor) else len(tried))
        residuals.append(points - kept.cluster_centers_[kept.labels_])
        found.append(len(kept.cluster_centers_))
    OAS(assume_centered=True).fit(np.concatenate(residuals))
    return found


def _k_means(points: Floats, k: int) -> KMeans:
    return KMeans(k, n_init=10, random_state=0).fit(points)


def _crepes_figures(known: Floats, new: Floats) -> Figures:
    try:
        from crepes import ConformalClassifier
    except ImportError:
        return {}
    fitted = ConformalClassifier().fit(known)
    taken = seconds(lambda: fitted.predict_p(new[:, None], smoothing=False, all_classes=True, classes=[0]), 3)
    return {"p_values_crepes_ms": 1000 * taken}


def encode_figures() -> Figures:
    """Encoding windows of realistic lengths with a RoBERTa-base of random weights, and many patients with a small encoder.

    windows_per_s: ours, in length-bucketed batches, bf16 where the machine has it. speedup_vs_fp32_eager: over the same
    windows in the same run, in fp32 with eager attention, sixteen at a time as they come. bf16: 1 where ours used it.
    padding_share: share of what is multiplied that is padding, over PATIENTS patients. peak_mb_1000, peak_mb_10000: resident
    memory at its highest while as many patients, a tenth and all of PATIENTS, stream through an encoder of compact size.
    """
    small = _random_encoder(
        BertConfig(hidden_size=128, num_hidden_layers=1, num_attention_heads=2, intermediate_size=256)
    )
    peaks = {f"peak_mb_{n}": _peak_mb(small, n) for n in (PATIENTS // 10, PATIENTS)}
    base = _random_encoder(RobertaConfig(max_position_embeddings=514))
    windows = list(itertools.islice(itertools.chain.from_iterable(patients(PATIENTS)), WINDOWS))
    ours = seconds(lambda: base.encode(windows), 1)
    theirs = seconds(lambda: _encode_as_they_come(base, windows), 1)
    return {
        "windows_per_s": len(windows) / ours,
        "speedup_vs_fp32_eager": theirs / ours,
        "bf16": float(fast_bf16()),
        "padding_share": padding_share(patients(PATIENTS)),
        **peaks,
    }


def patients(n: int) -> Iterator[list[Window]]:
    """Windows of n invented patients, one after the other, of random tokens.

    Notes a patient and tokens a note are drawn with the means of the published cohort (Table 1): 4.7 and 87.
    """
    random = np.random.default_rng(SEED)
    for _ in range(n):
        notes = np.minimum(random.geometric(1 / 4.7), chunks.LIMIT)
        tokens = np.clip(random.lognormal(np.log(87) - 0.32, 0.8, notes), 4, 8 * chunks.SIZE).astype(int)
        lengths = [length for note in tokens for length in _cut(int(note))]
        yield [_window(random.integers(5, VOCABULARY, length)) for length in lengths[: chunks.LIMIT]]


def padding_share(cases: Iterable[list[Window]]) -> float:
    """The share of padding in what `Encoder.stream` gives the encoder."""
    used, padded, held = 0, 0, []
    for case in itertools.chain(cases, [None]):
        held += [len(w.ids) for w in case or []]
        if case is None or sum(held) >= TOKENS_IN_FLIGHT:
            used += sum(held)
            padded += sum(len(b) * max(held[i] for i in b) for b in batches(held, TOKENS_PER_BATCH))
            held = []
    return 1 - used / padded


def _cut(tokens: int) -> list[int]:
    """Lengths of the windows of a note, as `chunks.windows` cuts them, special tokens included."""
    inner = chunks.SIZE - 2
    rest = range(0, max(tokens - chunks.OVERLAP, 1), inner - chunks.OVERLAP)
    return [min(inner, tokens - start) + 2 for start in rest]


def _window(ids: Ints) -> Window:
    return Window(0, 0, len(ids), ids.tolist(), np.zeros((len(ids), 2), np.int32))


def _random_encoder(config: PretrainedConfig) -> Encoder:
    torch.manual_seed(SEED)
    tokens = compact.tokenizer(["a"], 10)
    config.vocab_size, config.pad_token_id = VOCABULARY, tokens.pad_token_id
    model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    return Encoder(model.eval(), tokens).to(place())


@torch.inference_mode()
def _encode_as_they_come(encoder: Encoder, windows: Sequence[Window], size: int = 16) -> None:
    encoder.model.set_attn_implementation("eager")
    for start in range(0, len(windows), size):
        encoder._vectors(encoder.model, *encoder._padded([w.ids for w in windows[start : start + size]]))
    encoder.model.set_attn_implementation("sdpa")


def _peak_mb(encoder: Encoder, n: int) -> float:
    page = resource.getpagesize()
    statm = Path("/proc/self/statm")
    if not statm.exists():
        raise ModelError("Memory is read from /proc, which this machine lacks: run the benchmark on Linux.")
    return max(int(statm.read_text().split()[1]) * page / 1e6 for _ in encoder.stream(patients(n)))
