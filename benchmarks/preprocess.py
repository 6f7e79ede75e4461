"""Where the seconds of a recipe go, and what a second worker buys.

    python benchmarks/preprocess.py [--patients 8] [--recipes akkus2017 chang2018
    choi2021 vandervoort2022]

Phantom patients of four misaligned sequences, one of them of 1 mm; where the
downloads are, also TCGA-FG-6692 as scanned. The second worker is timed in the same
run.
"""

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

import pandas as pd
import SimpleITK as sitk

from glioma_repro.patients.core import Cohort, real_data, sha256_of, write_text
from glioma_repro.patients.phantom import make_phantom
from glioma_repro.images.preprocess import contact_sheets, preprocess

from downloads import tcga_files
from tables import markdown


def tcga(files, folder):
    """TCGA-FG-6692 as a cohort of one."""
    cohort = Cohort(
        "tcga-fg-6692",
        pd.DataFrame({"participant_id": ["sub-TCGAFG6692"]}),
        folder / "tcga",
    )
    for suffix, path in files.items():
        target = cohort.path("sub-TCGAFG6692", suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    cohort.write()
    return cohort


def timed(cohort, recipe, jobs, sheets):
    """Seconds by step, wall seconds, flags and the hashes of all images."""
    began = time.perf_counter()
    result = preprocess(cohort, recipe, jobs=jobs)
    wall = time.perf_counter() - began
    if sheets:
        for number, figure in enumerate(contact_sheets(result.pictures)):
            figure.savefig(
                Path(sheets) / f"{cohort.name}_{recipe}_{number}.png", dpi=80
            )
    folder = cohort.folder / "derivatives" / recipe
    hashes = [sha256_of(path) for path in sorted(folder.rglob("*.nii.gz"))]
    shutil.rmtree(folder)
    return result, wall, hashes


def rows_of(name, cohort, recipes, sheets):
    """A row a recipe: seconds a patient and step, peak memory, flags; for several
    patients also what a second worker buys.
    """
    for recipe in recipes:
        result, wall, one = timed(cohort, recipe, 1, sheets)
        row = (
            dict(
                cohort=name,
                recipe=recipe,
                patients=len(cohort),
                seconds_a_patient=wall / len(cohort),
            )
            | result.seconds.drop(columns="total").mean().to_dict()
        )
        row["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if len(cohort) > 1:
            _, two, again = timed(cohort, recipe, 2, None)
            row |= dict(two_workers=two / wall, same_bytes=one == again)
        yield row | dict(flags="; ".join(filter(None, result.summary["flags"])))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--patients",
        type=int,
        default=8,
        help="phantoms of 4 mm, through akkus2017 with one and two workers",
    )
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=["akkus2017", "chang2018", "choi2021", "vandervoort2022"],
        help="for one phantom of 1 mm and the real patient",
    )
    parser.add_argument(
        "--sheets", default=None, help="a folder for the contact sheets"
    )
    args = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        def make(name, patients, size):
            return make_phantom(
                folder / name,
                patients=patients,
                sites=1,
                voxel_size=size,
                misaligned=True,
                jobs=2,
            )

        work = (
            [("phantoms, 4 mm", make("4mm", args.patients, 4), ["akkus2017"])]
            if args.patients
            else []
        )
        work += [("phantom, 1 mm", make("1mm", 1, 1), args.recipes)]
        files = tcga_files(real_data())
        work += [("TCGA-FG-6692", tcga(files, folder), args.recipes)] if files else []
        for name, cohort, recipes in work:
            for row in rows_of(name, cohort, recipes, args.sheets):
                rows.append(row)
                print(row, flush=True)
    table = pd.DataFrame(rows)
    text = "\n".join(
        [
            "# Preprocessing: wall seconds a patient and step, one thread a worker",
            "",
            "`python benchmarks/preprocess.py`",
            "",
            "two_workers: wall seconds on two workers over those on one; peak_gib: "
            "largest memory of the process so far.",
            "",
            markdown(table.round(2).fillna("")),
            "",
        ]
    )
    print(text)
    write_text(Path(__file__).parent / "results" / "preprocess.md", text)


if __name__ == "__main__":
    main()
