"""A training step of a network's torch twin against the same step of the Keras model
itself, in one run on one thread, as ratios.

    python benchmarks/networks.py [--rounds 12]

Every round runs each contender once; the median of the processor seconds counts. The
twin stays as long as the plain model is more than a tenth slower.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch

from glioma_repro.networks.networks import (
    lower,
    multi_scale_network,
    residual_network,
)
from glioma_repro.networks.training import keep_memory
from glioma_repro.patients.core import write_text
from glioma_repro.runs.study import device_name

HEADS = {"idh": 2}
NETWORKS = {
    "chang2018, 32 x 32": (residual_network, (4, 32, 32), {}),
    "akkus2017 at width 1/8, 96 x 96": (
        multi_scale_network,
        (2, 96, 96),
        {"width": 0.125},
    ),
}
BATCH = 32


def training_step(model, inputs, bf16):
    """A function that trains `model` on one batch, once a call."""
    if isinstance(model, keras.Model):
        weights = [one.value for one in model.trainable_variables]
    else:
        model.train()
        weights = [one for one in model.parameters() if one.requires_grad]
    plain = isinstance(model, keras.Model)
    optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=True)
    codes = torch.arange(len(inputs)) % 2

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = model(inputs, training=True) if plain else model(inputs)
            logits = outputs["idh"].float()
            loss = torch.nn.functional.cross_entropy(logits, codes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def contenders(build, shape, bf16, channels_last):
    """The two steps, on the same kind of network and pictures."""
    inputs = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(0))
    twin = lower(build())
    if channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        twin = twin.to(memory_format=torch.channels_last)
    return {
        "twin": training_step(twin, inputs, bf16),
        "plain": training_step(build(), inputs, bf16),
    }


def medians(steps, rounds):
    """Processor seconds of each contender, median over rounds after two warm-ups."""
    taken = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            if number >= 2:
                taken[name].append(time.process_time() - begun)
    return {name: statistics.median(values) for name, values in taken.items()}


def main():
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    keep_memory()
    lines = [
        "# The torch twin against the plain Keras model",
        "",
        f"`python benchmarks/networks.py --rounds {rounds}`, one thread of "
        f"{device_name()}, Keras {keras.__version__}, torch {torch.__version__}; "
        f"milliseconds of a training step of {BATCH} slices, median.",
        "",
        "| network | precision | layout | twin | plain | plain / twin |",
        "|---|---|---|---|---|---|",
    ]
    for name, (network, shape, width) in NETWORKS.items():

        def build(network=network, shape=shape, width=width):
            return network(shape, HEADS, 0, **width)

        for bf16 in (False, True):
            for channels_last in (False, True):
                found = medians(contenders(build, shape, bf16, channels_last), rounds)
                lines.append(
                    f"| {name} | {'bf16' if bf16 else 'float32'} "
                    f"| channels {'last' if channels_last else 'first'} "
                    f"| {1000 * found['twin']:.0f} | {1000 * found['plain']:.0f} "
                    f"| {found['plain'] / found['twin']:.2f} |"
                )
                print(lines[-1], flush=True)
    write_text(
        Path(__file__).parent / "results" / "networks.md", "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
