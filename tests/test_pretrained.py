"ImageNet networks: fetched from a server, checked, and put into the right layers."

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import h5py
import keras
import numpy as np
import pytest
import safetensors.torch
import torch
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from glioma_repro.networks import pretrained
from glioma_repro.networks.networks import lower
from glioma_repro.methods.transfer import fine_tuned
from glioma_repro.networks.pretrained import (
    KINDS,
    LITE0_KEPT,
    fetch_imagenet,
    lite0_file,
    lite0_weights,
    load_imagenet,
    pretrained_network,
    weight_files,
    weights_path,
)
from glioma_repro.patients.core import ReproError, generator, sha256_of
from glioma_repro.runs.command import main

FOUR = ("VGG16", "InceptionV3", "InceptionResNetV2", "MobileNetV2")


def base_of(name):
    "Keras' own network with random weights and random norms."
    keras.utils.set_random_seed(5)
    with pretrained._channels_first():
        builder = getattr(keras.applications, KINDS[name].builder)
        return builder(include_top=False, weights=None, input_shape=(3, 96, 96))


def written(base, name, folder):
    "The weights in the layout of the public files, with a manifest of their own."
    path = folder / weight_files()[name].file
    with h5py.File(path, "w") as stream:
        save_weights_to_hdf5_group(stream, base)
    manifest = folder / f"{name}.yaml"
    manifest.write_text(
        f"{name}:\n  file: {path.name}\n  url: http://127.0.0.1:9/{path.name}\n"
        f"  bytes: {path.stat().st_size}\n  sha256: {sha256_of(path)}\n"
    )
    return manifest


@pytest.mark.parametrize("name", FOUR)
def test_weights_arrive_in_the_right_layers_with_keras_preparation(name, tmp_path):
    base = base_of(name)
    manifest = written(base, name, tmp_path)
    network = pretrained_network(name, (1, 96, 96), {"tumor": 2}, tune="frozen")
    load_imagenet(network, name, tmp_path, manifest)
    grey = generator(name).random((2, 1, 96, 96)).astype(np.float32)
    module = {"VGG16": "caffe"}.get(name, "tf")
    fed = keras.applications.imagenet_utils.preprocess_input(
        np.repeat(grey, 3, 1) * 255, data_format="channels_first", mode=module
    )
    with torch.no_grad():
        wanted = base(fed, training=False).mean((2, 3)).cpu().numpy()
        twin = lower(network).eval()
        found = twin(torch.from_numpy(grey), upto="features").numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())
    learns = [one for one in twin.parameters() if one.requires_grad]
    assert sum(one.numel() for one in learns) == 2 * (wanted.shape[1] + 1)


def test_layer_names_do_not_depend_on_what_was_built_before():
    first, second = (
        pretrained_network("InceptionV3", (1, 96, 96), {"tumor": 2}) for _ in range(2)
    )
    names = [[one.name for one in model.layers] for model in (first, second)]
    assert names[0] == names[1]


def test_weights_of_another_network_are_refused(tmp_path):
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    manifest = written(small, "VGG16", tmp_path)
    network = pretrained_network("VGG16", (1, 64, 64), {"tumor": 2})
    with pytest.raises(ReproError, match="does not hold the weights of VGG16"):
        load_imagenet(network, "VGG16", tmp_path, manifest)


def test_without_weights_the_error_says_how_to_get_them(tmp_path):
    with pytest.raises(ReproError, match="glioma-repro fetch imagenet.*GLIOMA_WEIGHTS"):
        weights_path("VGG16", tmp_path)


class Broken(SimpleHTTPRequestHandler):
    "Serves files, with ranges, and breaks off once in each."

    asked = []

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        with open(self.translate_path(self.path), "rb") as stream:
            whole = stream.read()
        self.asked.append((self.path, start))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(whole) - start))
        self.end_headers()
        self.wfile.write(whole[start : start + 40_000])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    "A server with two files, and the manifest that lists them."
    Broken.asked.clear()  # what another test asked for
    source = tmp_path / "served"
    source.mkdir()
    handler = functools.partial(Broken, directory=str(source))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lines = []
    for name in ("VGG16", "MobileNetV2"):
        content = generator(name).integers(0, 256, 60_000).astype(np.uint8).tobytes()
        (source / f"{name}.h5").write_bytes(content)
        digest = hashlib.md5(content).hexdigest()
        lines.append(
            f"{name}:\n  file: {name}.h5\n  bytes: {len(content)}\n  md5: {digest}\n"
            f"  url: http://127.0.0.1:{server.server_port}/{name}.h5\n"
        )
    (tmp_path / "made.yaml").write_text("".join(lines))
    yield tmp_path
    server.shutdown()


def test_a_broken_download_goes_on_and_is_carried_away(served):
    for _ in range(2):
        with pytest.raises(ReproError, match="start again to go on"):
            fetch_imagenet(served / "imagenet", served / "made.yaml")
    folder = fetch_imagenet(served / "imagenet", served / "made.yaml")
    starts = [start for path, start in Broken.asked if path == "/VGG16.h5"]
    assert starts[0] == 0 and starts[1] > 0
    carried = served / "another machine"
    folder.rename(carried)
    assert weights_path("VGG16", carried, served / "made.yaml").exists()
    assert len((carried / "SHA256SUMS").read_text().splitlines()) == 2
    # one byte changes on the way: size and name are right, and it is refused
    content = bytearray((carried / "VGG16.h5").read_bytes())
    content[100] ^= 1
    (carried / "VGG16.h5").write_bytes(bytes(content))
    with pytest.raises(ReproError, match="SHA-256 is another"):
        weights_path("VGG16", carried, served / "made.yaml")


def test_another_file_at_the_source_is_removed(served):
    source = served / "served" / "VGG16.h5"
    source.write_bytes(b"x" * 30_000)
    with pytest.raises(ReproError, match="30000 bytes instead of 60000"):
        fetch_imagenet(served / "imagenet", served / "made.yaml")
    assert not (served / "imagenet" / "VGG16.h5").exists()


def test_the_command_fetches_by_name(served, monkeypatch, capsys):
    files = weight_files(served / "made.yaml")
    monkeypatch.setattr(pretrained, "weight_files", lambda path=None: files)
    status = 1
    for _ in range(3):
        status = main(["fetch", "imagenet", "--out", str(served)])
    assert status == 0 and capsys.readouterr().out.strip().endswith("imagenet")


def test_a_wrong_manifest_names_the_entry(tmp_path):
    (tmp_path / "bad.yaml").write_text("VGG16:\n  file: a\n  url: b\n")
    with pytest.raises(ReproError, match="bad.yaml: VGG16: the key bytes is missing"):
        weight_files(tmp_path / "bad.yaml")
    (tmp_path / "odd.yaml").write_text("VGG16: {file: a, url: b, bytes: 3, mdd: x}\n")
    with pytest.raises(ReproError, match="unknown key 'mdd'; did you mean md5"):
        weight_files(tmp_path / "odd.yaml")


def test_a_damaged_note_of_checksums_is_named(tmp_path):
    (tmp_path / "VGG16.h5").write_bytes(b"whole")
    (tmp_path / "made.yaml").write_text("VGG16: {file: VGG16.h5, url: a, bytes: 5}\n")
    assert weights_path("VGG16", tmp_path, tmp_path / "made.yaml").exists()
    (tmp_path / "SHA256SUMS").write_text("VGG16.h5\n")
    with pytest.raises(ReproError, match="SHA256SUMS is damaged: 'VGG16.h5'"):
        weights_path("VGG16", tmp_path, tmp_path / "made.yaml")


def test_an_unknown_network_is_named():
    with pytest.raises(ReproError, match="name='VGG61'; it is one of .*VGG16"):
        pretrained_network("VGG61", (1, 64, 64), {"tumor": 2})


@pytest.fixture
def without_package(monkeypatch):
    "A machine on which the package of EfficientNet-Lite0 is not installed."
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)


def test_carried_weights_of_lite0_are_enough(without_package, tmp_path, monkeypatch):
    monkeypatch.setenv("GLIOMA_WEIGHTS", str(tmp_path))
    method = fine_tuned("EfficientNet-Lite0", "frozen")
    assert "glioma-repro[pretrained]" in method.lacking
    assert "GLIOMA_WEIGHTS" in method.lacking
    # as a machine with the package keeps them
    kept = tmp_path / LITE0_KEPT
    safetensors.torch.save_file({"a": torch.ones(2)}, str(kept))
    pretrained._note_sum(kept)
    # before, only the package was looked for, and the method was left out
    assert method.lacking == ""
    assert torch.equal(lite0_weights()["a"], torch.ones(2))
    # one byte changes on the way: it is no longer taken
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(bytes(content))
    assert "EfficientNet-Lite0" in method.lacking


def test_the_real_weights_of_lite0_are_kept(tmp_path, monkeypatch):
    try:
        lite0_file()
    except ReproError as error:
        pytest.skip(f"{error}")
    found = lite0_weights(tmp_path)
    assert found["_conv_stem.weight"].shape == (32, 3, 3, 3)
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    again = lite0_weights(tmp_path)  # without the package
    assert all(torch.equal(again[name], one) for name, one in found.items())


def test_the_manifest_says_how_each_file_is_checked():
    for name, one in weight_files().items():
        # MobileNetV2 is the one of which nobody publishes a sum
        assert (one.sha256 or one.md5) or name == "MobileNetV2"
