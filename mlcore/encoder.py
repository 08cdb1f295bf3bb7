"""Token windows to vectors, through any Hugging Face encoder (paper, section 3.3.1)."""

from __future__ import annotations

import copy
import ctypes
import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import normalizers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from mlcore.chunks import Window
from mlcore.errors import ModelError

# oneDNN keeps what it prepared for each shape of batch, a thousand of them unless told: memory that never comes back.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")

Pooling = Literal["cls", "mean", "cls_mean_concat", "gated"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
Precision = Literal["auto", "fp32"]
TOKENS_PER_BATCH = 6144
TOKENS_PER_GRADIENT = 3072
TIGHT = 3
TOKENS_IN_FLIGHT = 32 * TOKENS_PER_BATCH
MEMORY_STEP = 512
LARGE = 256


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


class Memory:
    """Vectors of windows by their tokens, in a file that is only ever appended to, in records of one size."""

    def __init__(self, file: Path, fingerprint: str, width: int) -> None:
        self.file = file
        self.fingerprint = fingerprint.encode()
        self.record = np.dtype([("key", "V32"), ("vector", "<f4", (width,))])
        with file.open("a+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            whole = handle.tell() // self.record.itemsize * self.record.itemsize
            handle.truncate(whole)  # a write may have been cut short
        stored = np.fromfile(file, self.record)
        self.known = dict(zip(map(bytes, stored["key"]), stored["vector"], strict=True))

    def vectors(
        self, windows: Sequence[Window], encode: Callable[[Sequence[Window]], npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.float32]:
        """(n, width) vectors of windows; encode is called, MEMORY_STEP windows at a time, for those not known."""
        keys = [
            hashlib.sha256(self.fingerprint + np.array(w.ids, np.int32).tobytes()).digest() for w in windows
        ]
        new = {key: w for key, w in zip(keys, windows, strict=True) if key not in self.known}
        order = sorted(new, key=lambda key: -len(new[key].ids))
        for start in range(0, len(order), MEMORY_STEP):
            step = order[start : start + MEMORY_STEP]
            self._keep(step, encode([new[key] for key in step]))
        return np.stack([self.known[key] for key in keys])

    def _keep(self, keys: Sequence[bytes], vectors: npt.NDArray[np.float32]) -> None:
        records = np.array(list(zip(map(np.void, keys), vectors, strict=True)), self.record)
        with self.file.open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.write(records.tobytes())
        self.known.update(zip(keys, vectors, strict=True))


class Encoder(nn.Module):
    """A Hugging Face model with its tokenizer and the way a window becomes one vector.

    pooling: "cls" the first token, "mean" over tokens, "cls_mean_concat" both side by side, "gated" a learned weighted
    mean (`gate`). width: of a window's vector. Position ids are always left to the model, so that RoBERTa's offset is right.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pooling: Pooling = "mean"
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions(model))
        self.pooling = pooling
        if pooling not in POOLINGS:
            raise ModelError(f"There is no pooling {pooling!r}: use one of {', '.join(POOLINGS)}.")
        hidden: int = model.config.hidden_size
        self.width = 2 * hidden if pooling == "cls_mean_concat" else hidden
        self.gate = TokenGate(hidden) if pooling == "gated" else None
        self.memory: Memory | None = None
        self._reduced: PreTrainedModel | None = None

    @classmethod
    def load(cls, source: str | Path, pooling: Pooling = "mean") -> Encoder:
        """The encoder of a folder saved by `save_pretrained`, or of a Hugging Face name.

        Text reaches its tokenizer as written, in Unicode's composed form (NFC); offsets still point into the text as written.
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
        compose(tokenizer)
        return cls(model.eval(), tokenizer, pooling).to(place())

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as `save_pretrained` does, for `load`; the gate is kept with the head."""
        _quiet()
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def tune(self, last: int, words: bool = True, dropout: bool = True) -> None:
        """Let the last n layers learn and freeze the rest; -1 is the whole model, 0 nothing. The gate always learns.

        words: whether the token vectors learn with the whole model; they are most of a small one, and slow to move.
        dropout: whether the model's own stays; without an accelerator its random numbers cost a third of a step.

        Raises ModelError when the model has fewer layers.
        """
        layers: list[nn.Module] = max(
            (list(m) for m in self.model.modules() if isinstance(m, nn.ModuleList)), key=len, default=[]
        )
        if last > len(layers):
            raise ModelError(f"The encoder has {len(layers)} layers, {last} cannot be tuned: ask for fewer.")
        self.model.requires_grad_(last == -1)
        for module in [] if dropout else self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if not words:
            self.model.get_input_embeddings().requires_grad_(False)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler.requires_grad_(False)  # no vector depends on it
        for layer in layers[len(layers) - max(last, 0) :]:
            layer.requires_grad_(True)

    def train(self, mode: bool = True) -> Encoder:
        """As torch does; weights may change now, so that reduced copies are made anew."""
        object.__setattr__(self, "_reduced", None)
        return super().train(mode)

    def forward(self, windows: Sequence[Window], dropped: float = 0.0) -> Tensor:
        """Vectors (n, width) of windows in their order, in fp32, with gradients; leaves out a share of the tokens.

        Windows go through in runs of similar length and at most TOKENS_PER_GRADIENT tokens; of a large encoder without an
        accelerator in runs TIGHT times shorter, as every token of padding costs there what a real one does. Where they
        are more than twice what may be held, each run is computed again in the backward pass; the gradient is the same.
        """
        shorter = [thin(w, dropped) for w in windows] if dropped else windows
        tight = TIGHT if self.large and self.device.type == "cpu" else 1
        runs = batches([len(w.ids) for w in shorter], TOKENS_PER_GRADIENT // tight)
        keep = sum(len(w.ids) for w in shorter) <= 2 * self.tokens_with_gradients

        def vectors(ids: Tensor, mask: Tensor) -> Tensor:
            if keep:
                return self._vectors(self.model, ids, mask)
            again: Tensor = checkpoint(self._vectors, self.model, ids, mask, use_reentrant=False)
            return again

        return torch.stack(self._rows(shorter, runs, vectors))

    @property
    def large(self) -> bool:
        """Whether bf16 pays for it where the machine has it, and memory is what limits its training."""
        return bool(self.model.config.hidden_size >= LARGE)

    @property
    def tokens_with_gradients(self) -> int:
        """How many tokens may be held at once in training."""
        return TOKENS_PER_GRADIENT * (1 if self.large else 16)

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
        mean = torch.einsum("bt,btw->bw", weights, hidden)
        return torch.cat([hidden[:, 0], mean], dim=1) if self.pooling == "cls_mean_concat" else mean

    @torch.inference_mode()
    def encode(self, windows: Sequence[Window], precision: Precision = "auto") -> npt.NDArray[np.float32]:
        """Vectors (n, width) of windows in their order.

        auto: bf16 weights where the machine multiplies them fast, fp32 otherwise and for a small encoder.
        """
        if not windows:
            return np.zeros((0, self.width), np.float32)
        if self.memory is not None:
            return self.memory.vectors(windows, lambda new: self._encode(new, precision))
        return self._encode(windows, precision)

    def _encode(self, windows: Sequence[Window], precision: Precision) -> npt.NDArray[np.float32]:
        model = self._model(precision)
        runs = batches([len(w.ids) for w in windows], TOKENS_PER_BATCH)
        rows = self._rows(windows, runs, lambda ids, mask: self._vectors(model, ids, mask))
        return torch.stack(rows).cpu().numpy()

    def remember(self, file: Path) -> None:
        """Keep every vector that is encoded from now on in a file, and read it from there next time.

        For an encoder that stays as it is. The file serves several processes, and any encoder: vectors are kept by the
        tokens and the weights they come from.
        """
        self.memory = Memory(file, self.fingerprint(), self.width)

    def fingerprint(self) -> str:
        """SHA-256 of the weights and the way of pooling."""
        found = hashlib.sha256(self.pooling.encode())
        for name, tensor in sorted(self.state_dict().items()):
            found.update(name.encode() + tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def stream(self, cases: Iterable[Sequence[Window]]) -> Iterator[npt.NDArray[np.float32]]:
        """Vectors (n_i, width) of each case in turn, however many there are: only TOKENS_IN_FLIGHT are held at once."""
        held: list[Sequence[Window]] = []
        for case in cases:
            held.append(case)
            if sum(len(w.ids) for each in held for w in each) >= TOKENS_IN_FLIGHT:
                yield from self._split(held)
                held = []
                give_back_memory()
        yield from self._split(held)

    def _split(self, cases: Sequence[Sequence[Window]]) -> list[npt.NDArray[np.float32]]:
        vectors = self.encode([w for case in cases for w in case])
        return np.split(vectors, np.cumsum([len(case) for case in cases])[:-1]) if cases else []

    @torch.inference_mode()
    def attention(self, windows: Sequence[Window]) -> list[npt.NDArray[np.float64]]:
        """How much each token of each window counts: arrays of len(ids), not negative.

        Last layer, mean over heads of half the first token's row and half the mean row (appendix C.1, stage 1),
        times the token's share in the window's vector where pooling is gated.
        """
        runs = batches([len(w.ids) for w in windows], TOKENS_PER_BATCH)
        with self._eager() as model:
            rows = self._rows(windows, runs, lambda ids, mask: self._importance(model, ids, mask))
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

    def _rows(
        self,
        windows: Sequence[Window],
        runs: Sequence[Sequence[int]],
        compute: Callable[[Tensor, Tensor], Tensor],
    ) -> list[Tensor]:
        """compute's row of each window, run after run."""
        rows: dict[int, Tensor] = {}
        for run in runs:
            ids, mask = self._padded([windows[i].ids for i in run])
            rows.update(zip(run, compute(ids, mask), strict=True))
        return [rows[i] for i in range(len(windows))]

    def _padded(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        pad = self.tokenizer.pad_token_id or 0
        longest = max(len(row) for row in ids)
        padded = torch.tensor([row + [pad] * (longest - len(row)) for row in ids])
        lengths = torch.tensor([len(row) for row in ids])
        mask = torch.arange(longest) < lengths[:, None]
        return padded.to(self.device), mask.to(self.device)

    def _model(self, precision: Precision) -> PreTrainedModel:
        if precision == "fp32" or not self.large or not fast_bf16():
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


def positions(model: PreTrainedModel) -> int:
    """How many tokens a model can tell apart by place; those of RoBERTa's kind begin to count after the padding's."""
    known = getattr(model.config, "max_position_embeddings", None)
    if not known or known < 0:
        return sys.maxsize
    first = (model.config.pad_token_id or 0) + 1 if "roberta" in model.config.model_type else 0
    return int(known) - first


def batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Positions grouped by similar length, longest first, each group at most `tokens` when padded."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    for i in order:
        if not groups or (len(groups[-1]) + 1) * lengths[groups[-1][0]] > tokens:
            groups.append([])
        groups[-1].append(i)
    return groups


def thin(window: Window, dropped: float) -> Window:
    """A window without a random share of its tokens; the first and the last, which are special, stay."""
    keep = torch.rand(len(window.ids)) >= dropped
    keep[0] = keep[-1] = True
    kept = keep.numpy()
    return replace(window, ids=np.array(window.ids)[kept].tolist(), offsets=window.offsets[kept])


def compose(tokenizer: PreTrainedTokenizerBase) -> None:
    """Put NFC before whatever else a fast tokenizer does to text; leaves one alone that begins with it."""
    if not tokenizer.is_fast:
        return
    backend = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    own = backend.normalizer
    if own is None:
        backend.normalizer = normalizers.NFC()
    elif not str(own).startswith(("NFC(", "Sequence(normalizers=[NFC(")):
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), own])


def give_back_memory() -> None:
    """Return freed memory to the system where glibc would keep it, in pieces that batches of other shapes cannot use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def place() -> torch.device:
    """Where models run: the accelerator of this process where there is one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


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
