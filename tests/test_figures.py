"""Figures stand on degenerate input: no label, one class, one patient, constant scores,
three classes, several repeats.
"""

import re

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from glioma_repro.statistics.clinical import decision_curve
from glioma_repro.patients.core import (
    Predictions,
    ReproError,
    concat,
    measurements_of,
    predictions_of,
)
from glioma_repro.images.contour import plot_sloppiness
from glioma_repro.networks.explanation import plot_appearance
from glioma_repro.statistics.figures import (
    _counts_of_draws,
    _confusion,
    figures_of,
    legends_beside,
    plot_answer,
    plot_bars,
    plot_box,
    plot_calibration,
    plot_confusion,
    plot_decision,
    plot_forest,
    plot_kaplan_meier,
    plot_learning,
    plot_precision_recall,
    plot_roc,
    value_words,
)
from glioma_repro.statistics.measures import (
    Scored,
    bootstrap_values,
    evaluate,
    patient_weights,
)
from glioma_repro.statistics.uncertainty import (
    calibration_band,
    calibration_table,
    expected_calibration_error,
    plot_selective,
    selective_accuracy,
    uncertainty,
)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def made(labels, scores, target="idh", classes=("wildtype", "mutant"), **fields):
    people = pd.DataFrame(
        {"participant_id": [f"sub-{number}" for number in range(len(labels))]}
    )
    scores = np.asarray(scores, float)
    scores = np.stack([1 - scores, scores], 1) if scores.ndim == 1 else scores
    fields = (
        dict(
            study="t",
            model="m",
            cohort="c",
            protocol="p",
            subset="test",
            fold=0,
            repeat=0,
            seed=0,
        )
        | fields
    )
    return predictions_of(scores, classes, people, labels, target=target, **fields)


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_no_label_is_an_error():
    with pytest.raises(ReproError, match="no true label"):
        figures_of(made([pd.NA, pd.NA], [0.2, 0.8]))


@pytest.mark.parametrize(
    "labels", [["mutant"] * 6, ["mutant"] + ["wildtype"] * 5, ["mutant"]]
)
def test_too_few_of_a_class_says_so(labels):
    predictions = made(labels, np.linspace(0.1, 0.9, len(labels)))
    for plot in (plot_roc, plot_precision_recall):
        assert "n/a" in legend(plot(predictions, iterations=20))[0]
    assert plot_confusion(predictions) is not None


def test_a_confusion_matrix_says_what_it_counts():
    """Before, single pictures were called patients."""
    given = made(["mutant", "wildtype"], [0.9, 0.2])
    for words, figure in [
        ("patients", plot_confusion(given)),
        ("pictures", plot_confusion(given, counted="pictures")),
    ]:
        axis = figure.axes[0]
        assert axis.get_xlabel() == f"called ({words})"
        assert axis.get_ylabel() == f"true ({words})"
        assert figure.alt.startswith(f"Confusion matrices of {words}.")


def test_constant_scores_are_chance():
    figure = plot_roc(
        made(["mutant"] * 5 + ["wildtype"] * 5, np.full(10, 0.5)), iterations=50
    )
    row = evaluate(
        made(["mutant"] * 5 + ["wildtype"] * 5, np.full(10, 0.5)), ["auroc"]
    ).iloc[0]
    assert (
        value_words(row["value"], row["low"], row["high"], row["reason"])
        in legend(figure)[0]
    )


def test_three_classes_are_one_line_each():
    draw = np.random.default_rng(0)
    scores = draw.dirichlet([1, 1, 1], 60)
    predictions = made(
        np.array(["2", "3", "4"])[draw.integers(0, 3, 60)],
        scores,
        "grade",
        ("2", "3", "4"),
    )
    assert [
        one.split("\n")[0] for one in legend(plot_roc(predictions, iterations=20))
    ] == ["grade 2", "grade 3", "grade 4"]
    assert _confusion(predictions).to_numpy().sum() == 60


def first_number(text):
    """The figure before its interval, in as many digits as that allows."""
    return float(re.search(r"([\d.]+) \[", text)[1])


def test_repeats_are_averaged_a_patient():
    draw = np.random.default_rng(1)
    label = np.where(draw.random(40) < 0.5, "mutant", "wildtype")
    parts = [draw.random(40) for _ in range(3)]
    figure = plot_roc(
        concat([made(label, part, repeat=number) for number, part in enumerate(parts)]),
        iterations=30,
    )
    area = roc_auc_score(label == "mutant", np.mean(parts, 0))
    assert first_number(legend(figure)[0]) == pytest.approx(area, abs=0.005)


def test_same_seed_same_figure():
    draw = np.random.default_rng(2)
    predictions = made(
        np.where(draw.random(30) < 0.5, "mutant", "wildtype"), draw.random(30)
    )
    assert legend(plot_roc(predictions, iterations=40, seed=3)) == legend(
        plot_roc(predictions, iterations=40, seed=3)
    )


def test_drawn_areas_are_those_of_a_weighted_auroc():
    draw = np.random.default_rng(3)
    label, score = (draw.random(25) < 0.5).astype(int), np.round(draw.random(25), 1)
    people = [f"sub-{number:02d}" for number in range(25)]
    one = Scored(people, label, np.stack([1 - score, score], 1), ("no", "yes"))
    true, false = _counts_of_draws(one, 20, seed=9)
    # the draws are those of the interval in the legend and the table
    weight = patient_weights(people, 20, seed=9)
    expected = [roc_auc_score(label, score, sample_weight=each) for each in weight]
    found = np.trapezoid(true / true[:, -1:], false / false[:, -1:], axis=1)[1:]
    np.testing.assert_allclose(found, expected)
    interval = bootstrap_values(one, ["auroc"], 20, seed=9)["auroc"]
    np.testing.assert_allclose(found, interval)


def test_forest_without_intervals_and_survival_without_patients():
    table = pd.DataFrame(
        {
            "label": ["a"],
            "published": [0.5],
            "reproduced": [np.nan],
            "verdict": ["not testable here"],
        }
    )
    assert plot_forest(table).axes[0].texts[0].get_text() == "not testable here"
    empty = pd.DataFrame(
        {"time": [1.0], "event": [1], "group": pd.array([pd.NA], dtype="string")}
    )
    assert plot_kaplan_meier(empty) is not None


def test_box_keeps_unknown_label_rows_out_of_the_way():
    table = pd.DataFrame({"model": ["a", "a", "b"], "dice": [0.8, np.nan, 0.9]})
    assert len(plot_box(table, "dice", "model").axes) == 1


def some(number=60, seed=0, **fields):
    "Scores of patients whose labels do not depend on the seed."
    label = np.where(
        np.random.default_rng(11).random(number) < 0.4, "mutant", "wildtype"
    )
    draw = np.random.default_rng(seed)
    return made(
        label,
        np.clip(0.3 * (label == "mutant") + 0.7 * draw.random(number), 0, 1),
        **fields,
    )


PLOTS = [plot_roc, plot_precision_recall, plot_confusion, plot_calibration]


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("column", ["subset", "cohort", "protocol"])
def test_two_sources_are_no_curve(plot, column):
    both = concat([some(), some(seed=1, **{column: "another"})])
    with pytest.raises(ReproError, match=f"several of '{column}'"):
        plot(both)
    draws = {} if plot is plot_confusion else {"iterations": 10}
    assert plot(both, by=["model", column], **draws) is not None


def test_figures_of_a_run_are_drawn_for_each_source_apart():
    inside = some()
    outside = some().table.assign(subset="external", cohort="elsewhere")
    # upside down: pooled it would look like chance
    outside["score"] = 1 - outside["score"]
    drawn = figures_of(concat([inside, Predictions(outside)]), iterations=10)
    area = evaluate(inside, ["auroc"])["value"].iloc[0]
    for key, value in (("roc_c_test", area), ("roc_elsewhere_external", 1 - area)):
        found = first_number(legend(drawn[key])[0])
        assert found == pytest.approx(value, abs=0.005)
    unknown = inside.table.assign(subset="external", label=pd.NA)
    assert set(figures_of(concat([inside, Predictions(unknown)]), iterations=5)) == {
        "roc_test",
        "precision_recall_test",
        "confusion_test",
        "calibration_test",
    }


@pytest.mark.parametrize(
    ("plot", "measure"), [(plot_roc, "auroc"), (plot_precision_recall, "auprc")]
)
@pytest.mark.parametrize("positives", [3, 20])
def test_legend_and_table_say_the_same(plot, measure, positives):
    label = np.array(["mutant"] * positives + ["wildtype"] * 25)
    one = made(
        label,
        np.random.default_rng(1).random(len(label)) * 0.6 + 0.4 * (label == "mutant"),
    )
    row = evaluate(one, [measure], iterations=200, seed=4).iloc[0]
    text = legend(plot(one, iterations=200, seed=4))[0]
    assert value_words(row["value"], row["low"], row["high"], row["reason"]) in text
    assert ("only 3 mutant" in text) == (positives == 3)


def overlaps(figure):
    figure.draw_without_rendering()
    panels = [axis for axis in figure.axes if axis.axison and axis.get_legend()]
    return [
        axis
        for axis in panels
        if axis.get_legend().get_window_extent().overlaps(axis.get_window_extent())
    ]


def test_legends_lie_beside_and_figures_speak():
    one = concat([some(model="age"), some(seed=1, model="network")])
    drawn = {
        plot.__name__: plot(one) if plot is plot_confusion else plot(one, iterations=10)
        for plot in PLOTS
    }
    drawn["decision"] = plot_decision(decision_curve(one, iterations=10), "IDH")
    history = pd.DataFrame({"epoch": [1, 2], "quantity": "loss", "value": [1.0, 0.5]})
    drawn["learning"] = plot_learning(history, [["loss"]])
    drawn["bars"] = plot_bars(
        pd.DataFrame({"name": ["a"], "share": [0.2]}), "name", "share"
    )
    spread = pd.DataFrame(
        {
            "x": ["a", "b"] * 4,
            "y": np.arange(8.0),
            "who": ["one", "two"] * 2 + ["two", "one"] * 2,
        }
    )
    drawn["box"] = plot_box(spread, "y", "x", hue="who")
    drawn["life"] = plot_kaplan_meier(
        pd.DataFrame({"time": [1.0, 2], "event": [1, 0], "group": "a"})
    )
    drawn["selective"] = plot_selective({"idh": selective_accuracy(_scores(some()))})
    for name, figure in drawn.items():
        assert not overlaps(figure), name
        assert len(figure.alt) > 25 and "nan" not in figure.alt, name
        labels = [
            axis.get_xlabel() + axis.get_ylabel() for axis in figure.axes if axis.axison
        ]
        assert name in ("box", "selective", "life") or all(labels), name


def _scores(predictions):
    from glioma_repro.statistics.measures import scores_of

    return scores_of(predictions)


def test_classes_have_words():
    draw = np.random.default_rng(0)
    labels = np.array(["2", "3", "4"])[draw.integers(0, 3, 40)]
    one = made(labels, draw.dirichlet([1, 1, 1], 40), "grade", ("2", "3", "4"))
    axis = plot_confusion(one).axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == [
        "grade 2",
        "grade 3",
        "grade 4",
    ]
    assert (
        axis.get_title().startswith("WHO grade")
        and "grade 3" in plot_roc(one, iterations=5).axes[0].get_title()
    )


def test_equal_scores_are_one_point_of_the_calibration():
    label = np.array(["mutant", "wildtype"] * 20)
    score = np.repeat([0.2, 0.8], 20)
    points = (
        plot_calibration(made(label, score), iterations=5)
        .axes[0]
        .containers[0]
        .lines[0]
        .get_xydata()
    )
    np.testing.assert_allclose(points, [[0.2, 0.5], [0.8, 0.5]])
    order = np.random.default_rng(3).permutation(40)
    other = plot_calibration(made(label[order], score[order]), iterations=5)
    np.testing.assert_allclose(
        other.axes[0].containers[0].lines[0].get_xydata(), points
    )


def test_calibration_table_against_plain_sums():
    one = some(80)
    rows = calibration_table(one, iterations=60).set_index("measure")
    label, score = _scores(one).codes, _scores(one).scores[:, 1]
    worth = ((label - score) ** 2).mean()
    assert rows.loc["brier", "value"] == pytest.approx(worth)
    assert rows.loc["scaled_brier", "value"] == pytest.approx(
        1 - worth / (label.mean() * (1 - label.mean()))
    )
    assert rows.loc["observed_expected", "value"] == pytest.approx(
        label.sum() / score.sum()
    )
    assert rows.loc["ece", "value"] == pytest.approx(
        expected_calibration_error(label, score)
    )
    assert (rows["low"] <= rows["value"]).all() and (
        rows["value"] <= rows["high"]
    ).all()
    assert rows.loc["ici", "value"] > 0 and rows.loc["ici", "perfect"] > 0


@pytest.mark.parametrize("scores", [[0.0, 1.0], [0.5, 1.0], [1e-9, 0.7]])
def test_hard_scores_have_no_slope(scores):
    label = np.array(["mutant", "wildtype"] * 15 + ["mutant"] * 10)
    rows = calibration_table(
        made(label, np.resize(np.repeat(scores, 2), 40)), iterations=20
    ).set_index("measure")
    lines = rows.loc[["calibration_slope", "calibration_intercept"]]
    assert (
        lines["value"].isna().all() and lines["reason"].str.contains("no logit").all()
    )
    assert (
        np.isfinite(rows.loc["brier", "value"])
        and "five different scores" in rows.loc["ici", "reason"]
    )


def test_all_right_is_no_interval_of_width_zero():
    rows = calibration_table(
        made(["mutant", "wildtype"] * 10, [1.0, 0.0] * 10), iterations=20
    ).set_index("measure")
    assert (
        rows.loc["brier", "value"] == 0
        and rows.loc["brier", "high"] > 0.05
        and np.isnan(rows.loc["ece", "high"])
        and "alike" in rows.loc["ece", "interval"]
    )


def test_calibration_of_three_grades_and_of_few():
    draw = np.random.default_rng(0)
    three = made(
        np.array(["2", "3", "4"])[np.arange(30) % 3],
        draw.dirichlet([1, 1, 1], 30),
        "grade",
        ("2", "3", "4"),
    )
    rows = calibration_table(three, iterations=20).set_index("measure")
    assert (
        np.isfinite(rows.loc["scaled_brier", "value"])
        and rows.loc["ici", "reason"] == "defined for two classes"
    )
    few = calibration_table(
        made(["mutant"] * 3 + ["wildtype"] * 9, np.linspace(0.1, 0.9, 12)),
        iterations=20,
    )
    assert (
        few["value"].isna().all() and few["reason"].str.contains("fewer than 5").all()
    )


def test_smooth_band_holds_the_truth_of_perfect_scores():
    draw = np.random.default_rng(2)
    score = draw.random(400)
    label = np.where(draw.random(400) < score, "mutant", "wildtype")
    band = calibration_band(_scores(made(label, score)), iterations=100)
    inside = (band["low"] <= band["score"]) & (band["score"] <= band["high"])
    assert inside.mean() > 0.8 and (band["high"] - band["low"]).max() < 0.5


def test_external_patients_of_another_cohort_learn_from_the_development_cohort():
    inside = some(60, 7).table
    inside = Predictions(
        inside.assign(fold=inside["participant_id"].str[4:].astype(int) % 3)
    )
    # with the names of the development cohort's patients
    outside = some(30, 9, subset="external", cohort="elsewhere")
    found = uncertainty(concat([inside, outside]))
    assert found["temperatures"].query("subset == 'external'")["n"].tolist() == [60]
    assert set(found["conformal"]["cohort"]) == {"c", "elsewhere"}
    alone = uncertainty(inside)
    pd.testing.assert_frame_equal(
        found["temperatures"].query("subset == 'test'"), alone["temperatures"]
    )
    third = some(30, 5, cohort="third")
    with pytest.raises(ReproError, match="select one of the two"):
        uncertainty(concat([inside, outside, third]))


def test_answer_stands_without_intervals_or_values():
    table = pd.DataFrame(
        {
            "target": "idh",
            "method": ["a", "b"],
            "value": [np.nan, 0.7],
            "reason": ["one class", ""],
        }
    )
    figure = plot_answer(table)
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "0.70 (no interval)",
        "n/a: one class",
    ]
    assert "IDH mutation, b: 0.70" in figure.alt
    with pytest.raises(ReproError, match="method"):
        plot_answer(pd.DataFrame({"target": ["idh"], "value": [0.5]}))
    with pytest.raises(ReproError, match="a value"):
        plot_answer(table[:0])


def test_figures_carry_the_numbers_that_they_show():
    """What `Study.figure` writes beside the picture."""
    predictions = some()
    counts = plot_confusion(predictions).data
    assert counts["patients"].sum() == predictions.table["participant_id"].nunique()
    drawn = plot_roc(predictions, iterations=5).data
    area = roc_auc_score(drawn["is of the class"], drawn["score"])
    assert area == pytest.approx(evaluate(predictions, ["auroc"])["value"].iloc[0])
    table = pd.DataFrame({"target": ["idh"], "method": ["age"], "value": [0.6]})
    assert plot_answer(table).data.equals(table)


def test_moved_legends_keep_proxies_whole_marks_and_their_titles():
    """Before, a legend of proxies was taken off and nothing put in its place."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6, 3))
    shapes = [plt.Line2D([], [], marker=mark, linestyle=" ") for mark in "os"]
    left.legend(shapes, ["first", "second"], title="visit")
    right.errorbar([0, 1], [0, 1], yerr=0.1, marker="D", label="mean")
    right.legend(title="line")
    legends_beside(figure)
    assert left.get_legend() is None and right.get_legend() is None
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["visit: first", "visit: second", "line: mean"]
    assert [mark.get_marker() for mark in legend.legend_handles[:2]] == ["o", "s"]
    # an error bar is drawn whole, with its point
    shown = {line.get_marker() for line in legend.findobj(plt.Line2D)}
    assert "D" in shown


def test_every_plot_has_words_and_numbers():
    """Before, these had the numbers alone: a caption was read to who cannot see."""
    names = ["Dice", "volumetric similarity", "95 % Hausdorff distance"]
    names += ["Hausdorff distance", "Dice of the region"]
    measured = concat(
        measurements_of(
            {name: 1 - level / 10 for name in names},
            {},
            method=f"sloppiness {level} pixels",
            participant_id=f"sub-{number}",
        )
        for level in (0, 4)
        for number in range(3)
    )
    figure = plot_sloppiness(measured)
    assert "of 0 and of 4 pixels: Dice 1 and 0.6" in figure.alt
    assert len(figure.data) == 2 * 3 * len(names)
    point = dict(target="idh", quantity="size", classes="mutant against wildtype")
    table = pd.DataFrame([point | dict(superiority=0.7, low=0.55, high=0.8)])
    figure = plot_appearance(table)
    assert "IDH mutation, size 0.70 [0.55 to 0.80]" in figure.alt
    assert figure.data.equals(table)
