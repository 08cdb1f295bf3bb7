"""What is planted is found: words that decide the label, and words that only make a record strange.

Records are a dozen common words drawn at random, with one planted word among them. Cue words were learned from 600 such
records; strange words are known to the encoder (as a pre-trained one knows words that a hospital never wrote), far from
whatever training and calibration held, and decide no label.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlcore.attribution import HIDINGS, explain
from mlcore.records import NoteText, Record
from mlcore.scorer import Scorer
from mlcore.train import COMPACT, TrainConfig, train
from tests.mlcore.conftest import COMMON, OTHER, SPEC, SUSPECT

CUES = (OTHER, SUSPECT)
FEW, ALL = 40, 200
CANDIDATES, STRANGE, REFERENCES = 120, 3, 16


def text_with(draw, planted):
    """Forty common words with others planted anywhere among them."""
    words = draw.choice(COMMON[:12], 40).tolist()
    for word in planted:
        words.insert(int(draw.integers(0, len(words) + 1)), word)
    return " ".join(words)


def cues(draw, label, n):
    return draw.choice(CUES[label], n, replace=False).tolist()


def training():
    """Two cues of its label in each record; a fifth of them has none and a label by chance, so that both cues are needed."""
    draw = np.random.default_rng(1)
    for i in range(600):
        label = int(draw.integers(0, 2)) if i % 5 == 4 else i % 2
        text = text_with(draw, [] if i % 5 == 4 else cues(draw, label, 2))
        yield Record(f"P{i}", [NoteText(text)], label, i + 1)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "bundle"
    config = TrainConfig(epochs=10, vocabulary=800, width=64, hidden=16, learning_rate=2e-3, head_rate=5e-3)
    train(list(training()), SPEC, COMPACT, folder, config)
    return Scorer.load(folder)


@pytest.fixture(scope="module")
def strange(scorer):
    """Words of vectors in random directions, those that make reference records strangest and change no label of theirs."""
    names = [f"raro{i:03}x" for i in range(CANDIDATES)]
    learn(scorer.encoder, names)
    draw = np.random.default_rng(2)
    texts = [text_with(draw, cues(draw, i % 2, 2)) for i in range(REFERENCES)]
    before = scorer.score_records([[text] for text in texts])[0]
    rows = np.arange(REFERENCES)
    gained = {}
    for name in names:
        after = scorer.score_records([[f"{text} {name}"] for text in texts])[0]
        farther = after.distances[rows, before.label] - before.distances[rows, before.label]
        if (after.label == before.label).all():
            gained[name] = farther.min()
    found = sorted(gained, key=lambda name: -gained[name])[:STRANGE]
    assert min(gained[name] for name in found) > 1
    return found


def learn(encoder, names):
    """Give the encoder tokens of its own for these words, of common length and in random directions."""
    table = encoder.model.get_input_embeddings().weight
    length, known = table.norm(dim=1).mean().item(), len(table)
    encoder.tokenizer.add_tokens(names)
    encoder.model.resize_token_embeddings(len(encoder.tokenizer), mean_resizing=False)
    way = torch.randn(len(names), table.shape[1], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        table = encoder.model.get_input_embeddings().weight
        table[known:] = way / way.norm(dim=1, keepdim=True) * length


def words_by(found, text, weight):
    return [text[w.start : w.end] for w in sorted(found.words, key=lambda w: -weight(w))]


def cue_shares(scorer, how, n):
    """Share of n records whose cue is among the first three by |margin|, and whose cue has the right sign."""
    draw, first, right = np.random.default_rng(5), 0, 0
    for i in range(n):
        (cue,) = cues(draw, i % 2, 1)
        text = text_with(draw, [cue])
        found = explain(scorer, [text], how)
        first += cue in words_by(found, text, lambda w: abs(w.margin))[:3]
        signs = {text[w.start : w.end]: w.sign for w in found.words}
        right += signs[cue] == ("away", "toward")[i % 2]
    return first / n, right / n


def strange_share(scorer, names, how, n):
    """Share of n records whose strange word makes them stranger than any other word does."""
    draw, first = np.random.default_rng(6), 0
    for i in range(n):
        name = str(draw.choice(names))
        text = text_with(draw, [name, *cues(draw, i % 2, 2)])
        first += words_by(explain(scorer, [text], how), text, lambda w: w.distance)[0] == name
    return first / n


@pytest.mark.parametrize("how", HIDINGS)
def test_planted_cues_are_found_with_their_sign(scorer, how):
    first, right = cue_shares(scorer, how, FEW)
    assert first >= 0.95 and right >= 0.99


@pytest.mark.parametrize("how", HIDINGS)
def test_planted_strange_words_rank_first_for_distance(scorer, strange, how):
    assert strange_share(scorer, strange, how, FEW) >= 0.9


@pytest.mark.campaign
@pytest.mark.parametrize("how", HIDINGS)
def test_planted_evidence_in_two_hundred_records(scorer, strange, how):
    first, right = cue_shares(scorer, how, ALL)
    assert first >= 0.95 and right >= 0.99
    assert strange_share(scorer, strange, how, ALL) >= 0.9
