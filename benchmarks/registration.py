"""Rigid registration against known transforms, beside ANTsPy on the same pairs in the
same run.

    python benchmarks/registration.py [--patients 17] [--ants PYTHON]

Pairs: phantom patients (1x1x1 against 1x1x3 mm, up to 15 degrees and 20 mm) and,
where the downloads are, brats2012_hg0015 and brats2021 with
known transforms, 3 mm slices and a 15 % intensity ramp. The real images' own
co-registration is not exact: `as_shipped` is what a method finds
between the images as they are shipped, neither moved nor tilted, and `mean_own` is
the error of the moved pair against that.
Last, heads of different patients are laid on one another and sequences of one
patient too: what the check of the shape (`bend`) says of both.
ANTsPy runs in the Python given by --ants (`pip install antspyx` there), on the first
phantom patient and all real pairs.
Both use one thread. Times are processor seconds, so that other work on the machine
counts little; compare them as ratios.
"""

import argparse
import itertools
import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from glioma_repro.patients.core import generator, real_data, write_text
from glioma_repro.patients.curation import curate
from glioma_repro.patients.phantom import make_phantom
from glioma_repro.images.registration import (
    LEVELS,
    LIMITS,
    chain,
    register,
    registration_error,
    resample,
)

from downloads import tcga_files
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
    middle = image.TransformContinuousIndexToPhysicalPoint(
        [(n - 1) / 2 for n in image.GetSize()]
    )
    return sitk.Euler3DTransform(
        middle,
        *np.deg2rad(rng.uniform(-10, 10, 3)).tolist(),
        rng.uniform(-12, 12, 3).tolist(),
    )


def as_thick_slices(image, transform, name):
    """The image moved by a transform, on 3 mm slices, with a ramp of 15 % in a random
    direction.
    """
    size = image.GetSize()
    grid = sitk.Image([size[0] + 20, size[1] + 20, (size[2] + 20) // 3], sitk.sitkUInt8)
    grid.SetSpacing((1, 1, 3))
    grid.SetOrigin(
        [
            value - 10 * step
            for value, step in zip(
                image.GetOrigin(), np.array(image.GetDirection()).reshape(3, 3).sum(1)
            )
        ]
    )
    grid.SetDirection(image.GetDirection())
    moved = resample(
        sitk.SmoothingRecursiveGaussian(image, [0.01, 0.01, 1.27]),
        grid,
        transform.GetInverse(),
    )
    rng = generator("ramp", name)
    weight = rng.normal(size=3)
    weight /= np.abs(weight).sum()
    axes = np.meshgrid(
        *[np.linspace(-1, 1, n) for n in moved.GetSize()[::-1]], indexing="ij"
    )
    tilted = sitk.GetImageFromArray(
        (
            sitk.GetArrayFromImage(moved)
            * (1 + 0.15 * sum(w * a for w, a in zip(weight, axes)))
        ).astype(np.float32)
    )
    tilted.CopyInformation(moved)
    return tilted


@dataclass
class Pair:
    """Two images, the true transform, and where it counts."""

    name: str
    group: str
    fixed: sitk.Image
    moving: sitk.Image
    truth: sitk.Transform
    region: sitk.Image
    shipped: sitk.Image = None  # the moving image before it was moved


def phantom_pairs(folder, patients):
    """Phantom patients."""
    cohort = make_phantom(
        folder / "phantom",
        patients=patients,
        sites=2,
        voxel_size=1,
        slice_thickness=3,
        misaligned=True,
        rotation=15,
        translation=20,
        jobs=1,
    )
    for one in cohort.ids:
        fixed, region = (
            cohort.image(one, "ce-gadolinium_T1w"),
            cohort.image(one, "label-brain_mask", "truth"),
        )
        for suffix in ("T1w", "T2w", "FLAIR"):
            truth = sitk.ReadTransform(
                str(
                    cohort.path(
                        one, f"from-{suffix}_to-truth_mode-image_xfm", "truth", ".tfm"
                    )
                )
            )
            yield Pair(
                f"{one} {suffix}",
                "phantom",
                fixed,
                cohort.image(one, suffix),
                truth,
                region,
            )


def real_pairs(data):
    """The two BraTS patients."""
    sets = {
        "brats2012": (
            data / "brats2012_hg0015",
            "BRATS_HG0015_{}.mha",
            ("T1C", "T1", "T2", "FLAIR"),
        ),
        "brats2021": (
            data / "brats2021" / "BraTS2021_01476",
            "BraTS2021_01476_{}.nii.gz",
            ("t1ce", "t1", "t2", "flair"),
        ),
    }
    for name, (folder, pattern, sequences) in sets.items():
        if folder.is_dir():
            images = [
                sitk.ReadImage(str(folder / pattern.format(one)), sitk.sitkFloat32)
                for one in sequences
            ]
            region = sitk.Cast(images[0] > 0, sitk.sitkUInt8)
            for suffix, image in zip(("T1w", "T2w", "FLAIR"), images[1:]):
                truth = known_motion(image, f"{name} {suffix}")
                yield Pair(
                    f"{name} {suffix}",
                    name,
                    images[0],
                    as_thick_slices(image, truth, f"{name} {suffix}"),
                    truth,
                    region,
                    image,
                )


def errors(pair, found, shipped):
    """Mean and worst error; what is found on the images as shipped, and the mean error
    against it.
    """
    error = registration_error(found, pair.truth, pair.region)
    row = dict(mean=error.mean(), worst=error.max())
    if shipped is not None:
        row |= dict(
            as_shipped=registration_error(
                shipped, sitk.Transform(), pair.region
            ).mean(),
            mean_own=registration_error(
                found, chain(shipped, pair.truth), pair.region
            ).mean(),
        )
    return row


def ours(pair):
    """A row of ours."""
    began = time.process_time()
    found = register(pair.fixed, pair.moving)
    seconds = time.process_time() - began
    shipped = (
        register(pair.fixed, pair.shipped).transform
        if pair.shipped is not None
        else None
    )
    return (
        dict(pair=pair.name, group=pair.group)
        | errors(pair, found.transform, shipped)
        | dict(flags="; ".join(found.flags), seconds=seconds)
    )


def ants(pairs, python, folder):
    """ANTsPy's rows, in its own Python."""
    jobs = []
    for number, pair in enumerate(pairs):
        for what in ("moving", "shipped") if pair.shipped is not None else ("moving",):
            job = dict(
                fixed=str(folder / f"{number}_fixed.nii.gz"),
                moving=str(folder / f"{number}_{what}.nii.gz"),
                ants=str(folder / f"{number}_{what}.mat"),
            )
            sitk.WriteImage(pair.fixed, job["fixed"])
            sitk.WriteImage(getattr(pair, what), job["moving"])
            jobs.append(job)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run(
        [python, "-c", ANTS, str(folder / "jobs.json")],
        check=True,
        env={"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    seconds = {
        job["ants"]: job["seconds"]
        for job in json.loads((folder / "jobs.json").read_text())
    }

    def read(name):
        return (
            sitk.ReadTransform(str(folder / name)) if (folder / name).exists() else None
        )

    for number, pair in enumerate(pairs):
        yield errors(
            pair, read(f"{number}_moving.mat"), read(f"{number}_shipped.mat")
        ) | dict(seconds=seconds[str(folder / f"{number}_moving.mat")])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--patients", type=int, default=17, help="phantoms, three pairs each"
    )
    parser.add_argument("--ants", default=None, help="a Python with antspyx")
    args = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder, data, rows, compared = Path(folder), real_data(), [], []
        for pair in itertools.chain(
            phantom_pairs(folder, args.patients), real_pairs(data) if data else []
        ):
            rows.append(ours(pair))
            print(rows[-1], flush=True)
            # the rest is not kept in memory
            compared += (
                [(len(rows) - 1, pair)]
                if len(rows) <= 3 or pair.shipped is not None
                else []
            )
        for (number, _), row in zip(
            compared,
            ants([pair for _, pair in compared], args.ants, folder)
            if args.ants
            else [],
        ):
            rows[number] |= {
                f"ants_{name}": value
                for name, value in row.items()
                if name != "seconds"
            } | dict(time_ratio=row["seconds"] / rows[number]["seconds"])
        shapes = pd.DataFrame(same_or_not(heads(folder, data)))
    report(pd.DataFrame(rows), shapes)


def heads(folder, data):
    """Patients, each a dict of sequences, T1w post-contrast or T1w first, and whether
    the skull is there.
    """
    cohort = make_phantom(
        folder / "heads", patients=3, sites=2, voxel_size=3, misaligned=True, jobs=1
    )
    found = {
        one: (
            True,
            {
                suffix: cohort.image(one, suffix)
                for suffix in ("ce-gadolinium_T1w", "T1w", "T2w", "FLAIR")
            },
        )
        for one in cohort.ids
    }
    if files := tcga_files(data):
        found["TCGA-FG-6692"] = (
            True,
            {
                suffix: sitk.ReadImage(str(path), sitk.sitkFloat32)
                for suffix, path in files.items()
            },
        )
    if data and (data / "brainix_dicom").is_dir():
        cohort = curate("brainix", data / "brainix_dicom", folder, jobs=1)
        found["BRAINIX"] = (
            True,
            {
                suffix: cohort.image(cohort.ids[0], suffix)
                for suffix in ("T1w", "T2w", "FLAIR")
            },
        )
    for pair in real_pairs(data) if data else []:
        found.setdefault(pair.group, (False, {"ce-gadolinium_T1w": pair.fixed}))[1][
            pair.name.split()[1]
        ] = pair.moving
    return found


def same_or_not(patients):
    """A row a pair of images: each sequence of a patient on the first sequence of the
    same patient and of the others, heads on heads and brains on brains.
    """

    def kind(one):
        return "phantom" if one.startswith("sub-") else "real"

    for (first, (skull, images)), (second, (other_skull, others)) in itertools.product(
        patients.items(), repeat=2
    ):
        fixed = next(iter(images))
        for suffix in others if skull == other_skull else []:
            if (first, fixed) != (second, suffix):
                found = register(images[fixed], others[suffix], levels=LEVELS[:1])
                bend = found.quality["bend"]
                print(first, second, suffix, f"{bend:.2f}", found.flags, flush=True)
                yield dict(
                    patients="one" if first == second else "two",
                    images=" and ".join(sorted({kind(first), kind(second)})),
                    bend=bend,
                    by_shape=bend > LIMITS["bend"],
                    flagged=not found.good,
                )


def report(table, shapes):
    """Prints and writes the tables."""
    numbers = [one for one in table if one not in ("pair", "group", "flags")]
    silent = (
        (table["mean"] > 1.5) & (table["flags"] == "") & (table["group"] == "phantom")
    ).sum()
    phantoms = table[table["group"] == "phantom"]
    text = "\n".join(
        [
            "# Rigid registration: error in mm over the brain, one thread",
            "",
            "`python benchmarks/registration.py --ants PYTHON`",
            "",
            f"{len(phantoms)} phantom pairs: median of the mean errors "
            f"{phantoms['mean'].median():.3f} mm, largest mean error "
            f"{phantoms['mean'].max():.3f} mm, "
            f"largest error of any point {phantoms['worst'].max():.3f} mm; flagged "
            f"{(phantoms['flags'] != '').sum()}, wrong by more than 1.5 mm and not "
            f"flagged {silent}.",
            "",
            "Medians a group (time_ratio: ANTsPy's processor seconds over ours; "
            "as_shipped: what the method finds between the images as shipped):",
            "",
            markdown(
                table.groupby("group")[numbers]
                .median()
                .round(3)
                .reset_index()
                .fillna("")
            ),
            "",
            markdown(table.drop(columns="group").round(3).fillna("")),
            "",
            "One patient or two (rigid at 4 mm; bend: what a coarse spline would "
            "still bend, mm; each sequence of a patient on the first sequence of "
            "that patient and of others):",
            "",
            markdown(
                shapes.groupby(["patients", "images"])
                .agg(
                    pairs=("bend", "size"),
                    least=("bend", "min"),
                    median=("bend", "median"),
                    most=("bend", "max"),
                    flagged_by_shape=("by_shape", "sum"),
                    flagged=("flagged", "sum"),
                )
                .round(2)
                .reset_index()
            ),
            "",
        ]
    )
    print(text)
    write_text(Path(__file__).parent / "results" / "registration.md", text)


if __name__ == "__main__":
    main()
