"""Does a study lose what it finds when the scans come misaligned? The same phantom
patients, once on one grid and once each sequence with its own motion and grid, go
through a study's recipe and methods on the same folds.

    python benchmarks/alignment.py [--patients 120] [--voxel-size 3]
    [--recipe akkus2017] [--without-brain] [--methods radiomics,akkus2017]
    [--iterations 150] [--folder FOLDER]

The paired difference of the AUROC, misaligned less aligned, with its interval; wanted
is a lower bound above -0.05 of the mean over a study's targets (`effect=1`, seeds fixed
here before the first run): of one target some hundred patients cannot say so much.
`--without-brain` leaves out what an atlas is laid on each head for (brain and tissue
maps): it is the same for both and takes two thirds of the time.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from glioma_repro.methods.catalogue import methods_of, with_budget
from glioma_repro.methods.method import run_folds
from glioma_repro.images.preprocess import load_recipe, prepared
from glioma_repro.patients.cohort import patient_splits, usable_targets
from glioma_repro.patients.core import Predictions, write_text
from glioma_repro.patients.phantom import make_phantom
from glioma_repro.statistics.comparison import (
    compare,
    compare_within_folds,
    patient_shares,
)
from glioma_repro.statistics.measures import as_arrays, difference_test

from tables import markdown

SEED = 0  # of patients, folds and trainings
FOLDS = 5
LOWEST = -0.05  # wanted of the lower bound


def without_brain(recipe):
    "The recipe's registration, and its z-score over the image."
    steps = []
    for step in recipe.steps:
        if step["step"] == "tissues":
            continue
        if step["step"] == "brain":
            step = step | {"method": "none"}
        if step["step"] == "normalise":
            step = step | {"region": "image"}
        steps.append(step)
    return replace(recipe, name=f"{recipe.name}-without-brain", steps=tuple(steps))


def scored(cohort, ready, methods, targets):
    """Out-of-fold predictions of the methods, the folds of the cohort as scanned."""
    splits = patient_splits(cohort, targets, folds=FOLDS, seed=SEED)
    return run_folds(methods, ready, splits, targets, seed=SEED).predictions.table


def renamed(table, kind):
    """One method's rows, named after the phantom that they come from."""
    return table.assign(model=kind, cohort="phantom")


def rows_of(tables, methods):
    """Pooled and within folds, a row a method and target."""
    for method in methods:
        parts = [
            renamed(table[table["model"] == method.name], kind)
            for kind, table in tables.items()
        ]
        both = Predictions(pd.concat(parts, ignore_index=True))
        pooled = compare(both, "misaligned", "aligned", by="target", measures=["auroc"])
        pooled = pooled[pooled["test"].str.contains("DeLong", na=False)]
        within = compare_within_folds(both, "misaligned", ["aligned"], by=["target"])
        for measure, table in {"pooled": pooled, "within folds": within}.items():
            for row in table.itertuples():
                yield dict(
                    method=method.name,
                    target=row.target,
                    AUROC=measure,
                    n=row.n,
                    misaligned=row.value_a,
                    aligned=row.value_b,
                    difference=row.difference,
                    low=row.low,
                    high=row.high,
                    holds="yes" if row.low > LOWEST else "no",
                )


def over_targets(tables, methods):
    """The mean over the targets within folds, a row a method. What a patient adds to
    the error of each target is summed before it is squared: targets share patients.
    """
    for method in methods:
        values, gaps = [], []
        for target in sorted(set(tables["aligned"]["target"])):
            found = {}
            for kind, table in tables.items():
                mine = table[
                    (table["model"] == method.name) & (table["target"] == target)
                ]
                arrays = as_arrays(Predictions(mine))
                found[kind] = (*patient_shares(*arrays[:4]), arrays[4])
            value, share, ids = found["misaligned"]
            against, theirs, same = found["aligned"]
            assert ids == same, "both are scored on the same patients"
            values.append((value, against))
            gaps.append(pd.Series(share - theirs, index=ids))
        gap = pd.concat(gaps, axis=1).fillna(0.0).mean(axis=1)
        number = len(gap)
        misaligned, aligned = np.mean(values, axis=0)
        variance = number / (number - 1) * (gap**2).sum()
        tested = difference_test(misaligned - aligned, variance, number - 1)
        yield dict(
            method=method.name,
            target=f"mean of {len(values)}",
            AUROC="within folds",
            n=number,
            misaligned=misaligned,
            aligned=aligned,
            **{one: tested[one] for one in ("difference", "low", "high")},
            holds="yes" if tested["low"] > LOWEST else "no",
        )


def asked():
    """What the command line says."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--patients", type=int, default=120)
    reader.add_argument("--voxel-size", type=float, default=3.0)
    reader.add_argument("--recipe", default="akkus2017")
    reader.add_argument("--without-brain", action="store_true")
    reader.add_argument("--methods", default="radiomics,akkus2017")
    reader.add_argument("--iterations", type=int, default=150)
    reader.add_argument("--folder", help="kept for another run; else a temporary one")
    return reader.parse_args()


def both_ways(given, recipe, methods, place):
    """Predictions of either kind of scans, and how many patients the recipe lost."""
    tables, lost = {}, {}
    for kind in ("aligned", "misaligned"):
        cohort = make_phantom(
            place / kind,
            patients=given.patients,
            voxel_size=given.voxel_size,
            effect=1.0,
            seed=SEED,
            misaligned=kind == "misaligned",
        )
        ready = prepared(cohort, recipe)
        lost[kind] = given.patients - len(ready.cohort)
        usable = usable_targets(cohort, folds=FOLDS).query("usable")
        targets = usable["target"].tolist()
        tables[kind] = scored(cohort, ready.cohort, methods, targets)
    return tables, lost


def page(given, found, lost, seconds):
    """The result in words and a table."""
    said = ", ".join(f"{kind} {number}" for kind, number in lost.items())
    brain = "--without-brain " if given.without_brain else ""
    return "\n".join(
        [
            "# A study on misaligned and on aligned scans",
            "",
            f"`python benchmarks/alignment.py --patients {given.patients} "
            f"--voxel-size {given.voxel_size:g} --recipe {given.recipe} {brain}"
            f"--methods {given.methods} --iterations {given.iterations}`",
            "",
            f"The same {given.patients} phantom patients (effect 1, seed {SEED}) and "
            f"folds ({FOLDS}), both through the recipe {given.recipe}. Difference: "
            f"misaligned less aligned, paired; wanted is a lower bound above {LOWEST} "
            f"of the mean over the targets. Patients that the recipe left out: {said}. "
            f"{seconds:.0f} s on {os.cpu_count()} cores"
            f"{', with images kept from before' if given.folder else ''}.",
            "",
            markdown(found.round(3)),
            "",
        ]
    )


def main():
    given, begun = asked(), time.time()
    methods = with_budget(methods_of(given.methods), given.iterations)
    recipe = load_recipe(given.recipe)
    if given.without_brain:
        recipe = without_brain(recipe)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(given.folder or temporary)
        tables, lost = both_ways(given, recipe, methods, place)
    found = pd.DataFrame([*over_targets(tables, methods), *rows_of(tables, methods)])
    text = page(given, found, lost, time.time() - begun)
    write_text(Path(__file__).parent / "results" / "alignment.md", text)
    print(text)


if __name__ == "__main__":
    main()
