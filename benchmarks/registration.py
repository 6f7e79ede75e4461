"""Rigid registration against known transforms, beside ANTsPy on the same pairs in the same run.

    python benchmarks/registration.py [--patients 2] [--ants PYTHON]

Pairs: phantom patients (1x1x1 against 1x1x3 mm, up to 15 degrees and 20 mm) and, where the downloads are, brats2012_hg0015 and brats2021 with
known transforms, 3 mm slices and a 15 % intensity ramp. ANTsPy runs in the Python given by --ants (`pip install antspyx` there).
Both use one thread. Times are processor seconds, so that other work on the machine counts little; compare them as ratios.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from glioma_repro.core import generator, real_data, write_text
from glioma_repro.phantom import make_phantom
from glioma_repro.registration import register, registration_error, resample

from tables import markdown

ANTS = """
import sys, time, json, shutil, ants
jobs = json.load(open(sys.argv[1]))
for job in jobs:
    fixed, moving = ants.image_read(job["fixed"]), ants.image_read(job["moving"])
    began = time.process_time()
    found = ants.registration(fixed, moving, type_of_transform="Rigid", random_seed=1)
    job["seconds"] = time.process_time() - began
    shutil.copy(found["fwdtransforms"][0], job["ants"])
json.dump(jobs, open(sys.argv[1], "w"))
"""


def known_motion(image, name):
    """A random rigid transform about the image's middle."""
    rng = generator("benchmark", name)
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    return sitk.Euler3DTransform(middle, *np.deg2rad(rng.uniform(-10, 10, 3)).tolist(), rng.uniform(-12, 12, 3).tolist())


def as_thick_slices(image, transform, name):
    """The image moved by a transform, on 3 mm slices, with a ramp of 15 % in a random direction."""
    size = image.GetSize()
    grid = sitk.Image([size[0] + 20, size[1] + 20, (size[2] + 20) // 3], sitk.sitkUInt8)
    grid.SetSpacing((1, 1, 3))
    grid.SetOrigin([value - 10 * step for value, step in zip(image.GetOrigin(), np.array(image.GetDirection()).reshape(3, 3).sum(1))])
    grid.SetDirection(image.GetDirection())
    moved = resample(sitk.SmoothingRecursiveGaussian(image, [0.01, 0.01, 1.27]), grid, transform.GetInverse())
    rng = generator("ramp", name)
    weight = rng.normal(size=3)
    weight /= np.abs(weight).sum()
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in moved.GetSize()[::-1]], indexing="ij")
    tilted = sitk.GetImageFromArray((sitk.GetArrayFromImage(moved) * (1 + 0.15 * sum(w * a for w, a in zip(weight, axes)))).astype(np.float32))
    tilted.CopyInformation(moved)
    return tilted


def phantom_pairs(folder, patients):
    """(name, group, fixed, moving, truth, region) of phantom patients."""
    cohort = make_phantom(folder / "phantom", patients=patients, sites=2, voxel_size=1, slice_thickness=3, misaligned=True, rotation=15, translation=20, jobs=1)
    for one in cohort.ids:
        fixed, region = cohort.image(one, "ce-gadolinium_T1w"), cohort.image(one, "label-brain_mask", "truth")
        for suffix in ("T1w", "T2w", "FLAIR"):
            truth = sitk.ReadTransform(str(cohort.path(one, f"from-{suffix}_to-truth_mode-image_xfm", "truth", ".tfm")))
            yield f"{one} {suffix}", "phantom", fixed, cohort.image(one, suffix), truth, region


def real_pairs(data):
    """The same for the two BraTS patients."""
    sets = {"brats2012": (data / "brats2012_hg0015", "BRATS_HG0015_{}.mha", ("T1C", "T1", "T2", "FLAIR")),
            "brats2021": (data / "brats2021" / "BraTS2021_01476", "BraTS2021_01476_{}.nii.gz", ("t1ce", "t1", "t2", "flair"))}
    for name, (folder, pattern, sequences) in sets.items():
        if folder.is_dir():
            images = [sitk.ReadImage(str(folder / pattern.format(one)), sitk.sitkFloat32) for one in sequences]
            region = sitk.Cast(images[0] > 0, sitk.sitkUInt8)
            for suffix, image in zip(("T1w", "T2w", "FLAIR"), images[1:]):
                truth = known_motion(image, f"{name} {suffix}")
                yield f"{name} {suffix}", name, images[0], as_thick_slices(image, truth, f"{name} {suffix}"), truth, region


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--patients", type=int, default=2)
    parser.add_argument("--ants", default=None, help="a Python with antspyx")
    args = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    rows, jobs = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data = real_data()
        pairs = [*phantom_pairs(folder, args.patients), *(real_pairs(data) if data else [])]
        for number, (name, group, fixed, moving, truth, region) in enumerate(pairs):
            began = time.process_time()
            found = register(fixed, moving)
            seconds = time.process_time() - began
            error = registration_error(found.transform, truth, region)
            rows.append(dict(pair=name, group=group, mean=error.mean(), worst=error.max(), flags="; ".join(found.flags), seconds=seconds))
            print(rows[-1], flush=True)
            if args.ants:
                job = {what: str(folder / f"{number}_{what}.nii.gz") for what in ("fixed", "moving")} | {"ants": str(folder / f"{number}.mat")}
                sitk.WriteImage(fixed, job["fixed"])
                sitk.WriteImage(moving, job["moving"])
                jobs.append(job)
        if args.ants:
            (folder / "jobs.json").write_text(json.dumps(jobs))
            environment = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "PATH": "/usr/bin:/bin"}
            subprocess.run([args.ants, "-c", ANTS, str(folder / "jobs.json")], check=True, env=environment)
            for row, job, pair in zip(rows, json.loads((folder / "jobs.json").read_text()), pairs):
                error = registration_error(sitk.ReadTransform(job["ants"]), pair[4], pair[5])
                row |= dict(ants_mean=error.mean(), ants_worst=error.max(), time_ratio=job["seconds"] / row["seconds"])
    table = pd.DataFrame(rows)
    columns = [one for one in ("mean", "worst", "ants_mean", "ants_worst", "time_ratio") if one in table]
    summary = table.groupby("group")[columns].median().round(3).reset_index()
    text = "\n".join(["# Rigid registration: error in mm over the brain, one thread", "", markdown(table.drop(columns="group").round(3)), "",
                      "Medians a group (time_ratio: ANTsPy's seconds over ours):", "", markdown(summary), ""])
    print(text)
    write_text(Path(__file__).parent / "results" / "registration.md", text)


if __name__ == "__main__":
    main()
