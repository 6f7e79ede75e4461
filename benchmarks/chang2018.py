"""What finished runs of chang2018 say, in one table.

glioma-repro run chang2018 --cohort tcga-lgg-slices -p iterations 600 -p
permutations 3
glioma-repro run chang2018 --cohort tcga-lgg-slices -p iterations 600 -p
permutations 0 -p heads single
python benchmarks/chang2018.py runs/tcga-lgg-slices/chang2018/*
"""

import json
import sys
from pathlib import Path

import pandas as pd

from glioma_repro.patients.core import write_text


def rows_of(folder: Path) -> list[dict]:
    "One row a target of one run."
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    tables = {
        key: pd.DataFrame(one["rows"], columns=one["columns"])
        for key, one in results["tables"].items()
    }
    inside = tables["against_baselines"]
    inside = inside[inside["subset"] == "test"].set_index(["target", "method"])
    null = tables["null"].set_index("target") if "null" in tables else None
    rows, given = [], results["record"]["parameters"]
    for target in results["targets"]:
        if (target, "residual CNN") not in inside.index:
            continue
        ours, rivals = (
            inside.loc[(target, "residual CNN")],
            inside.loc[target].drop("residual CNN")["value"],
        )
        rows.append(
            {
                "run": f"{results['cohort']}, heads {given['heads']}, {given['iterations']} iterations"
                + (f", external {given['external']}" if given["external"] else ""),
                "target": target,
                "patients": int(ours["patients"]),
                "network": f"{ours['value']:.2f} ({ours['low']:.2f} to {ours['high']:.2f})",
                "best baseline": f"{rivals.idxmax()} {rivals.max():.2f}",
                "permuted labels": ""
                if null is None
                else f"{null.loc[target, 'permuted, mean']:.2f} ({null.loc[target, 'permuted, least']:.2f} to {null.loc[target, 'permuted, greatest']:.2f}), p = {null.loc[target, 'p']:.2f}",
                "minutes": f"{results['record']['seconds'] / 60:.1f}",
            }
        )
    return rows


def main():
    "Prints the table and writes it to benchmarks/results/chang2018.md."
    table = pd.DataFrame(
        [row for folder in sys.argv[1:] for row in rows_of(Path(folder))]
    )
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * table.shape[1]] + [
        "| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)
    ]
    text = (
        "# chang2018 on public slices\n\nAUROC within folds of patients, with a 95 "
        "% interval; the best of the baselines on the same folds; the "
        "same network on permuted labels "
        "(mean, least and greatest). Minutes of the whole run, on a machine that "
        "was shared with other work.\n\n" + "\n".join(lines) + "\n"
    )
    print(text)
    write_text(Path(__file__).parent / "results" / "chang2018.md", text)


if __name__ == "__main__":
    main()
