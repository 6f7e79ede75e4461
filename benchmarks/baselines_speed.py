"""Where the time of the study baselines goes, and what our short cuts save, measured in
one run.

    python benchmarks/baselines_speed.py [--patients 24] [--voxel-size 3]
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from glioma_repro.features import radiomics
from glioma_repro.statistics.measures import auroc_within_folds
from glioma_repro.patients.cohort import patient_splits
from glioma_repro.patients.core import read_cohort, write_text
from glioma_repro.methods.classical import Features, Retraining
from glioma_repro.methods.method import run_folds
from glioma_repro.patients.phantom import phantom
from glioma_repro.runs.study import device_name


def seconds(call, times=1):
    "Seconds a call, the best of `times`."
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, default=24)
    parser.add_argument("--voxel-size", type=float, default=3.0)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        made = phantom(
            f"phantom:patients={options.patients},voxel_size={options.voxel_size}"
        )
        shutil.copytree(
            made.folder,
            Path(folder) / "copy",
            ignore=shutil.ignore_patterns("radiomics"),
        )
        cohort = read_cohort(Path(folder) / "copy")
        first = seconds(lambda: radiomics.extract_features(cohort, description=""))
        again = seconds(lambda: radiomics.extract_features(cohort, description=""), 3)
        rows.append(
            (
                "radiomics, a patient",
                first / len(cohort),
                "read again",
                again / len(cohort),
            )
        )
        image, mask = cohort.image(cohort.ids[0], "FLAIR"), cohort.mask(cohort.ids[0])
        ours = seconds(
            lambda: radiomics.run_pyradiomics(
                image, mask, "firstorder", {"binCount": 32}
            ),
            5,
        )
        rows.append(
            (
                "pyradiomics' extractor, first order",
                seconds(lambda: whole(image, mask), 5),
                "cut to the tumour's box",
                ours,
            )
        )
        samples = radiomics.feature_samples(
            *radiomics.extract_features(cohort, description="")
        )
        splits = patient_splits(cohort, ["idh"], 4, 2)
        method = Features()
        given = dict(
            samples={method.name: samples}, jobs=1, description="", study="speed"
        )
        direct = seconds(
            lambda: auroc_within_folds(
                run_folds([method], cohort, splits, ["idh"], **given).predictions, 2
            ),
            3,
        )
        retrain = Retraining(samples, splits, "idh", method)
        rows.append(
            (
                "one permutation by run_folds",
                direct,
                "by Retraining",
                seconds(lambda: retrain(shuffled(retrain.labels)), 10),
            )
        )
    lines = [
        "| what | seconds | short cut | seconds | times faster |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {what} | {slow:.4f} | {how} | {fast:.4f} | {slow / fast:.1f} |"
        for what, slow, how, fast in rows
    ]
    text = "\n".join(
        [
            "# Speed of the baselines",
            "",
            f"{options.patients} phantom patients, {options.voxel_size:g} mm. "
            f"{device_name()}.",
            "",
            *lines,
            "",
        ]
    )
    write_text(Path(__file__).parent / "results" / "baselines_speed.md", text)
    print(text)


def whole(image, mask):
    "pyradiomics as its manual calls it: the whole volume, with its own record."
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    extractor = RadiomicsFeatureExtractor(binCount=32)
    extractor.disableAllFeatures()
    extractor.enableFeatureClassByName("firstorder")
    return extractor.execute(image, mask)


def shuffled(labels):
    return pd.Series(np.random.default_rng(0).permutation(labels), index=labels.index)


if __name__ == "__main__":
    main()
