"""What training minimises."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["adjusted", "weighted"]
LOSSES: tuple[Loss, ...] = get_args(Loss)


def logit_adjusted(scores: Tensor, labels: Tensor, log_prior: Tensor) -> Tensor:
    """Mean cross-entropy of (n, K) scores f with the log class priors (K,) of the training cases added.

    Menon et al. 2021, equation 10: f then learns how far a case speaks for a class whatever the class's size.
    Predicting by f alone would balance the argmax. Here balance comes from class-conditional ranks instead, so a head
    predicts f + log prior of the population: the probabilities are those of the population, and ranks of a binary
    margin are untouched by the constant.
    """
    return functional.cross_entropy(scores + log_prior, labels)


def weighted(scores: Tensor, labels: Tensor, log_prior: Tensor) -> Tensor:
    """Mean cross-entropy of (n, K) scores, each case by 1 / (K p) of its class, with log p (K,) of the training cases.

    Inverse-frequency class weights, 1 on average over the training cases, so that parts of a batch add up to its mean.
    As in logit_adjusted the scores then speak for a class whatever its size.
    """
    each = torch.exp(-log_prior)[labels] / len(log_prior)
    return (each * functional.cross_entropy(scores, labels, reduction="none")).mean()


OF = {"adjusted": logit_adjusted, "weighted": weighted}


def distillation(scores: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of (n, K) scores and teacher scores, each less its mean over classes."""
    difference = (scores - scores.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    return difference.square().sum(1).mean()


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0, smoothing: float = 0.1) -> Tensor:
    """Mean label-smoothed focal loss of (n, K) logits (Lin et al. 2017): easy cases count less by (1 - p)^gamma."""
    smooth = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    easy = torch.softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
    return ((1 - easy) ** gamma * smooth).mean()


def r_drop(first: Tensor, second: Tensor) -> Tensor:
    """Symmetric KL divergence between two passes' (n, K) logits under different dropout (Liang et al. 2021)."""
    p, q = functional.log_softmax(first, dim=1), functional.log_softmax(second, dim=1)
    both = functional.kl_div(p, q, log_target=True, reduction="batchmean")
    return (both + functional.kl_div(q, p, log_target=True, reduction="batchmean")) / 2
