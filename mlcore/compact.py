"""A small encoder with its own tokenizer, made on the spot as an ordinary Hugging Face folder.

Its token vectors carry what can be learned without a large corpus: which tokens keep company (PPMI + SVD, Levy and
Goldberg 2014) and, on the first dimensions, what a linear model of the labels says about each token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.utils.extmath import randomized_svd
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

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
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=POSITIONS, **SPECIAL)


def build(tokens: PreTrainedTokenizerFast, linear: Linear, width: int) -> Encoder:
    """An untrained encoder whose token vectors already mean something: linear.channels, then PPMI + SVD.

    The model is an ordinary BERT without dropout; position vectors start at zero.
    """
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 64),
        intermediate_size=2 * width,
        hidden_act="relu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=POSITIONS,
        pad_token_id=tokens.pad_token_id,
    )
    model = BertModel(config, add_pooling_layer=False)
    channels = linear.channels()
    company = ppmi_svd(linear.sequences, len(tokens), width - channels.shape[1])
    vectors = np.concatenate([channels / (channels.std() + 1e-12), company / (company.std() + 1e-12)], axis=1)
    vectors[tokens.all_special_ids] = 0.0
    with torch.no_grad():
        embeddings = model.embeddings
        embeddings.word_embeddings.weight.copy_(torch.from_numpy(vectors))
        embeddings.position_embeddings.weight.zero_()
        embeddings.token_type_embeddings.weight.zero_()
    embeddings.word_embeddings.weight.requires_grad_(False)
    return Encoder(model, tokens, "gated").to(place())


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
    """A linear model of the labels on the tokens of cases: what to distil, and the first token dimensions.

    sequences: token ids of each of n cases. labels: (n,) in 0 … classes - 1. TF-IDF with sublinear counts, logistic
    regression with balanced classes.
    """

    def __init__(self, sequences: Sequence[Ints], labels: Ints, classes: int, vocabulary: int) -> None:
        self.sequences, self.labels, self.classes, self.vocabulary = sequences, labels, classes, vocabulary
        self.weighting = TfidfTransformer(sublinear_tf=True)
        self.features = self.weighting.fit_transform(_counts(sequences, vocabulary))

    def channels(self) -> Floats:
        """(vocabulary, 1 or classes) weight of one occurrence of each token for the (second) class."""
        coefficients: Floats = self._fitted(np.arange(len(self.labels))).coef_ * self.weighting.idf_
        return coefficients.T

    def out_of_fold(self, groups: Sequence[str], seed: int, k: int = 5) -> Floats:
        """(n, classes) scores of each case by models that did not see its group; rows sum to zero."""
        fold = folds.folds(self.labels, groups, k, seed)
        scores = np.zeros((len(self.labels), self.classes))
        for held_out in range(k):
            rows = fold == held_out
            margin = self._fitted(np.flatnonzero(~rows)).decision_function(self.features[rows])
            scores[rows] = np.column_stack([-margin / 2, margin / 2]) if self.classes == 2 else margin
        centred: Floats = scores - scores.mean(axis=1, keepdims=True)
        return centred

    def _fitted(self, rows: Ints) -> LogisticRegression:
        model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=300)
        return model.fit(self.features[rows], self.labels[rows])


def _counts(sequences: Sequence[Ints], vocabulary: int) -> sparse.csr_matrix:
    columns = np.concatenate(sequences)
    rows = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    return sparse.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(sequences), vocabulary))
