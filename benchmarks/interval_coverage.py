"""How often the intervals contain the truth, and how often the tests raise a false
alarm, at the sizes that occur in the studies.

    python benchmarks/interval_coverage.py [--quick]

Prints a markdown table and writes benchmarks/results/interval_coverage.md. Exits
with 1 if a stated expectation does not hold.
"""

import argparse
import functools
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import joblib
import numpy as np
import pandas as pd
from scipy import special, stats

from glioma_repro.patients.core import cores, generator
from glioma_repro.statistics import measures
from glioma_repro.statistics.comparison import balanced_difference, equivalence, mcnemar
from glioma_repro.statistics.measures import (
    Scored,
    binormal_scores,
    corrected_interval,
    delong,
    delong_unpaired,
    from_confusion,
    interval_coverage,
    interval_of,
    measure_all,
    proportion_interval,
)
from glioma_repro.runs.study import device_name

# the same counts and the same AUROCs of few pairs come again and again
for _name in ("proportion_interval", "newcombe_interval"):
    setattr(measures, _name, functools.lru_cache(None)(getattr(measures, _name)))

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
COMMON = 50
# shares that are called right in the rare class and in the other: thresholds between
# the classes at AUROC 0.7, 0.8, 0.9 and 0.95, and two that favour one class
SHARES = [
    *((float(stats.norm.cdf(stats.norm.ppf(one) / 2**0.5)),) * 2 for one in (0.7, 0.8)),
    *(
        (float(stats.norm.cdf(stats.norm.ppf(one) / 2**0.5)),) * 2
        for one in (0.9, 0.95)
    ),
    (0.9, 0.6),
    (0.6, 0.9),
]
AT_THRESHOLD = (
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
)
# true AUROC, spread of the rare class's scores
MODELS = [(0.7, 1.0), (0.8, 1.0), (0.9, 1.0), (0.6, 2.0), (0.9, 2.0), (0.9, 0.4)]
OF_SCORES = ("auroc", "auprc", "brier", "calibration_slope", "calibration_intercept")
SETTINGS = dict(
    auroc_interval="auto", proportion="auto", bootstrap="percentile", threshold=0.5
)
COLUMNS = ["positives", "case", "measure", "coverage", "width", "none"]


def _names(number):
    "Names of so many patients."
    return np.array([f"{one:03d}" for one in range(number)])


def exact_coverage(positives, common=COMMON):
    """Rows (COLUMNS) of every measure at a threshold, summed over all tables that two
    binomial distributions can give: no simulation, no noise.
    """
    label = np.arange(positives + common) < positives
    names = _names(len(label))
    places = [np.arange(one + 1) for one in (positives, common)]
    chances = [
        np.outer(*map(stats.binom.pmf, places, (positives, common), case))
        for case in SHARES
    ]
    truths = []
    for found, spared in SHARES:
        rare = [(1 - found) * positives, found * positives]
        matrix = np.array([[spared * common, (1 - spared) * common], rare])
        truths.append(from_confusion(matrix))
    sums = np.zeros((len(SHARES), len(AT_THRESHOLD), 4))  # given, inside, width, finite
    for found, spared in np.argwhere(np.max(chances, axis=0) > 1e-6):
        order = np.arange(len(label))
        call = np.where(label, order < found, order >= positives + spared)
        one = Scored(names, label.astype(int), np.c_[~call, call] * 1.0, ("no", "yes"))
        values = measure_all(one, list(AT_THRESHOLD))
        for place, name in enumerate(AT_THRESHOLD):
            value = float(values[name][0])
            if not np.isfinite(value):
                continue
            low, high, _ = interval_of(name, value, one, {}, SETTINGS)
            for case, truth in enumerate(truths):
                inside = low - 1e-9 <= truth[name] <= high + 1e-9
                wide = (high - low, 1) if np.isfinite(high - low) else (0, 0)
                chance = chances[case][found, spared]
                sums[case, place] += chance * np.array([1, inside, *wide])
    given, inside, width, finite = np.moveaxis(sums, -1, 0)
    return [
        (
            positives,
            f"{SHARES[case][0]:.2f}, {SHARES[case][1]:.2f}",
            name,
            inside[case, place] / given[case, place],
            width[case, place] / finite[case, place],
            max(0.0, 1 - given[case, place]),
        )
        for case in range(len(SHARES))
        for place, name in enumerate(AT_THRESHOLD)
    ]


def _true_values(positives, value, spread, at):
    "Measures of the scores among 20,000 evenly spaced quantiles of each class."
    number = 20_000
    normal = stats.norm.ppf((np.arange(number) + 0.5) / number)
    shift = np.sqrt(1 + spread**2) * stats.norm.ppf(value)
    score = special.expit(np.r_[spread * normal + shift, normal] - at)
    label = np.arange(2 * number) < number
    weights = np.where(label, positives / number, COMMON / number)[None]
    codes = label.astype(int)
    one = Scored(_names(2 * number), codes, np.c_[1 - score, score], ("no", "yes"))
    found = measure_all(one, list(OF_SCORES), weights)
    return {name: float(values[0]) for name, values in found.items()} | {"auroc": value}


def simulated_coverage(positives, value, spread, repeats):
    "Rows (COLUMNS) of the measures of scores; of calibration a fifth of the data sets."
    at = np.sqrt(1 + spread**2) * stats.norm.ppf(value) / 2  # between the classes
    truth = _true_values(positives, value, spread, at)
    draw = generator("defaults", positives, value, spread)
    label, scores = binormal_scores(
        positives, COMMON, value, draw, repeats=repeats, spread=spread
    )
    names, found = _names(len(label)), {name: [] for name in OF_SCORES}
    for number, score in enumerate(scores[:, 0]):
        moved = special.expit(special.logit(score) - at)
        both = np.c_[1 - moved, moved]
        one = Scored(names, label.astype(int), both, ("no", "yes"))
        wanted = OF_SCORES if number < repeats // 5 else OF_SCORES[:3]
        for name, values in measure_all(one, list(wanted)).items():
            low = high = np.nan
            if np.isfinite(values[0]):
                low, high, _ = interval_of(name, float(values[0]), one, {}, SETTINGS)
            found[name].append((low, high))
    rows = []
    for name, limits in found.items():
        low, high = np.array(limits).T
        given = np.isfinite(low)
        inside = (low <= truth[name]) & (truth[name] <= high)
        width, hit = np.mean((high - low)[given]), np.mean(inside[given])
        case = f"AUROC {value:g}, spread {spread:g}"
        rows.append((positives, case, name, hit, width, 1 - given.mean()))
    return rows


def default_table(repeats, jobs):
    "Coverage of every default interval at 2, 3, 5, 10 and 30 against 50."
    calls = [joblib.delayed(exact_coverage)(positives) for positives in SMALL]
    calls += [
        joblib.delayed(simulated_coverage)(positives, *model, repeats)
        for positives in SMALL
        for model in MODELS
    ]
    parts = joblib.Parallel(n_jobs=jobs)(calls)
    return pd.DataFrame([row for part in parts for row in part], columns=COLUMNS)


def default_lines(table, repeats):
    "Markdown lines, and what is not as wanted: from 5 a class on."
    shares = "; ".join(f"{a:.2f} and {b:.2f}" for a, b in SHARES)
    models = "; ".join(f"{a:g} with spread {b:g}" for a, b in MODELS)
    lines = [
        "",
        "## Every default interval, rare class against 50",
        "",
        "Mean and worst coverage over the cases (mean width where finite; share of data "
        "sets without a value, which have a reason instead). Wanted from 5 a class on: "
        "mean at least 0.94, worst at least 0.92.",
        "",
        "* Measures at a threshold: exact, summed over all tables of two binomial "
        f"distributions, for true sensitivity and specificity of {shares}.",
        f"* AUROC, AUPRC, Brier score: {repeats} binormal data sets a cell (a coverage "
        f"is known to {(0.05 * 0.95 / repeats) ** 0.5:.3f}), calibration {repeats // 5} "
        f"({(0.05 * 0.95 / (repeats // 5)) ** 0.5:.3f}), for true AUROC {models}; the "
        "truth is that of 20,000 quantiles of each class.",
        "",
        "| measure | "
        + " | ".join(f"{one} against {COMMON}" for one in SMALL)
        + " | mean from 5 | worst from 5 |",
        "|" + "---|" * (len(SMALL) + 3),
    ]
    wrong = []
    for name in (*AT_THRESHOLD, *OF_SCORES):
        own = table[table["measure"] == name]
        cells = [_cell(own[own["positives"] == one]) for one in SMALL]
        enough = own[own["positives"] >= 5]
        mean, worst = enough["coverage"].mean(), enough["coverage"].min()
        lines.append(f"| {name} | {' | '.join(cells)} | {mean:.3f} | {worst:.3f} |")
        if mean < 0.94 or worst < 0.92:
            row = enough.loc[enough["coverage"].idxmin()]
            at = f"{row['positives']} against {COMMON}, {row['case']}"
            wrong.append(f"{name}: mean {mean:.3f}, worst {worst:.3f} ({at})")
    return lines, wrong


def _cell(part):
    "Mean and worst coverage, width and share without a value at one size."
    none = part["none"].mean()
    note = f", none {none:.2f}" if none >= 0.005 else ""
    hit = f"{part['coverage'].mean():.3f} / {part['coverage'].min():.3f}"
    return f"{hit} (width {part['width'].mean():.2f}{note})"


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


def auroc_lines(repeats, iterations, jobs):
    "All intervals of an AUROC at the sizes of the studies: lines, what is not expected."
    lines = [
        "",
        "## Intervals of an AUROC, at the sizes of the studies",
        "",
        f"{repeats} simulated binormal test sets a line (a coverage of 0.9 is known to "
        f"{(0.09 / repeats) ** 0.5:.3f}), {iterations} bootstrap draws over patients "
        "each; the aim is 0.95. Spread: standard deviation of the positives' scores "
        'against the negatives\'. "DeLong, bare" has no width where the classes are '
        'perfectly apart; "DeLong" as in this library takes Newcombe\'s interval there.',
        "",
        "| positives | negatives | AUROC | spread | like | interval | "
        "coverage | truth below | truth above | mean width | expected |",
        "|" + "---|" * 11,
    ]
    wrong, slack = [], 2 * (0.09 / repeats) ** 0.5
    for row in coverage_table(repeats, iterations, jobs):
        positives, negatives, value, spread, what, name, hit, *rest = row
        low, high = EXPECTED.get((name, positives, spread), (None, None))
        expected = "" if low is None else f"{low:g} to {high:g}"
        if low is not None and not low - slack <= hit <= high + slack:
            wrong.append(
                f"{name}, {positives} against {negatives}, spread {spread:g}: "
                f"{hit:.3f}, expected {expected}"
            )
        numbers = " | ".join(f"{one:.3f}" for one in (hit, *rest))
        lines.append(
            f"| {positives} | {negatives} | {value:g} | {spread:g} | {what} | {name} "
            f"| {numbers} | {expected} |"
        )
    return lines, wrong


def proportion_lines():
    "Exact coverage of the intervals of a share: lines, what is not expected."
    lines = [
        "",
        "## Shares (exact, by summation)",
        "",
        "| n | true share | interval | coverage | expected |",
        "|---|---|---|---|---|",
    ]
    wrong = []
    for n, share, method, hit in proportion_table():
        low = 0.95 if method == "Clopper-Pearson" else 0.91
        if hit < low - 1e-9:
            wrong.append(f"{method}, n = {n}: {hit:.3f}, expected at least {low}")
        lines.append(f"| {n} | {share:g} | {method} | {hit:.3f} | at least {low} |")
    return lines, wrong


def alarm_lines(repeats):
    "False alarms of the tests: lines, what is not expected."
    slack = 2 * (0.06 * 0.94 / repeats) ** 0.5
    lines = [
        "",
        "## False alarms at 5 %",
        "",
        f"{repeats} data sets a line: two models equally good, true AUROC 0.8, "
        f"correlation 0.5 within a class; a rate is known to {slack / 2:.3f}.",
        "",
        "| positives | negatives | test | false alarms | expected |",
        "|---|---|---|---|---|",
    ]
    wrong = []
    for positives, negatives, test, rate in alarm_table(repeats):
        high = 0.06 if test.startswith("DeLong, paired") else 0.08
        if rate > high + slack:
            wrong.append(
                f"{test}, {positives} against {negatives}: {rate:.3f}, expected at "
                f"most {high}"
            )
        lines.append(
            f"| {positives} | {negatives} | {test} | {rate:.3f} | at most {high:g} |"
        )
    plain, corrected = folds_alarm(max(repeats // 8, 50))
    lines += [
        f"| 40 | 60 | plain t over 10 x 5 folds | {plain:.3f} | above 0.1 |",
        f"| 40 | 60 | corrected resampled t | {corrected:.3f} | at most 0.08 |",
    ]
    if plain < 0.1 or corrected > 0.08 + 3 * slack:
        wrong.append(
            f"t tests over folds: plain {plain:.3f}, corrected {corrected:.3f}"
        )
    return lines, wrong


def main():
    "Runs everything, writes the table, checks the expectations."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the data sets")
    parser.add_argument(
        "--defaults", action="store_true", help="the default intervals alone, unwritten"
    )
    parser.add_argument("--jobs", type=int, default=cores())
    options = parser.parse_args()
    start, part = time.perf_counter(), 10 if options.quick else 1
    lines, wrong = ["# Coverage of intervals, false alarms of tests"], []
    repeats = 1000 // part
    parts = [lambda: default_lines(default_table(repeats, options.jobs), repeats)]
    if not options.defaults:
        parts += [
            lambda: alarm_lines(600 // part),
            lambda: auroc_lines(max(200 // part, 100), 200, options.jobs),
            proportion_lines,
        ]
    for make in parts:
        found, lacking = make()
        lines, wrong = lines + found, wrong + lacking
        print(*found, *lacking, sep="\n", flush=True)
    verdict = "Not as expected: " + "; ".join(wrong) + "."
    seconds = (
        f"{time.perf_counter() - start:.0f} s on {options.jobs} of {device_name()}."
    )
    lines += ["", verdict if wrong else "Every expectation holds.", "", seconds]
    if not options.defaults:
        place = Path(__file__).parent / "results" / "interval_coverage.md"
        place.parent.mkdir(exist_ok=True)
        place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
