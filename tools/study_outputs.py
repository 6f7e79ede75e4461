"""Saves what runs on the phantom showed in the studies' notebooks, so that their pages
on the site have results (runs/site says how).

    python tools/study_outputs.py runs [baselines chang2018 ...]

A study without a run below the folder, or whose run is of another version of its
notebook, stays as it is, and is named.
"""

import sys
from pathlib import Path

import nbformat

from glioma_repro.runs.site import newest_run, with_outputs

STUDIES = Path(__file__).resolve().parent.parent / "nbs" / "studies"


def save_outputs(path: Path, runs: Path) -> str:
    """Puts the newest run's outputs into a notebook; says in a few words what came of
    it.
    """
    folder = newest_run(path.stem, runs)
    if folder is None:
        return f"no run on a phantom below {runs}"
    notebook = nbformat.read(path, as_version=4)
    if not with_outputs(notebook, folder):
        return f"the run in {folder} is of another version of the notebook"
    nbformat.write(notebook, path)
    return f"outputs of {folder}, {path.stat().st_size // 1000} kB"


def main() -> None:
    """Every study, or those that are named."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    runs, named = Path(sys.argv[1]), sys.argv[2:]
    for path in sorted(STUDIES.glob("*.ipynb")):
        if not named or path.stem in named:
            print(f"{path.stem}: {save_outputs(path, runs)}")


if __name__ == "__main__":
    main()
