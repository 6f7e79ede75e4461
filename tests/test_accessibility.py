"""A report and the page of all reports, as a reader's browser shows them: axe-core
finds no violation, and no page scrolls sideways, on a wide and on a narrow screen,
light and dark.

Not part of the ordinary suite: it needs Chromium and axe-core (`npm install axe-core`).
    GLIOMA_AXE=…/axe-core/axe.min.js python -m pytest tests/test_accessibility.py
A page of one's own is looked at too: GLIOMA_PAGE=runs/…/report.html
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

from glioma_repro.runs.execution import run
from glioma_repro.runs.report import report_index

AXE = Path(os.environ.get("GLIOMA_AXE", "axe.min.js")).absolute()
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    not AXE.is_file() or CHROMIUM is None,
    reason="needs chromium, and GLIOMA_AXE: the path of axe.min.js",
)

PARAMETERS = (
    "cohort = 'phantom'\nexternal = None\ntargets = 'all'\nseed = 0\nout = None"
)
STUDY = """import matplotlib.pyplot as plt
import pandas as pd

from glioma_repro.runs.study import open_study
from glioma_repro.statistics.figures import plot_answer

study = open_study("toy", dict(cohort=cohort, targets=targets, seed=seed, out=out))
rows = dict(target="idh", method=["net", "age"], role=["method", "rival"])
rows = pd.DataFrame(rows | dict(value=[0.8, 0.6], low=[0.7, 0.5], high=[0.9, 0.7]))
study.headline("idh", 0.8, 0.7, 0.9, chance=0.5, published=0.9)
study.figure("answer", plot_answer(rows), "The method and its rival.", data=rows)
wide = pd.DataFrame({f"a long name of column {one}": [one / 7] for one in range(30)})
study.table("wide", wide, "Wider than any screen.")
study.table("corner", wide.iloc[:, :2].set_axis(["", "share"], axis=1), "A corner.")
study.table("nobody", wide.iloc[:0], "Nobody.")
study.finish()"""
PROSE = (
    """# Toy

> Does a page reach its reader?

A formula $x^2$, `code`, and a table:

| | how long |
|---|---|
| a word | """
    + "very " * 60
    + """long |

```text
glioma-repro run baselines --cohort phantom --external 'site == "A"' -p folds 10
```

$$a_1 + a_2 + a_3 + a_4 + a_5 + a_6 + a_7 + a_8 + a_9 = b$$

## What was found"""
)

# runs axe in the page, and tells whoever shows it what it found
ASK = """<script>__AXE__</script><script>
addEventListener("load", async () => {
  const found = await axe.run(document);
  const root = document.documentElement;
  parent.postMessage({sideways: root.scrollWidth - root.clientWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches, width: innerWidth,
    violations: found.violations.map(one => [one.id, one.help,
      one.nodes.slice(0, 3).map(node => node.html.slice(0, 200))])}, "*");
});</script>"""
# Chromium's window is never narrower than 500 pixels; a frame is
FRAME = """<!doctype html><html><head><style>:root { color-scheme: light dark; }
</style></head><body><iframe src="page.html" width="WIDTH" height="900"></iframe>
<pre id="told"></pre><script>addEventListener("message", one =>
document.getElementById("told").textContent = JSON.stringify(one.data));
</script></body></html>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A small report, the page of all reports, and a page that was asked for."""
    folder = tmp_path_factory.mktemp("reader")
    cells = [
        nbformat.v4.new_markdown_cell(PROSE),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(STUDY),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "toy.ipynb")
    toy, runs = str(folder / "toy.ipynb"), folder / "runs"
    made = run(toy, "phantom:patients=6,voxel_size=6", runs) / "report.html"
    given = os.environ.get("GLIOMA_PAGE")
    return [made, report_index(runs), *([Path(given)] if given else [])]


def asked(page, folder, width, dark):
    """What axe says of a page at a width."""
    text = page.read_text(encoding="utf-8")
    ask = ASK.replace("__AXE__", AXE.read_text(encoding="utf-8"))
    (folder / "page.html").write_text(text.replace("</body>", f"{ask}</body>"))
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    words = "--headless --no-sandbox --disable-gpu --allow-file-access-from-files "
    words += f"--blink-settings=preferredColorScheme={0 if dark else 1} "
    words += f"--user-data-dir={folder / 'profile'} --window-size=1500,1000 "
    words += "--virtual-time-budget=60000 --dump-dom"
    call = [CHROMIUM, *words.split(), (folder / "frame.html").as_uri()]
    told = subprocess.run(call, capture_output=True, text=True, timeout=300)
    said = re.search(r'<pre id="told">(.*?)</pre>', told.stdout, re.DOTALL)
    return json.loads(html.unescape(said[1]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_a_reader_of_any_kind_can_read_a_report(pages, tmp_path, width, dark):
    for page in pages:
        told = asked(page, tmp_path, width, dark)
        assert told["width"] == width and told["dark"] == dark
        assert told["violations"] == [], page
        assert told["sideways"] <= 0, f"{page} scrolls by {told['sideways']} pixels"
