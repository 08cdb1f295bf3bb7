import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from mlcore import chunks, compact, loop, mil, protocols, train
from mlcore.calibrate import probabilities
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

    def quality(encoder, head, data, spec, unbiased):
        seen.append({k: v.clone() for k, v in head.state_dict().items()})
        loss, auroc = next(figures)
        return {
            "validation_loss": loss,
            "validation_auroc": auroc,
            "validation_average_precision": 0.5,
            "temperature": len(seen) + 0.5,
        }

    monkeypatch.setattr(loop, "share_of_rate", lambda step, planned, steps: 1.0)
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


def test_training_goes_on_past_the_planned_epochs_while_it_gets_better(small, monkeypatch):
    """Five epochs were better each time, two were planned: four is where patience ends it, not the plan."""
    seen = told(monkeypatch, [0.5, 0.4, 0.3, 0.35, 0.1], [0.5] * 5)
    model = fitted(replace(small, epochs=2, most_epochs=5, patience=1))
    assert len(seen) == 4 and model.chosen["epoch"] == 3
    assert model.chosen["why"] == (
        "least validation loss (0.30000) of 4 epochs, stopped after 1 without a better one (5 were allowed)"
    )


def test_a_bound_that_was_reached_is_told(small, monkeypatch):
    told(monkeypatch, [0.5, 0.4, 0.3], [0.5] * 3)
    model = fitted(replace(small, epochs=2, most_epochs=3))
    assert model.chosen["why"] == (
        "least validation loss (0.30000) of 3 epochs, all that were allowed (2 were planned); the last was the best, so "
        "more might be better still"
    )


def test_the_planned_epochs_learn_the_same_however_far_it_may_go_on(small, monkeypatch):
    """The batches are drawn alike and the rate is the same but for its end."""
    monkeypatch.setattr(loop, "share_of_rate", lambda step, planned, steps: 0.5)
    few, more = (fitted(replace(small, epochs=2, most_epochs=most)) for most in (0, 4))
    assert more.epochs[:2] == few.epochs and len(more.epochs) > 2


def test_the_rate_rises_falls_and_ends_as_stated():
    assert [loop.share_of_rate(s, 100, 100) for s in (0, 4, 9, 10, 55, 100)] == [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
    late = [loop.share_of_rate(s, 100, 200) for s in (4, 9, 55, 95, 100, 199)]
    assert late == [0.5, 1.0, 0.5, loop.LATE_RATE, loop.LATE_RATE, loop.LATE_RATE]
    assert loop.share_of_rate(0, 1, 1) == 1.0


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


def test_an_epoch_spreads_its_cases_over_as_many_groups_as_there_are():
    """40 cases in a template and 12 alone: of 10, none may be of a group that another case drawn is of."""
    labels = np.repeat([0, 1], [52, 3])
    groups = np.array(["template"] * 40 + [f"g{i}" for i in range(15)])
    for seed in range(5):
        drawn = loop.spread(labels, groups, 10, np.random.default_rng(seed))
        assert Counter(labels[drawn].tolist()) == {0: 10, 1: 3} and len(set(drawn)) == 13
        assert len(set(groups[drawn])) == 13
    every = loop.spread(labels, groups, 20, np.random.default_rng(0))
    assert Counter(groups[every[labels[every] == 0]].tolist())["template"] == 20 - 12
    assert sorted(loop.spread(labels, groups, 60, np.random.default_rng(0))) == list(range(55))


def test_cases_of_a_group_that_two_labels_share_are_drawn_for_both():
    drawn = loop.spread(np.array([0, 0, 1, 1]), np.array(["a"] * 4), 1, np.random.default_rng(0))
    assert sorted(np.array([0, 0, 1, 1])[drawn]) == [0, 1]


CRITICAL = replace(SPEC, critical=(SPEC.labels[1],))


def test_a_protocol_with_critical_labels_chooses_by_their_f1():
    assert loop.TrainConfig().of(CRITICAL).metric == "validation_critical_f1"
    assert loop.TrainConfig().of(SPEC).metric == "validation_loss"
    assert loop.TrainConfig(metric="validation_auroc").of(CRITICAL).metric == "validation_auroc"


def test_critical_f1_is_that_of_the_most_probable_label_and_the_card_says_for_what(small):
    groups = [r.patient_id for r in RECORDS]
    clock = loop.Clock(lambda *event: None)
    model = train.fit_model(
        RECORDS, LABELS, groups, CRITICAL, train.COMPACT, replace(small, epochs=2), FIT, VALIDATION, clock
    )
    logits = model.outputs([RECORDS[i].texts for i in VALIDATION]).logits
    called, truth = logits.argmax(axis=1), LABELS[VALIDATION]
    hits = int(((called == 1) & (truth == 1)).sum())
    expected = 2 * hits / (int((called == 1).sum()) + int((truth == 1).sum()))
    kept = model.epochs[model.chosen["epoch"] - 1]
    assert kept["validation_critical_f1"] == round(expected, 5)
    assert f"of {SPEC.labels[1]}, which {SPEC.slug} holds critical, of 2 epochs" in model.chosen["why"]


def test_an_unbiased_head_tells_each_class_as_often_as_it_comes_and_learns_the_same(small):
    """Only the constant added to the logits differs, so that no gradient does."""
    plain, unbiased = (fitted(replace(small, epochs=1, unbiased=asked)) for asked in (False, True))
    texts = [RECORDS[i].texts for i in VALIDATION]
    before, after = (
        abs(probabilities(m.outputs(texts).logits, m.temperature)[:, 1].mean() - LABELS[VALIDATION].mean())
        for m in (plain, unbiased)
    )
    assert after < before / 2, "the prior on so few cases' bias leaves a little"
    own, other = plain.head.state_dict(), unbiased.head.state_dict()
    assert [k for k in own if (own[k] != other[k]).any()] == ["log_prior"]


def test_of_equals_the_epoch_of_less_loss_is_kept():
    rows = [(0.5, 0.4), (0.6, 0.3), (0.6, 0.2), (0.6, 0.25)]
    epochs = [
        {"epoch": i, "validation_critical_f1": f, "validation_loss": loss}
        for i, (f, loss) in enumerate(rows, 1)
    ]
    assert loop.chosen(epochs, "validation_critical_f1")["epoch"] == 3


def test_a_tuned_encoder_follows_a_linear_model_where_asked_and_its_words_stay(roberta, small):
    """The teacher is out of fold; without a share for it no linear model is made."""
    before = Encoder.load(roberta).model.get_input_embeddings().weight
    tuned = replace(small, epochs=1, tune=-1, tune_words=False, tune_rate=1e-2)
    alone, following = (fitted(replace(tuned, tune_distil=share), roberta) for share in (0.0, 0.9))
    assert "linear model" in following.seconds and "linear model" not in alone.seconds
    a, b = (dict(m.encoder.model.named_parameters()) for m in (alone, following))
    assert any((a[name] != b[name]).any() for name in a)
    for model in (alone, following):
        assert (model.encoder.model.get_input_embeddings().weight == before).all()
        assert any(
            (p != q).any()
            for p, q in zip(
                model.encoder.model.encoder.parameters(),
                Encoder.load(roberta).model.encoder.parameters(),
                strict=True,
            )
        )


def test_the_usual_training_is_the_paper_s_but_for_device_events():
    event = protocols.get("maude-severity-en")
    assert loop.TrainConfig.usual(SPEC, "folder") == loop.TrainConfig()
    assert (
        loop.TrainConfig.usual(event, "compact")
        == loop.TrainConfig.usual(event, "tfidf")
        == loop.TrainConfig()
    )
    assert loop.TrainConfig.usual(event, "folder") == loop.TrainConfig(**loop.FINE_TUNED)


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
        loop.Material({}, None, Folded(), LABELS, FIT, VALIDATION),
        replace(small, batch=8),
        np.random.default_rng(1),
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
        ({"loss": "hinge"}, "use one of adjusted, weighted"),
        ({"drawn": -1}, "drawn is -1"),
        ({"most_epochs": -1}, "most_epochs is -1"),
        ({"window": 100}, "window is 100: it must be at least 128"),
        ({"tune_distil": 1.0}, "tune_distil is 1.0"),
        ({"tune_rate": 0.0}, "learning rate must lie above 0"),
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
