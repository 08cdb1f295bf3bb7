"""What `manage.py benchmark explain` times: an explanation beside its naive twin, on a RoBERTa-base shape of random weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcore.protocols import get
from triage import synthetic
from triage.benchmarks import SEED, SLUG, Figures

if TYPE_CHECKING:
    from mlcore.attribution import Case, Explanation, Word
    from mlcore.encoder import Encoder
    from mlcore.scorer import Scorer

BASE = {
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
LENGTHS = {"126": (126, 8), "409": (409, 8)}  # words of the record, of which so many are timed naively
WINDOWS, WINDOWS_SAMPLED = 20, 2


def explain_figures(shape: Mapping[str, int] = BASE) -> Figures:
    """Records of 126 and 409 words and one of 20 windows, the 50 words of most attention explained, phrases and all.

    The naive twin hides every word of the record, one at a time, and each time encodes all windows, one at a time, in fp32.
    It is timed on a sample of words and scaled to all of them. `speedup_…`: its seconds over ours, ours
    as triage runs it, with the window vectors that scoring stored. `…_same_words`: as if it had hidden our 50 words only.
    `sign_agreement`: of the sampled words, all among our 50, those where both have the same sign or both none.
    """
    scorer = _scorer(shape)
    words = _words()
    records = {name: (_text(words, n), f"speedup_{name}", sampled) for name, (n, sampled) in LENGTHS.items()}
    records["20_windows"] = (_windows(scorer, words), "speedup_20_windows", WINDOWS_SAMPLED)
    figures, agreed, apart = {}, [], []
    for name, (text, speedup, sampled) in records.items():
        ours, found, case = _ours(scorer, text)
        naive, falls = _naive(scorer, case, found.words[:: max(1, len(found.words) // sampled)][:sampled])
        figures[speedup] = naive * (1 + len(case.places)) / ours
        figures[f"{speedup}_same_words"] = naive * (1 + len(found.words)) / ours
        figures |= {f"seconds_{name}": ours, f"naive_seconds_{name}": naive * (1 + len(case.places))}
        agreed += [word.sign == _sign(fall, found.noise_floor) for word, fall in falls]
        apart += [abs(word.margin - fall) for word, fall in falls]
    return figures | {
        "sign_agreement": float(np.mean(agreed)),
        "words_compared": len(agreed),
        "largest_difference": max(apart),
    }


def _ours(scorer: Scorer, text: str) -> tuple[float, Explanation, Case]:
    from mlcore import attribution

    stored = scorer.encode(scorer.windows([text]))
    seconds, found = _timed(lambda: attribution.explain(scorer, [text], vectors=stored))
    return seconds, found, attribution.read(scorer, [text], stored)


def _naive(scorer: Scorer, case: Case, words: Sequence[Word]) -> tuple[float, list[tuple[Word, float]]]:
    """Mean seconds of hiding one word, and how much the margin falls with each."""
    from mlcore import attribution

    def margin(hidden: Mapping[int, list[int]]) -> float:
        windows = [
            attribution.hide(w, hidden.get(i, []), attribution.DEFAULT, scorer.encoder.mask_id)
            for i, w in enumerate(case.windows)
        ]
        vectors = np.concatenate([scorer.encoder.encode([w], "fp32") for w in windows])
        return float(attribution.outcome(scorer, [vectors], case.label)[0][0])

    whole = margin({})
    seconds, falls = _timed(
        lambda: [whole - margin(case.places[word.note, word.start, word.end]) for word in words]
    )
    return seconds / len(words), list(zip(words, falls, strict=True))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    done = work()
    return time.perf_counter() - start, done


def _sign(fall: float, floor: float) -> str | None:
    from mlcore import attribution

    return attribution.sign(fall, floor)


def _words() -> list[str]:
    """Invented notes, word by word, punctuation attached."""
    notes = (note.text for patient in synthetic.generate(150, SEED) for note in patient.notes)
    return " ".join(notes).split()


def _text(words: Sequence[str], n: int) -> str:
    """The first words that make a text of n words as an explanation counts them."""
    from mlcore.attribution import words_of

    text = " ".join(words[: 2 * n])
    return text[: words_of(text)[n - 1][1]]


def _windows(scorer: Scorer, words: Sequence[str]) -> str:
    """A note of WINDOWS full windows."""
    from mlcore import chunks

    text = " ".join(words[:20_000])
    return text[: chunks.windows([text], scorer.encoder.tokenizer)[WINDOWS - 1].end]


def _scorer(shape: Mapping[str, int]) -> Scorer:
    """A release of this shape that nobody trained: the time of an explanation does not hang on its weights."""
    import torch
    from transformers import RobertaConfig, RobertaModel

    from mlcore import compact, mil
    from mlcore.calibrate import Calibration
    from mlcore.distance import MultiCentroid
    from mlcore.encoder import Encoder, place
    from mlcore.scorer import Scorer

    spec, draw = get(SLUG), np.random.default_rng(SEED)
    tokens = compact.tokenizer(islice(_words(), 20_000), 8000)
    torch.manual_seed(SEED)
    config = RobertaConfig(**shape, max_position_embeddings=514, pad_token_id=tokens.pad_token_id)
    model = RobertaModel(config, add_pooling_layer=False).eval()
    encoder = Encoder(model, tokens, "mean").to(place())
    head = mil.Head(encoder.width, len(spec.labels)).to(encoder.device).eval()
    head.standardise(_sampled_vectors(encoder))
    embeddings, truth = draw.normal(size=(80, head.classifier.in_features)), np.arange(80) % len(spec.labels)
    distance = MultiCentroid().fit(embeddings, truth, len(spec.labels))
    logits = draw.normal(size=(80, len(spec.labels)))
    calibration = Calibration.fit(spec.labels, logits, distance.distances(embeddings), truth, 1.0)
    card = {"labels": list(spec.labels), "targets": list(spec.targets)}
    return Scorer(encoder, head, calibration, distance, card)


def _sampled_vectors(encoder: Encoder) -> Any:
    import torch

    from mlcore import chunks

    words = _words()
    texts = [" ".join(words[i : i + 40]) for i in range(0, 16 * 40, 40)]
    return torch.from_numpy(encoder.encode(chunks.windows(texts, encoder.tokenizer), "fp32")).to(
        encoder.device
    )
