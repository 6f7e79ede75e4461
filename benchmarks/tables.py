"""What the benchmarks share: a table as they print and keep it."""

import pandas as pd


def markdown(table: pd.DataFrame) -> str:
    """A table as markdown."""
    lines = [
        "| " + " | ".join(map(str, table.columns)) + " |",
        "|" + " --- |" * len(table.columns),
    ]
    return "\n".join(
        lines
        + [
            "| " + " | ".join(map(str, row)) + " |"
            for row in table.itertuples(index=False)
        ]
    )
