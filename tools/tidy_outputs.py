"""Takes progress bars out of saved outputs, after a notebook was executed in place.

python tools/tidy_outputs.py nbs/networks/training.ipynb …   (all, if none is named)
"""

import re
import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parent.parent / "nbs"
BAR = re.compile(r"\d+%\|.*\| *\S+/\S+")


def is_noise(output) -> bool:
    """Whether an output is a progress bar (a widget, or lines of nothing else), or
    nothing at all.
    """
    if any("widget" in kind for kind in output.get("data", {})):
        return True
    lines = re.split(r"[\r\n]+", output.get("text", "").strip())
    said = [one for one in lines if one.strip()]
    return output.output_type == "stream" and all(BAR.search(one) for one in said)


def tidy(path: Path) -> int:
    """Writes the notebook without noise; gives back how many outputs went."""
    notebook, gone = nbformat.read(path, as_version=4), 0
    for cell in notebook.cells:
        kept = [one for one in cell.get("outputs", []) if not is_noise(one)]
        gone += len(cell.get("outputs", [])) - len(kept)
        if cell.cell_type == "code":
            cell.outputs = kept
    if gone:
        nbformat.write(notebook, path)
    return gone


def main() -> None:
    """Tidies the named notebooks and says which were changed."""
    named = [Path(one) for one in sys.argv[1:]]
    paths = named or sorted(NOTEBOOKS.rglob("*.ipynb"))
    for path in paths:
        gone = tidy(path)
        if gone:
            print(f"{path}: {gone} progress bars taken out")


if __name__ == "__main__":
    main()
