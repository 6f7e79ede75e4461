"""The training loop: what it refuses, what it survives, and that the same seed gives
the same weights.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from glioma_repro.networks.augmentation import Augmentation
from glioma_repro.patients.core import TARGETS, PatientError, ReproError, Samples
from glioma_repro.networks.networks import (
    layer_table,
    lower,
    raise_weights,
    residual_network,
)
from glioma_repro.networks.training import (
    Training,
    TrainingError,
    epoch_batches,
    fit,
    masked_cross_entropy,
    predict_scores,
)

QUICK = Training(epochs=4, batch=16, learning_rate=5e-3)
CLASSES = {"idh": TARGETS["idh"], "mgmt": TARGETS["mgmt"]}


def made(patients=40, slices=2, seed=0, size=16):
    """Bright or dark blobs (IDH), large or small ones (MGMT, known for half of the
    patients).
    """
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size))
    sign, large = (
        np.repeat(rng.permutation(patients) % 2, slices),
        np.repeat(rng.permutation(patients) % 2, slices),
    )
    blob = (
        np.exp(
            -((y - size / 2) ** 2 + (x - size / 2) ** 2)[None]
            / (6 + 20 * large[:, None, None])
        )
        * np.where(sign, 1, -1)[:, None, None]
    )
    inputs = (
        (blob + rng.normal(0, 0.4, blob.shape))[:, None].repeat(2, 1).astype(np.float32)
    )
    targets = pd.DataFrame(
        {
            "idh": np.array(TARGETS["idh"])[sign],
            "mgmt": np.array(TARGETS["mgmt"])[large],
        },
        dtype="string",
    )
    ids = np.repeat([f"sub-{n:03d}" for n in range(patients)], slices)
    targets.loc[np.arange(len(ids)) % (4 * slices) < 2 * slices, "mgmt"] = pd.NA
    return Samples(
        inputs,
        pd.DataFrame(
            {"participant_id": ids, "slice": np.tile(np.arange(slices), patients)}
        ),
        targets,
        ("T1w", "FLAIR"),
    )


def small(shape=(2, 16, 16), heads=None, seed=0):
    return residual_network(
        shape, heads or {"idh": 2, "mgmt": 2}, seed, filters=(4, 8), features=8
    )


def weights(trained):
    return {
        name: tensor.clone() for name, tensor in trained.lowered.state_dict().items()
    }


def same(one, two):
    return (
        all(torch.equal(one[name], two[name]) for name in one)
        and one.keys() == two.keys()
    )


class Killed(BaseException):
    pass


def kill_at(last):
    def stop(step, loss):
        if step == last:
            raise Killed

    return stop


# ── the same seed, the same weights ──


def test_same_seed_same_weights_whatever_ran_before():
    first = weights(fit(small(), made(), CLASSES, QUICK, Augmentation(), progress=""))
    torch.manual_seed(99)
    torch.rand(7)
    with_two = torch.get_num_threads()
    torch.set_num_threads(2)
    second = weights(fit(small(), made(), CLASSES, QUICK, Augmentation(), progress=""))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(with_two)
    assert same(first, second)
    assert not same(
        first,
        weights(
            fit(
                small(),
                made(),
                CLASSES,
                replace(QUICK, seed=1),
                Augmentation(),
                progress="",
            )
        ),
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop", "adadelta"])
@pytest.mark.parametrize("last", [0, 7])
def test_cut_in_the_middle_and_continued(tmp_path, optimizer, last):
    training = replace(QUICK, epochs=3, optimizer=optimizer)
    whole = weights(
        fit(small(), made(), CLASSES, training, Augmentation(), progress="")
    )
    file = tmp_path / "training.safetensors"
    with pytest.raises(Killed):
        fit(
            small(),
            made(),
            CLASSES,
            training,
            Augmentation(),
            checkpoint=file,
            every=0,
            progress="",
            on_step=kill_at(last + 1),
        )
    assert file.exists()
    assert same(
        whole,
        weights(
            fit(
                small(),
                made(),
                CLASSES,
                training,
                Augmentation(),
                checkpoint=file,
                progress="",
            )
        ),
    )
    # finished: no step
    again = fit(
        small(),
        made(),
        CLASSES,
        training,
        Augmentation(),
        checkpoint=file,
        progress="",
        on_step=kill_at(0),
    )
    assert same(whole, weights(again)) and again.history["epoch"].tolist() == [1, 2, 3]


def test_cut_with_dropout_early_stopping_and_halving(tmp_path):
    def network():
        return residual_network(
            (2, 16, 16), {"idh": 2, "mgmt": 2}, 0, filters=(4,), features=8, dropout=0.5
        )

    training = replace(
        QUICK, epochs=6, patience=2, schedule="halve", halve_every=2, learning_rate=0.02
    )
    given = (made(), CLASSES, training, Augmentation(), made(20, seed=5))
    whole = fit(network(), *given, progress="")
    file = tmp_path / "a.safetensors"
    with pytest.raises(Killed):
        fit(
            network(),
            *given,
            checkpoint=file,
            every=0,
            progress="",
            on_step=kill_at(13),
        )
    continued = fit(network(), *given, checkpoint=file, progress="")
    assert (
        same(weights(whole), weights(continued)) and whole.stopped == continued.stopped
    )
    assert whole.history.drop(columns="seconds").equals(
        continued.history.drop(columns="seconds")
    )
    rates = whole.history["learning_rate"].tolist()
    assert rates[0] == 0.02 and rates[min(3, len(rates) - 1)] <= 0.02


def test_a_stopping_rule_of_ones_own(tmp_path):
    """It sees the validation losses so far, ends the training where it says True, and
    is part of what a checkpoint belongs to.
    """
    seen = []

    def after_three(losses):
        seen.append(list(losses))
        return len(losses) == 3

    file, training = (
        tmp_path / "a.safetensors",
        replace(QUICK, epochs=6, schedule="constant"),
    )
    trained = fit(
        small(),
        made(),
        CLASSES,
        training,
        validation=made(20, seed=5),
        checkpoint=file,
        progress="",
        stop=after_three,
    )
    assert (
        trained.history["epoch"].tolist() == [1, 2, 3]
        and "stopping rule" in trained.stopped
    )
    assert seen[-1] == trained.history["validation_loss"].tolist()
    assert same(
        weights(trained),
        weights(
            fit(small(), made(), CLASSES, replace(training, epochs=3), progress="")
        ),
    )
    with pytest.raises(ReproError, match="another training"):
        fit(
            small(),
            made(),
            CLASSES,
            training,
            validation=made(20, seed=5),
            checkpoint=file,
            progress="",
        )


def test_killed_process_continues(tmp_path):
    "A real SIGKILL, between two steps of a real process."
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, os, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_training import *
        slow = (lambda step, loss: time.sleep(0.05)) if sys.argv[2] == "slow" else None
        trained = fit(small(), made(), CLASSES, replace(QUICK, epochs=8), Augmentation(), checkpoint=sys.argv[1], every=0.1, progress="", on_step=slow)
        save_file({{name: tensor.contiguous() for name, tensor in weights(trained).items()}}, sys.argv[1] + ".done")
        """)
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    process = subprocess.Popen(
        [sys.executable, str(script), str(killed), "slow"], env=environment
    )
    import time

    until = time.monotonic() + 90
    while not killed.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert killed.exists() and not Path(f"{killed}.done").exists()
    with safe_open(str(killed), "pt") as stream:
        assert json.loads(stream.metadata()["glioma_repro"])["finished"] == ""
    for file in (killed, whole):
        subprocess.run(
            [sys.executable, str(script), str(file), "fast"],
            env=environment,
            check=True,
        )
    with (
        safe_open(f"{killed}.done", "pt") as one,
        safe_open(f"{whole}.done", "pt") as two,
    ):
        assert all(
            torch.equal(one.get_tensor(name), two.get_tensor(name))
            for name in one.keys()
        )


# ── checkpoints ──


@pytest.fixture
def checkpoint(tmp_path):
    file = tmp_path / "training.safetensors"
    fit(
        small(), made(), CLASSES, replace(QUICK, epochs=1), checkpoint=file, progress=""
    )
    return file


@pytest.mark.parametrize(
    "change", ["settings", "data", "labels", "network", "augmentation"]
)
def test_checkpoint_of_another_fingerprint_is_refused(checkpoint, change):
    training, samples, network, augment = (
        replace(QUICK, epochs=1),
        made(),
        small(),
        None,
    )
    if change == "settings":
        training = replace(training, learning_rate=1e-4)
    elif change == "data":
        samples.inputs[3, 0, 5, 5] += 1e-3
    elif change == "labels":
        samples = replace(
            samples, targets=samples.targets.iloc[::-1].reset_index(drop=True)
        )
    elif change == "network":
        network = small(seed=4)
    else:
        augment = Augmentation(shift=0.2)
    with pytest.raises(ReproError, match="another training") as error:
        fit(
            network,
            samples,
            CLASSES,
            training,
            augment,
            checkpoint=checkpoint,
            progress="",
        )
    assert str(checkpoint) in str(error.value) and "delete" in str(error.value)


def rewrite(file, **changes):
    "The same tensors under another header."
    with safe_open(str(file), "pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}
        about = json.loads(stream.metadata()["glioma_repro"])
    save_file(tensors, str(file), {"glioma_repro": json.dumps(about | changes)})


def test_checkpoint_of_another_version_is_refused(checkpoint):
    rewrite(checkpoint, version=0)
    with pytest.raises(ReproError, match="layout 0"):
        fit(
            small(),
            made(),
            CLASSES,
            replace(QUICK, epochs=1),
            checkpoint=checkpoint,
            progress="",
        )


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04\x95cposix\nsystem\n(S'touch /tmp/owned'\ntR.", None]
)
def test_broken_or_foreign_checkpoint_is_refused(checkpoint, content):
    checkpoint.write_bytes(
        checkpoint.read_bytes()[:200] if content is None else content
    )
    with pytest.raises(ReproError, match="cannot be read"):
        fit(
            small(),
            made(),
            CLASSES,
            replace(QUICK, epochs=1),
            checkpoint=checkpoint,
            progress="",
        )


# ── what cannot be trained ──


def test_one_class_in_a_training_fold():
    samples = made(12)
    samples.targets["idh"] = pd.array(["mutant"] * len(samples), dtype="string")
    with pytest.raises(
        ReproError, match="idh, training: every patient with a known label is mutant"
    ):
        fit(small(), samples, CLASSES, QUICK, progress="")


def test_all_labels_unknown():
    samples = made(12)
    samples.targets["mgmt"] = pd.array([pd.NA] * len(samples), dtype="string")
    with pytest.raises(
        ReproError, match="mgmt, training: no patient has a known label"
    ):
        fit(small(), samples, CLASSES, QUICK, progress="")


@pytest.mark.parametrize(
    "heads", [{"idh": 2}, {"idh": 3, "mgmt": 2}, {"mgmt": 2, "idh": 2}]
)
def test_outputs_that_do_not_fit(heads):
    with pytest.raises(ReproError, match="do not fit the targets"):
        fit(small(heads=heads), made(), CLASSES, QUICK, progress="")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_images_name_the_patient(value):
    samples = made()
    samples.inputs[11, 1, 3, 3] = value
    with pytest.raises(PatientError, match=r"sub-005: its image \(slice 1\)"):
        fit(small(), samples, CLASSES, QUICK, progress="")
    with pytest.raises(PatientError, match="sub-005"):
        predict_scores(small(), samples, CLASSES)


def test_nan_loss_stops_and_keeps_the_last_good_weights(tmp_path):
    calls = []

    def explode(outputs, batch):
        calls.append(1)
        return masked_cross_entropy(outputs, batch) * (np.nan if len(calls) == 8 else 1)

    with pytest.raises(
        TrainingError, match=r"nan at step 8 \(epoch 2; patients sub-"
    ) as error:
        fit(small(), made(), CLASSES, QUICK, loss=explode, progress="")
    kept = error.value.trained
    assert len(kept.history) == 1 and all(
        tensor.isfinite().all() for tensor in weights(kept).values()
    )
    calls[:] = [1] * 100  # now it never explodes
    one_epoch = fit(
        small(),
        made(),
        CLASSES,
        replace(QUICK, iterations=None),
        loss=explode,
        progress="",
        on_step=None,
    )
    # the first epoch was the same
    assert one_epoch.history["loss"].iloc[0] == kept.history["loss"].iloc[0]


def test_words_and_numbers_of_the_settings_are_checked():
    for wrong in (
        dict(optimizer="lion"),
        dict(schedule="linear"),
        dict(balance="all"),
        dict(precision="fp8"),
        dict(epochs=0),
        dict(batch=0),
        dict(threads=0),
    ):
        with pytest.raises(ReproError):
            Training(**wrong)
    if not torch.cuda.is_available():
        with pytest.raises(ReproError, match="no GPU"):
            Training(device="cuda")


# ── networks ──


def test_any_torch_module_and_a_bare_output():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 14 * 14, 2),
    )
    trained = fit(
        network, made(), {"idh": TARGETS["idh"]}, replace(QUICK, epochs=8), progress=""
    )
    scores = predict_scores(trained, made(seed=1), {"idh": TARGETS["idh"]})["idh"]
    assert (
        trained.network is network
        and (
            np.array(TARGETS["idh"])[scores.argmax(1)] == made(seed=1).targets["idh"]
        ).mean()
        > 0.85
    )


def test_volumes_and_another_loss():
    "A 3D torch network that segments: the loop knows nothing of it."
    rng = np.random.default_rng(0)
    masks = np.zeros((8, 6, 10, 10), np.uint8)
    masks[:, 2:4, 3:7, 3:7] = 1
    samples = Samples(
        (masks[:, None] + rng.normal(0, 0.3, (8, 1, 6, 10, 10))).astype(np.float32),
        pd.DataFrame({"participant_id": [f"sub-{n}" for n in range(8)]}),
        pd.DataFrame({"idh": ["mutant", "wildtype"] * 4}),
        ("FLAIR",),
        masks,
    )

    def overlap(outputs, batch):
        share = outputs.sigmoid()[:, 0]
        return 1 - 2 * (share * batch["masks"]).sum() / (
            share.sum() + batch["masks"].sum()
        )

    trained = fit(
        torch.nn.Conv3d(1, 1, 3, padding=1),
        samples,
        {"idh": TARGETS["idh"]},
        replace(QUICK, epochs=60, batch=4, learning_rate=0.3),
        loss=overlap,
        progress="",
    )
    assert trained.history["loss"].iloc[-1] < 0.2 < trained.history["loss"].iloc[0]


def multi_scale(seed=0):
    """As akkus2017: branches of several filter sizes, valid padding, pooling, joined,
    dense.
    """
    given = keras.Input((2, 41, 41))
    kind = dict(data_format="channels_first", activation="relu")
    branches = [
        keras.layers.MaxPooling2D(3, data_format="channels_first")(
            keras.layers.Conv2D(
                4,
                size,
                2,
                kernel_initializer=keras.initializers.HeNormal(size + seed),
                **kind,
            )(given)
        )
        for size in (6, 3)
    ]
    flat = [keras.layers.Flatten(data_format="channels_first")(one) for one in branches]
    x = keras.layers.Dense(
        16, activation="relu", kernel_initializer=keras.initializers.GlorotUniform(seed)
    )(keras.layers.Concatenate()(flat))
    return keras.Model(
        given,
        {
            "codel_1p19q": keras.layers.Dense(
                2, kernel_initializer=keras.initializers.GlorotUniform(seed + 1)
            )(x)
        },
    )


def test_twin_of_a_multi_scale_network():
    network = multi_scale()
    x = torch.randn(3, 2, 41, 41, generator=torch.Generator().manual_seed(0))
    twin = lower(network)
    np.testing.assert_allclose(
        twin(x)["codel_1p19q"].detach(), network(x)["codel_1p19q"].detach(), atol=1e-5
    )
    ours = torch.autograd.grad(
        twin(x)["codel_1p19q"].square().sum(), list(twin.parameters())
    )
    theirs = torch.autograd.grad(
        network(x)["codel_1p19q"].square().sum(),
        [one.value for one in network.trainable_weights],
    )
    np.testing.assert_allclose(
        sorted(float(one.norm()) for one in ours),
        sorted(float(one.norm()) for one in theirs),
        rtol=1e-4,
    )
    assert layer_table(network, (2, 41, 41))["parameters"].sum() == sum(
        np.prod(one.shape) for one in network.weights
    )
    raise_weights(twin, network)
    np.testing.assert_allclose(
        twin(x)["codel_1p19q"].detach(), network(x)["codel_1p19q"].detach(), atol=1e-5
    )


def test_a_layer_without_twin_is_used_as_it_is_and_a_regulariser_is_refused():
    given = keras.Input((2, 8, 8))
    x = keras.layers.GroupNormalization(2, axis=1)(given)
    network = keras.Model(given, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    x = torch.randn(4, 2, 8, 8)
    np.testing.assert_allclose(
        lower(network)(x).detach(), network(x).detach(), atol=1e-5
    )
    samples = made(20, size=8)
    trained = fit(network, samples, {"idh": TARGETS["idh"]}, QUICK, progress="")
    assert (
        trained.history["loss"].is_monotonic_decreasing
        or trained.history["loss"].iloc[-1] < trained.history["loss"].iloc[0]
    )
    strict = keras.Model(
        given,
        keras.layers.Dense(2, kernel_regularizer="l2")(keras.layers.Flatten()(given)),
    )
    with pytest.raises(ReproError, match="weight_decay"):
        lower(strict)


def test_frozen_layers_stay():
    network = small()
    network.get_layer("stem_conv").trainable = False
    network.get_layer("stem_norm").trainable = False
    before = [
        np.array(one)
        for one in network.get_layer("stem_conv").get_weights()
        + network.get_layer("stem_norm").get_weights()
    ]
    fit(network, made(), CLASSES, replace(QUICK, epochs=1), progress="")
    after = (
        network.get_layer("stem_conv").get_weights()
        + network.get_layer("stem_norm").get_weights()
    )
    assert all(np.array_equal(one, two) for one, two in zip(before, after))
    assert not np.array_equal(
        small().get_layer("idh_logits").get_weights()[0],
        network.get_layer("idh_logits").get_weights()[0],
    )


def test_bf16_learns_the_same():
    training = replace(QUICK, epochs=10, precision="bf16")
    trained = fit(small(), made(), CLASSES, training, progress="")
    # the weights stay in float32
    assert all(
        tensor.dtype in (torch.float32, torch.int64)
        for tensor in weights(trained).values()
    )
    scores = predict_scores(trained, made(seed=1), CLASSES, training)["idh"]
    assert (
        np.array(TARGETS["idh"])[scores.argmax(1)] == made(seed=1).targets["idh"]
    ).mean() > 0.85


# ── data ──


def test_memory_map_gives_the_same_weights(tmp_path):
    samples = made()
    np.save(tmp_path / "inputs.npy", samples.inputs)
    mapped = replace(samples, inputs=np.load(tmp_path / "inputs.npy", mmap_mode="r"))
    assert same(
        weights(fit(small(), samples, CLASSES, QUICK, progress="")),
        weights(fit(small(), mapped, CLASSES, QUICK, progress="")),
    )


def test_unknown_labels_do_not_move_their_head():
    outputs = {
        "idh": torch.randn(5, 2, requires_grad=True),
        "mgmt": torch.randn(5, 2, requires_grad=True),
    }
    # MGMT is known for the last one only
    weight = torch.tensor([[1.0, 0.0]] * 4 + [[1.0, 2.0]])
    masked_cross_entropy(
        outputs, dict(codes=torch.ones(5, 2, dtype=torch.long), weights=weight)
    ).backward()
    assert (
        (outputs["mgmt"].grad[:4] == 0).all()
        and (outputs["mgmt"].grad[4] != 0).all()
        and (outputs["idh"].grad != 0).all()
    )


def test_redraw_and_no_balance_give_their_priors():
    samples = made(40)
    rare = samples.take(
        np.flatnonzero(
            (samples.targets["idh"] == "wildtype").to_numpy()
            | (np.arange(len(samples)) < 16)
        )
    )
    share = (rare.targets["idh"].to_numpy() == "mutant").mean()
    none = fit(
        small(heads={"idh": 2}),
        rare,
        {"idh": TARGETS["idh"]},
        replace(QUICK, epochs=1, balance="none"),
        progress="",
    )
    assert np.isclose(none.priors["idh"][0][1], share)
    batches = epoch_batches(
        100,
        np.array([0] * 95 + [1] * 5),
        np.ones(100, bool),
        replace(QUICK, balance="redraw"),
        3,
    )
    assert np.bincount(
        np.array([0] * 95 + [1] * 5)[np.concatenate(batches)]
    ).tolist() == [50, 50]


def test_augmentation_draws_the_same_on_every_call_with_one_seed():
    x = torch.randn(6, 3, 20, 24)
    one, two = (
        Augmentation(flip_up_down=True)(x.clone(), torch.Generator().manual_seed(4))
        for _ in range(2)
    )
    assert torch.equal(one, two) and one.shape == x.shape and not torch.equal(one, x)
