"""akkus2017's network at full width: this project's training loop against Keras' own
`fit`, with augmentation, in one run.

    python benchmarks/akkus2017.py                 # two CPU cores: about four minutes
    python benchmarks/akkus2017.py --device cuda   # on a GPU: Keras on its CPU and
    on the GPU, each layer against its roofline

Prints a markdown table and writes benchmarks/results/akkus2017.md (akkus2017-cuda.md
on a GPU).
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pandas as pd
import torch
from tables import markdown

from glioma_repro.networks.augmentation import Augmentation
from glioma_repro.patients.core import Samples, cores, write_text
from glioma_repro.networks.networks import (
    layer_flops,
    lower,
    multi_scale_network,
    totals,
)
from glioma_repro.runs.study import device_name
from glioma_repro.networks.training import Training, fit, keep_memory

AUGMENT = Augmentation(
    shift=0.1,
    rotation=180.0,
    scale=0.0,
    flip_left_right=True,
    flip_up_down=True,
    gain=0.0,
    offset=0.0,
    padding="zeros",
)


def made_up(number, size):
    "Slices like the study's: a masked blob on an empty background."
    random = np.random.default_rng(0)
    y, x = np.indices((size, size)) - size / 2
    mask = x**2 + y**2 < (0.3 * size) ** 2
    labels = np.where(np.arange(number) % 2, "codeleted", "intact")
    return Samples(
        (random.normal(size=(number, 2, size, size)) * mask).astype(np.float32),
        pd.DataFrame({"participant_id": [f"sub-{one}" for one in range(number)]}),
        pd.DataFrame({"codel_1p19q": labels}),
        ("ce-gadolinium_T1w", "T2w"),
    )


def synchronise(device):
    "Waits until the GPU has done what it was asked for."
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def our_steps(samples, width, batch, precision, device, threads, steps, warm):
    "Images a second of the loop, after warm-up."
    times = []
    training = Training(
        iterations=warm + steps,
        batch=batch,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=1e-3,
        schedule="halve",
        balance="redraw",
        precision=precision,
        device=device,
        threads=threads,
    )
    network = multi_scale_network(
        samples.inputs.shape[1:], {"codel_1p19q": 2}, 0, width
    )

    def note(step, loss):
        synchronise(device)
        times.append(time.perf_counter())

    fit(
        network,
        samples,
        {"codel_1p19q": ("intact", "codeleted")},
        training,
        AUGMENT,
        progress="",
        on_step=note,
    )
    # on a GPU the losses come in groups of twenty: the last group's end minus the
    # warm-up's end
    kept = times[warm - 1 :]
    return batch * (len(kept) - 1) / max(kept[-1] - kept[0], 1e-9)


def keras_steps(samples, width, batch, threads, steps, warm, device="cpu"):
    "Images a second of Keras' fit with its own augmentation layers, after warm-up."
    torch.set_num_threads(threads)
    with keras.device(device):  # Keras would take a GPU by itself
        return _keras_steps(samples, width, batch, steps, warm, device)


def _keras_steps(samples, width, batch, steps, warm, device):
    "The same, on the device that Keras was given."
    inner = multi_scale_network(samples.inputs.shape[1:], {"codel_1p19q": 2}, 0, width)
    given = keras.Input(samples.inputs.shape[1:])
    x = given
    for layer in (
        keras.layers.RandomFlip(
            "horizontal_and_vertical", data_format="channels_first"
        ),
        keras.layers.RandomTranslation(
            0.1, 0.1, fill_mode="constant", data_format="channels_first"
        ),
        keras.layers.RandomRotation(
            0.5, fill_mode="constant", data_format="channels_first"
        ),
    ):
        x = layer(x)
    model = keras.Model(given, keras.layers.Softmax()(inner(x)["codel_1p19q"]))
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy")
    codes, times = (samples.targets["codel_1p19q"] == "codeleted").to_numpy(int), []

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, number, logs=None):
            synchronise(device)
            times.append(time.perf_counter())

    need = (warm + steps) * batch
    rows = np.resize(np.arange(len(samples)), need)
    model.fit(
        samples.inputs[rows],
        codes[rows],
        batch_size=batch,
        epochs=1,
        verbose=0,
        callbacks=[Note()],
    )
    return batch * (len(times) - warm) / (times[-1] - times[warm - 1])


def peaks(device, precision):
    "FLOP/s of a large matrix product and bytes/s of a large copy, both measured here."
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 8192 if device.startswith("cuda") else 1536
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    big = torch.randn(
        (1 << 28) if device.startswith("cuda") else (1 << 24), device=device
    )

    def best(work, amount):
        work()
        seconds = []
        for _ in range(5):
            synchronise(device)
            start = time.perf_counter()
            work()
            synchronise(device)
            seconds.append(time.perf_counter() - start)
        return amount / min(seconds)

    return best(lambda: a @ b, 2 * size**3), best(lambda: big.clone(), 8 * big.numel())


def roofline(size, batch, device, precision):
    """Each heavy layer's forward time against what its own roofline allows: FLOPs at
    the peak, or bytes at the bandwidth, whichever takes longer.
    """
    flops_peak, byte_peak = peaks(device, precision)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    network = (
        lower(multi_scale_network((2, size, size), {"codel_1p19q": 2}, 0))
        .eval()
        .to(device, kind)
        .to(memory_format=torch.channels_last)
    )
    found, hooks = {}, []
    for name, module in network.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            hooks.append(
                module.register_forward_hook(
                    lambda one, given, made, name=name: found.update(
                        {name: (one, given[0].detach(), made.detach())}
                    )
                )
            )
    with torch.inference_mode():
        network(
            torch.randn(batch, 2, size, size, device=device, dtype=kind).contiguous(
                memory_format=torch.channels_last
            )
        )
        for hook in hooks:
            hook.remove()
        rows = []
        for name, (module, given, made) in found.items():
            # a GPU call is shorter than the wait for it
            seconds, calls = [], 20 if device.startswith("cuda") else 1
            for _ in range(4):
                synchronise(device)
                start = time.perf_counter()
                for _ in range(calls):
                    module(given)
                synchronise(device)
                seconds.append((time.perf_counter() - start) / calls)
            flops = layer_flops(module, given, made)
            moved = (
                given.numel()
                + made.numel()
                + sum(one.numel() for one in module.parameters())
            ) * given.element_size()
            allowed = max(flops / flops_peak, moved / byte_peak)
            rows.append(
                {
                    "layer": name.removeprefix("layers."),
                    "bound by": "arithmetic"
                    if flops / flops_peak > moved / byte_peak
                    else "memory",
                    "ms": 1e3 * min(seconds),
                    "roofline ms": 1e3 * allowed,
                    "share of the roofline": allowed / min(seconds),
                }
            )
    table = pd.DataFrame(rows)
    total = {
        "layer": "all",
        "bound by": "",
        "ms": table["ms"].sum(),
        "roofline ms": table["roofline ms"].sum(),
        "share of the roofline": table["roofline ms"].sum() / table["ms"].sum(),
    }
    return (
        pd.concat([table, pd.DataFrame([total])], ignore_index=True),
        flops_peak,
        byte_peak,
    )


def rounded(table, digits=3):
    "Three significant digits, as text."
    return table.map(
        lambda one: (
            (f"{one:.0f}" if abs(one) >= 1000 else f"{one:.{digits}g}")
            if isinstance(one, float)
            else one
        )
    )


def main():
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--device", default="cpu")
    reader.add_argument("--size", type=int, default=205)
    reader.add_argument("--width", type=float, default=1.0)
    reader.add_argument("--batch", type=int, default=32)
    reader.add_argument("--steps", type=int, default=2)
    reader.add_argument("--warm", type=int, default=1)
    reader.add_argument("--threads", type=int, default=cores())
    given = reader.parse_args()
    load = os.getloadavg()[0]
    gpu = given.device != "cpu"
    # a GPU is asked for its losses every twenty steps, or at the end of an epoch
    samples = made_up((20 if gpu else 2) * given.batch, given.size)
    rows = [
        (
            "Keras fit, float32, CPU",
            keras_steps(
                samples,
                given.width,
                given.batch,
                given.threads,
                given.steps,
                given.warm,
            ),
        )
    ]
    if gpu:
        rows.append(
            (
                f"Keras fit, float32, {given.device}",
                keras_steps(
                    samples,
                    given.width,
                    given.batch,
                    given.threads,
                    40,
                    10,
                    given.device,
                ),
            )
        )
    keep_memory()  # stays in force from here on
    for precision in ("float32", "bf16"):
        steps, warm = (100, 20) if gpu else (given.steps + 1, given.warm)
        rows.append(
            (
                f"training loop, {precision}, channels last, {given.device}",
                our_steps(
                    samples,
                    given.width,
                    given.batch,
                    precision,
                    given.device,
                    given.threads,
                    steps,
                    warm,
                ),
            )
        )
    speed = pd.DataFrame(rows, columns=["what", "images a second"])
    speed["times Keras on the CPU"] = (
        speed["images a second"] / speed["images a second"].iloc[0]
    )
    images = 400 * 7560  # epochs by the paper's text, augmented slices an epoch
    speed["seconds for configuration 4"] = images / speed["images a second"]
    speed["hours"] = speed["seconds for configuration 4"] / 3600
    layers, flops_peak, byte_peak = roofline(
        given.size, given.batch, given.device, "bf16"
    )
    cost = totals(
        multi_scale_network(
            (2, given.size, given.size), {"codel_1p19q": 2}, 0, given.width
        ),
        (2, given.size, given.size),
    )
    where = f"{device_name(given.device)}, load average {load:.1f} before the start (other programs)"
    text = f"""# akkus2017: training speed

{where}, {given.threads} threads; {given.size} x {given.size} pixels, width {given.width:g}, batch {given.batch}, {cost["FLOPs training"] / 1e9:.1f} GFLOP a slice and step.
Augmentation in both: shift, rotation, flips. Configuration 4 is 400 epochs of 7560 augmented slices; its authors report two days on their GPU.

{markdown(rounded(speed))}

Forward pass of one batch, bf16: every layer with weights against its own roofline. Measured here: {flops_peak / 1e12:.2f} TFLOP/s in a matrix product, {byte_peak / 1e9:.1f} GB/s in a copy.

{markdown(rounded(layers))}
"""
    print(text)
    write_text(
        Path(__file__).parent
        / "results"
        / ("akkus2017.md" if given.device == "cpu" else "akkus2017-cuda.md"),
        text,
    )


if __name__ == "__main__":
    main()
