"""From the window vectors of a case to its logits: gated attention and the three heads (paper, sections 3.3 and 4).

Gated attention: Ilse et al. 2018. Spectral head: MD-SN, Vazhentsev et al. 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm
from transformers import PreTrainedTokenizerBase

from mlcore import chunks
from mlcore.chunks import Window
from mlcore.encoder import Encoder
from mlcore.errors import ModelError

Floats = npt.NDArray[np.float64]
Kind = Literal["baseline", "standard", "spectral"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DROPOUT = 0.1


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


class PlainMean(nn.Module):
    """The same weight for every window: nothing is learned."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """As GatedAttention."""
        return mask / mask.sum(-1, keepdim=True)


class Head(nn.Module):
    """Window vectors of a case to logits, an embedding and window weights; dropout 0.1 before both layers.

    baseline: the plain mean of what fits one window's budget (`chunks.budget`), no MIL.
    standard: gated attention over all windows.
    spectral: the same, its dense layers (attention's V and U, and the layer that makes the embedding) of spectral norm 1,
    so that for given window weights the embedding moves no further than GELU's slope, at most 1.13, times the pooled
    case. What only scores is free: attention's w ranks windows, the classifier scales logits, and no distance is taken
    after it (section 3.3.2).

    The logits are f + log_prior, with log_prior a constant of the head (see `losses.logit_adjusted`).
    """

    centre: Tensor
    scale: Tensor
    log_prior: Tensor

    def __init__(
        self, width: int, classes: int, hidden: int = 64, attention: int = 64, kind: Kind = "spectral"
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ModelError(f"There is no head {kind!r}: use one of {', '.join(KINDS)}.")
        self.kind = kind
        self.attention = PlainMean() if kind == "baseline" else GatedAttention(width, attention)
        self.dense = nn.Linear(width, hidden)
        self.classifier = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(DROPOUT)
        if isinstance(self.attention, GatedAttention) and kind == "spectral":
            for layer in (self.attention.value, self.attention.gate, self.dense):
                spectral_norm(layer)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("log_prior", torch.zeros(classes))

    def standardise(self, vectors: Tensor) -> None:
        """Centre and scale every later window vector as these (n, width) are; constants, not learned."""
        self.centre.copy_(vectors.mean(0))
        self.scale.copy_(vectors.std(0, correction=0).clamp_min(1e-6))

    @torch.no_grad()
    def settle(self) -> None:
        """Make the spectral norms exact: training follows them by one power iteration a step, always from below."""
        for layer in self.modules():
            if parametrize.is_parametrized(layer, "weight"):
                weight: Any = cast(nn.ModuleDict, layer.parametrizations)["weight"]
                left, _, right = torch.linalg.svd(weight.original, full_matrices=False)
                weight[0]._u.copy_(left[:, 0])
                weight[0]._v.copy_(right[0])

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, M, width), mask (B, M). Returns logits (B, K), embedding (B, hidden), weights (B, M)."""
        x = (x - self.centre) / self.scale
        weights = self.attention(x, mask)
        pooled = torch.einsum("bm,bmw->bw", weights, x)
        embedding = nn.functional.gelu(self.dense(self.dropout(pooled)))
        return self.classifier(self.dropout(embedding)) + self.log_prior, embedding, weights


def windows_of(
    kind: Kind, size: int = chunks.SIZE
) -> Callable[[Sequence[str], PreTrainedTokenizerBase], list[Window]]:
    """How a head's cases are cut into windows: what one pass could hold for the baseline, up to 64 for the others.

    size: tokens of a window at most, special ones included.
    """
    return partial(chunks.budget if kind == "baseline" else chunks.kept, size=size)


def bag(vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Cases of (n_i, width) each, padded to (B, max n_i, width), with the mask (B, max n_i)."""
    padded = nn.utils.rnn.pad_sequence(list(vectors), batch_first=True)
    counts = torch.tensor([len(v) for v in vectors], device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < counts[:, None]


@torch.no_grad()
def predict(head: Head, vectors: Sequence[Tensor]) -> tuple[Floats, Floats, list[Floats]]:
    """Logits (n, K), embeddings (n, hidden) and window weights of cases given as (n_i, width) each.

    One case at a time, so that nothing of a case depends on the others it is scored with. Raises ModelError when a case
    has logits that are not finite.
    """
    found = [head(*bag([v.to(head.centre.device)])) for v in vectors]
    logits, embeddings, weights = zip(*found, strict=True)
    return (
        _finite(torch.cat(logits).double().cpu().numpy()),
        torch.cat(embeddings).double().cpu().numpy(),
        [w[0].double().cpu().numpy() for w in weights],
    )


@torch.no_grad()
def passes(head: Head, vectors: Sequence[Tensor], times: int, seed: int) -> Floats:
    """Logits (times, n, K) under dropout (Gal & Ghahramani 2016; section 3.4).

    Pass t thins the head in the same way for every case, so that a case's passes do not depend on the others. The same
    seed gives the same passes; torch's own random state is left as it was.
    """
    device = head.centre.device
    found = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _dropout(head):
        for v in vectors:
            torch.manual_seed(seed)
            x, mask = bag([v.to(device)])
            found.append(head(x.expand(times, -1, -1), mask.expand(times, -1))[0])
    stacked = torch.stack(found, dim=1).double().cpu().numpy()
    return _finite(stacked.reshape(-1, stacked.shape[2])).reshape(stacked.shape)


@contextmanager
def _dropout(head: Head) -> Iterator[None]:
    """Dropout as in training, all else as in use: spectral norms stay."""
    head.dropout.train()
    try:
        yield
    finally:
        head.dropout.eval()


def _finite(logits: Floats) -> Floats:
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise ModelError(
            f"{len(bad)} of {len(logits)} cases have logits that are not finite numbers, the first at position {bad[0]}: "
            "check the encoder's weights, or train again with lower rates."
        )
    return logits


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
