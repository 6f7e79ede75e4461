"""From one command to a report: on the phantom, and from the public download of real
patients.
"""

import json
import re

import numpy as np
import pandas as pd

from glioma_repro.patients.core import read_predictions
from glioma_repro.runs.command import main

QUICK = ["-p", "permutations", "0", "-p", "repeats", "1"]


def the_report(folder):
    """What is true of every report: whole, offline, every picture there."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert (
        not re.search(r"(src|href)=.https?://[^'\"]*\.(js|css)|import .*https?:", page)
        and page.count("<script") == 1  # the one that sorts tables
    )
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert all(
        (folder / one["file"]).stat().st_size > 2000
        for one in results["figures"].values()
    )
    assert (
        results["record"]["packages"]["pyradiomics"] == "3.0.1"
        and results["record"]["seconds"] > 0
    )
    return page, results


def test_the_phantom_twice_gives_the_same_bytes(tmp_path):
    cohort = "phantom:patients=20,voxel_size=6"
    folders = []
    for name in ("first", "second"):
        assert (
            main(
                [
                    "run",
                    "baselines",
                    "--cohort",
                    cohort,
                    "--out",
                    str(tmp_path / name),
                    "-p",
                    "targets",
                    "idh",
                    "-p",
                    "folds",
                    "3",
                    *QUICK,
                ]
            )
            == 0
        )
        folders.append(next((tmp_path / name).glob("*/baselines/*/")))
    for name in ("predictions.csv", "measurements.csv"):
        first, second = (folder.joinpath(name).read_bytes() for folder in folders)
        assert first == second
    page, results = the_report(folders[0])
    assert results["phantom"] and "phantom: made by a computer" in page
    assert (
        results["tables"]
        == json.loads((folders[1] / "results.json").read_text(encoding="utf-8"))[
            "tables"
        ]
    )
    table = read_predictions(folders[0] / "predictions.csv").table
    assert set(table["subset"]) == {"test"} and table["participant_id"].nunique() == 20


def test_real_patients_from_the_download_to_the_report(downloads, tmp_path):
    assert (
        main(
            [
                "curate",
                "tcga-lgg-slices",
                "--source",
                str(downloads),
                "--out",
                str(tmp_path / "cohorts"),
            ]
        )
        == 0
    )
    folder = tmp_path / "cohorts" / "tcga-lgg-slices"
    participants = pd.read_csv(folder / "participants.tsv", sep="\t", na_values="n/a")
    assert (
        main(
            [
                "run",
                "baselines",
                "--cohort",
                str(folder),
                "--external",
                'site == "CS"',
                "--out",
                str(tmp_path / "runs"),
                "-p",
                "targets",
                "idh",
                *QUICK,
            ]
        )
        == 0
    )
    page, results = the_report(
        next((tmp_path / "runs").glob("tcga-lgg-slices/baselines/*/"))
    )
    assert "Not for clinical use" in page and not results["phantom"]
    assert results["external_patients"] == (participants["site"] == "CS").sum()
    table = read_predictions(
        next((tmp_path / "runs").glob("*/*/*/predictions.csv"))
    ).table
    external = set(participants.loc[participants["site"] == "CS", "participant_id"])
    assert set(table.loc[table["subset"] == "external", "participant_id"]) <= external
    assert not set(table.loc[table["subset"] == "test", "participant_id"]) & external
    assert np.isfinite(table["score"]).all()
