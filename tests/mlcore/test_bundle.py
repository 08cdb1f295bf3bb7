"""A bundle is taken whole and unaltered, or not at all."""

import json
import pickle
import subprocess

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlcore import bundle
from mlcore.errors import BundleError


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "release"
    (folder / "encoder").mkdir(parents=True)
    (folder / "encoder" / "config.json").write_text("{}")
    (folder / "encoder" / "vocab.txt").write_text("uno\ndos\n")
    for name in ("encoder/model.safetensors", bundle.HEAD, bundle.CALIBRATION):
        save_file({"values": np.arange(64.0)}, folder / name)
    bundle.seal(folder, {"protocol": "hiv-suspicion-es", "note": "ñ"})
    return folder


def test_a_sealed_bundle_verifies_to_the_same_sum(sealed):
    assert bundle.verify(sealed) == bundle.verify(sealed) == bundle.seal(sealed, bundle.read_card(sealed))
    assert bundle.read_card(sealed) == {"protocol": "hiv-suspicion-es", "note": "ñ", "format": bundle.FORMAT}
    assert bundle.load_arrays(sealed)["values"].tolist() == list(range(64))


def test_sha256sum_reads_the_sums(sealed):
    assert subprocess.run(["sha256sum", "--quiet", "-c", bundle.SUMS], cwd=sealed).returncode == 0


def test_the_sum_names_the_content(sealed):
    before = bundle.verify(sealed)
    assert bundle.seal(sealed, {"protocol": "ade-en"}) != before


@pytest.mark.parametrize(
    "name",
    [
        "card.json",
        "head.safetensors",
        "calibration.safetensors",
        "encoder/model.safetensors",
        "encoder/vocab.txt",
    ],
)
def test_a_flipped_byte_is_found(sealed, name):
    data = bytearray((sealed / name).read_bytes())
    data[-3] ^= 1
    (sealed / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} was altered"):
        bundle.verify(sealed)


@pytest.mark.parametrize("name", [*bundle.REQUIRED, "encoder/model.safetensors"])
def test_a_missing_required_file_is_named(sealed, name):
    (sealed / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        bundle.verify(sealed)


def test_any_other_missing_file_is_named(sealed):
    (sealed / "encoder" / "vocab.txt").unlink()
    with pytest.raises(BundleError, match=r"vocab\.txt is missing but listed"):
        bundle.verify(sealed)


def test_a_file_too_many_is_named(sealed):
    (sealed / "encoder" / "extra.json").write_text("{}")
    with pytest.raises(BundleError, match=r"extra\.json is not listed"):
        bundle.verify(sealed)


def test_missing_sums_are_named(sealed):
    (sealed / bundle.SUMS).unlink()
    with pytest.raises(BundleError, match="no readable SHA256SUMS"):
        bundle.verify(sealed)


@pytest.mark.parametrize("sums", ["", "nonsense\n", "\xff"])
def test_sums_that_are_none_are_refused(sealed, sums):
    (sealed / bundle.SUMS).write_bytes(sums.encode("latin-1"))
    with pytest.raises(BundleError):
        bundle.verify(sealed)


@pytest.mark.parametrize(
    "name",
    [
        "head.bin",
        "encoder/pytorch_model.bin",
        "x.pt",
        "x.pth",
        "x.pkl",
        "x.ckpt",
        "x.npz",
        "run.py",
        "SHA256SUMS.pkl",
    ],
)
def test_files_that_could_run_code_are_refused_even_when_sealed(sealed, name):
    (sealed / name).write_bytes(b"print('not even a pickle')")
    for attempt in (lambda: bundle.verify(sealed), lambda: bundle.seal(sealed, {})):
        with pytest.raises(BundleError, match="could run code"):
            attempt()


@pytest.mark.parametrize("name", ["vocab.txt", "extra.json", "extra.safetensors"])
@pytest.mark.parametrize("content", [pickle.dumps([1, 2]), b"PK\x03\x04 a zip, as torch.save writes"])
def test_a_pickle_under_another_name_is_refused(sealed, name, content):
    (sealed / name).write_bytes(content)
    with pytest.raises(BundleError, match="could run code"):
        bundle.seal(sealed, {})


def test_a_link_out_of_the_bundle_is_refused(sealed, tmp_path):
    (tmp_path / "outside.json").write_text("{}")
    (sealed / "encoder" / "tokenizer.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(BundleError, match="is a link"):
        bundle.verify(sealed)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BundleError, match="nowhere is not a folder"):
        bundle.verify(tmp_path / "nowhere")


@pytest.mark.parametrize("found", [0, 2, "1", None])
def test_another_format_is_refused(sealed, found):
    card = {**bundle.read_card(sealed), "format": found}
    (sealed / bundle.CARD).write_text(json.dumps(card))
    with pytest.raises(BundleError, match="this version reads 1"):
        bundle.read_card(sealed)


@pytest.mark.parametrize("text", ["", "[1]", "not json", "[" * 100_000, "\xff"])
def test_a_card_that_is_none_is_refused(sealed, text):
    (sealed / bundle.CARD).write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError):
        bundle.read_card(sealed)


def test_arrays_that_cannot_be_read_are_refused(sealed):
    (sealed / bundle.CALIBRATION).write_bytes(b"\x00" * 32)
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.load_arrays(sealed)


def test_views_are_saved_as_they_read(tmp_path):
    table = np.arange(12.0).reshape(4, 3)
    bundle.save_arrays(tmp_path, {"column": table[:, 1], "turned": table.T})
    stored = bundle.load_arrays(tmp_path)
    np.testing.assert_array_equal(stored["column"], [1, 4, 7, 10])
    np.testing.assert_array_equal(stored["turned"], table.T)
