"""Brain masks and bias field against the truth of phantoms and, where the downloads are, against HD-BET.

    python benchmarks/brain.py [--patients 2] [--voxel-size 2] [--bet] [--slow]

--bet adds BET (`pip install brainextractor`), --slow adds choi2021's N4 settings. One thread; processor seconds.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from glioma_repro.brain import N4_SETTINGS, bias_field, brain_mask, dice
from glioma_repro.core import SEQUENCES, ReproError, real_data, write_text
from glioma_repro.phantom import make_phantom
from glioma_repro.registration import read_sequence, register, resample

from tables import markdown


def timed(function, *args, **settings):
    """A result and the processor seconds it took."""
    began = time.process_time()
    result = function(*args, **settings)
    return result, time.process_time() - began


def masks_of_phantoms(cohort, methods):
    """Dice with the true brain."""
    for one in cohort.ids:
        truth = cohort.image(one, "label-brain_mask", "truth")
        for suffix in ("T1w", "ce-gadolinium_T1w"):
            for method in methods:
                (mask, notes), seconds = timed(brain_mask, cohort.image(one, suffix), method, one, suffix)
                yield dict(data="phantom", image=f"{one} {suffix}", method=method, dice=dice(mask, truth), seconds=seconds, flags="; ".join(notes["flags"]))


def masks_of_real(folder, methods):
    """Dice with HD-BET: found on T1w, and carried to the other sequences by the rigid transform; other methods on each sequence itself."""
    files = {"T1w": ("T1_AX*", "t1"), "ce-gadolinium_T1w": ("*POST_GAD*", "t1c"), "T2w": ("*T2_AX*", "t2"), "FLAIR": ("*FLAIR*", "fla")}
    images = {suffix: read_sequence(next(folder.glob(f"{pattern}.nii.gz"))) for suffix, (pattern, _) in files.items()}
    reference = {suffix: sitk.ReadImage(str(folder / "hdbet_masks" / f"mask_{word}.nii.gz")) for suffix, (_, word) in files.items()}
    (found, notes), spent = timed(brain_mask, images["T1w"], "atlas", "sub-FG6692")
    for suffix, image in images.items():
        if suffix == "T1w":
            mask, seconds, flags = found, spent, notes["flags"]
        else:
            result, seconds = timed(register, images["T1w"], image)
            mask, flags = resample(found, image, result.transform.GetInverse(), interpolation="nearest"), result.flags
        yield dict(data="TCGA-FG-6692", image=suffix, method="atlas on T1w, carried", dice=dice(mask, reference[suffix]), seconds=seconds, flags="; ".join(flags))
        for method in methods:
            (mask, notes_), seconds = timed(brain_mask, image, method, "sub-FG6692", suffix)
            yield dict(data="TCGA-FG-6692", image=suffix, method=f"{method} on itself", dice=dice(mask, reference[suffix]), seconds=seconds, flags="; ".join(notes_["flags"]))


def fields(cohort, ways):
    """Correlation with the true bias field and what is left of it in white matter."""
    for one in cohort.ids:
        brain = cohort.image(one, "label-brain_mask", "truth")
        inside = sitk.GetArrayFromImage(brain) > 0
        white = sitk.GetArrayFromImage(cohort.image(one, "label-wm_probseg", "truth")) > 240
        for suffix in SEQUENCES:
            image = cohort.image(one, suffix)
            truth = sitk.GetArrayFromImage(sitk.Resample(cohort.image(one, f"desc-{suffix.replace('ce-gadolinium_', 'ce')}_logbias", "truth"), image,
                                                         sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32))
            for way in ways:
                field, seconds = timed(bias_field, image, brain, **N4_SETTINGS[way])
                found = sitk.GetArrayFromImage(field)
                yield dict(image=f"{one} {suffix}", settings=way, correlation=np.corrcoef(truth[inside], found[inside])[0, 1],
                           left_in_white_matter=np.std((truth - found)[white]) / np.std(truth[white]), seconds=seconds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--patients", type=int, default=2)
    parser.add_argument("--voxel-size", type=float, default=2.0)
    parser.add_argument("--bet", action="store_true")
    parser.add_argument("--slow", action="store_true")
    args = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    extra = ["bet"] if args.bet else []
    with tempfile.TemporaryDirectory() as folder:
        cohort = make_phantom(Path(folder) / "p", patients=args.patients, sites=2, voxel_size=args.voxel_size, full_truth=True, jobs=1)
        masks = pd.DataFrame(masks_of_phantoms(cohort, ["affine", "atlas", *extra]))
        print(masks, flush=True)
        n4 = pd.DataFrame(fields(cohort, ["fast", "choi2021"] if args.slow else ["fast"]))
        print(n4, flush=True)
    data = real_data()
    if data and (data / "tcga_fg_6692_raw").is_dir():
        try:
            masks = pd.concat([masks, pd.DataFrame(masks_of_real(data / "tcga_fg_6692_raw", extra))])
        except ReproError as error:
            print(error)
    text = "\n".join([f"# Brain masks and bias field (phantoms of {args.voxel_size:g} mm; one thread, processor seconds)", "", markdown(masks.round(3)), "", markdown(n4.round(3)), ""])
    print(text)
    write_text(Path(__file__).parent / "results" / "brain.md", text)


if __name__ == "__main__":
    main()
