"""From raw images to a study's tables in one command: the recipe runs first, once, and
the study uses its images and masks.
"""

import json
from contextlib import nullcontext
from dataclasses import replace

import nbformat
import pytest

from glioma_repro.images.preprocess import prepared
from glioma_repro.methods.catalogue import load_model
from glioma_repro.patients.cohort import manifests, nearest_of
from glioma_repro.patients.core import ReproError, read_cohort
from glioma_repro.patients.phantom import make_phantom
from glioma_repro.runs.command import main
from glioma_repro.runs.execution import (
    read_notebook,
    run,
    run_view,
)
from glioma_repro.runs.parameters import (
    find_notebook,
    is_parameters,
    parameters_of,
)

PARAMETERS = """cohort = 'phantom'
external = None
recipe = 'akkus2017'
brain = None
bias = None
targets = 'all'
seed = 0
jobs = 1
out = None"""

OPEN = """from glioma_repro.runs.study import open_study
names = ('cohort', 'external', 'recipe', 'brain', 'bias', 'targets', 'seed', 'jobs')
given = {one: globals()[one] for one in names} | {'out': out}
study = open_study('toy', given)"""

LOOK = """import pandas as pd
from glioma_repro.images.patient import judge_cohort
parts = [study.cohort] + ([] if study.external is None else [study.external])
rows, problems = judge_cohort(parts[0], 1)
study.problems(problems, 'reading')
spaces = [(str(one.space), str(one.mask_source), ', '.join(one.ids)) for one in parts]
study.table('spaces', pd.DataFrame(spaces, columns=['space', 'masks', 'patients']))
study.table('seen', rows)"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study that needs registered images, as a notebook."""
    cells = [
        nbformat.v4.new_markdown_cell("# Toy"),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, (OPEN, LOOK, "study.finish()")),
    ]
    path = tmp_path_factory.mktemp("study") / "toy.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return str(path)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Three patients whose sequences lie apart; the last one lost his T2w."""
    cohort = make_phantom(
        tmp_path_factory.mktemp("raw") / "raw",
        patients=3,
        sites=1,
        voxel_size=4,
        misaligned=True,
        jobs=1,
    )
    cohort.path(cohort.ids[2], "T2w").unlink()
    return cohort


def results_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_one_command_runs_the_recipe_once_and_uses_its_masks(
    study, quick, raw, tmp_path
):
    out, ids = tmp_path / "runs", raw.ids
    call = ["run", study, "--cohort", str(raw.folder), "--out", str(out)]
    call += ["-p", "recipe", quick]
    assert main([*call, "--label", "first"]) == 0
    home = out / raw.name / "toy"
    first = results_of(home / "first")
    assert first["tables"]["spaces"]["rows"] == [
        ["quick", "quick", f"{ids[0]}, {ids[1]}"]
    ]
    assert "quick" in first["statements"]["images"]
    # who fell out stands there by name, with the sequence that is missing
    lost = first["tables"]["excluded_patients"]["rows"]
    assert any(ids[2] in row and "T2w missing" in row[-1] for row in lost)
    # its quality and pictures stand at the end, before the provenance
    page = (home / "first" / "report.html").read_text(encoding="utf-8")
    places = [page.index(word) for word in ("How the images were", "Provenance.")]
    assert page.index("Toy") < places[0] < places[1]
    assert first["tables"]["images_quality"]["rows"] and first["figures"]["images_1"]
    # a second run finds everything made, and reads the same
    made = sorted((raw.folder / "derivatives" / "quick").rglob("*.nii.gz"))
    stamps = [path.stat().st_mtime_ns for path in made]
    assert main([*call, "--label", "second"]) == 0
    second = results_of(home / "second")
    assert ", 0 files were made" in second["statements"]["images"]
    assert stamps == [path.stat().st_mtime_ns for path in made]
    assert first["record"]["data"] == second["record"]["data"]


def test_none_leaves_the_images_and_says_why_they_do_not_fit(study, raw, tmp_path):
    with pytest.raises(ReproError, match="nobody|no patient|run a recipe"):
        run(study, str(raw.folder), tmp_path / "runs", recipe=None)


def test_images_that_are_ready_are_left(study, tmp_path):
    cohort = make_phantom(tmp_path / "ready", patients=2, sites=1, voxel_size=6, jobs=1)
    ids = tmp_path / "ids.txt"
    ids.write_text(cohort.ids[1])
    folder = run(study, str(cohort.folder), tmp_path / "runs", external=str(ids))
    said = results_of(folder)
    assert "The images are ready" in said["statements"]["images"]
    assert "ready" in said["statements"]["images_external"]
    assert [row[0] for row in said["tables"]["spaces"]["rows"]] == ["None", "None"]
    assert [row[2] for row in said["tables"]["spaces"]["rows"]] == cohort.ids
    assert not (cohort.folder / "derivatives" / "akkus2017").exists()


@pytest.mark.parametrize(
    "name, recipe",
    {
        "baselines": "atlas",
        "head_to_head": "atlas",
        "liu2022": "atlas",
        "akkus2017": "akkus2017",
        "chang2018": "chang2018",
        "choi2021": "choi2021",
        "vandervoort2022": "vandervoort2022",
    }.items(),
)
def test_a_plain_run_prepares_raw_images(name, recipe, raw, tmp_path, monkeypatch):
    """Before, five of the seven took raw images as scanned, and ended in "run a recipe
    first". Every study runs until its images are prepared: with whose recipe?
    """

    def preprocess(cohort, recipe, *ways):
        raise PreparingBegan(f"{cohort.name} by {recipe.name}")

    monkeypatch.setattr("glioma_repro.images.preprocess.preprocess", preprocess)
    monkeypatch.setattr("glioma_repro.runs.study.log_to", nullcontext)
    given = {"cohort": str(raw.folder), "out": str(tmp_path), "jobs": 1}
    view, names = run_view(read_notebook(find_notebook(name))), {}
    with pytest.raises(PreparingBegan, match=f"^{raw.name} by {recipe}$"):
        for cell in (one for one in view.cells if one.cell_type == "code"):
            exec(cell.source, names)
            names |= given if is_parameters(cell) else {}
            assert "study" not in names, "it was opened without a recipe"


class PreparingBegan(Exception):
    """What a study asked for, instead of minutes of registration."""


def test_what_is_ready_or_has_no_scan_goes_on_without_the_recipe(tiny, monkeypatch):
    monkeypatch.setattr("glioma_repro.images.preprocess.preprocess", None)  # not called
    assert "no scans" in prepared(tiny, "atlas").said  # a table, or single pictures
    for name in ("brats", "tcga-lgg-slices"):
        ready = replace(tiny, provenance={"done": manifests()[name].done})
        assert "images are ready" in prepared(ready, "atlas").said


def test_tracebacks_stay_in_the_run_folder(study, raw, tmp_path):
    """A patient who fails for no foreseen reason: one line in the report, the traceback
    in problems.log.
    """
    notebook = nbformat.read(study, as_version=4)
    notebook.cells[3].source = (
        "from glioma_repro.patients.core import map_patients\n"
        "def odd(participant_id):\n    return 1 / 0\n"
        "study.problems(map_patients(odd, study.cohort.ids, 1)[1], 'odd')"
    )
    path = tmp_path / "odd.ipynb"
    nbformat.write(notebook, path)
    folder = run(str(path), str(raw.folder), tmp_path / "runs", recipe="none")
    log = (folder / "problems.log").read_text(encoding="utf-8")
    assert "ZeroDivisionError" in log and "return 1 / 0" in log


def test_baselines_goes_the_whole_way(quick, tmp_path):
    known = parameters_of(read_notebook(find_notebook("baselines")))
    assert "recipe" in known, nearest_of("recipe", known)
    few = make_phantom(
        tmp_path / "few", patients=4, sites=1, voxel_size=6, misaligned=True, jobs=1
    )
    call = ["run", "baselines", "--cohort", str(few.folder), "--out", str(tmp_path)]
    call += ["-p", "recipe", quick, "-p", "folds", "2", "-p", "repeats", "1"]
    # the permutation test goes to worker processes, as it does by default
    call += ["-p", "permutations", "2", "-p", "trees", "5", "-p", "iterations", "50"]
    call += ["-p", "targets", "idh", "-p", "jobs", "2", "--label", "x"]
    assert main(call) == 0
    said = results_of(tmp_path / few.name / "baselines" / "x")
    assert "quick" in said["statements"]["images"]
    assert read_cohort(few.folder).using("quick").mask_source == "quick"
    # before, its models had no scores out of fold: predict could say nothing of them
    kept = load_model(tmp_path / few.name / "baselines" / "x" / "model" / "age")
    assert "idh" in kept.about["cross_validated"]["auroc"] and kept.tested is not None
