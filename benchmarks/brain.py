"""Brain masks and bias field against the truth of phantoms and, where the downloads
are, against HD-BET.

    python benchmarks/brain.py [--sections masks,seeds,fields,real] [--patients 2]
    [--seeds 12] [--phantoms 11,12,13] [--bet] [--slow SEQUENCES]

Each section is kept in benchmarks/results/brain_SECTION.csv, and results/brain.md is
written from all that are there, so that a long one can be run alone.
--bet adds BET (`pip install brainextractor`), --slow T1w,FLAIR adds choi2021's N4
settings for these sequences. One thread; processor seconds.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from glioma_repro.images.brain import (
    N4_SETTINGS,
    bias_field,
    brain_mask,
    correct_bias,
    image_dice,
)
from glioma_repro.patients.core import (
    SEQUENCES,
    PatientError,
    read_volume,
    real_data,
    write_text,
)
from glioma_repro.patients.phantom import make_phantom
from glioma_repro.images.registration import (
    grow_mask,
    read_sequence,
    register,
    resample,
    template,
)

from downloads import tcga_files
from tables import markdown

RESULTS = Path(__file__).parent / "results"
# in its masks' names
HDBET = {"T1w": "t1", "ce-gadolinium_T1w": "t1c", "T2w": "t2", "FLAIR": "fla"}


def timed(function, *args, **settings):
    """A result and the processor seconds it took."""
    began = time.process_time()
    result = function(*args, **settings)
    return result, time.process_time() - began


def tried(image, method, who, suffix, truth, seed=0):
    """Dice, seconds and flags of a mask; a failure that says so is a flag, not a Dice."""
    try:
        (mask, notes), seconds = timed(brain_mask, image, method, who, suffix, seed)
        return dict(
            dice=image_dice(mask, truth),
            seconds=seconds,
            flags="; ".join(notes["flags"]),
        )
    except PatientError as error:
        return dict(dice=np.nan, seconds=np.nan, flags=str(error))


def phantoms(folder, args):
    """Cohorts of as many seeds, none of which the settings were chosen on."""
    return [
        make_phantom(
            Path(folder) / f"p{seed}",
            patients=args.patients,
            sites=2,
            voxel_size=args.voxel_size,
            full_truth=True,
            seed=seed,
            jobs=1,
        )
        for seed in args.phantoms
    ]


def tcga():
    """The four sequences as scanned, and HD-BET's mask of each; None without the
    downloads.
    """
    if not (files := tcga_files(real_data())):
        return None
    images = {suffix: read_sequence(path) for suffix, path in files.items()}
    masks = {
        suffix: sitk.ReadImage(
            str(path.parent / "hdbet_masks" / f"mask_{HDBET[suffix]}.nii.gz"),
            sitk.sitkUInt8,
        )
        for suffix, path in files.items()
    }
    return images, {
        suffix: resample(mask, images[suffix], interpolation="nearest")
        for suffix, mask in masks.items()
    }


def masks(args):
    """Dice with the true brain, and with HD-BET: found on T1w and carried by the rigid
    transform; BET on each sequence itself.
    """
    methods = ["affine", "atlas", *(["bet"] if args.bet else [])]
    with tempfile.TemporaryDirectory() as folder:
        cohort = phantoms(folder, args)[0]
        for one in cohort.ids:
            for suffix in (
                "T1w",
                "ce-gadolinium_T1w",
                *(("T2w", "FLAIR") if args.bet else ()),
            ):
                for method in methods if suffix.endswith("T1w") else ["bet"]:
                    yield dict(
                        data="phantom",
                        image=f"{one} {suffix}",
                        method=method,
                        **tried(
                            cohort.image(one, suffix),
                            method,
                            one,
                            suffix,
                            cohort.image(one, "label-brain_mask", "truth"),
                        ),
                    )
    if (real := tcga()) is None:
        return
    images, reference = real
    (found, notes), spent = timed(brain_mask, images["T1w"], "atlas", "sub-FG6692")
    for suffix, image in images.items():
        mask, seconds, flags = found, spent, notes["flags"]
        if suffix != "T1w":
            result, seconds = timed(register, images["T1w"], image)
            mask, flags = (
                resample(
                    found, image, result.transform.GetInverse(), interpolation="nearest"
                ),
                result.flags,
            )
        yield dict(
            data="TCGA-FG-6692",
            image=suffix,
            method="atlas on T1w, carried",
            dice=image_dice(mask, reference[suffix]),
            seconds=seconds,
            flags="; ".join(flags),
        )
        for method in methods[2:]:
            yield dict(
                data="TCGA-FG-6692",
                image=suffix,
                method=f"{method} on itself",
                **tried(image, method, "sub-FG6692", suffix, reference[suffix]),
            )


def seeds(args):
    """Dice of the atlas' mask on T1w for many seeds of the samples."""
    images = []
    if (real := tcga()) is not None:
        images.append(("TCGA-FG-6692", real[0]["T1w"], real[1]["T1w"]))
    with tempfile.TemporaryDirectory() as folder:
        for cohort in phantoms(folder, args):
            images.append(
                (
                    f"phantom {cohort.ids[0]}",
                    cohort.image(cohort.ids[0], "T1w"),
                    cohort.image(cohort.ids[0], "label-brain_mask", "truth"),
                )
            )
    for who, image, truth in images:
        for seed in range(args.seeds if who.startswith("TCGA") else args.phantom_seeds):
            yield dict(
                image=who, seed=seed, **tried(image, "atlas", who, "T1w", truth, seed)
            )


def fields(args):
    """Correlation with the true bias field and what is left of it in white matter,
    noise apart and mean removed.
    """
    with tempfile.TemporaryDirectory() as folder:
        for number, cohort in enumerate(phantoms(folder, args)):
            for one in cohort.ids:
                brain = cohort.image(one, "label-brain_mask", "truth")
                inside = sitk.GetArrayFromImage(brain) > 0
                white = (
                    sitk.GetArrayFromImage(
                        cohort.image(one, "label-wm_probseg", "truth")
                    )
                    > 240
                )
                for suffix in SEQUENCES:
                    image = cohort.image(one, suffix)
                    stored = cohort.image(
                        one,
                        f"desc-{suffix.replace('ce-gadolinium_', 'ce')}_logbias",
                        "truth",
                    )
                    truth = sitk.GetArrayFromImage(
                        sitk.Resample(
                            stored,
                            image,
                            sitk.Transform(),
                            sitk.sitkLinear,
                            0.0,
                            sitk.sitkFloat32,
                        )
                    )
                    for way in (
                        ["fast", "choi2021"]
                        if suffix in args.slow and number == 0 and one == cohort.ids[0]
                        else ["fast"]
                    ):
                        field, seconds = timed(
                            bias_field, image, brain, **N4_SETTINGS[way]
                        )
                        found = sitk.GetArrayFromImage(field)
                        yield dict(
                            patient=one,
                            image=suffix,
                            settings=way,
                            true_sd=np.std(truth[inside]),
                            correlation=np.corrcoef(truth[inside], found[inside])[0, 1],
                            left_in_white_matter=np.std((truth - found)[white])
                            / np.std(truth[white]),
                            seconds=seconds,
                        )


def white_matter(image, brain, transform, avoid=None):
    """White matter by place, not by brightness: the template's, carried, within the
    brain and away from a drawn tumour.
    """
    import nilearn

    part = sitk.ReadImage(
        str(
            Path(nilearn.__file__).parent
            / "datasets"
            / "data"
            / "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz"
        ),
        sitk.sitkFloat32,
    )
    likely = sitk.GetArrayFromImage(resample(part, image, transform)) > 0.9 * float(
        sitk.GetArrayViewFromImage(part).max()
    )
    likely &= sitk.GetArrayFromImage(grow_mask(brain, -5.0)) > 0
    return (
        likely & ~(sitk.GetArrayFromImage(grow_mask(avoid, 5.0)) > 0)
        if avoid is not None
        else likely
    )


def spread(image, white):
    """Robust coefficient of variation: half of the 16th to 84th percentile over the
    median.
    """
    low, middle, high = np.percentile(
        sitk.GetArrayViewFromImage(image)[white], [16, 50, 84]
    )
    return (high - low) / 2 / middle


def real(args):
    """The coefficient of variation in the template's white matter, before and after."""
    atlas, atlas_brain = template(2.0)
    cases = []
    if (scans := tcga()) is not None:
        cases += [
            ("TCGA-FG-6692", suffix, image, scans[1][suffix], None)
            for suffix, image in scans[0].items()
        ]
    folder = real_data() / "brats2012_hg0015" if real_data() else None
    if folder is not None and folder.is_dir():
        tumour = sitk.Cast(
            read_volume(folder / "BRATS_HG0015_truth.mha") > 0, sitk.sitkUInt8
        )
        for suffix, word in zip(SEQUENCES, ("T1", "T1C", "T2", "FLAIR")):
            image = sitk.Cast(
                read_volume(folder / f"BRATS_HG0015_{word}.mha"), sitk.sitkFloat32
            )
            cases.append(
                (
                    "BRATS HG0015",
                    suffix,
                    image,
                    sitk.Cast(image > 0, sitk.sitkUInt8),
                    tumour,
                )
            )
    for who, suffix, image, brain, tumour in cases:
        found = register(
            atlas,
            sitk.Mask(image, brain),
            "affine",
            mask=atlas_brain,
            bins=32,
            levels=((4.0, 15000),),
        )
        white = white_matter(image, brain, found.transform.GetInverse(), tumour)
        row = dict(
            data=who, image=suffix, voxels=int(white.sum()), before=spread(image, white)
        )
        for way in ["fast", "choi2021"] if suffix in args.slow else ["fast"]:
            field, seconds = timed(bias_field, image, brain, **N4_SETTINGS[way])
            row |= {
                way: spread(correct_bias(image, field), white),
                f"{way} seconds": seconds,
            }
        yield row


def verdict(text, value, holds):
    """One line: what is wanted, what was found."""
    return f"- {text}: {value} ({'holds' if holds else 'does not hold'})"


def expectations(tables):
    """The issue's figures beside ours."""
    lines = []
    if "masks" in tables:
        atlas = tables["masks"].query("method.str.startswith('atlas')")
        for data, wanted in (("phantom", 0.95), ("TCGA-FG-6692", 0.93)):
            least = atlas[atlas.data == data].dice.min()
            lines += (
                [
                    verdict(
                        f"Dice of the atlas' mask, {data}, all images, at least "
                        f"{wanted}",
                        f"least {least:.3f}",
                        least >= wanted,
                    )
                ]
                if least == least
                else []
            )
    if "seeds" in tables:
        for who, part in tables["seeds"].groupby("image"):
            silent, wanted = (
                part[(part["flags"].fillna("") == "") & (part.dice < 0.9)],
                0.93 if who.startswith("TCGA") else 0.95,
            )
            lines += [
                verdict(
                    f"{who}, {len(part)} seeds, least Dice at least {wanted}",
                    f"{part.dice.min():.3f}; {len(silent)} silently below 0.9",
                    part.dice.min() >= wanted and not len(silent),
                )
            ]
    if "fields" in tables:
        fast = tables["fields"].query("settings == 'fast'")
        for suffix, part in fast.groupby("image", sort=False):
            correlation, left = (
                part.correlation.median(),
                part.left_in_white_matter.median(),
            )
            lines += [
                verdict(
                    f"N4 fast, {suffix}, median of {len(part)} patients, correlation "
                    "at least 0.9",
                    f"{correlation:.2f} (least {part.correlation.min():.2f})",
                    correlation >= 0.9,
                ),
                verdict(
                    f"N4 fast, {suffix}, left in white matter at most a third",
                    f"{left:.2f} (most {part.left_in_white_matter.max():.2f})",
                    left <= 1 / 3,
                ),
            ]
        for name, part in (
            (
                "true field's standard deviation at least 0.06",
                fast[fast.true_sd >= 0.06],
            ),
            ("weaker fields", fast[fast.true_sd < 0.06]),
        ):
            lines.append(
                f"- {name}: {len(part)} images, median correlation "
                f"{part.correlation.median():.2f}, left in white matter "
                f"{part.left_in_white_matter.median():.2f}"
            )
        both = (
            tables["fields"]
            .pivot(
                index=["patient", "image"],
                columns="settings",
                values=["correlation", "left_in_white_matter", "seconds"],
            )
            .dropna()
        )
        if len(both) and "choi2021" in both["seconds"]:
            lines.append(
                f"- choi2021's settings on the same {len(both)} images: median "
                f"correlation {both['correlation']['choi2021'].median():.2f} (fast "
                f"{both['correlation']['fast'].median():.2f}), left "
                f"{both['left_in_white_matter']['choi2021'].median():.2f} "
                "(fast "
                f"{both['left_in_white_matter']['fast'].median():.2f}), "
                f"{(both['seconds']['choi2021'] / both['seconds']['fast']).median():.0f} times the processor seconds"
            )
    if "real" in tables:
        rows = tables["real"]
        lines.append(
            verdict(
                "real scans: the coefficient of variation in white matter falls",
                f"{(rows.fast < rows.before).sum()} of {len(rows)}",
                bool((rows.fast < rows.before).all()),
            )
        )
        if "choi2021" in rows:
            both = rows.dropna(subset=["choi2021"])
            lines.append(
                verdict(
                    "real scans: not worse than with choi2021's settings (by more "
                    "than 0.002)",
                    f"{(both.fast <= both.choi2021 + 0.002).sum()} of {len(both)}, "
                    "which took "
                    f"{(both['choi2021 seconds'] / both['fast seconds']).median():.0f} times the processor seconds",
                    bool((both.fast <= both.choi2021 + 0.002).all()),
                )
            )
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sections", default="masks,seeds,fields,real")
    parser.add_argument("--patients", type=int, default=2)
    parser.add_argument("--voxel-size", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--phantom-seeds", type=int, default=12)
    parser.add_argument(
        "--phantoms",
        type=lambda text: [int(one) for one in text.split(",")],
        default=[11, 12, 13],
    )
    parser.add_argument("--bet", action="store_true")
    parser.add_argument("--slow", type=lambda text: text.split(","), default=[])
    args = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    sections = dict(masks=masks, seeds=seeds, fields=fields, real=real)
    for name in filter(None, args.sections.split(",")):
        rows = []
        for row in sections[name](args):
            print(row, flush=True)
            rows.append(row)
            write_text(
                RESULTS / f"brain_{name}.csv", pd.DataFrame(rows).to_csv(index=False)
            )
    tables = {
        name: pd.read_csv(path)
        for name in sections
        if (path := RESULTS / f"brain_{name}.csv").exists()
    }
    parts = [
        "# Brain masks and bias field",
        "",
        f"Phantoms of {args.voxel_size:g} mm; one thread of a shared two-core AMD "
        "EPYC, processor seconds (of BET, brainextractor's).",
        "",
        *expectations(tables),
    ]
    for name, table in tables.items():
        parts += [
            "",
            f"## {name}: {' '.join(sections[name].__doc__.split())}",
            "",
            markdown(table.round(3).fillna("")),
        ]
    write_text(RESULTS / "brain.md", "\n".join([*parts, ""]))


if __name__ == "__main__":
    main()
