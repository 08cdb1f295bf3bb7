import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from mlcore import chunks, compact, loop, mil, train
from mlcore.encoder import Encoder
from mlcore.errors import ModelError
from tests.mlcore.conftest import SPEC, cases

RECORDS = cases(120, 5, words=25)
LABELS = np.array([r.label for r in RECORDS])
FIT, VALIDATION = np.arange(80), np.arange(80, 120)


def fitted(config, encoder=train.COMPACT):
    groups = [r.patient_id for r in RECORDS]
    clock = loop.Clock(lambda *event: None)
    return train.fit_model(RECORDS, LABELS, groups, SPEC, encoder, config, FIT, VALIDATION, clock)


@pytest.fixture(scope="module")
def small(config):
    return replace(config, epochs=3, width=16)


def told(monkeypatch, losses, aurocs):
    """Epochs of these figures, whatever the model; returns the head's weights after each."""
    figures, seen = iter(zip(losses, aurocs, strict=True)), []

    def quality(encoder, head, data, spec):
        seen.append({k: v.clone() for k, v in head.state_dict().items()})
        loss, auroc = next(figures)
        return {
            "validation_loss": loss,
            "validation_auroc": auroc,
            "validation_average_precision": 0.5,
            "temperature": len(seen) + 0.5,
        }

    monkeypatch.setattr(loop, "_share_of_rate", lambda step, steps: 1.0)
    monkeypatch.setattr(loop, "quality", quality)
    return seen


@pytest.mark.parametrize(
    ("metric", "best"), [("validation_loss", 2), ("validation_auroc", 3), ("validation_average_precision", 1)]
)
def test_the_best_epoch_by_the_metric_is_kept_not_the_last(small, monkeypatch, metric, best):
    seen = told(monkeypatch, [0.5, 0.1, 0.3, 0.4], [0.6, 0.7, 0.9, 0.8])
    model = fitted(replace(small, epochs=4, metric=metric))
    kept = model.head.state_dict()
    assert (
        model.temperature == best + 0.5 and model.chosen["epoch"] == best and model.chosen["metric"] == metric
    )
    assert all((kept[k] == seen[best - 1][k]).all() for k in kept)
    assert any((kept[k] != seen[-1][k]).any() for k in kept)


def test_training_stops_when_nothing_gets_better(small, monkeypatch):
    seen = told(monkeypatch, [0.5, 0.4, 0.45, 0.41, 0.1], [0.5] * 5)
    model = fitted(replace(small, epochs=5, patience=2))
    assert len(seen) == len(model.epochs) == 4 and model.chosen["epoch"] == 2
    assert model.chosen["why"] == (
        "least validation loss (0.40000) of 4 epochs, stopped after 2 without a better one (5 were allowed)"
    )


def test_an_epoch_is_chosen_for_its_figures_as_they_are(small):
    model = fitted(small)
    losses = [epoch["validation_loss"] for epoch in model.epochs]
    assert model.chosen["epoch"] == 1 + int(np.argmin(losses)) and all(map(math.isfinite, losses))
    assert model.epochs[-1]["training_loss"] < model.epochs[0]["training_loss"]


def test_an_epoch_takes_half_of_the_commonest_class_and_all_others():
    labels = np.repeat([0, 1, 2], [100, 10, 5])
    drawn = loop.thinned(labels, np.random.default_rng(0))
    assert Counter(labels[drawn].tolist()) == {0: 50, 1: 10, 2: 5} and len(set(drawn)) == 65
    even = np.repeat([0, 1], [60, 50])
    assert Counter(even[loop.thinned(even, np.random.default_rng(0))].tolist()) == {0: 50, 1: 50}


def material(tokenizer, vectors=None, linear=None):
    found = {i: chunks.kept(r.texts, tokenizer) for i, r in enumerate(RECORDS)}
    return loop.Material(found, vectors, linear, LABELS, FIT, VALIDATION)


@pytest.mark.parametrize("tokens", [1, 300])
@pytest.mark.parametrize("kind", mil.KINDS)
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(roberta, small, monkeypatch, kind, tokens):
    """Parts of one case each, and of a few; recomputed in the backward pass where even a part is too much."""
    monkeypatch.setattr("mlcore.encoder.LARGE", 16)

    def gradient(budget):
        monkeypatch.setattr("mlcore.encoder.TOKENS_PER_GRADIENT", budget)
        torch.manual_seed(0)
        encoder = Encoder.load(roberta)
        encoder.tune(1)
        head = mil.Head(encoder.width, 2, 8, kind=kind).eval()
        data = material(encoder.tokenizer)
        parts = loop.parts(encoder, data, np.arange(12))
        assert sorted(np.concatenate(parts)) == list(range(12))
        loss = loop.gradients(
            encoder, head, data, np.arange(12), torch.zeros(2), small, Accelerator(cpu=True)
        )
        found = [p.grad for p in [*head.parameters(), *encoder.parameters()] if p.grad is not None]
        return loss, found, len(parts)

    (whole, expected, one), (parted, found, many) = gradient(10**6), gradient(tokens)
    assert one == 1 and many > 2 and np.isclose(whole, parted, atol=1e-6)
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-4)


def test_a_compact_batch_meets_the_channels_of_its_own_fold(small, monkeypatch):
    """And validation the channels of all: what a new case will meet."""
    met = []
    forward, encode = Encoder.forward, Encoder.encode

    def first(encoder):
        return encoder.model.get_input_embeddings().weight[7, :2].detach().double().numpy()

    monkeypatch.setattr(
        Encoder, "forward", lambda self, w, d: met.append(("fold", first(self).copy())) or forward(self, w, d)
    )
    monkeypatch.setattr(
        Encoder,
        "encode",
        lambda self, w, p="auto": met.append(("all", first(self).copy())) or encode(self, w, p),
    )
    made = []
    linear = compact.Linear
    monkeypatch.setattr(compact, "Linear", lambda *args: made.append(linear(*args)) or made[0])
    fitted(replace(small, epochs=1))
    folds = [c[7] for c in made[0].fold_channels]
    for where, seen in met:
        expected = folds if where == "fold" else [made[0].channels[7]]
        assert any(np.allclose(seen, one, atol=1e-6) for one in expected)
    assert {where for where, _ in met} == {"fold", "all"}


def test_batches_hold_cases_of_one_fold_and_each_drawn_case_once(small):
    class Folded:
        fold = np.arange(80) % 5

    drawn = loop.draw_batches(
        loop.Material({}, None, Folded(), LABELS, FIT, VALIDATION), 8, np.random.default_rng(1)
    )
    positions = np.concatenate(drawn)
    assert len(set(positions)) == len(positions) and all(len(b) <= 8 for b in drawn)
    assert all(len(set(Folded.fold[b])) == 1 for b in drawn)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"tune": -2}, "tune is -2"),
        ({"metric": "f2"}, "use one of validation_loss"),
        ({"head": "deep"}, "use one of baseline"),
        ({"pooling": "max"}, "use one of cls"),
    ],
)
def test_settings_that_cannot_be_used_are_told(setting, sentence):
    with pytest.raises(ModelError, match=sentence):
        loop.TrainConfig(**setting)


PROCESSES = """
import sys
from dataclasses import replace
import torch
from mlcore import loop, mil
mil.DROPOUT = 0.0
from tests.mlcore.test_loop import fitted
config = loop.TrainConfig(epochs=2, width=16, vocabulary=600, hidden=16, dropped=0.0, head=sys.argv[1])
model = fitted(config)
if int(__import__("os").environ.get("RANK", 0)) == 0:
    torch.save({**model.head.state_dict(), "epochs": torch.tensor([e["training_loss"] for e in model.epochs])}, sys.argv[2])
"""


@pytest.mark.campaign
def test_two_processes_learn_what_one_learns(tmp_path):
    """Each takes half of every batch; without dropout nothing else may differ."""
    (tmp_path / "run.py").write_text(PROCESSES)
    single = [sys.executable]
    double = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    for name, launcher in (("one", single), ("two", double)):
        subprocess.run([*launcher, str(tmp_path / "run.py"), "spectral", str(tmp_path / name)], check=True)
    one, two = (torch.load(tmp_path / name) for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=1e-3)
