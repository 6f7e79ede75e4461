"""choi2021's Model 1: its size, memory and seconds a step at 128 voxels a side; and
how well it draws beside its rivals.

    python benchmarks/choi2021.py [--size 128] [--width 21] [--steps 1] [--device cuda]
    python benchmarks/choi2021.py --compare COHORT [--minutes 9] [--folds 5]
        [--methods volumes,slices,nnunet] [--work FOLDER]

The first counts parameters and takes steps of the project's own loop on made-up
volumes, batch 1, with the augmentation and without; the step beside it is a plain torch
loop with the same network, loss and optimiser.
The second trains the 3D network, the same network on slices with their neighbours as
channels, and nnU-Net v2 (2D configuration; `pip install nnunetv2`, it is no part of the
project) on the same folds by patient, each for so many minutes a fold on one thread,
and measures the masks of test patients on their own grid: Dice, 95 % Hausdorff
distance, volumetric similarity, and the worst patients. COHORT is a curated folder with
masks.
"""

import argparse
import json
import os
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch

from glioma_repro.images.patient import read_patient
from glioma_repro.methods.drawing import measure_drawn
from glioma_repro.methods.method import rows_of
from glioma_repro.methods.segmentation_unet import (
    DeepDice,
    Deformation,
    SegmentationUNet,
    unet_parameters,
)
from glioma_repro.networks.training import Training
from glioma_repro.patients.cohort import patient_splits
from glioma_repro.patients.core import PatientError, Samples, concat, write_text
from glioma_repro.runs.study import open_cohort
from glioma_repro.statistics.masks import evaluate_measurements

RESULTS = Path("benchmarks/results/choi2021.md")
PAIR = ("ce-gadolinium_T1w", "FLAIR")


def made_up(number, size):
    "Volumes with a ball of tumour."
    random = np.random.default_rng(0)
    places = np.indices((size, size, size)) - (size - 1) / 2
    ball = (places**2).sum(0) < (size / 5) ** 2
    inputs = random.random((number, 2, size, size, size), dtype=np.float32)
    table = pd.DataFrame({"participant_id": [f"sub-{one}" for one in range(number)]})
    masks = np.stack([ball] * number).astype(np.uint8)
    nothing = pd.DataFrame(index=table.index)
    return Samples(inputs, table.assign(drawn=True), nothing, PAIR, masks)


def training_of(asked, epochs, batch, learning_rate):
    "A training on the device that is asked for."
    return Training(
        epochs=epochs,
        batch=batch,
        optimizer="adam",
        learning_rate=learning_rate,
        balance="none",
        device=asked.device,
        precision=asked.precision,
        threads=asked.threads,
    )


def method_of(asked, augment):
    "Model 1 with the size and device that are asked for."
    training = training_of(asked, 2, 1, 5e-4)
    return SegmentationUNet(
        training=training, augment=augment, size=asked.size, width=asked.width
    )


def plain_step(asked, samples):
    "Seconds a step of a loop of ten lines; the first one warms up where there are two."
    method = method_of(asked, None)
    network = method.build(0).to(asked.device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    loss, seconds = DeepDice(), []
    for row in range(len(samples)):
        begun = time.perf_counter()
        given = torch.from_numpy(samples.inputs[row : row + 1]).to(asked.device)
        masks = torch.from_numpy(samples.masks[row : row + 1]).to(asked.device)
        optimizer.zero_grad(set_to_none=True)
        value = loss(network(given), {"masks": masks})
        value.backward()
        optimizer.step()
        value.item()
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[1:] or seconds))


def our_step(asked, samples, augment):
    "Seconds a step of the project's loop: its second epoch."
    model = method_of(asked, augment)
    folder = None
    kept = {}

    def watched(network, samples, *rest, **more):
        trained = fit(network, samples, *rest, **more)
        kept["seconds"] = trained.history["seconds"].iloc[-1]
        return trained

    import glioma_repro.methods.segmentation_unet as module

    fit = module.train_network
    module.train_network = watched
    try:
        model.fit(samples, folder=folder)
    finally:
        module.train_network = fit
    return float(kept["seconds"]) / len(samples)


def steps(asked):
    "The table of sizes and seconds."
    samples = made_up(asked.steps, asked.size)
    torch.set_num_threads(asked.threads)
    rows = [
        ("parameters at the published width of 21", unet_parameters()),
        ("parameters here", unet_parameters(width=asked.width)),
        ("plain loop, a step (s)", plain_step(asked, samples)),
    ]
    if asked.device.startswith("cuda"):
        rows.append(("memory (GB)", torch.cuda.max_memory_allocated() / 1e9))
    else:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        rows.append(("memory of the process, plain loop (GB)", most))
    if not asked.plain:
        rows.append(("ours, a step (s)", our_step(asked, samples, None)))
        full = our_step(asked, samples, Deformation())
        rows.append(("ours with augmentation, a step (s)", full))
    head = (
        f"Width {asked.width}, {asked.size} voxels a side, {asked.device}, batch 1; "
        f"threads: {asked.threads}; steps: {asked.steps}."
    )
    return [head, "", "| what | value |", "|---|---|"] + [
        f"| {name} | {value:,.4g} |"
        if isinstance(value, float)
        else f"| {name} | {value:,} |"
        for name, value in rows
    ]


def timed(method, samples, seconds, seed):
    "A model after about so many seconds: one epoch says how many fit."
    one = replace(method, training=replace(method.training, epochs=1))
    begun = time.perf_counter()
    one.fit(samples, seed=seed)
    each = time.perf_counter() - begun
    epochs = max(1, int(seconds / each))
    whole = replace(method, training=replace(method.training, epochs=epochs))
    return whole.fit(samples, seed=seed), epochs


def our_masks(method, cohort, splits, seconds, seed):
    "participant_id: mask, of every fold."
    samples, problems = method.samples(cohort, jobs=1)
    if len(problems):
        print(problems.to_string())
    masks = {}
    for split in splits:
        train = samples.take(rows_of(samples, split.train))
        model, epochs = timed(method, train, seconds, seed)
        masks |= model.predict(samples.take(rows_of(samples, split.test))).masks
        print(f"{method.name}, fold {split.fold}: {epochs} epochs", flush=True)
    return masks


def nnunet_folder(cohort, work):
    "The cohort as nnU-Net wants it; who can be used."
    raw = work / "raw" / "Dataset021_Glioma"
    kept = []
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True, exist_ok=True)
    for one in cohort.ids:
        try:
            seen = read_patient(one, cohort, PAIR)
        except PatientError as error:
            print(error)
            continue
        flair = seen.images.get("FLAIR")
        if flair is None:
            continue
        for number, name in enumerate(PAIR):
            image = seen.images.get(name, flair * 0)  # a missing sequence is black
            path = raw / "imagesTr" / f"{one}_{number:04d}.nii.gz"
            sitk.WriteImage(image, str(path))
        tumour = sitk.Cast(seen.tumour > 0, sitk.sitkUInt8)
        sitk.WriteImage(tumour, str(raw / "labelsTr" / f"{one}.nii.gz"))
        kept.append(one)
    about = dict(
        channel_names={"0": "T1C", "1": "FLAIR"},
        labels={"background": 0, "tumour": 1},
        numTraining=len(kept),
        file_ending=".nii.gz",
    )
    write_text(raw / "dataset.json", json.dumps(about))
    return kept


def planned(work, splits, kept):
    "nnU-Net's plans for the 2D configuration, with our folds: plans, dataset, folds."
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    extract_fingerprints([21], num_processes=1)
    plan_experiments([21])
    preprocess([21], configurations=["2d"], num_processes=[1])
    folder = work / "preprocessed" / "Dataset021_Glioma"
    parts = [
        {
            "train": [one for one in split.train if one in kept],
            "val": [one for one in split.test if one in kept],
        }
        for split in splits
    ]
    write_text(folder / "splits_final.json", json.dumps(parts))
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    about = json.loads((folder / "dataset.json").read_text())
    return plans, about, parts


def timed_trainer(seconds):
    "nnU-Net's trainer, ended by the clock."
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class Timed(nnUNetTrainer):
        "Its own loop in short epochs."

        def run_training(self):
            self.on_train_start()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                self.on_epoch_start()
                self.on_train_epoch_start()
                told = []
                while len(told) < 25 and (not told or time.perf_counter() < end):
                    told.append(self.train_step(next(self.dataloader_train)))
                self.on_train_epoch_end(told)
                with torch.no_grad():
                    self.on_validation_epoch_start()
                    told = [self.validation_step(next(self.dataloader_val))]
                    self.on_validation_epoch_end(told)
                self.on_epoch_end()
            self.on_train_end()

    return Timed


def nnunet_masks(cohort, splits, seconds, work, device):
    "nnU-Net v2, 2D configuration, the same folds and seconds."
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str((work / name).absolute())
    kept = nnunet_folder(cohort, work)
    plans, about, parts = planned(work, splits, kept)
    masks = {}
    for number, part in enumerate(parts):
        trainer = timed_trainer(seconds)(
            plans, "2d", number, about, device=torch.device(device)
        )
        trainer.run_training()
        trainer.perform_actual_validation()
        place = Path(trainer.output_folder) / "validation"
        for one in part["val"]:
            image = sitk.ReadImage(str(place / f"{one}.nii.gz"))
            masks[one] = sitk.GetArrayFromImage(image)
    return masks


def two_networks(asked):
    "The 3D network, and the same on slices."
    base = SegmentationUNet(
        "volumes",
        training=training_of(asked, 1, 2, 2e-3),
        size=asked.size,
        width=asked.width,
        threshold=0.5,
        cross_entropy=1.0,
        missing="blank",
        mirrored=True,
    )
    flat = replace(
        base,
        name="slices",
        dimensions=2,
        training=replace(base.training, batch=16),
    )
    return {"volumes": base, "slices": flat}


def as_lines(shown):
    "A table in Markdown."
    lines = ["| " + " | ".join(shown.columns) + " |", "|---" * shown.shape[1] + "|"]
    for row in shown.itertuples(index=False):
        words = [f"{one:.3f}" if isinstance(one, float) else str(one) for one in row]
        lines.append("| " + " | ".join(words) + " |")
    return lines


def compared(asked):
    "The table of the comparison."
    cohort = open_cohort(asked.compare)
    splits = patient_splits(cohort, "idh", folds=asked.folds, seed=asked.seed)
    seconds, work = 60 * asked.minutes, Path(asked.work)
    measured = []
    for name in asked.methods.split(","):
        if name == "nnunet":
            masks = nnunet_masks(cohort, splits, seconds, work, asked.device)
        else:
            method = two_networks(asked)[name]
            masks = our_masks(method, cohort, splits, seconds, asked.seed)
        found = measure_drawn(cohort, masks, study="benchmark", method=name)
        print(found.wide().sort_values("dice").head(8).to_string(), flush=True)
        measured.append(found)
    table = evaluate_measurements(concat(measured))
    chosen = ["dice", "hausdorff_95", "volumetric_similarity"]
    table = table[table["quantity"].isin(chosen)]
    shown = table[["method", "quantity", "unit", "n", "mean", "median", "low", "high"]]
    head = (
        f"{cohort.name}: {asked.folds} folds by patient, {asked.minutes:g} minutes of "
        f"training a fold, {asked.size} pixels, width {asked.width}."
    )
    return [head, "", *as_lines(shown)]


def main():
    "Prints the table and puts it into benchmarks/results/choi2021.md."
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--size", type=int, default=128)
    reader.add_argument("--width", type=int, default=21)
    reader.add_argument("--steps", type=int, default=1)
    reader.add_argument("--plain", action="store_true", help="the plain loop alone")
    reader.add_argument("--compare", help="a cohort with masks")
    reader.add_argument("--minutes", type=float, default=9.0)
    reader.add_argument("--folds", type=int, default=5)
    reader.add_argument("--methods", default="volumes,slices,nnunet")
    reader.add_argument("--work", default="nnunet_work", help="nnU-Net's files")
    reader.add_argument("--device", default="cpu")
    reader.add_argument("--precision", default="float32")
    reader.add_argument("--threads", type=int, default=1)
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--no-write", action="store_true")
    asked = reader.parse_args()
    lines = compared(asked) if asked.compare else steps(asked)
    text = "\n".join(lines) + "\n"
    print(text)
    if not asked.no_write:
        kept = RESULTS.read_text() + "\n" if RESULTS.exists() else ""
        write_text(RESULTS, kept + text)


if __name__ == "__main__":
    main()
