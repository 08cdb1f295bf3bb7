"""Token windows to vectors, through any Hugging Face encoder (paper, section 3.3.1)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from mlcore.chunks import Window
from mlcore.errors import ModelError

Pooling = Literal["cls", "mean", "gated"]
Precision = Literal["auto", "fp32"]
TOKENS_PER_BATCH = 6144


class TokenGate(nn.Module):
    """Weights over the tokens of a window: softmax of a linear score; starts as the plain mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """hidden (B, T, width), mask (B, T) true where a token is. Returns (B, T), rows sum to 1."""
        score = self.score(hidden).squeeze(-1)
        return torch.softmax(score.masked_fill(~mask, -torch.inf), dim=-1)


class Encoder(nn.Module):
    """A Hugging Face model with its tokenizer and the way a window becomes one vector.

    pooling: "cls" the first token, "mean" over tokens, "gated" a learned weighted mean (`gate`).
    Position ids are always left to the model, so that RoBERTa's offset is right.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pooling: Pooling = "mean"
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.width: int = model.config.hidden_size
        self.gate = TokenGate(self.width) if pooling == "gated" else None
        self._reduced: PreTrainedModel | None = None

    @classmethod
    def load(cls, source: str | Path, pooling: Pooling = "mean") -> Encoder:
        """The encoder of a folder saved by `save_pretrained`, or of a Hugging Face name.

        Raises ModelError when there is no such folder or name, or when the name cannot be fetched.
        """
        where = _folder(source)
        _quiet()
        try:
            tokenizer = AutoTokenizer.from_pretrained(where)
            model = AutoModel.from_pretrained(where, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The encoder {str(source)!r} cannot be loaded: give a folder made by save_pretrained with its "
                "tokenizer, or a Hugging Face name on a machine that can fetch it."
            ) from error
        return cls(model.eval(), tokenizer, pooling).to(place())

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as `save_pretrained` does, for `load`; the gate is kept with the head."""
        _quiet()
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def forward(self, windows: Sequence[Window], masked: float = 0.0) -> Tensor:
        """Vectors (n, width) of windows in their order, in fp32, with gradients; hides a share of the tokens."""

        def vectors(ids: Tensor, mask: Tensor) -> Tensor:
            hidden = torch.rand(ids.shape, device=ids.device) < masked
            hidden[:, 0] = False
            ids = ids.masked_fill(hidden & mask, self.mask_id)
            return self._vectors(self.model, ids, mask)

        return self._gather(windows, vectors)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def mask_id(self) -> int:
        """The token that stands for a hidden one. Raises ModelError when the tokenizer has none."""
        for token in (self.tokenizer.mask_token_id, self.tokenizer.unk_token_id):
            if token is not None:
                return int(token)
        raise ModelError(
            "The encoder's tokenizer has neither a mask nor an unknown token: its words cannot be hidden."
        )

    def _vectors(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, width) of (B, T) token ids."""
        hidden = self._hidden(model, ids, mask)
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = self.gate(hidden, mask) if self.gate is not None else mask / mask.sum(-1, keepdim=True)
        return torch.einsum("bt,btw->bw", weights, hidden)

    @torch.inference_mode()
    def encode(self, windows: Sequence[Window], precision: Precision = "auto") -> npt.NDArray[np.float32]:
        """Vectors (n, width) of windows in their order.

        auto: bf16 weights where the machine multiplies them fast, fp32 otherwise and for a small encoder.
        """
        if not windows:
            return np.zeros((0, self.width), np.float32)
        model = self._model(precision)
        vectors = self._gather(windows, lambda ids, mask: self._vectors(model, ids, mask))
        return vectors.cpu().numpy()

    @torch.inference_mode()
    def attention(self, windows: Sequence[Window]) -> list[npt.NDArray[np.float64]]:
        """How much each token of each window counts: arrays of len(ids), not negative.

        Last layer, mean over heads of half the first token's row and half the mean row (appendix C.1, stage 1),
        times the token's share in the window's vector where pooling is gated.
        """
        with self._eager() as model:
            rows = self._rows(windows, lambda ids, mask: self._importance(model, ids, mask))
        return [row[: len(w.ids)].double().cpu().numpy() for w, row in zip(windows, rows, strict=True)]

    def _importance(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
        out = model(input_ids=ids, attention_mask=mask.long(), output_attentions=True)
        last = out.attentions[-1].mean(1)
        mean_row = (last * mask[:, :, None]).sum(1) / mask.sum(-1, keepdim=True)
        importance: Tensor = 0.5 * last[:, 0] + 0.5 * mean_row
        if self.gate is not None:
            importance = importance * self.gate(out.last_hidden_state, mask)
        return importance

    @staticmethod
    def _hidden(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return hidden.float()

    def _gather(self, windows: Sequence[Window], compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return torch.stack(self._rows(windows, compute))

    def _rows(self, windows: Sequence[Window], compute: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        rows: dict[int, Tensor] = {}
        for batch in batches([len(w.ids) for w in windows]):
            ids, mask = self._padded([windows[i].ids for i in batch])
            rows.update(zip(batch, compute(ids, mask), strict=True))
        return [rows[i] for i in range(len(windows))]

    def _padded(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        pad = self.tokenizer.pad_token_id or 0
        longest = max(len(row) for row in ids)
        padded = torch.tensor([row + [pad] * (longest - len(row)) for row in ids])
        lengths = torch.tensor([len(row) for row in ids])
        mask = torch.arange(longest) < lengths[:, None]
        return padded.to(self.device), mask.to(self.device)

    def _model(self, precision: Precision) -> PreTrainedModel:
        if precision == "fp32" or self.width < 256 or not fast_bf16():
            return self.model
        if self._reduced is None:
            object.__setattr__(self, "_reduced", copy.deepcopy(self.model).bfloat16())
        assert self._reduced is not None
        return self._reduced

    @contextmanager
    def _eager(self) -> Iterator[PreTrainedModel]:
        usual = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")
        try:
            yield self.model
        finally:
            self.model.set_attn_implementation(usual)


def batches(lengths: Sequence[int], tokens: int = TOKENS_PER_BATCH) -> list[list[int]]:
    """Positions grouped by similar length, longest first, each group at most `tokens` when padded."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    for i in order:
        if not groups or (len(groups[-1]) + 1) * lengths[groups[-1][0]] > tokens:
            groups.append([])
        groups[-1].append(i)
    return groups


def place() -> torch.device:
    """Where models run: the accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bf16() -> bool:
    """Whether bf16 pays here: CUDA, or a processor with AMX tiles."""
    return torch.cuda.is_available() or bool(torch.cpu._is_amx_tile_supported())


def _quiet() -> None:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _folder(source: str | Path) -> str:
    path = Path(source)
    looks_local = isinstance(source, Path) or path.is_absolute() or str(source).startswith(".")
    if looks_local and not path.is_dir():
        raise ModelError(f"There is no encoder folder {str(source)!r}: give one made by save_pretrained.")
    return str(source)
