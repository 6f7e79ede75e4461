"""Makes README.md from nbs/index.ipynb (`--check`: only says whether it is in step)."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def readme() -> str:
    """The text cells of the index; links are those seen from the root."""
    cells = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]
    text = "\n\n".join(
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
    )
    return re.sub(r"\]\((?!https?:|nbs/|#)([^)]+)\)", r"](nbs/\1)", text) + "\n"


if __name__ == "__main__":
    path = ROOT / "README.md"
    if "--check" in sys.argv:
        if path.read_text(encoding="utf-8") != readme():
            sys.exit(
                "README.md is not what nbs/index.ipynb says: python tools/readme.py"
            )
    else:
        path.write_text(readme(), encoding="utf-8")
