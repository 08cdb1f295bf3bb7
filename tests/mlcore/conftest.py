"""Small models made once a session: a RoBERTa folder, and a bundle trained on invented cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlcore import protocols
from mlcore.records import NoteText, Record

SPEC = protocols.HIV_SUSPICION_ES
COMMON = [
    "paciente",
    "acude",
    "consulta",
    "revisión",
    "dolor",
    "abdominal",
    "fiebre",
    "tos",
    "seca",
    "control",
    "tensión",
    "arterial",
    "analítica",
    "normal",
    "exploración",
    "anodina",
    "tratamiento",
    "paracetamol",
    "seguimiento",
    "médico",
    "ingreso",
    "alta",
    "radiografía",
    "tórax",
    "antecedentes",
    "cirugía",
    "rodilla",
    "derecha",
    "izquierda",
    "familiar",
    "niega",
    "alergias",
    "evolución",
    "favorable",
    "sin",
    "cambios",
    "refiere",
    "leve",
    "intenso",
]
SUSPECT = [
    "candidiasis",
    "oral",
    "recurrente",
    "herpes",
    "zóster",
    "linfadenopatía",
    "neumonía",
    "atípica",
    "pérdida",
    "ponderal",
    "sudoración",
]
OTHER = [
    "fractura",
    "cadera",
    "artrosis",
    "prótesis",
    "vértigo",
    "catarata",
    "hernia",
    "lumbar",
    "esguince",
    "tobillo",
    "gonalgia",
]


def case(number: int, label: int, rng: np.random.Generator, words: int = 40) -> Record:
    """An invented case of one to three notes; a few words tell its label."""
    notes = []
    for _ in range(int(rng.integers(1, 4))):
        telling = rng.choice(SUSPECT if label else OTHER, 4)
        text = rng.permutation([*rng.choice(COMMON, words), *telling])
        notes.append(NoteText(" ".join(text).capitalize() + "."))
    return Record(f"P{number}", notes, label, number + 1)


def cases(n: int, seed: int, words: int = 40) -> list[Record]:
    """n cases, a third of them suspect."""
    rng = np.random.default_rng(seed)
    return [case(i, int(i % 3 == 0), rng, words) for i in range(n)]


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of random weights with a byte-level BPE tokenizer, as save_pretrained writes it."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizerFast

    folder = tmp_path_factory.mktemp("roberta")
    raw = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    texts = [note.text for record in cases(60, 1) for note in record.notes]
    raw.train_from_iterator(texts, vocab_size=600, special_tokens=special, show_progress=False)
    raw.save_model(str(folder))
    tokenizer = RobertaTokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=512
    )
    torch.manual_seed(3)
    config = RobertaConfig(
        vocab_size=600,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=514,
        initializer_range=0.3,
    )
    for left in folder.iterdir():
        left.unlink()
    RobertaModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def config():
    """Small enough for a test, large enough to learn the invented cases."""
    from mlcore.train import TrainConfig

    return TrainConfig(epochs=10, vocabulary=600, width=32, hidden=16, learning_rate=2e-3, head_rate=5e-3)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, config) -> Path:
    """A bundle of a compact encoder trained on 240 invented cases."""
    from mlcore.train import COMPACT, train

    folder = tmp_path_factory.mktemp("trained") / "bundle"
    train(cases(240, 2), SPEC, COMPACT, folder, config)
    return folder
