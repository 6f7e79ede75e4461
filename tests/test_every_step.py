"""A step of each floor does its work on a cohort that is asked for and leaves a record,
without a kernel each; the lessons run every step on the cohort that it names itself.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from IPython.display import display

from glioma_repro.runs.execution import (
    read_notebook,
    run_view,
)
from glioma_repro.runs.parameters import (
    exported_module,
    parameters_of,
    runnable,
)

COHORT = "phantom:patients=10,voxel_size=6"  # no step's own
LISTED = {name: read_notebook(path) for name, path in runnable().items()}
STEPS = sorted(name for name, notebook in LISTED.items() if exported_module(notebook))
STUDIES = sorted(set(LISTED) - set(STEPS))
ONE_A_FLOOR = {
    "cohort": {},
    "measures": {},
    "patient": {},
    "location": {},
    "training": dict(epochs=1),
    "method": {},
}


def test_each_study_has_a_test_that_runs_it():
    here = Path(__file__).parent
    for name in STUDIES:
        said = (here / f"test_{name}.py").read_text(encoding="utf-8") + (
            here / "test_whole_path.py"
        ).read_text(encoding="utf-8")
        assert f'"{name}"' in said and ("run(" in said or "main(" in said), name


@pytest.mark.parametrize("name", STEPS)
def test_every_step_asks_for_a_cohort_and_keeps_a_record(name):
    view = run_view(LISTED[name])
    assert {"cohort", "out"} <= set(parameters_of(view))
    code = [cell.source for cell in view.cells if cell.cell_type == "code"]
    assert any("open_study" in source for source in code)
    assert ".finish(" in code[-1], "what is last closes the record"


@pytest.mark.parametrize("name", ONE_A_FLOOR)
def test_a_step_runs_on_a_cohort_and_leaves_its_record(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    view, space = run_view(LISTED[name]), {"display": display}
    given = ONE_A_FLOOR[name] | {"cohort": COHORT, "out": str(tmp_path)}
    assert set(given) <= set(parameters_of(view)), name
    for number, cell in enumerate(
        cell for cell in view.cells if cell.cell_type == "code"
    ):
        exec(compile(cell.source, f"{name}, cell {number}", "exec"), space)
        if "parameters" in cell.metadata.get("tags", []):
            space |= given
        plt.close("all")
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert (
        results["record"]["parameters"]["cohort"] == given["cohort"]
        and results["phantom"]
    )
