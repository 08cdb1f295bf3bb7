"""A small encoder with its own tokenizer, made on the spot as an ordinary Hugging Face folder.

Its token vectors carry what can be learned without a large corpus: which tokens keep company (PPMI + SVD, Levy and
Goldberg 2014) and, on the first dimensions, what a linear model of the labels says about each token.
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
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
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


def tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A BPE tokenizer of these texts, blind to case and accents, with offsets into the text as written.

    Word beginnings are marked in the text, not by a subword prefix, whose training is not repeatable.
    """
    raw = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True))
    raw.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
    )
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=list(SPECIAL.values()), show_progress=False
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
    vectors = torch.from_numpy(np.concatenate([linear.channels, company / company.std()], axis=1))
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
        left = np.concatenate([s[:-step] for s in sequences if len(s) > step])
        right = np.concatenate([s[step:] for s in sequences if len(s) > step])
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
    """A linear model of the labels on the tokens of cases, cross-fitted: TF-IDF and balanced logistic regression.

    sequences: token ids of each of n cases. labels: (n,) in 0 … classes - 1. groups: stay in one fold.
    fold: (n,) fold of each case. scores: (n, classes) of each case by the model that did not see its fold, rows sum
    to zero: what to distil. channels: (vocabulary, C) weight of one occurrence of each token, by the model of all.
    fold_channels: the same by the model that did not see each fold; a case trained with the channels of its own fold
    meets a token vector as well informed as a new case will, not better.
    """

    def __init__(
        self,
        sequences: Sequence[Ints],
        labels: Ints,
        classes: int,
        vocabulary: int,
        groups: Sequence[str],
        seed: int,
    ) -> None:
        self.sequences = sequences
        weighting = TfidfTransformer(sublinear_tf=True)
        features = weighting.fit_transform(_counts(sequences, vocabulary))
        self.fold = folds.folds(labels, groups, FOLDS, seed)
        whole = _regression().fit(features, labels)
        scale = (whole.coef_ * weighting.idf_).std()
        self.channels: Floats = (whole.coef_ * weighting.idf_).T / scale
        self.fold_channels: list[Floats] = []
        self.scores = np.zeros((len(labels), classes))
        for held_out in range(FOLDS):
            rows = self.fold == held_out
            model = _regression().fit(features[~rows], labels[~rows])
            self.fold_channels.append((model.coef_ * weighting.idf_).T / scale)
            margin = model.decision_function(features[rows])
            self.scores[rows] = np.column_stack([-margin / 2, margin / 2]) if classes == 2 else margin
        self.scores -= self.scores.mean(axis=1, keepdims=True)


def _regression() -> LogisticRegression:
    return LogisticRegression(C=10.0, class_weight="balanced", max_iter=300)


def _counts(sequences: Sequence[Ints], vocabulary: int) -> sparse.csr_matrix:
    columns = np.concatenate(sequences)
    rows = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    return sparse.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(sequences), vocabulary))
