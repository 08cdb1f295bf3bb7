import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from mlcore import compact
from mlcore.encoder import Encoder
from tests.mlcore.conftest import cases


def test_the_encoder_is_an_ordinary_hugging_face_folder(trained):
    from mlcore.scorer import Scorer

    scorer = Scorer.load(trained)
    tokenizer = AutoTokenizer.from_pretrained(trained / "encoder")
    model = AutoModel.from_pretrained(trained / "encoder").eval()
    encoded = tokenizer("Paciente con candidiasis oral", return_tensors="pt", return_offsets_mapping=True)
    assert encoded.pop("offset_mapping")[0, 1].tolist() == [0, 8]
    with torch.no_grad():
        states = model(**encoded).last_hidden_state
        own = scorer.encoder.model(**encoded).last_hidden_state
    assert torch.equal(states, own)
    assert Encoder.load(trained / "encoder", "mean").width == 32


def test_the_tokenizer_is_blind_to_case_and_accents_and_points_into_the_text_as_written():
    tokens = compact.tokenizer(["neumonía atípica con candidiasis"] * 5, 200)
    text = "NEUMONÍA  atipica, e\u0301 😀"
    encoded = tokens(text, add_special_tokens=False, return_offsets_mapping=True)
    assert encoded["input_ids"][:2] == tokens("neumonia atípica", add_special_tokens=False)["input_ids"]
    assert text[slice(*encoded["offset_mapping"][0])] == "NEUMONÍA"
    assert text[slice(*encoded["offset_mapping"][-1])] == "😀"


def test_numbers_and_signs_survive_even_where_training_never_met_them():
    tokens = compact.tokenizer(["fiebre alta"] * 5, 300)
    for text in ("4 <200 - ≤ 3,5 ± 2 (-) + 10% ↑", "= ≠ > ≥ < ≮"):
        found = tokens(text, add_special_tokens=False, return_offsets_mapping=True)
        assert tokens.unk_token_id not in found["input_ids"]
        assert "".join(tokens.convert_ids_to_tokens(found["input_ids"])).replace("▁", "") == text.replace(
            " ", ""
        )
    ids = [tokens(text)["input_ids"] for text in ("a = b", "a ≠ b", "a =\u0338 b")]
    assert ids[0] != ids[1] == ids[2], "a stroke through a sign is no accent"


def test_the_same_texts_give_the_same_tokenizer():
    texts = [note.text for record in cases(60, 3) for note in record.notes]
    first, second = compact.tokenizer(texts, 700), compact.tokenizer(texts, 700)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_ppmi_by_its_definition():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 6, n) for n in (9, 1, 14, 3)]
    counts = np.zeros((6, 6))
    for s in sequences:
        for i in range(len(s)):
            for j in range(len(s)):
                if 0 < abs(i - j) <= 2:
                    counts[s[i], s[j]] += 1
    context = counts.sum(1) ** 0.75
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(counts / counts.sum(1)[:, None] / (context / context.sum()))
    ppmi = np.where(counts > 0, np.maximum(pmi, 0), 0)
    left, values, _ = np.linalg.svd(ppmi)
    found = compact.ppmi_svd(sequences, 6, 6, reach=2)
    np.testing.assert_allclose(np.abs(found @ found.T), np.abs(left * values @ left.T), atol=1e-8)


def test_pieces_are_the_characters_inside_a_token_that_others_share():
    tokens = ["[CLS]", "adenopatía", "linfadenopatía", "tos", "[UNK]"]
    found = compact.pieces(tokens).toarray()
    shared = {"adenopatía "[i : i + n] for n in (3, 4, 5) for i in range(12 - n)}
    assert found.shape[1] == len(shared) and (found[[0, 3, 4]] == 0).all()
    np.testing.assert_array_equal(found[1], found[2])


def test_pairs_are_neighbours_that_several_cases_hold():
    sequences = [np.array([1, 2, 3]), np.array([0, 1, 2, 1, 2]), np.array([2])]
    np.testing.assert_array_equal(compact.pairs(sequences, 4).toarray(), [[1], [2], [0]])


def test_a_rare_word_speaks_like_its_relatives():
    """A token no training case holds has no weight of its own, but the characters in it do."""
    tokens = ["[PAD]", "▁adenopatía", "▁linfadenopatía", "▁poliadenopatía", "▁fractura", "▁fracturado"]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 100)
    sequences = [np.append(rng.integers(1, 3, 5), 5) if y else np.full(6, 4) for y in labels]
    linear = compact.Linear(sequences, labels, 2, tokens, [str(i) for i in range(100)], seed=0)
    own, inside = linear.channels.T
    assert own[3] == 0 and inside[3] > 0 and inside[4] < 0


def margins(channels, sequences):
    """(n, 3) scores of sublinear TF-IDF rows of length one under token weights that hold the idf, without intercept."""
    counts = np.array([np.bincount(s, minlength=len(channels)) for s in sequences])
    sublinear = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    idf = np.log((1 + len(counts)) / (1 + (counts > 0).sum(axis=0))) + 1
    return sublinear @ channels / np.linalg.norm(sublinear * idf, axis=1, keepdims=True)


def test_channels_are_the_weight_of_one_occurrence():
    rng = np.random.default_rng(4)
    labels = np.tile([0, 1, 2], 40)
    sequences = [np.append(rng.integers(3, 30, 20), [y, y]) for y in labels]
    linear = compact.Linear(
        sequences, labels, 3, [f"t{i}" for i in range(30)], [str(i) for i in range(120)], seed=0
    )
    own = linear.channels[:, :3]
    assert linear.channels.shape == (30, 6) and np.isclose(own.std(), 1)
    assert (own[:3].argmax(axis=1) == [0, 1, 2]).all()
    assert (margins(own, sequences).argmax(axis=1) == labels).mean() > 0.95


def test_scores_and_fold_channels_are_of_models_that_did_not_see_the_fold():
    """With labels that are noise, a model that saw a case knows it; one that did not, cannot."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 120)
    sequences = [rng.integers(0, 400, 12) for _ in labels]
    linear = compact.Linear(
        sequences, labels, 3, [f"t{i}" for i in range(400)], [str(i) for i in range(120)], seed=0
    )
    right = [(margins(c[:, :3], sequences).argmax(axis=1) == labels) for c in linear.fold_channels]
    unseen = np.mean([right[fold][i] for i, fold in enumerate(linear.fold)])
    seen = (margins(linear.channels[:, :3], sequences).argmax(axis=1) == labels).mean()
    assert unseen < 0.5 and seen > 0.9 and (linear.scores.argmax(axis=1) == labels).mean() < 0.5
    np.testing.assert_allclose(linear.scores.sum(axis=1), 0, atol=1e-9)


def test_given_channels_change_only_the_first_dimensions(trained):
    encoder = Encoder.load(trained / "encoder")
    weight = encoder.model.get_input_embeddings().weight
    before = weight.detach().clone()
    compact.give(encoder, np.full((len(before), 1), 7.0))
    special = encoder.tokenizer.all_special_ids
    assert (weight[special] == 0).all() and torch.equal(weight[:, 1:], before[:, 1:])
    assert (np.delete(weight[:, 0].detach().numpy(), special) == 7).all()
