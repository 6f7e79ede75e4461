"""The training loop against its bare parts and against Keras' own `fit`, in one run on
one machine, as ratios.

    python benchmarks/training.py [--threads 2] [--rounds 7] [--clock wall]

Every round runs each contender once, one after the other, so that what else the
machine does falls on all of them; the median over rounds of the ratios is reported.
`--threads 1 --clock cpu` counts the seconds that the processor worked, for a machine
that is busy with other things.
Contenders see the same network (residual_network of chang2018), the same slices
(random numbers; the arithmetic does not depend on them), the same batch and the same
optimiser (AdamW).
"""

import argparse
import os
import platform
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import joblib
import keras
import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from glioma_repro.networks.augmentation import Augmentation
from glioma_repro.patients.core import TARGETS, Samples, cores, write_text
from glioma_repro.networks.networks import lower, residual_network, totals
from glioma_repro.networks.training import (
    Training,
    encode_targets,
    fit,
    keep_memory,
    masked_cross_entropy,
    torch_threads,
)

TARGET_NAMES = ("idh", "codel_1p19q", "mgmt", "grade")
CLASSES = {name: TARGETS[name] for name in TARGET_NAMES}
BATCH, SLICES = 32, 480
CLOCK = time.perf_counter
NETWORKS = {
    "chang2018 (16, 32, 64)": (16, 32, 64),
    "larger (32, 64, 128)": (32, 64, 128),
}


def samples() -> Samples:
    "As many slices as a fold of the public cohort has."
    rng = np.random.default_rng(0)
    targets = pd.DataFrame(
        {name: rng.choice(words, SLICES) for name, words in CLASSES.items()},
        dtype="string",
    )
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{n // 10}" for n in range(SLICES)],
            "slice": np.arange(SLICES),
        }
    )
    return Samples(
        rng.normal(size=(SLICES, 4, 32, 32)).astype(np.float32),
        table,
        targets,
        ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR"),
    )


def network(filters):
    "The network, freshly built."
    return residual_network(
        (4, 32, 32),
        {name: len(words) for name, words in CLASSES.items()},
        0,
        filters=filters,
    )


def bare(data, filters, training, steps, augment=None, twin=True):
    """Forward, loss, backward, update on one batch, with nothing around it; seconds a
    step. Without the twin, the Keras module itself.
    """
    lowered = (
        lower(network(filters)).to(memory_format=torch.channels_last).train()
        if twin
        else network(filters).train()
    )
    codes, weights = (
        torch.from_numpy(one[:BATCH]) for one in encode_targets(data, CLASSES)
    )
    x = torch.from_numpy(data.inputs[:BATCH])
    held = x.contiguous(memory_format=torch.channels_last)
    optimizer, batch, times = (
        torch.optim.AdamW(lowered.parameters(), lr=2e-3, fused=True),
        dict(codes=codes, weights=weights),
        [],
    )
    for _ in range(steps):
        begin = CLOCK()
        given = (
            held
            if augment is None
            else augment(x).contiguous(memory_format=torch.channels_last)
        )
        with torch.autocast(
            "cpu", torch.bfloat16, enabled=training.precision == "bf16"
        ):
            outputs = lowered(given)
            loss = masked_cross_entropy(
                {name: outputs[name] for name in CLASSES}, batch
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        times.append(CLOCK() - begin)
    return float(np.median(times))


def loop(data, filters, training, steps, augment=None):
    "The same in the project's loop; seconds a step, median over the steps."
    ticks = []
    fit(
        network(filters),
        data,
        CLASSES,
        replace(training, iterations=steps),
        augment,
        progress="",
        on_step=lambda step, loss: ticks.append(CLOCK()),
    )
    return float(np.median(np.diff(ticks)))


class Generator(keras.utils.PyDataset):
    """What a study's script does: shift, rotation, flip and intensity by scipy, picture
    by picture, on the CPU.
    """

    def __init__(self, data):
        super().__init__()
        self.data, self.rng = data, np.random.default_rng(0)
        codes, weights = encode_targets(data, CLASSES)
        self.codes = {f"{name}_logits": codes[:, n] for n, name in enumerate(CLASSES)}
        self.weights = {
            f"{name}_logits": weights[:, n] for n, name in enumerate(CLASSES)
        }

    def __len__(self):
        return len(self.data) // BATCH

    def __getitem__(self, number):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        pictures = np.stack([self.changed(one) for one in self.data.inputs[rows]])
        return (
            pictures,
            [self.codes[f"{name}_logits"][rows] for name in CLASSES],
            [self.weights[f"{name}_logits"][rows] for name in CLASSES],
        )

    def changed(self, picture):
        angle = np.deg2rad(self.rng.uniform(-20, 20))
        turn = np.array(
            [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        ) * self.rng.uniform(0.9, 1.1)
        turn[:, 1] *= self.rng.choice([-1, 1])
        centre = np.array(picture.shape[1:]) / 2 - 0.5
        offset = centre - turn @ centre + self.rng.uniform(-3.2, 3.2, 2)
        moved = np.stack(
            [
                ndimage.affine_transform(channel, turn, offset, order=1, mode="nearest")
                for channel in picture
            ]
        )
        return moved * self.rng.uniform(
            0.9, 1.1, (len(moved), 1, 1)
        ) + self.rng.uniform(-0.1, 0.1, (len(moved), 1, 1)).astype(np.float32)


class Clock(keras.callbacks.Callback):
    "Batch ends."

    def __init__(self):
        super().__init__()
        self.ticks = []

    def on_train_batch_end(self, batch, logs=None):
        self.ticks.append(CLOCK())


def keras_fit(data, filters, precision):
    "Keras' own loop with the generator; seconds a step."
    keras.mixed_precision.set_global_policy(
        "mixed_bfloat16" if precision == "bf16" else "float32"
    )
    try:
        model = network(filters)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model = keras.Model(model.input, list(model.output.values()))
    model.compile(
        keras.optimizers.AdamW(2e-3),
        [keras.losses.SparseCategoricalCrossentropy(from_logits=True) for _ in CLASSES],
        jit_compile=False,
    )
    clock = Clock()
    model.fit(Generator(data), epochs=2, verbose=0, callbacks=[clock])
    return float(np.median(np.diff(clock.ticks)))


def one_training(number, data, filters, threads):
    "A short training, for the comparison of processes and threads."
    fit(
        network(filters),
        data,
        CLASSES,
        Training(iterations=60, seed=number, threads=threads),
        Augmentation(),
        progress="",
    )
    return number


def side_by_side(number, data, filters):
    "So many trainings at once, a thread each."
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        joblib.Parallel(n_jobs=min(number, cores()), mmap_mode="r")(
            joblib.delayed(one_training)(one, data, filters, 1) for one in range(number)
        )


def sharing(data, filters):
    """Four trainings: one after the other with all threads, against side by side with
    one thread each; seconds.
    """
    side_by_side(cores(), data, filters)  # the workers are there
    begin = time.perf_counter()
    for number in range(4):
        one_training(number, data, filters, cores())
    middle = time.perf_counter()
    side_by_side(4, data, filters)
    return middle - begin, time.perf_counter() - middle


def has_bf16():
    "Whether the processor multiplies bf16 in hardware."
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def processor():
    "In general words."
    name = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{cores()} cores of an {name}"
        if name[0] in "AEIOU"
        else f"{cores()} cores of a {name}"
    )


def main():
    "Runs, prints and writes the table."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=45)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    given = parser.parse_args()
    global CLOCK
    CLOCK = time.process_time if given.clock == "cpu" else time.perf_counter
    keep_memory()
    data, lines = samples(), []
    plain, half = (
        Training(batch=BATCH, threads=given.threads),
        Training(batch=BATCH, threads=given.threads, precision="bf16"),
    )
    for name, filters in NETWORKS.items():
        rounds = []
        for number in range(given.rounds + 1):
            with torch_threads(given.threads):
                row = {
                    "bare": bare(data, filters, plain, given.steps),
                    "loop": loop(data, filters, plain, given.steps),
                    "loop augmented": loop(
                        data, filters, plain, given.steps, Augmentation()
                    ),
                    "fit": keras_fit(data, filters, "float32"),
                    "keras module": bare(data, filters, plain, given.steps, twin=False),
                    "keras module bf16": bare(
                        data, filters, half, given.steps, twin=False
                    ),
                    "bare bf16": bare(data, filters, half, given.steps),
                    "loop bf16": loop(data, filters, half, given.steps),
                    "loop augmented bf16": loop(
                        data, filters, half, given.steps, Augmentation()
                    ),
                    "fit bf16": keras_fit(data, filters, "bf16"),
                }
            if number:  # the first round warms up
                rounds.append(row)
                print(
                    name,
                    {key: round(BATCH / value) for key, value in row.items()},
                    flush=True,
                )
        lines += rows_of(name, filters, pd.DataFrame(rounds))
    if given.clock == "wall":
        apart, side = sharing(data, NETWORKS["chang2018 (16, 32, 64)"])
        lines.append(
            (
                "chang2018 (16, 32, 64)",
                f"four trainings side by side, {cores()} at a time with one thread, "
                f"against one after the other with {cores()} threads",
                "",
                f"{apart / side:.2f} times as fast",
                "faster",
            )
        )
    report(lines, given)


def rows_of(name, filters, table):
    "The lines of one network."

    def rate(key):
        return f"{BATCH / table[key].median():.0f}"

    def ratio(one, other):
        return float((table[one] / table[other]).median())

    size = f"{name}, {int(totals(network(filters), (4, 32, 32))['parameters']):,} parameters"
    lines = [
        (
            size,
            "the loop over the bare step, float32",
            f"{rate('loop')} against {rate('bare')}",
            f"{100 * (ratio('loop', 'bare') - 1):+.1f} %",
            "at most +5 %",
        ),
        (
            size,
            "augmentation over the loop, float32",
            f"{rate('loop augmented')} against {rate('loop')}",
            f"{100 * (ratio('loop augmented', 'loop') - 1):+.1f} %",
            "at most +10 %",
        ),
        (
            size,
            "with augmentation, against Keras fit with a scipy generator, float32",
            f"{rate('loop augmented')} against {rate('fit')}",
            f"{ratio('fit', 'loop augmented'):.2f} times",
            "at least 1",
        ),
        (
            size,
            "the torch twin against the Keras module in the same bare step, float32",
            f"{rate('bare')} against {rate('keras module')}",
            f"{ratio('keras module', 'bare'):.2f} times",
            "",
        ),
    ]
    if has_bf16():
        lines += [
            (
                size,
                "the loop over the bare step, bf16",
                f"{rate('loop bf16')} against {rate('bare bf16')}",
                f"{100 * (ratio('loop bf16', 'bare bf16') - 1):+.1f} %",
                "at most +5 %",
            ),
            (
                size,
                "augmentation over the loop, bf16",
                f"{rate('loop augmented bf16')} against {rate('loop bf16')}",
                f"{100 * (ratio('loop augmented bf16', 'loop bf16') - 1):+.1f} %",
                "at most +10 %",
            ),
            (
                size,
                "with augmentation in bf16, against Keras fit in float32",
                f"{rate('loop augmented bf16')} against {rate('fit')}",
                f"{ratio('fit', 'loop augmented bf16'):.2f} times",
                "at least 2",
            ),
            (
                size,
                "the torch twin against the Keras module in the same bare step, "
                "bf16 autocast",
                f"{rate('bare bf16')} against {rate('keras module bf16')}",
                f"{ratio('keras module bf16', 'bare bf16'):.2f} times",
                "",
            ),
            (
                size,
                "with augmentation in bf16, against Keras fit in mixed_bfloat16",
                f"{rate('loop augmented bf16')} against {rate('fit bf16')}",
                f"{ratio('fit bf16', 'loop augmented bf16'):.2f} times",
                "",
            ),
        ]
    return lines


def report(lines, given):
    "Prints the table and writes it to benchmarks/results."
    head = ("network", "what", "slices a second", "ratio", "should be")
    text = "\n".join(
        ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        + ["| " + " | ".join(line) + " |" for line in lines]
    )
    text = (
        f"# Training\n\n`python benchmarks/training.py --threads {given.threads} "
        f"--rounds {given.rounds} --clock {given.clock}` on {processor()}; torch "
        f"{torch.__version__}, keras {keras.__version__}. "
        f"Batches of {BATCH} slices of 4 x 32 x 32, {len(CLASSES)} heads, AdamW. "
        "Slices a second are medians of the rounds; a ratio is the median of "
        "the rounds' own ratios, "
        "so that what else ran on the machine falls on both sides. Seconds are "
        f"{'those of the clock' if given.clock == 'wall' else 'those that the processor worked'}.\n\n"
        + text
        + "\n"
    )
    print(text)
    write_text(Path(__file__).parent / "results" / "training.md", text)


if __name__ == "__main__":
    main()
