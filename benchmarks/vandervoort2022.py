"""Seconds and memory of vandervoort2022's network.

A training step by the project's loop beside a plain torch loop with the same network,
loss and optimiser, and beside MONAI's trainer where MONAI is installed; then one
patient asked. The defaults are small; `--full` is the published size (a GPU, or
patience).

python benchmarks/vandervoort2022.py [--full] [--device cuda] [--steps 6]
"""

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from glioma_repro.methods.multi_task_cnn import JointLoss, train_network
from glioma_repro.networks.multi_task_network import MultiTaskNetwork, training_memory
from glioma_repro.networks.training import Training
from glioma_repro.patients.core import Samples, write_text

HEADS = {"idh": ("wildtype", "mutant"), "grade": ("2", "3", "4")}


def people(number, shape):
    "Made-up volumes with labels and masks."
    random = np.random.default_rng(0)
    labels = {
        "idh": np.resize(["mutant", "wildtype"], number),
        "grade": np.resize(["2", "3", "4"], number),
    }
    return Samples(
        random.normal(size=(number, 4, *shape)).astype(np.float32),
        pd.DataFrame({"participant_id": [f"sub-{one}" for one in range(number)]}),
        pd.DataFrame(labels).astype("string"),
        ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR"),
        (random.random((number, *shape)) < 0.1).astype(np.uint8),
    )


def a_batch(samples, rows, device):
    "A batch as the loop makes it."
    codes = np.stack([samples.codes(*one)[0] for one in HEADS.items()], 1)
    return dict(
        inputs=torch.from_numpy(samples.inputs[rows]).to(device),
        codes=torch.from_numpy(codes[rows]).to(device),
        weights=torch.ones(len(rows), len(HEADS), device=device),
        masks=torch.from_numpy(samples.masks[rows]).to(device),
    )


def ours(network, samples, training):
    "Seconds a step by the project's loop: the second epoch, the first warms up."
    trained = train_network(network, samples, HEADS, training)
    history = trained.history
    return history["seconds"].iloc[-1] / (len(samples) / training.batch)


def plain(network, samples, training):
    "Seconds a step by a loop of ten lines."
    network.to(training.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.learning_rate)
    loss, seconds = JointLoss(tuple(HEADS)), []
    for start in range(0, len(samples), training.batch):
        rows = np.arange(start, min(start + training.batch, len(samples)))
        begun = time.perf_counter()
        batch = a_batch(samples, rows, training.device)
        optimizer.zero_grad(set_to_none=True)
        value = loss(network(batch["inputs"]), batch)
        value.backward()
        optimizer.step()
        value.item()
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds))


def by_monai(network, samples, training):
    "Seconds a step by MONAI's SupervisedTrainer; NaN where it is not installed."
    if not (importlib.util.find_spec("monai") and importlib.util.find_spec("ignite")):
        return np.nan
    from monai.engines import SupervisedTrainer

    batches = [
        a_batch(samples, np.arange(start, start + training.batch), training.device)
        for start in range(0, len(samples) - training.batch + 1, training.batch)
    ]
    loss = JointLoss(tuple(HEADS))
    trainer = SupervisedTrainer(
        device=torch.device(training.device),
        max_epochs=2,
        train_data_loader=batches,
        network=network.to(training.device),
        optimizer=torch.optim.AdamW(network.parameters(), lr=training.learning_rate),
        loss_function=loss,
        prepare_batch=lambda batch, *rest, **more: (batch["inputs"], batch),
    )
    begun = time.perf_counter()
    trainer.run()
    return (time.perf_counter() - begun) / (2 * len(batches))


def main():
    "Prints the table and writes it to benchmarks/results/vandervoort2022.md."
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--full", action="store_true")
    reader.add_argument("--device", default="cpu")
    reader.add_argument("--steps", type=int, default=6)
    asked = reader.parse_args()
    shape, width, batch = (
        ((145, 182, 152), 32, 1) if asked.full else ((24, 28, 24), 4, 4)
    )
    training = Training(
        epochs=2, batch=batch, learning_rate=1e-3, device=asked.device, threads=1
    )
    samples, rows = people(asked.steps * batch, shape), []
    torch.set_num_threads(training.threads)
    counts = {name: len(words) for name, words in HEADS.items()}
    for name, way in (("ours", ours), ("plain loop", plain), ("MONAI", by_monai)):
        network = MultiTaskNetwork(
            counts, width=width, checkpointing=asked.full and name == "ours"
        )
        rows.append((f"{name}, a step of {batch} (s)", way(network, samples, training)))
    network = network.eval()
    with torch.inference_mode():
        begun = time.perf_counter()
        network(torch.from_numpy(samples.inputs[:1]).to(asked.device))
        rows.append(("one patient asked (s)", time.perf_counter() - begun))
    if asked.device.startswith("cuda"):
        rows.append(("memory (GB)", torch.cuda.max_memory_allocated() / 1e9))
    computed = training_memory((145, 182, 152)).set_index(
        ["precision", "checkpointing"]
    )
    for key, total in computed["total"].items():
        rows.append((f"published size, {key[0]}, checkpointing {key[1]} (GB)", total))
    size = " x ".join(map(str, shape))
    lines = [f"Width {width}, {size} voxels, {asked.device}, one thread.", ""]
    lines += ["| what | value |", "|---|---|"]
    lines += [f"| {name} | {value:.3g} |" for name, value in rows]
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(Path(__file__).parent / "results" / "vandervoort2022.md", text)


if __name__ == "__main__":
    main()
