"""Writes data_manifests/findings.csv, what the front page's figure of numbers is drawn
from: the answers of runs on real patients, one row a target and method.

    python tools/findings.py runs/tcga-lgg-slices/head_to_head/RUN [RUN …]

Numbers are taken from the run's results.json as they are; the published figure of a
method that is a paper's own is its claim of AUROC (data_manifests/published).
"""

import json
import sys
from pathlib import Path

import pandas as pd

from glioma_repro.patients.core import write_text
from glioma_repro.runs.site import command_of
from glioma_repro.statistics.claims import read_claims

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = "study target method value low high n cohort chance published command".split()


def published_auroc(paper: str, target: str) -> float | None:
    """The first AUROC that a paper claims as its result for a target; None if none."""
    if not (ROOT / "data_manifests" / "published" / f"{paper}.csv").is_file():
        return None
    claims = read_claims(paper)
    wanted = (claims["kind"] == "result") & (claims["quantity"] == "auroc")
    wanted &= claims["target"] == target
    values = claims.loc[wanted, "value"].astype(float)
    return values.iloc[0] if len(values) else None


def rows_of(folder: Path) -> list[dict]:
    """The answers of one run: external patients where there are some, else test."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if results["phantom"]:
        raise SystemExit(f"{folder}: a phantom's run is no finding on patients")
    answer = results["tables"]["answer"]
    table = pd.DataFrame(answer["rows"], columns=answer["columns"]).dropna(
        subset=["value"]
    )
    subset = "external" if (table["subset"] == "external").any() else "test"
    return [
        dict(
            study=results["study"],
            target=row.target,
            method=row.method,
            value=row.value,
            low=row.low,
            high=row.high,
            n=row.n,
            cohort=results["cohort"],
            chance=0.5,
            published=published_auroc(row.method, row.target),
            command=command_of(results),
        )
        for row in table[table["subset"] == subset].itertuples()
    ]


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    rows = [row for folder in sys.argv[1:] for row in rows_of(Path(folder))]
    table = pd.DataFrame(rows, columns=COLUMNS)
    text = table.to_csv(index=False, lineterminator="\n", float_format="%.4f")
    print(write_text(ROOT / "data_manifests" / "findings.csv", text))


if __name__ == "__main__":
    main()
