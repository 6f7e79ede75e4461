"""Figures stand on degenerate input: no label, one class, one patient, constant scores,
three classes, several repeats.
"""

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from glioma_repro.patients.core import ReproError, concat, predictions_of
from glioma_repro.statistics.figures import (
    _bootstrap_counts,
    _confusion,
    figures_of,
    plot_box,
    plot_confusion,
    plot_forest,
    plot_kaplan_meier,
    plot_precision_recall,
    plot_roc,
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


def test_constant_scores_are_chance():
    figure = plot_roc(
        made(["mutant"] * 5 + ["wildtype"] * 5, np.full(10, 0.5)), iterations=50
    )
    assert "0.50 (0.50 to 0.50)" in legend(figure)[0]


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


def test_repeats_are_averaged_a_patient():
    draw = np.random.default_rng(1)
    label = np.where(draw.random(40) < 0.5, "mutant", "wildtype")
    parts = [draw.random(40) for _ in range(3)]
    figure = plot_roc(
        concat([made(label, part, repeat=number) for number, part in enumerate(parts)]),
        iterations=30,
    )
    assert (
        f"{roc_auc_score(label == 'mutant', np.mean(parts, 0)):.2f} ("
        in legend(figure)[0]
    )


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
    true, false, _ = _bootstrap_counts(label, score, 20, np.random.default_rng(9))
    weight = np.random.default_rng(9).multinomial(25, np.full(25, 1 / 25), size=20)
    order = np.argsort(-score, kind="stable")
    expected = [
        roc_auc_score(label[order], score[order], sample_weight=one) for one in weight
    ]
    found = np.trapezoid(true / true[:, -1:], false / false[:, -1:], axis=1)[1:]
    np.testing.assert_allclose(found, expected)


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
