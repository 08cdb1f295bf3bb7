"""The same case seen by two independent methods of Captum, to hold the occlusion against.

Integrated gradients: Sundararajan et al. 2017. Feature ablation: a mask token in place of each word, by Captum's own loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from captum.attr import FeatureAblation, LayerIntegratedGradients
from torch import Tensor

from mlcore.attribution import LEAST_FLOOR, NOISE_FACTOR, Case, Span, Word, choose, outcome, sign
from mlcore.encoder import Encoder
from mlcore.mil import Head
from mlcore.scorer import Scorer

STEPS = 32
HEAVIEST = 8
ROW_TOKENS = 1536
ABLATED = 512


def explain(
    scorer: Scorer, case: Case, method: Literal["gradients", "ablation"], top: int, attentions: bool
) -> tuple[list[Word], float]:
    """The `top` words with their attribution as margin, and the floor below which its sign means nothing."""
    if method == "gradients":
        return _by_gradients(scorer, case, top)
    least = min(top, max(1, ABLATED // len(case.windows)))
    importance = choose(scorer, case, "mask", least, attentions)
    falls, floor = ablation(scorer, case, list(importance))
    words = [
        Word(*span, importance[span], fall, None, sign(fall, floor))
        for span, fall in zip(importance, falls, strict=True)
    ]
    return words, floor


def _by_gradients(scorer: Scorer, case: Case, top: int) -> tuple[list[Word], float]:
    found, floor = gradients(scorer, case)
    total = sum(map(abs, found.values())) or 1.0
    order = sorted(found, key=lambda span: (-abs(found[span]), span))[:top]
    return [
        Word(*span, abs(found[span]) / total, found[span], None, sign(found[span], floor)) for span in order
    ], floor


def gradients(scorer: Scorer, case: Case) -> tuple[dict[Span, float], float]:
    """Attribution of each word to the margin, in logits, and the noise floor.

    Integrated gradients over the embedding layer from a window of mask tokens, one window at a time with the others as
    they are; a word's tokens are summed, in all windows that hold it. The words of a window sum to how much the
    margin falls when all its words are masked. Only the HEAVIEST windows are followed: memory and time grow with each.
    The floor is the error of the integral, spread over the words it was made on.
    """
    found: dict[Span, float] = defaultdict(float)
    missed = 0.0
    for i in np.argsort(-case.weights, kind="stable")[:HEAVIEST].tolist():
        words = {span: held[i] for span, held in case.places.items() if i in held}
        if words:
            tokens, delta = _window_gradients(scorer, case, i, list(words.values()))
            missed += abs(delta)
            for span, positions in words.items():
                found[span] += float(tokens[positions].sum())
    return dict(found), max(missed / np.sqrt(max(len(found), 1)), LEAST_FLOOR)


def _window_gradients(scorer: Scorer, case: Case, i: int, words: Sequence[list[int]]) -> tuple[Tensor, float]:
    """(T,) attribution of the tokens of window i, and what the steps missed of their sum."""
    encoder = _encoder(scorer)
    ids, mask = encoder._padded([case.windows[i].ids])
    baseline = ids.clone()
    baseline[0, [position for positions in words for position in positions]] = encoder.mask_id
    others = torch.tensor(case.vectors, device=encoder.device)

    def forward(rows: Tensor) -> Tensor:
        bags = others.repeat(len(rows), 1, 1)
        bags[:, i] = encoder._vectors(encoder.model, rows, mask.repeat(len(rows), 1))
        return margin(scorer, bags)

    layer = LayerIntegratedGradients(forward, encoder.model.get_input_embeddings())
    found, delta = layer.attribute(
        ids,
        baseline,
        n_steps=STEPS,
        internal_batch_size=max(1, ROW_TOKENS // ids.shape[1]),
        return_convergence_delta=True,
    )
    return found[0].sum(-1).detach().double().cpu(), float(delta.sum())


def ablation(scorer: Scorer, case: Case, words: Sequence[Span]) -> tuple[list[float], float]:
    """How much the margin falls with each word masked, by Captum, all windows encoded each time; and the noise floor."""
    if not words:
        return [], LEAST_FLOOR
    encoder = _encoder(scorer)
    ids, mask = encoder._padded([w.ids for w in case.windows])
    baseline, feature = ids.clone(), torch.zeros_like(ids)
    for number, span in enumerate(words, start=1):
        for i, positions in case.places[span].items():
            baseline[i, positions] = encoder.mask_id
            feature[i, positions] = number
    forward = _margin_of_ids(scorer, encoder, mask)
    found = FeatureAblation(forward).attribute(ids[None], baseline[None], feature_mask=feature[None])[0]
    falls = [float(found[feature == number][0]) for number in range(1, len(words) + 1)]
    with torch.inference_mode():
        here = float(forward(ids[None])[0])
    apart = outcome(scorer, [encoder.encode(case.windows, "fp32")], case.label)[0][0]
    return falls, max(NOISE_FACTOR * abs(here - float(apart)), LEAST_FLOOR)


def _margin_of_ids(scorer: Scorer, encoder: Encoder, mask: Tensor) -> Callable[[Tensor], Tensor]:
    """(B,) margins of token ids (B, M, T): B cases of M windows each."""

    def forward(ids: Tensor) -> Tensor:
        rows = ids.reshape(-1, ids.shape[-1])
        vectors = encoder._vectors(encoder.model, rows, mask.repeat(len(ids), 1))
        return margin(scorer, vectors.reshape(*ids.shape[:2], -1))

    return forward


def _encoder(scorer: Scorer) -> Encoder:
    """A linear model (`tfidf`) never comes here: `attribution` has its own way."""
    assert isinstance(scorer.encoder, Encoder)
    return scorer.encoder


def margin(scorer: Scorer, bags: Tensor) -> Tensor:
    """(B,) margin of the targets over the other labels, in logits, of cases given as window vectors (B, M, width)."""
    everywhere = torch.ones(bags.shape[:2], dtype=torch.bool, device=bags.device)
    assert isinstance(scorer.head, Head)
    logits, _, _ = scorer.head(bags, everywhere)
    target = torch.tensor(np.isin(scorer.card["labels"], scorer.card["targets"]), device=bags.device)
    difference: Tensor = logits[:, target].logsumexp(1) - logits[:, ~target].logsumexp(1)
    return difference
