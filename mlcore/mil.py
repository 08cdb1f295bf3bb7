"""Gated-attention pooling over windows and the two heads (paper, section 3.3; Ilse et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mlcore.encoder import Encoder
from mlcore.errors import ModelError

Kind = Literal["spectral", "standard"]


class GatedAttention(nn.Module):
    """Weights over the windows of a bag: softmax of w·(tanh(Vx) ⊙ sigmoid(Ux)) (Ilse et al. 2018, equation 9)."""

    def __init__(self, width: int, attention: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, attention)
        self.gate = nn.Linear(width, attention)
        self.score = nn.Linear(attention, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, M, width), mask (B, M) true where a window is. Returns (B, M), rows sum to 1, 0 where masked."""
        score = self.score(torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))).squeeze(-1)
        return torch.softmax(score.masked_fill(~mask, -torch.inf), dim=-1)


class Head(nn.Module):
    """Window vectors of a case to logits, an embedding and window weights.

    spectral: the dense layer that makes the embedding has spectral norm 1, so that distances between embeddings are
    bounded by distances between pooled cases (MD-SN, section 3.3.2; Vazhentsev et al. 2022). The final linear layer is
    free: it scales logits and does not touch the embedding. standard: no norm, dropout 0.1 before both layers.

    The logits are f + log_prior, with log_prior a constant of the head (see `losses.logit_adjusted`).
    """

    centre: Tensor
    scale: Tensor
    log_prior: Tensor

    def __init__(
        self, width: int, classes: int, hidden: int = 64, attention: int = 64, kind: Kind = "spectral"
    ) -> None:
        super().__init__()
        self.kind = kind
        dense = nn.Linear(width, hidden)
        self.attention = GatedAttention(width, attention)
        self.dense = spectral_norm(dense) if kind == "spectral" else dense
        self.classifier = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(0.1 if kind == "standard" else 0.0)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("log_prior", torch.zeros(classes))

    def standardise(self, vectors: Tensor) -> None:
        """Centre and scale every later window vector as these (n, width) are; constants, not learned."""
        self.centre.copy_(vectors.mean(0))
        self.scale.copy_(vectors.std(0).clamp_min(1e-6))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, M, width), mask (B, M). Returns logits (B, K), embedding (B, hidden), weights (B, M)."""
        x = (x - self.centre) / self.scale
        weights = self.attention(x, mask)
        pooled = torch.einsum("bm,bmw->bw", weights, x)
        embedding = nn.functional.gelu(self.dense(self.dropout(pooled)))
        return self.classifier(self.dropout(embedding)) + self.log_prior, embedding, weights


def bag(vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Cases of (n_i, width) each, padded to (B, max n_i, width), with the mask (B, max n_i)."""
    padded = nn.utils.rnn.pad_sequence(list(vectors), batch_first=True)
    counts = torch.tensor([len(v) for v in vectors], device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < counts[:, None]


@torch.no_grad()
def predict(
    head: Head, vectors: Sequence[Tensor]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[npt.NDArray[np.float64]]]:
    """Logits (n, K), embeddings (n, hidden) and window weights of cases given as (n_i, width) each.

    One case at a time, so that nothing of a case depends on the others it is scored with.
    """
    found = [head(*bag([v.to(head.centre.device)])) for v in vectors]
    logits, embeddings, weights = zip(*found, strict=True)
    return (
        torch.cat(logits).double().cpu().numpy(),
        torch.cat(embeddings).double().cpu().numpy(),
        [w[0].double().cpu().numpy() for w in weights],
    )


def save(path: Path, encoder: Encoder, head: Head) -> None:
    """Write the weights of the head and of the encoder's token gate as one safetensors file."""
    tensors = {f"head.{k}": v for k, v in head.state_dict().items()}
    if encoder.gate is not None:
        tensors |= {f"gate.{k}": v for k, v in encoder.gate.state_dict().items()}
    save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, path)


def load(path: Path, encoder: Encoder, head: Head) -> None:
    """Fill head and gate with what `save` wrote, bit for bit. Raises ModelError when the weights do not fit."""
    try:
        tensors = load_file(path)
        for name, module in (("head.", head), ("gate.", encoder.gate)):
            own = {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}
            if module is not None:
                module.load_state_dict(own)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"The weights in {path} do not fit their card: copy or train the bundle again."
        ) from error
