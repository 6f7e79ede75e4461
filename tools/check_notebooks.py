"""Holds notebooks, tests, benchmarks and tools to the project's form; prints what is
wrong and exits 1.

No code cell is longer than 80 lines, and in a lesson (every notebook but a study) few
exported cells stand in a row: what a reader cannot see working, he cannot learn.

What is left from before two other rules stands in tools/allowances.yaml: lines wider
than 88 columns (a file: how many) and functions longer than 40 lines (file and
function: how long). The list only shrinks: a number that could be smaller is an error
too, and `python tools/check_notebooks.py --update` lowers it; it raises none and adds
none.
"""

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

import yaml

from glioma_repro.runs.parameters import is_parameters, read_cells

ROOT = Path(__file__).resolve().parent.parent
ALLOWANCES = ROOT / "tools" / "allowances.yaml"
WIDEST = 88  # columns: what the site, a side-by-side diff and a laptop show
FREE = "#| fig-alt:"  # words for who cannot see a picture: one line, as Quarto wants it
EXPORTED = re.compile(r"^#\s*\|\s*export\b", re.MULTILINE)  # a cell of the library
LONGEST_BODY = 40  # lines of a function without signature, docstring and comments
LONGEST_CELL = 80  # lines of a code cell: a screen, and one idea
LONGEST_ROW = 3  # exported cells of a lesson, nothing shown or tested between
LARGEST = 1_000_000  # bytes of a committed notebook


def notebooks() -> list[Path]:
    """Every notebook below nbs/."""
    found = sorted((ROOT / "nbs").rglob("*.ipynb"))
    return [path for path in found if ".ipynb_checkpoints" not in path.parts]


def sources() -> dict[str, list[str]]:
    """File below the root: its pieces of Python."""
    found = {}
    for path in notebooks():
        cells = read_cells(path)["cells"]
        code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
        found[path.relative_to(ROOT).as_posix()] = code
    for folder in ("tests", "benchmarks", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            found[name] = [path.read_text(encoding="utf-8")]
    return found


def body_lines(function: ast.FunctionDef, lines: list[str]) -> int:
    """How long a function is without signature, docstring, comments and empty lines."""
    body = function.body
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        body = body[1:]
    if not body:
        return 0
    inside = lines[body[0].lineno - 1 : function.end_lineno]
    kept = [
        line for line in inside if line.strip() and not line.lstrip().startswith("#")
    ]
    return len(kept)


def long_bodies(source: str) -> dict[str, int]:
    """Function: lines, of those that are too long."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with a magic command
        return {}
    lines = source.splitlines()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = {one.name: body_lines(one, lines) for one in functions}
    return {name: number for name, number in lengths.items() if number > LONGEST_BODY}


def measured() -> dict:
    """What stands in the tree today and is not in form."""
    wide, long = {}, defaultdict(dict)
    for name, pieces in sources().items():
        number = sum(
            len(line) > WIDEST and not line.startswith(FREE)
            for piece in pieces
            for line in piece.splitlines()
        )
        if number:
            wide[name] = number
        for piece in pieces:
            if found := long_bodies(piece):
                long[name] |= found
    return {"wide lines": wide, "long functions": dict(long)}


def flat(allowances: dict) -> dict[str, int]:
    """One number a file, or a file and function."""
    found = {
        f"{name}: wide lines": number
        for name, number in allowances["wide lines"].items()
    }
    for name, functions in allowances["long functions"].items():
        found |= {f"{name}: {one}, lines": number for one, number in functions.items()}
    return found


def allowance_problems(now: dict, allowed: dict) -> list[str]:
    """Where the tree is worse than its allowances, or the allowances than the tree."""
    now, allowed = flat(now), flat(allowed)
    worse = [
        f"{key}: {number}; {allowed.get(key, 0)} are allowed"
        for key, number in now.items()
        if number > allowed.get(key, 0)
    ]
    better = [
        f"{key}: {now.get(key, 0)}, and {number} are allowed: --update lowers it"
        for key, number in allowed.items()
        if number > now.get(key, 0)
    ]
    return worse + better


def lowered(now: dict, allowed: dict) -> dict:
    """The allowances that are still needed, none larger than it was."""
    wide, functions = now["wide lines"], now["long functions"]
    kept = {}
    for name, known in allowed["long functions"].items():
        mine = {
            one: min(functions.get(name, {}).get(one, 0), known[one]) for one in known
        }
        if mine := {one: number for one, number in mine.items() if number}:
            kept[name] = mine
    lines = {
        name: min(wide.get(name, 0), number)
        for name, number in allowed["wide lines"].items()
    }
    lines = {name: number for name, number in lines.items() if number}
    return {"wide lines": lines, "long functions": kept}


def rows_of_exports(cells: list) -> list[list[str]]:
    """The ids of exported code cells, one list for each row of them; text between two
    does not end a row, a cell that shows or tests does.
    """
    rows = [[]]
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        if EXPORTED.search(cell["source"]):
            rows[-1].append(cell["id"])
        elif rows[-1]:
            rows.append([])
    return [row for row in rows if row]


def problems(path: Path) -> list[str]:
    """What is wrong with one notebook."""
    cells = read_cells(path)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    found = []
    tagged = sum(map(is_parameters, code))
    if tagged != 1 and path.name != "index.ipynb":
        found.append(f"{tagged} cells tagged 'parameters'; one is expected")
    outputs = [output for cell in code for output in cell["outputs"]]
    if any(output["output_type"] == "error" for output in outputs):
        found.append("an error is saved in its outputs")
    if path.stat().st_size > LARGEST:
        found.append(
            f"{path.stat().st_size} bytes; {LARGEST} are allowed: make its figures "
            "fewer or smaller"
        )
    lengths = {cell["id"]: len(cell["source"].splitlines()) for cell in code}
    found += [
        f"the code cell {one} has {length} lines; {LONGEST_CELL} are allowed: split it "
        "into cells of one idea each"
        for one, length in lengths.items()
        if length > LONGEST_CELL
    ]
    if path.parent.name != "studies":
        found += [
            f"{len(row)} exported cells in a row, from {row[0]} to {row[-1]}; "
            f"{LONGEST_ROW} are allowed: show or test what one does right behind it"
            for row in rows_of_exports(cells)
            if len(row) > LONGEST_ROW
        ]
    module = ("#| default_exp", "#|default_exp")
    exporting = any(cell["source"].lstrip().startswith(module) for cell in code)
    texts = [cell["source"] for cell in cells if cell["cell_type"] == "markdown"]
    if exporting and not any("## On a cohort" in text for text in texts):
        found.append("no section '## On a cohort'")
    return found


def main(update: bool) -> int:
    """Prints what is wrong; 1 if anything is."""
    now, allowed = measured(), yaml.safe_load(ALLOWANCES.read_text(encoding="utf-8"))
    if update:
        allowed = lowered(now, allowed)
        ALLOWANCES.write_text(yaml.safe_dump(allowed, sort_keys=True), encoding="utf-8")
    wrong = [
        f"{path.relative_to(ROOT)}: {problem}"
        for path in notebooks()
        for problem in problems(path)
    ]
    wrong += allowance_problems(now, allowed)
    print("\n".join(wrong) or f"{len(notebooks())} notebooks are in form")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main("--update" in sys.argv))
