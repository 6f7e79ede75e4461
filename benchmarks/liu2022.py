"""liu2022's training against Keras' own `fit`, as a ratio in one run, and the time of
the study's core on the 253 pictures.

    python benchmarks/liu2022.py [--pictures 64] [--rounds 3] [--size 256] [--threads 2]
    python benchmarks/liu2022.py --core COHORT [--size SIZE] [--threads 2]

The first trains the 14-layer network for one epoch on random pictures with augmentation
(flip, turn, shift, scale, brightness): by our loop and twin, and by Keras' `fit` with
its own preprocessing layers. Each round runs both, one after the other, so that what
else the machine does falls on both; the median of the ratios counts. `--clock cpu`
counts the seconds that the processor worked, for a machine that is busy.
The second is the study's core at the study's defaults: 14-layer network,
EfficientNet-Lite0 frozen and fine-tuned, shortcut; folds by person (COHORT: the folder
of the curated set).
Each half has a section of its own in benchmarks/results/liu2022.md, and leaves the
other's as it is.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pandas as pd
import torch

from glioma_repro.images.pictures import review_pictures
from glioma_repro.methods.fourteen_layer_cnn import (
    PICTURE_AUGMENTATION,
    FourteenLayerCNN,
    picture_training,
)
from glioma_repro.methods.method import run_folds
from glioma_repro.methods.picture_study import held_out
from glioma_repro.methods.shortcut import Shortcut
from glioma_repro.methods.transfer import fine_tuned, with_weights
from glioma_repro.networks.networks import fourteen_layer_network
from glioma_repro.networks.training import fit
from glioma_repro.patients.cohort import patient_splits
from glioma_repro.patients.core import Samples, cores, read_cohort, write_text
from glioma_repro.runs.parameters import find_notebook, parameters_of, read_cells
from tables import markdown

STUDY = parameters_of(read_cells(find_notebook("liu2022")))  # its defaults
PAPER_SIZE = 256  # pixels a side
BATCH, HEADS = STUDY["batch"], {"tumor": 2}
CLASSES = {"tumor": ("absent", "present")}
RESULTS = Path(__file__).parent / "results" / "liu2022.md"
TITLE = "# liu2022"


def made_pictures(number: int, size: int) -> Samples:
    """Random pictures; the arithmetic does not depend on what is seen."""
    random = np.random.default_rng(0)
    inputs = random.random((number, 3, size, size), dtype=np.float32)
    words = np.array(CLASSES["tumor"])[np.arange(number) % 2]
    table = pd.DataFrame({"participant_id": [f"sub-{n}" for n in range(number)]})
    targets = pd.DataFrame({"tumor": words}, dtype="string")
    return Samples(inputs, table.assign(slice=0), targets, ("1", "2", "3"))


def ours(samples: Samples, threads: int, precision: str):
    """One epoch of our loop."""
    size = samples.inputs.shape[-1]
    network = fourteen_layer_network((3, size, size), HEADS)
    training = picture_training(1, batch=BATCH, threads=threads, precision=precision)
    return lambda: fit(
        network, samples, CLASSES, training, PICTURE_AUGMENTATION, progress=""
    )


def theirs(samples: Samples):
    """One epoch of Keras' `fit`, its preprocessing layers in front of the network."""
    size = samples.inputs.shape[-1]
    first = dict(data_format="channels_first")
    turn = PICTURE_AUGMENTATION.rotation / 360
    layers = [
        keras.layers.RandomFlip("horizontal", **first),
        keras.layers.RandomRotation(turn, **first),
        keras.layers.RandomTranslation(0.1, 0.1, **first),
        keras.layers.RandomZoom(0.1, **first),
        keras.layers.RandomBrightness(0.1, value_range=(0, 1), **first),
    ]
    given = x = keras.Input((3, size, size))
    for layer in layers:
        x = layer(x)
    inner = fourteen_layer_network((3, size, size), HEADS)
    model = keras.Model(given, inner(x)["tumor"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    codes = (samples.targets["tumor"] == "present").to_numpy(int)
    return lambda: model.fit(samples.inputs, codes, batch_size=BATCH, verbose=0)


def kept(heading: str, lines: list, path: Path = RESULTS) -> str:
    """Puts a section into the results; the others stay as they are."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"{TITLE}\n"
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    command = " ".join(["python", "benchmarks/liu2022.py", *sys.argv[1:]])
    if "--core" in sys.argv:
        command = re.sub(r"--core[= ]\S+", "--core COHORT", command)
    body = "\n".join([f"## {heading}", "", f"`{command}`", "", *lines])
    rest = [one.rstrip() for one in parts if not one.startswith(f"## {heading}\n")]
    write_text(path, "\n\n".join([*rest, body]) + "\n")
    print(body)
    return body


def ratio(arguments) -> float:
    """Pictures a second of ours over theirs, median over the rounds."""
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    size, rounds = arguments.size, arguments.rounds
    samples, load = made_pictures(arguments.pictures, size), os.getloadavg()[0]
    contenders = {
        "ours": ours(samples, arguments.threads, "float32"),
        "ours, bf16": ours(samples, arguments.threads, "bf16"),
        "Keras fit": theirs(samples),
    }
    torch.set_num_threads(arguments.threads)
    rates = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            begun = clock()
            run()
            if number:  # the first one warms up
                rates[name].append(len(samples) / (clock() - begun))
    table = pd.DataFrame(rates)
    rows = [
        {
            "who": name,
            "pictures a second": f"{table[name].median():.1f}",
            "times Keras' fit": f"{(table[name] / table['Keras fit']).median():.2f}",
            "wanted": "2" if name == "ours" else "",
        }
        for name in table
    ]
    clock = {"cpu": "that the processor worked", "wall": "on the clock"}
    said = (
        f"One epoch of {len(samples)} pictures, {size} x {size}, with augmentation; "
        f"medians of {rounds} rounds, a ratio is the median of the rounds' own. "
        f"Seconds are those {clock[arguments.clock]}; {cores()} cores, "
        f"{arguments.threads} threads, load of the machine before: {load:.1f}; "
        f"torch {torch.__version__}, keras {keras.__version__}."
    )
    kept("Training against Keras", [said, "", markdown(pd.DataFrame(rows))])
    return float((table["ours"] / table["Keras fit"]).median())


def core(arguments):
    """Seconds of the study's core on the cohort's pictures, at the study's defaults."""
    begun = time.perf_counter()
    review = review_pictures(read_cohort(arguments.core))
    cohort = review.cohort
    size, folds = arguments.size, STUDY["folds"]
    epochs = STUDY["fine_tune_epochs"]
    asked = [
        fine_tuned("EfficientNet-Lite0", tune, epochs=epochs, size=size)
        for tune in ("frozen", "top block", "all layers")
    ]
    rivals, left = with_weights(asked)
    training = picture_training(STUDY["epochs"], batch=BATCH)
    network = FourteenLayerCNN(size=size, training=training)
    drawn = patient_splits(cohort, ["tumor"], folds, seed=STUDY["seed"])
    run = run_folds(
        [network, *rivals, Shortcut()],
        cohort,
        {"by person": held_out(drawn, cohort, "tumor", STUDY["share"], STUDY["seed"])},
        ["tumor"],
        study="benchmark",
        jobs=arguments.threads,
    )
    minutes = (time.perf_counter() - begun) / 60
    costs = run.costs.groupby("model", sort=False)["seconds"].sum().round(0)
    said = (
        f"{len(cohort)} pictures, {size} x {size}, {folds} folds by person: "
        f"{minutes:.1f} minutes on {cores()} cores (wanted: under 20)."
    )
    lines = [said, "", markdown(review.counts), "", markdown(costs.reset_index())]
    kept("The core", lines + (["", markdown(left)] if len(left) else []))


def read_arguments(words=None):
    """The command line; the size is the paper's, or of the core the study's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--size", type=int, help="the paper's 256; for --core the study's default"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--core", help="the folder of the curated pictures")
    arguments = parser.parse_args(words)
    if arguments.size is None:
        arguments.size = STUDY["size"] if arguments.core else PAPER_SIZE
    return arguments


def main():
    """One half or the other."""
    arguments = read_arguments()
    core(arguments) if arguments.core else ratio(arguments)


if __name__ == "__main__":
    main()
