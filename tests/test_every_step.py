"""Every notebook that `run` lists does its work on a small phantom and leaves a record;
here without a kernel each.
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

# for steps whose own default is the whole phantom; enough for five folds
SMALL = "phantom:patients=40,voxel_size=6"
CHEAP = {
    "training": dict(epochs=1),
    "statistics": dict(iterations=50),
    "clinical": dict(iterations=50),
    "classical": dict(jobs=1),
}
LISTED = {name: read_notebook(path) for name, path in runnable().items()}
STEPS = sorted(name for name, notebook in LISTED.items() if exported_module(notebook))
STUDIES = sorted(set(LISTED) - set(STEPS))


def test_each_study_has_a_test_that_runs_it():
    here = Path(__file__).parent
    for name in STUDIES:
        said = (here / f"test_{name}.py").read_text(encoding="utf-8") + (
            here / "test_whole_path.py"
        ).read_text(encoding="utf-8")
        assert f'"{name}"' in said and ("run(" in said or "main(" in said), name


@pytest.mark.parametrize("name", STEPS)
def test_a_step_runs_on_a_cohort_and_leaves_its_record(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    view, space = run_view(LISTED[name]), {"display": display}
    known = parameters_of(view)
    given = CHEAP.get(name, {}) | {
        "cohort": SMALL if known["cohort"] == "phantom" else known["cohort"],
        "out": str(tmp_path),
    }
    assert set(given) <= set(known), name
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
