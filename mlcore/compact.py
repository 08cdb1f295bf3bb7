"""A small encoder with its own tokenizer, made on the spot as an ordinary Hugging Face folder.

Its token vectors carry what can be learned without a large corpus: which tokens keep company (PPMI + SVD, Levy and
Goldberg 2014) and, on the first dimensions, what a linear model of the labels says about each token and the characters in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.utils.extmath import randomized_svd
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mlcore import folds
from mlcore.encoder import Encoder, place

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
POSITIONS = 512
LAYERS = 1
FOLDS = 5
PIECES = (3, 4, 5)
TINY = 1e-12
SIGNS = list("0123456789<>≤≥=≠≮≯±+-−~≈%‰°/*^()[]{}.,;:·×↑↓→µ")
OVERLAY = "\u0338"


def tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A BPE tokenizer of these texts, blind to case and accents, with offsets into the text as written.

    Numbers and SIGNS are always known. A stroke through a sign is no accent: ≠ stays apart from =. Word beginnings are
    marked in the text, not by a subword prefix, whose training is not repeatable.
    """
    raw = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True))
    accents = Regex(f"[\\u0300-\\u036f&&[^{OVERLAY}]]")
    raw.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.NFD(),
            normalizers.Lowercase(),
            normalizers.Replace(accents, ""),
            normalizers.NFC(),
        ]
    )
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=SIGNS,
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    ends = [(name, raw.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw, model_max_length=POSITIONS, **SPECIAL
    )


def build(tokens: PreTrainedTokenizerBase, linear: Linear, width: int) -> Encoder:
    """An untrained encoder whose token vectors already mean something: linear.channels, then PPMI + SVD.

    The model is an ordinary BERT without dropout; position vectors start at zero, token vectors stay as they are.
    """
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        num_hidden_layers=LAYERS,
        num_attention_heads=max(1, width // 64),
        intermediate_size=2 * width,
        hidden_act="relu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=POSITIONS,
        pad_token_id=tokens.pad_token_id,
    )
    model = BertModel(config, add_pooling_layer=False)
    company = ppmi_svd(linear.sequences, len(tokens), width - linear.channels.shape[1])
    vectors = torch.from_numpy(np.concatenate([linear.channels, company / max(company.std(), TINY)], axis=1))
    vectors[tokens.all_special_ids] = 0.0
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.copy_(vectors)
        model.embeddings.position_embeddings.weight.zero_()
        model.embeddings.token_type_embeddings.weight.zero_()
    model.embeddings.word_embeddings.weight.requires_grad_(False)
    return Encoder(model, tokens, "gated").to(place())


@torch.no_grad()
def give(encoder: Encoder, channels: Floats) -> None:
    """Put other scores of a linear model (vocabulary, C) in the first dimensions of the token vectors."""
    weight = cast(nn.Embedding, encoder.model.get_input_embeddings()).weight
    weight[:, : channels.shape[1]] = torch.from_numpy(channels).to(weight)
    weight[encoder.tokenizer.all_special_ids] = 0.0


def ppmi_svd(sequences: Sequence[Ints], vocabulary: int, width: int, reach: int = 5) -> Floats:
    """Token vectors (vocabulary, width) from positive pointwise mutual information within `reach` tokens."""
    counts = sparse.csr_matrix((vocabulary, vocabulary))
    for step in range(1, reach + 1):
        left = np.concatenate([s[: max(len(s) - step, 0)] for s in sequences])
        right = np.concatenate([s[step:] for s in sequences])
        ones = np.ones(len(left))
        counts = counts + sparse.coo_matrix((ones, (left, right)), shape=counts.shape).tocsr()
    counts = (counts + counts.T).tocoo()
    row = np.asarray(counts.sum(axis=1)).ravel()
    context = row**0.75
    context = context / context.sum()
    pmi = np.log(counts.data / (row[counts.row] * context[counts.col]))
    keep = pmi > 0
    ppmi = sparse.csr_matrix((pmi[keep], (counts.row[keep], counts.col[keep])), shape=counts.shape)
    left_vectors, values, _ = randomized_svd(ppmi, width, n_iter=2, random_state=0)
    result: Floats = left_vectors * np.sqrt(values)
    return result


class Linear:
    """A linear model of the labels on what cases are made of, cross-fitted: TF-IDF and balanced logistic regression.

    Three TF-IDF tables stand side by side: tokens, character sequences inside tokens (by which a rare word shares what is
    known of its relatives), and pairs of neighbours. sequences: token ids of each of n cases. labels: (n,) in
    0 … classes - 1. tokens: the vocabulary as text. groups: stay in one fold.
    fold: (n,) fold of each case. scores: (n, classes) of each case by the model that did not see its fold, rows sum to
    zero: what to distil. channels: (vocabulary, 2C) weight of one occurrence of each token, for itself and for the
    characters in it, by the model of all. fold_channels: the same by the model that did not see each fold; a case trained
    with the channels of its own fold meets a token vector as well informed as a new case will, not better.
    """

    def __init__(
        self,
        sequences: Sequence[Ints],
        labels: Ints,
        classes: int,
        tokens: Sequence[str],
        groups: Sequence[str],
        seed: int,
    ) -> None:
        self.sequences = sequences
        counts, inside = _counts(sequences, len(tokens)), pieces(tokens)
        tables = [counts, counts @ inside, pairs(sequences, len(tokens))]
        weightings = [TfidfTransformer(sublinear_tf=True).fit(table) for table in tables]
        features = sparse.hstack([w.transform(t) for w, t in zip(weightings, tables, strict=True)]).tocsr()
        idf = np.concatenate([weighting.idf_ for weighting in weightings])

        def spoken(model: LogisticRegression) -> list[Floats]:
            weights = (model.coef_ * idf).T
            return [weights[: len(tokens)], inside @ weights[len(tokens) :][: inside.shape[1]]]

        self.fold = folds.folds(labels, groups, FOLDS, seed)
        whole = spoken(_regression().fit(features, labels))
        scales = [max(float(weights.std()), TINY) for weights in whole]
        self.channels: Floats = _side_by_side(whole, scales)
        self.fold_channels: list[Floats] = []
        self.scores = np.zeros((len(labels), classes))
        for held_out in range(FOLDS):
            rows = self.fold == held_out
            model = _regression().fit(features[~rows], labels[~rows])
            self.fold_channels.append(_side_by_side(spoken(model), scales))
            margin = model.decision_function(features[rows])
            self.scores[rows] = np.column_stack([-margin / 2, margin / 2]) if classes == 2 else margin
        self.scores -= self.scores.mean(axis=1, keepdims=True)


def _regression() -> LogisticRegression:
    return LogisticRegression(C=3.0, class_weight="balanced", max_iter=300)


def _side_by_side(weights: Sequence[Floats], scales: Sequence[float]) -> Floats:
    return np.concatenate([w / scale for w, scale in zip(weights, scales, strict=True)], axis=1)


def _counts(sequences: Sequence[Ints], vocabulary: int) -> sparse.csr_matrix:
    columns = np.concatenate(sequences)
    rows = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    return sparse.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(sequences), vocabulary))


def pairs(sequences: Sequence[Ints], vocabulary: int) -> sparse.csr_matrix:
    """(n, P) counts in each case of the pairs of neighbouring tokens that occur in more than one case."""
    neighbours = [s[:-1] * vocabulary + s[1:] for s in sequences]
    known, columns = np.unique(np.concatenate(neighbours), return_inverse=True)
    ends = np.cumsum([len(pair) for pair in neighbours])[:-1]
    return _in_several(_counts(np.split(columns, ends), len(known)))


def pieces(tokens: Sequence[str]) -> sparse.csr_matrix:
    """(vocabulary, P) counts in each token of the sequences of 3 to 5 characters, its end one of them, that several hold.

    Special tokens hold none.
    """
    known: dict[str, int] = {}
    found = [
        np.array([known.setdefault(piece, len(known)) for piece in _pieces(token)], dtype=np.int64)
        for token in tokens
    ]
    return _in_several(_counts(found, len(known)))


def _pieces(token: str) -> list[str]:
    if token in SPECIAL.values():
        return []
    text = f"{token} "
    return [text[i : i + n] for n in PIECES for i in range(len(text) - n + 1)]


def _in_several(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """The columns that more than one row fills; one of zeros where there is none."""
    several = counts[:, np.bincount(counts.nonzero()[1], minlength=counts.shape[1]) > 1]
    return several if several.shape[1] else sparse.csr_matrix((counts.shape[0], 1))
