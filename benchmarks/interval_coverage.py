"""How often the intervals contain the truth, and how often the tests raise a false
alarm, at the sizes that occur in the studies.

    python benchmarks/interval_coverage.py [--quick]

Prints a markdown table and writes benchmarks/results/interval_coverage.md. Exits
with 1 if a stated expectation does not hold.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import joblib
import numpy as np
import pandas as pd
from scipy import stats

from glioma_repro.patients.core import cores, generator
from glioma_repro.statistics.comparison import balanced_difference, equivalence, mcnemar
from glioma_repro.statistics.measures import (
    Scores,
    binormal_scores,
    corrected_interval,
    delong,
    delong_unpaired,
    interval_coverage,
    interval_of,
    measure_all,
    proportion_interval,
)
from glioma_repro.runs.study import device_name

# positives, negatives, true AUROC, spread of the positives' scores (the negatives' is
# 1), what it is like
SIZES = [
    (12, 43, 0.9, 0.4, "IDH wildtype of the slice cohort, rare class narrow"),
    (12, 43, 0.9, 1.0, "the same, spread alike"),
    (12, 43, 0.9, 2.0, "the same, rare class wide"),
    (5, 106, 0.9, 1.0, "a rare class"),
    (26, 84, 0.75, 1.0, "1p/19q"),
    (88, 129, 0.9, 1.0, "IDH, test set of vandervoort2022"),
    (26, 207, 0.85, 1.0, "1p/19q, test set of vandervoort2022"),
]
# (interval, positives, spread): lowest and highest acceptable coverage
EXPECTED = {
    ("DeLong, bare", 12, 0.4): (0.90, 0.94),
    ("percentile bootstrap", 12, 0.4): (0.91, 0.95),
    ("basic bootstrap", 12, 0.4): (0.86, 0.91),
    ("DeLong, bare", 12, 1.0): (0.85, 0.90),
    ("percentile bootstrap", 12, 1.0): (0.88, 0.92),
    ("basic bootstrap", 12, 1.0): (0.80, 0.85),
    ("DeLong, bare", 5, 1.0): (0, 0.85),
    ("percentile bootstrap", 5, 1.0): (0, 0.85),
    ("basic bootstrap", 5, 1.0): (0, 0.85),
    ("Newcombe", 12, 0.4): (0.94, 1),
    ("Newcombe", 12, 1.0): (0.94, 1),
    ("Newcombe", 12, 2.0): (0.92, 0.97),
    ("Newcombe", 5, 1.0): (0.93, 0.98),
    ("DeLong", 88, 1.0): (0.93, 0.96),
    ("DeLong logit", 88, 1.0): (0.935, 0.965),
    ("Newcombe", 88, 1.0): (0.94, 0.975),
}


def coverage_table(repeats, iterations, jobs):
    """Rows (positives, negatives, auroc, spread, what, interval, coverage, truth below
    it, truth above it, width).
    """
    rows = []
    for positives, negatives, value, spread, what in SIZES:
        parts = joblib.Parallel(n_jobs=jobs)(
            joblib.delayed(interval_coverage)(
                positives, negatives, value, 100, iterations, part, spread
            )
            for part in range(repeats // 100)
        )
        found = (
            pd.concat(parts)
            .groupby("interval", sort=False)[["coverage", "below", "above", "width"]]
            .mean()
        )
        rows += [
            (positives, negatives, value, spread, what, *row)
            for row in found.itertuples()
        ]
    return rows


SMALL = (2, 3, 5, 10, 30)  # patients of the rare class, against 50
DEFAULTS = (
    "auroc",
    "auprc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "npv",
    "likelihood_ratio_positive",
    "likelihood_ratio_negative",
    "f1",
    "f1_macro",
    "f1_weighted",
    "mcc",
    "kappa",
    "brier",
    "calibration_slope",
    "calibration_intercept",
)
SETTINGS = dict(
    auroc_interval="auto", proportion="auto", bootstrap="percentile", threshold=0.5
)


def _wide(label, score, at):
    "Two-class scores whose threshold is moved to one half (on the logit scale)."
    moved = 1 / (1 + np.exp(-(np.log(score / (1 - score)) - at)))
    names = np.array([f"{number}" for number in range(len(label))])
    return Scores(names, label.astype(int), np.c_[1 - moved, moved], ("no", "yes"))


def default_coverage(positives, value, repeats):
    """Rows (positives, AUROC, measure, coverage, width, without one) of every default.

    The truth of a measure is its value among many patients in the same mixture."""
    at = np.sqrt(2) * stats.norm.ppf(value) / 2  # between the classes
    label, scores = binormal_scores(
        positives * 800 // (positives + 50) * 25,
        50 * 800 // (positives + 50) * 25,
        value,
        generator("truth", positives, value),
    )
    truth = measure_all(_wide(label, scores[0, 0], at), list(DEFAULTS))
    label, scores = binormal_scores(
        positives, 50, value, generator("defaults", positives, value), repeats=repeats
    )
    rows = []
    for one in scores[:, 0]:
        sample = _wide(label, one, at)
        found = measure_all(sample, list(DEFAULTS))
        for name in DEFAULTS:
            low = high = np.nan
            if np.isfinite(found[name][0]):
                low, high, _ = interval_of(
                    name, float(found[name][0]), sample, {}, SETTINGS
                )
            rows.append(
                (name, low <= truth[name][0] <= high, high - low, np.isnan(low))
            )
    table = pd.DataFrame(rows, columns=["measure", "inside", "width", "none"])
    given = table[~table["none"]].groupby("measure")[["inside", "width"]].mean()
    none = table.groupby("measure")["none"].mean()
    return [
        (
            positives,
            value,
            name,
            given["inside"].get(name, np.nan),
            given["width"].get(name, np.nan),
            none[name],
        )
        for name in DEFAULTS
    ]


def default_table(repeats, jobs):
    "Coverage of every default interval at 2, 3, 5, 10 and 30 against 50."
    parts = joblib.Parallel(n_jobs=jobs)(
        joblib.delayed(default_coverage)(positives, value, repeats)
        for positives in SMALL
        for value in (0.7, 0.8, 0.9)
    )
    return pd.DataFrame(
        [row for part in parts for row in part],
        columns=["positives", "auroc", "measure", "coverage", "width", "none"],
    )


def default_lines(table, slack):
    "Markdown lines, and what is not as wanted: from 5 a class on."
    lines = [
        "",
        "Every default interval, rare class against 50; true AUROC 0.7, 0.8, 0.9, "
        "threshold between the classes: mean and worst coverage, mean width where "
        "finite, share of data sets without an interval (with its reason). Wanted "
        "from 5 a class on: mean at least 0.94, worst at least 0.92.",
        "",
        "| measure | "
        + " | ".join(f"{one} against 50" for one in SMALL)
        + " | mean from 5 | worst from 5 |",
        "|" + "---|" * (len(SMALL) + 3),
    ]
    wrong = []
    for name in DEFAULTS:
        own = table[table["measure"] == name]
        cells = []
        for positives in SMALL:
            part = own[own["positives"] == positives]
            width = part["width"][np.isfinite(part["width"])].mean()
            none = part["none"].mean()
            note = f", none {none:.2f}" if none else ""
            cells.append(
                f"{part['coverage'].mean():.3f} / {part['coverage'].min():.3f}"
                f" (width {width:.2f}{note})"
            )
        enough = own[own["positives"] >= 5]["coverage"]
        lines.append(
            f"| {name} | "
            + " | ".join(cells)
            + f" | {enough.mean():.3f} | {enough.min():.3f} |"
        )
        if enough.mean() < 0.94 - slack or enough.min() < 0.92 - slack:
            wrong.append(f"{name}: mean {enough.mean():.3f}, worst {enough.min():.3f}")
    return lines, wrong


def proportion_table():
    """Exact coverage of the intervals of a proportion, by summing over the binomial
    distribution.
    """
    rows = []
    for n, share in [(12, 0.7), (26, 0.4), (43, 0.9), (88, 0.72), (207, 0.95)]:
        counts = np.arange(n + 1)
        chance = stats.binom.pmf(counts, n, share)
        for method in ("Wilson", "Clopper-Pearson"):
            inside = [
                low <= share <= high
                for low, high in (
                    proportion_interval(int(count), n, method) for count in counts
                )
            ]
            rows.append((n, share, method, float(chance @ inside)))
    return rows


def alarm_table(repeats):
    """False alarms at 5 % of the paired and unpaired tests (two equally good models),
    of equivalence at its margin, and of fold-wise t tests.
    """
    rows = []
    for positives, negatives in [
        (2, 50),
        (3, 50),
        (5, 50),
        (12, 43),
        (26, 84),
        (88, 129),
    ]:
        label, scores = binormal_scores(
            positives,
            negatives,
            0.8,
            generator("alarm", positives),
            models=2,
            correlation=0.5,
            repeats=repeats,
        )
        other = binormal_scores(
            positives,
            negatives,
            0.8,
            generator("alarm, others", positives),
            repeats=repeats,
        )[1]
        paired = [delong(label, *one) for one in scores]
        rows.append(
            (
                positives,
                negatives,
                "DeLong, paired",
                np.mean([one["p"] < 0.05 for one in paired]),
            )
        )
        rows.append(
            (
                positives,
                negatives,
                "DeLong, unpaired",
                np.mean(
                    [
                        delong_unpaired(label, a[0], label, b[0])["p"] < 0.05
                        for a, b in zip(scores, other)
                    ]
                ),
            )
        )
        right = [(one >= 0.75) == label for one in scores]
        rows.append(
            (
                positives,
                negatives,
                "McNemar, mid-p",
                np.mean([mcnemar(*one)["p"] < 0.05 for one in right]),
            )
        )
        few = right[: max(len(right) // 5, 100)]
        rows.append(
            (
                positives,
                negatives,
                "balanced accuracy, McNemar by class",
                np.mean([balanced_difference(label, *one)["p"] < 0.05 for one in few]),
            )
        )
        label, apart = binormal_scores(
            positives,
            negatives,
            0.8,
            generator("margin", positives),
            models=2,
            correlation=0.5,
            repeats=repeats,
        )
        shifted = np.stack([apart[:, 0], _worse(apart[:, 1], label, 0.8, 0.7)], 1)
        tests = [delong(label, *one) for one in shifted]
        rows.append(
            (
                positives,
                negatives,
                "equivalence at its margin 0.1",
                np.mean(
                    [
                        bool(
                            equivalence(one["difference"], one["standard_error"], 0.1)[
                                "equivalent"
                            ]
                        )
                        for one in tests
                        if one["standard_error"] > 0
                    ]
                ),
            )
        )
    return rows


def _worse(scores, label, old, new):
    """Scores of a model whose true AUROC is `new` from one with `old`: the positives'
    shift in the normal score is made smaller.
    """
    normal = (
        np.log(scores / (1 - scores))
        - np.sqrt(2) * (stats.norm.ppf(old) - stats.norm.ppf(new)) * label
    )
    return 1 / (1 + np.exp(-normal))


def folds_alarm(repeats):
    """False alarms of the plain and the corrected t test over 10 x 5 folds of two
    classifiers that are equally good (nearest class mean on one of two equal
    features).
    """
    alarms, draw = [], generator("folds")
    for _ in range(repeats):
        label = np.arange(100) < 40
        x = draw.normal(size=(100, 2)) + 0.8 * label[:, None]
        differences = []
        for _ in range(10):
            fold = draw.permutation(100) % 5
            for one in range(5):
                train, test = fold != one, fold == one
                middle = (x[train & label].mean(0) + x[train & ~label].mean(0)) / 2
                differences.append(
                    np.subtract(*((x[test] > middle) == label[test, None]).mean(0))
                )
        _, low, high = corrected_interval(differences, 0.25)
        alarms.append(
            (stats.ttest_1samp(differences, 0).pvalue < 0.05, low > 0 or high < 0)
        )
    return np.mean(alarms, 0)


def main():
    "Runs everything, writes the table, checks the expectations."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the simulations"
    )
    parser.add_argument(
        "--defaults", action="store_true", help="the default intervals alone"
    )
    parser.add_argument("--jobs", type=int, default=cores())
    options = parser.parse_args()
    (repeats, iterations), start = (
        (60, 100) if options.quick else (1000, 200),
        time.perf_counter(),
    )
    slack = 0.03 if options.quick else 0.0
    if options.defaults:
        lines, wrong = default_lines(default_table(repeats, options.jobs), slack)
        print(f"{repeats} data sets a size and AUROC", *lines, *wrong, sep="\n")
        sys.exit(bool(wrong))
    lines, wrong = (
        [
            "# Coverage of intervals, false alarms of tests",
            "",
            f"{repeats} simulated binormal test sets a line, {iterations} "
            "bootstrap draws over patients each; the aim is 0.95. "
            "Spread: standard deviation of the positives' scores against "
            "the negatives'. "
            '"DeLong, bare" has no width where the classes are perfectly apart; '
            '"DeLong" as in this library takes Newcombe\'s interval there.',
            "",
            "| positives | negatives | AUROC | spread | like | interval | "
            "coverage | truth below | truth above | mean width | expected |",
            "|" + "---|" * 11,
        ],
        [],
    )
    for (
        positives,
        negatives,
        value,
        spread,
        what,
        name,
        hit,
        below,
        above,
        width,
    ) in coverage_table(repeats, iterations, options.jobs):
        low, high = EXPECTED.get((name, positives, spread), (None, None))
        expected = "" if low is None else f"{low:g} to {high:g}"
        if low is not None and not low - slack <= hit <= high + slack:
            wrong.append(
                f"{name}, {positives} against {negatives}, spread {spread:g}: "
                f"{hit:.3f}, expected {expected}"
            )
        lines.append(
            f"| {positives} | {negatives} | {value:g} | {spread:g} | {what} | {name} "
            f"| {hit:.3f} | {below:.3f} | {above:.3f} | {width:.3f} | {expected} |"
        )
    lines += [
        "",
        "Proportions (exact, by summation):",
        "",
        "| n | true share | interval | coverage | expected |",
        "|---|---|---|---|---|",
    ]
    for n, share, method, hit in proportion_table():
        low = 0.95 if method == "Clopper-Pearson" else 0.91
        if hit < low - 1e-9:
            wrong.append(f"{method}, n = {n}: {hit:.3f}, expected at least {low}")
        lines.append(f"| {n} | {share:g} | {method} | {hit:.3f} | at least {low} |")
    lines += [
        "",
        "False alarms at 5 % (two models equally good; true AUROC 0.8, correlation "
        "0.5 within a class):",
        "",
        "| positives | negatives | test | false alarms | expected |",
        "|---|---|---|---|---|",
    ]
    for positives, negatives, test, rate in alarm_table(repeats):
        high = 0.08 + slack
        if rate > high:
            wrong.append(
                f"{test}, {positives} against {negatives}: {rate:.3f}, expected at "
                f"most {high}"
            )
        lines.append(
            f"| {positives} | {negatives} | {test} | {rate:.3f} | at most {high:g} |"
        )
    found, lacking = default_lines(default_table(repeats, options.jobs), slack)
    wrong += lacking
    plain, corrected = folds_alarm(max(repeats // 8, 50))
    lines += [
        f"| 40 | 60 | plain t over 10 x 5 folds | {plain:.3f} | above 0.1 |",
        f"| 40 | 60 | corrected resampled t | {corrected:.3f} | at most 0.08 |",
    ]
    if plain < 0.1 or corrected > 0.08 + slack:
        wrong.append(
            f"t tests over folds: plain {plain:.3f}, corrected {corrected:.3f}"
        )
    lines += found
    lines += [
        "",
        "Every expectation holds."
        if not wrong
        else "Not as expected: " + "; ".join(wrong) + ".",
        "",
        f"{time.perf_counter() - start:.0f} s on {options.jobs} of {device_name()}.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    place = Path(__file__).parent / "results" / "interval_coverage.md"
    place.parent.mkdir(exist_ok=True)
    place.write_text(text, encoding="utf-8")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
