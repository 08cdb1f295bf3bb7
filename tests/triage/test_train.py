"""What `manage.py train` is asked for is what is trained."""

import argparse
import json

import pytest
from django.core.management import call_command

from mlcore.errors import ModelError
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
