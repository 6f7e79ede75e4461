"""Holds every notebook to the project's form; prints what is wrong and exits 1."""

import json
import sys
from pathlib import Path

LONGEST_CELL = 50  # lines
LARGEST = 1_000_000  # bytes of a committed notebook


def problems(path: Path) -> list[str]:
    """What is wrong with one notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    found = []
    tagged = sum("parameters" in cell["metadata"].get("tags", []) for cell in code)
    if tagged != 1 and path.name != "index.ipynb":
        found.append(f"{tagged} cells tagged 'parameters'; one is expected")
    if any(
        output["output_type"] == "error" for cell in code for output in cell["outputs"]
    ):
        found.append("an error is saved in its outputs")
    longest = max(
        (len("".join(cell["source"]).splitlines()) for cell in code), default=0
    )
    if longest > LONGEST_CELL:
        found.append(f"a code cell of {longest} lines; {LONGEST_CELL} are allowed")
    if path.stat().st_size > LARGEST:
        found.append(
            f"{path.stat().st_size} bytes; {LARGEST} are allowed: make its figures "
            "fewer or smaller"
        )
    exporting = any(
        "".join(cell["source"]).lstrip().startswith(("#| default_exp", "#|default_exp"))
        for cell in code
    )
    if exporting and not any(
        cell["cell_type"] == "markdown" and "## On a cohort" in "".join(cell["source"])
        for cell in cells
    ):
        found.append("no section '## On a cohort'")
    return found


if __name__ == "__main__":
    root = Path(__file__).parent.parent / "nbs"
    notebooks = [
        path
        for path in sorted(root.rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts
    ]
    wrong = [
        f"{path.relative_to(root)}: {problem}"
        for path in notebooks
        for problem in problems(path)
    ]
    print("\n".join(wrong) or f"{len(notebooks)} notebooks are in form")
    sys.exit(bool(wrong))
