"""Curating the TCGA-LGG slices: first call, second call, after a kill, against the bare
work (read every TIFF, stack, write NIfTI; no checks, no record).

Run: python benchmarks/curate.py   (needs the real slices: GLIOMA_DATA, or
../shared/data beside the project)
"""

import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from glioma_repro.patients.core import cores, project_root, real_data, write_text
from glioma_repro.patients.curation import curate, slice_numbers
from glioma_repro.patients.store import Case, source_files


def timed(function):
    "Seconds and result."
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def bare(source, out):
    "The least that has to be done, one patient after the other."
    for folder in sorted(
        one for one in (source / "kaggle_3m").iterdir() if one.is_dir()
    ):
        pictures, masks = slice_numbers(
            source_files(Case("sub-x", str(folder))), "sub-x"
        )
        volume = np.stack([np.asarray(Image.open(path)) for path in pictures.values()])
        mask = np.stack([np.asarray(Image.open(path)) for path in masks.values()])
        for name, array in [
            *((str(channel), volume[..., channel]) for channel in range(3)),
            ("mask", mask),
        ]:
            sitk.WriteImage(
                sitk.GetImageFromArray(np.ascontiguousarray(array)),
                str(out / f"{folder.name}_{name}.nii.gz"),
                useCompression=True,
            )


def processor():
    "The processor's name without frequency or machine."
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines()
        if Path("/proc/cpuinfo").exists()
        else []
    )
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )


def main():
    source = real_data()
    if source is None or not (source / "kaggle_3m").is_dir():
        sys.exit(
            "no real slices: set GLIOMA_DATA to a folder with kaggle_3m and the "
            "clinical table"
        )
    work = Path(tempfile.mkdtemp())
    try:
        first, cohort = timed(
            lambda: curate("tcga-lgg-slices", source, work / "two", jobs=2)
        )
        again, _ = timed(
            lambda: curate("tcga-lgg-slices", source, work / "two", jobs=2)
        )
        # as after a kill: half of the records are not there
        for one in cohort.ids[: len(cohort) // 2]:
            (cohort.folder / "derivatives" / "curation" / f"{one}.json").unlink()
        half, _ = timed(lambda: curate("tcga-lgg-slices", source, work / "two", jobs=2))
        single, _ = timed(
            lambda: curate("tcga-lgg-slices", source, work / "one", jobs=1)
        )
        (work / "bare").mkdir()
        plain, _ = timed(lambda: bare(source, work / "bare"))
    finally:
        shutil.rmtree(work)
    rows = [
        ("bare work, one process", plain),
        ("curate, one process", single),
        ("curate, two processes", first),
        ("curate again, half of the patients done", half),
        ("curate again, nothing to do", again),
    ]
    table = "\n".join(
        [
            "| what | seconds | ratio |",
            "|---|---:|---:|",
            *(
                f"| {what} | {seconds:.2f} | {seconds / plain:.2f} |"
                for what, seconds in rows
            ),
        ]
    )
    text = (
        f"# Curating {len(cohort)} patients of TCGA-LGG slices\n\n{min(cores(), 2)} "
        f"cores of an {processor()}, other work on the machine; "
        f"ratio: to the bare work.\n\n{table}\n"
    )
    write_text(project_root() / "benchmarks" / "results" / "curate.md", text)
    print(text)


if __name__ == "__main__":
    main()
