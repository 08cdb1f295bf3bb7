"""What `manage.py train` is asked for is what is trained."""

import argparse
import json
from dataclasses import replace

import pytest
from django.core.management import call_command

from mlcore import protocols
from mlcore.errors import DataError, ModelError
from mlcore.loop import TrainConfig
from triage.management.commands import train as command

CARD = {
    "data": {"cases": 1},
    "epochs": [{"epoch": 1, "validation_auroc": 0.5}],
    "chosen": {"epoch": 1},
    "seconds": {"training": {"cpu": 1.0}},
}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Runs the command with these options; returns the config that training got."""
    notes = tmp_path / "notes.jsonl"
    rows = [json.dumps({"patient_id": f"P{i}", "notes": ["fiebre"], "label": i}) for i in range(2)]
    notes.write_text("\n".join(rows))
    got = []
    monkeypatch.setattr(command, "train", lambda *args, **kwargs: got.append(args[4]) or CARD)

    def run(*options):
        paths = ["--notes", str(notes), "--output", str(tmp_path / "b")]
        call_command("train", "--protocol", "hiv-suspicion-es", "--encoder", "compact", *paths, *options)
        return got[-1]

    return run


def test_what_is_not_asked_for_is_as_usual(asked):
    assert asked() == TrainConfig()


def test_every_option_reaches_the_training(asked):
    options = (
        "--head standard --pooling cls_mean_concat --tune 2 --epochs 9 --metric validation_auroc --seed 4"
    )
    assert asked(*options.split()) == TrainConfig(
        head="standard",
        pooling="cls_mean_concat",
        tune=2,
        epochs=9,
        metric="validation_auroc",
        seed=4,
    )


def test_each_number_and_choice_reaches_the_training(asked):
    options = (
        "--most-epochs 12 --patience 1 --batch 32 --drawn 700 --validation 0.1 --window 512 --head-rate 0.01 "
        "--rate 5e-5 --weight-decay 0.1 --distil 0.3 --loss weighted --no-tune-words --no-tune-dropout"
    )
    assert asked(*options.split()) == TrainConfig(
        most_epochs=12,
        patience=1,
        batch=32,
        drawn=700,
        validation=0.1,
        window=512,
        head_rate=0.01,
        tune_rate=5e-5,
        weight_decay=0.1,
        tune_distil=0.3,
        loss="weighted",
        tune_words=False,
        tune_dropout=False,
    )


def test_the_usual_of_a_protocol_gives_way_to_what_is_asked_for(tmp_path, monkeypatch):
    got, notes = [], tmp_path / "notes.jsonl"
    rows = [
        {"report_number": name, "text": "pump", "event_type": name}
        for name in ("Death", "Injury", "Malfunction", "Other")
    ]
    notes.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(command, "train", lambda *args, **kwargs: got.append(args[4]) or CARD)
    for options in ([], ["--epochs", "2", "--tune", "none"]):
        paths = ["--notes", str(notes), "--output", str(tmp_path / "b"), "--encoder", "a-folder"]
        call_command("train", "--protocol", "maude-severity-en", *paths, *options)
    usual = TrainConfig.usual(protocols.get("maude-severity-en"), "a-folder")
    assert got == [usual, replace(usual, epochs=2, tune=0)] and usual.tune


def test_folds_are_trained_told_and_compared_with_those_of_an_earlier_release(tmp_path, monkeypatch, capsys):
    notes = tmp_path / "notes.jsonl"
    rows = [json.dumps({"patient_id": f"P{i}", "notes": ["fiebre"], "label": i}) for i in range(2)]
    notes.write_text("\n".join(rows))
    got, like = [], {"folds": {"sha1": ["a", "b"]}}
    figures = {"mean": 0.5, "sd": 0.1}
    table = [{"fold": i, "f1": {"no": 0.4, "yes": 0.6}, "f1_macro": 0.5, "f1_weighted": 0.45} for i in (1, 2)]
    told = {
        "fold": 2,
        "why": "largest macro F1",
        "table": table,
        "f1": {"no": figures, "yes": figures},
        "f1_macro": figures,
        "f1_weighted": figures,
    }
    monkeypatch.setattr(command.bundle, "read_card", lambda folder: like)
    monkeypatch.setattr(
        command,
        "train_folds",
        lambda *args: got.append(args) or CARD | {"labels": ["no", "yes"], "folds": told},
    )
    paths = ["--notes", str(notes), "--output", str(tmp_path / "b"), "--encoder", "compact"]
    call_command(
        "train", "--protocol", "hiv-suspicion-es", *paths, "--folds", "2", "--folds-of", str(tmp_path)
    )
    assert got[0][4] == 2 and got[0][5] == TrainConfig() and got[0][-1] == like
    out = capsys.readouterr().out
    assert "0.5000 ± 0.1000" in out and "Fold 2 is kept: largest macro F1." in out


@pytest.mark.parametrize(("text", "meant"), [("none", 0), ("all", -1), ("3", 3), ("0", 0)])
def test_what_is_tuned_is_said_in_words_or_layers(text, meant):
    assert command.layers(text) == meant


@pytest.mark.parametrize("text", ["-1", "some", "1.5", ""])
def test_other_words_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="neither none, all nor a number"):
        command.layers(text)


def test_settings_that_cannot_be_used_are_told(asked):
    with pytest.raises(ModelError, match="epochs is 0"):
        asked("--epochs", "0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--notes", "n.jsonl", "--folds-of", "earlier"), "--folds-of compares folds and there are none"),
        (("--from-labels", "--folds", "5"), "--folds cannot go with --from-labels"),
    ],
)
def test_options_of_folds_that_cannot_go_together_are_refused(options, said, tmp_path):
    where = ("--protocol", "hiv-suspicion-es", "--encoder", "compact", "--output", str(tmp_path / "b"))
    with pytest.raises(DataError, match=said):
        call_command("train", *where, *options)
