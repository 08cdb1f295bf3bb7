import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from mlcore import chunks
from mlcore.encoder import Encoder, batches
from mlcore.errors import ModelError

NOTES = ["Paciente con fiebre alta. " * n for n in (1, 40, 7, 90, 2)]


@pytest.fixture(scope="module")
def encoder(roberta):
    return Encoder.load(roberta)


@pytest.fixture(scope="module")
def windows(encoder):
    return chunks.windows(NOTES, encoder.tokenizer)


def own_states(folder, window):
    """Hidden states and last attention as transformers alone gives them, one window without padding."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        out = model(torch.tensor([window.ids]), output_attentions=True)
    return out.last_hidden_state[0].numpy(), out.attentions[-1][0].numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_batched_vectors_are_transformers_own(roberta, windows, pooling):
    vectors = Encoder.load(roberta, pooling).encode(windows, "fp32")
    assert vectors.dtype == np.float32
    for window, vector in zip(windows, vectors, strict=True):
        states, _ = own_states(roberta, window)
        expected = states.mean(axis=0) if pooling == "mean" else states[0]
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_a_window_is_the_same_alone_and_among_others(encoder, windows):
    together = encoder.encode(windows, "fp32")
    alone = np.concatenate([encoder.encode([w], "fp32") for w in windows])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_attention_by_its_definition(roberta, encoder, windows):
    for window, importance in zip(windows, encoder.attention(windows), strict=True):
        _, attention = own_states(roberta, window)
        rows = attention.mean(axis=0)
        np.testing.assert_allclose(importance, 0.5 * rows[0] + 0.5 * rows.mean(axis=0), atol=1e-6)
    assert encoder.model.config._attn_implementation == "sdpa"


def test_a_gate_weighs_tokens_and_attention(trained, windows):
    from mlcore.scorer import Scorer

    encoder = Scorer.load(trained).encoder
    own = chunks.windows(NOTES, encoder.tokenizer)
    gate = {k: v.double().numpy() for k, v in encoder.gate.state_dict().items()}
    for window, importance, vector in zip(own, encoder.attention(own), encoder.encode(own), strict=True):
        states, attention = own_states(trained / "encoder", window)
        share = np.exp(states @ gate["score.weight"][0])
        share /= share.sum()
        np.testing.assert_allclose(vector, share @ states, atol=1e-5)
        rows = attention.mean(axis=0)
        np.testing.assert_allclose(importance, (0.5 * rows[0] + 0.5 * rows.mean(axis=0)) * share, atol=1e-6)


def test_batches_hold_similar_lengths_within_the_budget():
    lengths = [5, 384, 10, 384, 6, 383, 1]
    groups = batches(lengths, tokens=800)
    assert sorted(i for group in groups for i in group) == list(range(7))
    assert groups == [[1, 3], [5, 2], [4, 0, 6]] or all(
        len(g) * max(lengths[i] for i in g) <= 800 for g in groups
    )


def test_padding_waste_is_small():
    lengths = np.random.default_rng(0).integers(10, 385, 2000).tolist()
    padded = sum(len(g) * max(lengths[i] for i in g) for g in batches(lengths))
    assert padded <= 1.05 * sum(lengths)


def test_no_windows_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 32)


def test_a_missing_folder_is_told_in_one_sentence(tmp_path):
    with pytest.raises(ModelError, match="no encoder folder"):
        Encoder.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no encoder folder"):
        Encoder.load("./nowhere")


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(ModelError, match="save_pretrained"):
        Encoder.load(tmp_path)


def test_a_name_that_cannot_be_fetched_asks_for_a_folder(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(ModelError, match="folder made by save_pretrained"):
        Encoder.load("someone/some-encoder")


def test_masking_hides_the_asked_share_and_never_the_first_token(encoder, windows, monkeypatch):
    seen = []
    hidden = Encoder._hidden

    def spy(model, ids, mask):
        seen.append((ids, mask))
        return hidden(model, ids, mask)

    monkeypatch.setattr(Encoder, "_hidden", staticmethod(spy))
    torch.manual_seed(0)
    encoder(windows * 5, masked=0.3)
    ids, mask = torch.cat([i[m] for i, m in seen]), None
    assert mask is None and 0.25 < (ids == encoder.mask_id).float().mean() < 0.35
    assert all((i[:, 0] == encoder.tokenizer.cls_token_id).all() for i, _ in seen)
