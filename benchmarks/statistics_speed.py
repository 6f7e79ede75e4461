"""The bootstrap over patients against a loop over scikit-learn's roc_auc_score, in one
run.

    python benchmarks/statistics_speed.py

Prints a markdown table and writes benchmarks/results/statistics_speed.md. Exits with
1 if the target (2500 draws for 240 patients and three
targets under 2 s on one core, at least 10 times faster than the loop) is missed.
"""

import os
import sys

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
# this file's name is a standard module's
sys.path = [
    one
    for one in sys.path
    if os.path.abspath(one or ".") != os.path.dirname(os.path.abspath(__file__))
]

import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from glioma_repro.patients.core import TARGETS, concat, generator, predictions_of
from glioma_repro.statistics.measures import bootstrap_values, evaluate, scores_of
from glioma_repro.runs.study import device_name

PATIENTS, DRAWS, NAMES = 240, 2500, {"idh": 0.4, "codel_1p19q": 0.15, "mgmt": 0.55}


def made_up():
    "Predictions of 240 patients for three targets."
    import pandas as pd

    parts = []
    for target, share in NAMES.items():
        draw = generator("benchmark", target)
        label = draw.random(PATIENTS) < share
        score = 1 / (1 + np.exp(-draw.normal(size=PATIENTS) - label))
        parts.append(
            predictions_of(
                np.c_[1 - score, score],
                TARGETS[target],
                pd.DataFrame(
                    dict(participant_id=[f"sub-{one:03d}" for one in range(PATIENTS)])
                ),
                np.array(TARGETS[target])[label.astype(int)],
                study="benchmark",
                model="made up",
                cohort="made up",
                protocol="patients",
                subset="test",
                target=target,
                fold=0,
                repeat=0,
                seed=0,
            )
        )
    return concat(parts)


def loop(scores):
    "The same bootstrap, one draw after the other."
    draw, values = generator("loop"), []
    while len(values) < DRAWS:
        rows = draw.integers(0, PATIENTS, PATIENTS)
        if len(np.unique(scores.codes[rows])) == 2:
            values.append(roc_auc_score(scores.codes[rows], scores.scores[rows, 1]))
    return np.array(values)


def seconds(function):
    """Processor seconds of this one process (others may share the machine), best of
    three.
    """
    taken = []
    for _ in range(3):
        start = time.process_time()
        result = function()
        taken.append(time.process_time() - start)
    return min(taken), result


def main():
    "Measures, prints, writes, judges."
    predictions = made_up()
    each = [scores_of(predictions.select(target=target)) for target in NAMES]
    slow, looped = seconds(lambda: [loop(one) for one in each])
    fast, drawn = seconds(
        lambda: [bootstrap_values(one, ["auroc"], DRAWS)["auroc"] for one in each]
    )
    table, _ = seconds(
        lambda: evaluate(
            predictions, "auroc", iterations=DRAWS, auroc_interval="bootstrap"
        )
    )
    everything, found = seconds(lambda: evaluate(predictions, iterations=DRAWS))
    for ours, theirs in zip(drawn, looped):  # other draws of the same distribution
        assert (
            np.abs(
                np.quantile(ours, [0.025, 0.5, 0.975])
                - np.quantile(theirs, [0.025, 0.5, 0.975])
            ).max()
            < 0.01
        )
    good = table < 2 and slow / table >= 10
    text = "\n".join(
        [
            "# Bootstrap over patients",
            "",
            f"{DRAWS} draws, {PATIENTS} patients, {len(NAMES)} targets, one of "
            f"{device_name()}, processor seconds, best of three.",
            "",
            "| what | seconds | loop / this |",
            "|---|---|---|",
            f"| loop over roc_auc_score | {slow:.2f} | 1 |",
            f"| AUROC of all draws (bootstrap_values) | {fast:.3f} | "
            f"{slow / fast:.0f} |",
            "| from the table of predictions to AUROC with interval (evaluate) | "
            f"{table:.3f} | {slow / table:.0f} |",
            f"| all {found['measure'].nunique()} measures with intervals (evaluate) "
            f"| {everything:.3f} | {slow / everything:.0f} |",
            "",
            "Target (evaluate under 2 s and at least 10 times faster than the "
            f"loop): {'reached' if good else 'MISSED'}.",
            "",
        ]
    )
    print(text)
    place = Path(__file__).parent / "results" / "statistics_speed.md"
    place.parent.mkdir(exist_ok=True)
    place.write_text(text, encoding="utf-8")
    sys.exit(not good)


if __name__ == "__main__":
    main()
