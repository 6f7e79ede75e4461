"""Null cohorts: does the whole way from images to AUROC find something where there is
nothing?

Twenty phantoms with effect=0 (the labels show in nothing), radiomics, all features
together, five folds.
The mean AUROC within folds must lie within 0.5 +- 0.03; the pooled one is shown
beside it.

    python benchmarks/baselines_null.py [--cohorts 20] [--patients 48] [--voxel-size 5]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from glioma_repro.statistics.measures import as_arrays, auroc_within_folds
from glioma_repro.methods.classical import within_folds
from glioma_repro.patients.cohort import patient_splits, usable_targets
from glioma_repro.patients.core import Predictions, write_text
from glioma_repro.methods.classical import Features, baseline_methods
from glioma_repro.methods.method import common_patients, gather_samples, run_folds
from glioma_repro.patients.phantom import phantom
from glioma_repro.runs.study import device_name

MODELS = ("majority", "age", "site", "all together", "all together, forest")


def pooled(predictions):
    "The usual AUROC: scores averaged over repeats, all folds in one list."
    fold, label, score, classes, _ = as_arrays(predictions)
    return within_folds(
        np.zeros((1, len(label))), label, score.mean(axis=0, keepdims=True), classes
    )[0]


def one_cohort(seed, options):
    "AUROCs of one null cohort: a row a target and model."
    cohort = phantom(
        f"phantom:effect=0,patients={options.patients},voxel_size={options.voxel_size},seed={seed}",
        jobs=options.jobs,
    )
    features, _ = Features().samples(cohort, jobs=options.jobs)
    usable = usable_targets(cohort, folds=options.folds)
    targets = usable.loc[usable["usable"], "target"].tolist()
    splits = patient_splits(cohort, targets, options.folds, options.repeats, seed)
    methods = [
        method
        for method in baseline_methods(features.names, trees=options.trees)
        if method.name in MODELS
    ]
    samples, _ = gather_samples(methods, cohort, targets, jobs=options.jobs)
    shared = common_patients(samples)
    predictions = run_folds(
        methods,
        cohort,
        splits,
        targets,
        samples={name: one.of(shared) for name, one in samples.items()},
        seed=seed,
        jobs=options.jobs,
        description="",
        study="null",
    ).predictions
    table = auroc_within_folds(predictions, 2)
    table["pooled"] = [
        pooled(Predictions(part))
        for _, part in predictions.table.groupby(
            ["model", "target", "subset"], sort=False
        )
    ]
    return table.assign(seed=seed)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in dict(
        cohorts=20, patients=48, folds=5, repeats=2, trees=50, first_seed=200
    ).items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--voxel-size", type=float, default=5.0)
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args()
    start, parts = time.time(), []
    for seed in range(options.first_seed, options.first_seed + options.cohorts):
        parts.append(one_cohort(seed, options))
        print(
            f"cohort {seed - options.first_seed + 1} of {options.cohorts}, "
            f"{time.time() - start:.0f} s",
            flush=True,
        )
    table = pd.concat(parts)
    # targets of a cohort share patients: one value a cohort
    cohorts = table.groupby(["seed", "model"])[["auroc_within_folds", "pooled"]].mean()
    rows = []
    for model in MODELS:
        values = cohorts.xs(model, level="model")
        rows.append(
            [model]
            + [
                text
                for name in ("auroc_within_folds", "pooled")
                for text in (
                    f"{values[name].mean():.3f}",
                    f"{values[name].std(ddof=1) / np.sqrt(len(values)):.3f}",
                )
            ]
        )
    lines = [
        "| model | AUROC within folds, mean | standard error | pooled AUROC, mean | "
        "standard error |",
        "|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    by_target = (
        table[table["model"] == "all together"]
        .groupby("target")[["auroc_within_folds", "pooled"]]
        .mean()
    )
    value = float(rows[MODELS.index("all together")][1])
    text = "\n".join(
        [
            "# Null cohorts",
            "",
            f"{options.cohorts} phantoms with effect=0 (seeds from "
            f"{options.first_seed}), {options.patients} patients, "
            f"{options.voxel_size:g} mm, "
            f"{options.folds} folds, {options.repeats} repeats; targets averaged "
            f"within a cohort. {device_name()}, {time.time() - start:.0f} s.",
            "",
            *lines,
            "",
            "All together, by target: "
            + ", ".join(
                f"{target} {row['auroc_within_folds']:.3f} (pooled {row['pooled']:.3f})"
                for target, row in by_target.iterrows()
            )
            + ".",
            "",
            f"All features together: {value:.3f}, "
            + ("within" if abs(value - 0.5) <= 0.03 else "NOT within")
            + " 0.5 +- 0.03.",
            "",
        ]
    )
    write_text(Path(__file__).parent / "results" / "baselines_null.md", text)
    print(text)


if __name__ == "__main__":
    main()
