import unicodedata

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from mlcore import chunks
from mlcore.encoder import POOLINGS, TOKENS_PER_BATCH, Encoder, batches, compose, thin
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


POOLED = {
    "cls": lambda states: states[0],
    "mean": lambda states: states.mean(axis=0),
    "gated": lambda states: states.mean(axis=0),  # an untrained gate
    "cls_mean_concat": lambda states: np.concatenate([states[0], states.mean(axis=0)]),
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_batched_vectors_are_transformers_own(roberta, windows, pooling):
    encoder = Encoder.load(roberta, pooling)
    vectors = encoder.encode(windows, "fp32")
    assert vectors.dtype == np.float32 and vectors.shape == (len(windows), encoder.width)
    for window, vector in zip(windows, vectors, strict=True):
        states, _ = own_states(roberta, window)
        np.testing.assert_allclose(vector, POOLED[pooling](states), atol=1e-5)


def test_an_unknown_pooling_is_refused(roberta):
    with pytest.raises(ModelError, match="cls, mean, cls_mean_concat, gated"):
        Encoder.load(roberta, "max")


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
    padded = sum(len(g) * max(lengths[i] for i in g) for g in batches(lengths, TOKENS_PER_BATCH))
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


def test_a_share_of_the_tokens_is_left_out_but_never_the_special_ones(windows):
    torch.manual_seed(0)
    for window in windows * 20:
        left = thin(window, 0.5)
        assert left.ids[0] == window.ids[0] and left.ids[-1] == window.ids[-1]
        assert len(left.ids) == len(left.offsets)
        rest = iter(zip(window.ids, window.offsets.tolist(), strict=True))
        assert all(token in rest for token in zip(left.ids, left.offsets.tolist(), strict=True)), "in order"
    longest = max(windows, key=lambda w: len(w.ids))
    share = np.mean([len(thin(longest, 0.3).ids) for _ in range(200)]) / len(longest.ids)
    assert 0.68 < share < 0.72 and thin(longest, 0.0).ids == longest.ids


def test_learning_sees_the_same_vectors_in_one_run_or_in_many_recomputed_ones(roberta, windows, monkeypatch):
    """Memory is bounded by recomputing runs in the backward pass; vectors and gradients must not tell."""

    def learned(tokens):
        monkeypatch.setattr("mlcore.encoder.TOKENS_PER_GRADIENT", tokens)
        monkeypatch.setattr("mlcore.encoder.LARGE", 16)
        encoder = Encoder.load(roberta, "cls_mean_concat")
        encoder.tune(-1)
        vectors = encoder(windows)
        (vectors * torch.linspace(-1, 1, vectors.shape[1])).square().mean().backward()
        return vectors.detach(), [p.grad for p in encoder.model.parameters() if p.grad is not None]

    (whole, gradient), (parted, again) = learned(10**6), learned(100)
    torch.testing.assert_close(parted, whole, atol=1e-6, rtol=1e-5)
    assert len(gradient) == len(again) > 20
    for a, b in zip(gradient, again, strict=True):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("last", "learning"), [(0, set()), (1, {"encoder.layer.1"}), (2, {"encoder.layer.0", "encoder.layer.1"})]
)
def test_the_last_layers_are_tuned(roberta, last, learning):
    encoder = Encoder.load(roberta)
    encoder.tune(last)
    found = {".".join(n.split(".")[:3]) for n, p in encoder.model.named_parameters() if p.requires_grad}
    assert found == learning


def test_token_vectors_and_dropout_are_left_out_where_asked(roberta, windows):
    encoder = Encoder.load(roberta)
    encoder.tune(-1, words=False, dropout=False)
    still = {n for n, p in encoder.model.named_parameters() if not p.requires_grad and "pooler" not in n}
    assert still == {"embeddings.word_embeddings.weight"}
    assert torch.equal(encoder.train()(windows), encoder(windows)), "nothing is drawn"
    noisy = Encoder.load(roberta)
    noisy.tune(-1)
    assert not torch.equal(noisy.train()(windows), noisy(windows))


def test_the_whole_encoder_is_tuned_but_what_no_vector_depends_on(roberta):
    encoder = Encoder.load(roberta)
    encoder.tune(-1)
    frozen = {n.split(".")[0] for n, p in encoder.model.named_parameters() if not p.requires_grad}
    assert frozen <= {"pooler"}
    with pytest.raises(ModelError, match="has 2 layers, 3 cannot be tuned"):
        encoder.tune(3)


def test_what_was_encoded_is_read_from_its_file_and_never_encoded_again(
    roberta, windows, tmp_path, monkeypatch
):
    encoder = Encoder.load(roberta)
    plain = encoder.encode(windows)
    encoder.remember(tmp_path / "vectors.bin")
    assert (encoder.encode([*windows, windows[0]]) == np.concatenate([plain, plain[:1]])).all()
    with (tmp_path / "vectors.bin").open("ab") as file:
        file.write(b"cut short")
    again = Encoder.load(roberta)
    again.remember(tmp_path / "vectors.bin")
    monkeypatch.setattr(Encoder, "_encode", lambda *args: pytest.fail("encoded again"))
    assert (again.encode(windows) == plain).all()


def test_vectors_of_other_weights_are_not_taken_for_its_own(roberta, windows, tmp_path):
    for pooling in ("mean", "cls"):
        encoder = Encoder.load(roberta, pooling)
        plain = encoder.encode(windows)
        encoder.remember(tmp_path / "vectors.bin")
        assert (encoder.encode(windows) == plain).all()


def test_a_stream_gives_each_case_its_vectors_and_reads_ahead_only_so_far(encoder, windows, monkeypatch):
    monkeypatch.setattr("mlcore.encoder.TOKENS_IN_FLIGHT", 2000)
    cases = [windows[: 1 + i % len(windows)] for i in range(20)]
    read = []

    def reading():
        for i, case in enumerate(cases):
            read.append(i)
            yield case

    streamed = encoder.stream(reading())
    first = next(streamed)
    assert len(read) < 8
    for case, vectors in zip(cases, [first, *streamed], strict=True):
        np.testing.assert_allclose(vectors, encoder.encode(case), atol=1e-5)
    assert list(encoder.stream([])) == []


class TestText:
    """What reaches the tokenizer is the text as written, in composed form; offsets point into the text as stored."""

    def test_composed_and_decomposed_accents_are_the_same_tokens(self, encoder):
        ids = [
            encoder.tokenizer(unicodedata.normalize(form, "neumonía atípica, niña"))["input_ids"]
            for form in ("NFC", "NFD")
        ]
        assert ids[0] == ids[1]

    @pytest.mark.parametrize(
        "text", ["e\u0301dema y nin\u0303a con fiebre", "CD4 <200 y PCR(-), ≤ 3,5 ≠ 4 ≥ 2"]
    )
    def test_offsets_point_into_the_text_as_stored(self, encoder, text):
        found = encoder.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        covered = {i for start, end in found["offset_mapping"] for i in range(start, end)}
        assert covered >= {i for i, c in enumerate(text) if not (c.isspace() or unicodedata.combining(c))}
        for token, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
            plain = encoder.tokenizer.decode([token]).strip()
            assert plain == text[start:end] or not plain.isascii()

    def test_nothing_is_lost_on_the_way(self, encoder):
        for text in ("CD4 <200 cél/µL; PCR(-) ≤ 3,5 mg/dL; Rh+ ±2 ≠ 0", "VHC: NEGATIVO. niña"):
            ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert encoder.tokenizer.decode(ids).strip() == text

    def test_it_is_put_first_once(self, roberta, tmp_path):
        encoder = Encoder.load(roberta)
        before = encoder.tokenizer.backend_tokenizer.to_str()
        compose(encoder.tokenizer)
        encoder.save(tmp_path)
        assert Encoder.load(tmp_path).tokenizer.backend_tokenizer.to_str() == before


def test_an_encoder_reads_no_more_tokens_than_it_has_places(roberta):
    encoder = Encoder.load(roberta)
    assert encoder.tokenizer.model_max_length <= encoder.model.config.max_position_embeddings - 2


def test_an_encoder_too_short_for_overlapping_windows_is_told(roberta):
    encoder = Encoder.load(roberta)
    encoder.tokenizer.model_max_length = 60
    with pytest.raises(ModelError, match="reads 60 tokens at once, too few"):
        chunks.windows(["Fiebre y tos."], encoder.tokenizer)
