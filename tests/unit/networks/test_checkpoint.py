"""Weights on disk: what goes in comes out, and nothing half-written or foreign is accepted."""

import numpy as np
import pytest

from medai.errors import ModelError, StorageError
from medai.networks.checkpoint import load_checkpoint, read_config, save_checkpoint, weights_digest

CONFIG = {"network": "residual_unet", "task": "nodule_click", "patch_shape": [48, 48, 48], "spacing_mm": 0.75}


def tensors():
    return {
        "conv.weight": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        "norm.count": np.array(7, dtype=np.int64),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }


def test_round_trip_keeps_values_shapes_and_config(tmp_path):
    save_checkpoint(tmp_path / "new" / "w.safetensors", tensors(), CONFIG)
    checkpoint = load_checkpoint(tmp_path / "new" / "w.safetensors")
    assert checkpoint.config == CONFIG == read_config(tmp_path / "new" / "w.safetensors")
    for name, expected in tensors().items():
        np.testing.assert_array_equal(checkpoint.tensors[name], expected)
        assert checkpoint.tensors[name].dtype == expected.dtype
        assert checkpoint.tensors[name].shape == expected.shape


def test_digest_follows_the_content(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", tensors(), CONFIG)
    save_checkpoint(tmp_path / "b.safetensors", tensors(), CONFIG)
    assert weights_digest(tmp_path / "a.safetensors") == weights_digest(tmp_path / "b.safetensors")
    save_checkpoint(tmp_path / "b.safetensors", tensors(), {**CONFIG, "spacing_mm": 0.8})
    assert weights_digest(tmp_path / "a.safetensors") != weights_digest(tmp_path / "b.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, tensors(), CONFIG)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(StorageError, match="No space left"):
        save_checkpoint(path, {}, CONFIG)
    monkeypatch.undo()
    assert set(load_checkpoint(path).tensors) == set(tensors())
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_weights_that_diverged_are_not_saved(tmp_path):
    with pytest.raises(ModelError, match=r"NaN or infinity are not saved: \['bad'\]"):
        save_checkpoint(tmp_path / "w.safetensors", {"bad": np.array([1.0, np.nan])}, CONFIG)
    assert not list(tmp_path.iterdir())


def test_a_config_must_name_its_network(tmp_path):
    with pytest.raises(ModelError, match="must name its network"):
        save_checkpoint(tmp_path / "w.safetensors", tensors(), {"task": "nodule_click"})


def test_missing_torn_and_foreign_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "w.safetensors"
    with pytest.raises(ModelError, match="no weights at"):
        load_checkpoint(path)
    save_checkpoint(path, tensors(), CONFIG)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_checkpoint(path)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(ModelError, match="not written by medai"):
        read_config(path)
