"""The study akkus2017: its draws, its rules and its bad input. Its functions stand in
methods/multi_scale_cnn; the notebook itself is run by the suite of notebooks.
"""

import nbformat
import numpy as np
import pandas as pd
import pytest

from glioma_repro.patients.core import Cohort, LeakError, ReproError, Samples, carried
from glioma_repro.methods.multi_scale_cnn import (
    MultiScaleCNN,
    draw,
    inflation_rows,
    paper_methods,
    protocol_splits,
    stated_stop,
)
from glioma_repro.networks.networks import lower, multi_scale_network


@pytest.fixture(scope="module")
def notebook():
    "The study's code cells."
    read = nbformat.read(
        carried("notebooks", "studies", "akkus2017.ipynb"), as_version=4
    )
    return [cell for cell in read.cells if cell.cell_type == "code"]


def _slices(intact=12, codeleted=6):
    "Who is on each slice, and the class: three slices a patient."
    persons = np.repeat(
        [f"person-{number:02d}" for number in range(intact + codeleted)], 3
    )
    return persons, np.repeat(["intact"] * intact + ["codeleted"] * codeleted, 3)


@pytest.mark.parametrize("repeat", range(5))
def test_draws(repeat):
    """By patients nobody stands on both sides; both protocols train, validate and test
    on as many slices of each class.
    """
    persons, labels = _slices()
    parts = draw(persons, labels, repeat)
    for name, (train, held, test) in parts.items():
        assert (
            not set(train) & set(test)
            and not set(train) & set(held)
            and not set(held) & set(test)
        )
        if name == "patients":
            assert (
                not set(persons[train]) & set(persons[test])
                and not set(persons[train]) & set(persons[held])
                and not set(persons[held]) & set(persons[test])
            )
        else:
            assert np.isin(persons[test], persons[train]).mean() > 0.5, (
                "the published protocol must let sister slices through, or it is "
                "not the published one"
            )
    for one, other in zip(parts["patients"], parts["slices"]):
        assert sorted(labels[one]) == sorted(labels[other])
    test = parts["patients"][2]
    # 26 % of 18 is 5: two patients of three slices
    assert (labels[test] == "codeleted").sum() == (labels[test] == "intact").sum() == 6


def test_draws_are_deterministic_and_differ():
    persons, labels = _slices()
    one, again, other = (draw(persons, labels, repeat) for repeat in (0, 0, 1))
    assert all((a == b).all() for name in one for a, b in zip(one[name], again[name]))
    assert not np.array_equal(one["patients"][2], other["patients"][2])


def test_too_few_patients_of_a_class():
    """A class that could not stand in training, validation and test is refused, with
    the numbers.
    """
    for intact, codeleted, words in ((8, 3, "3 codeleted"), (8, 0, "8 intact")):
        persons, labels = _slices(intact, codeleted)
        samples = Samples(
            np.zeros((len(labels), 2, 4, 4)),
            pd.DataFrame({"participant_id": persons, "slice": 0}),
            pd.DataFrame({"codel_1p19q": labels}),
            ("a", "b"),
        )
        with pytest.raises(ReproError, match=words):
            protocol_splits(
                samples, "codel_1p19q", pd.Series({one: one for one in persons})
            )
    with pytest.raises(ReproError, match="none"):
        protocol_splits(samples.take([]), "codel_1p19q", pd.Series(dtype=str))


def test_adadelta_gets_the_rate_that_means_what_the_paper_states():
    """Before, all four optimisers had 0.001, with which AdaDelta cannot move: its row
    of table 2 could not learn.
    """
    runs = paper_methods(MultiScaleCNN(), ks=(2,), epochs=1, augmented_epochs=1)
    rates = {name: method.training.learning_rate for name, method in runs.items()}
    assert (
        rates["2-fold, adadelta"] == 1.0
        and rates["2-fold, sgd"]
        == rates["2-fold, rmsprop"]
        == rates["2-fold, adam"]
        == 0.001
    )


def test_stated_stopping_rule():
    """Ten changes below 0.02 in a row stop it: at once on a slow training, never on one
    that moves.
    """
    assert stated_stop(np.full(30, 0.69)) == 11
    assert stated_stop(np.linspace(0.7, 0.6, 40)) == 11
    assert np.isnan(stated_stop(np.linspace(2, 1, 40)))
    late = np.concatenate([np.linspace(2, 1, 20), np.full(11, 1.0)])
    assert stated_stop(late) == 30
    assert np.isnan(stated_stop(late[:-2]))


def test_inflation_is_published_minus_patients():
    "Two draws with known accuracies give their mean difference."
    from glioma_repro.patients.core import concat, predictions_of

    table = pd.DataFrame(
        {"participant_id": [f"sub-{number}" for number in range(10)], "slice": 0}
    )
    labels, parts = np.array(["intact", "codeleted"] * 5), []
    for repeat, (honest, leaky) in enumerate([(5, 9), (7, 9)]):
        for name, right in (("patients", honest), ("slices", leaky)):
            positive = np.where(labels == "codeleted", 0.9, 0.1)
            positive[right:] = 1 - positive[right:]
            parts.append(
                predictions_of(
                    np.stack([1 - positive, positive], 1),
                    ("intact", "codeleted"),
                    table,
                    labels,
                    study="akkus2017",
                    model="network",
                    cohort="made-up",
                    protocol=name,
                    subset="test",
                    fold=0,
                    repeat=repeat,
                    seed=0,
                    target="codel_1p19q",
                )
            )
    row = next(
        one
        for one in inflation_rows(concat(parts), "true", {"codel_1p19q": 0.2})
        if one["measure"] == "accuracy"
    )
    assert (
        np.isclose(row["patients"], 0.6)
        and np.isclose(row["slices"], 0.9)
        and np.isclose(row["inflation"], 0.3)
        and row["draws"] == 2
    )
    # t of one degree of freedom; differences 0.4 and 0.2, variance 0.02
    half = 12.706 * np.sqrt((1 / 2 + 0.2) * 0.02)
    # a difference of two shares lies between -1 and 1
    assert half > 1.3
    assert row["inflation: low"] == -1 and row["inflation: high"] == 1
    alone = inflation_rows(concat(parts[::2]), "true", {"codel_1p19q": 0.2})
    assert [one["measure"] for one in alone] == ["accuracy", "auroc"] and not any(
        "slices" in one or "inflation" in one for one in alone
    )


def test_the_published_protocol_has_to_be_asked_for(notebook):
    """protocol='slices' without allow_leak is an error before anything is computed, and
    allow_leak is not the default.
    """
    parameters = next(
        cell.source
        for cell in notebook
        if "parameters" in cell.metadata.get("tags", [])
    )
    given = [line.partition("  #")[0] for line in parameters.splitlines()]
    assert "allow_leak = False" in given and 'protocol = "patients"' in given
    cell = next(cell.source for cell in notebook if "protocols = [" in cell.source)
    space = dict(
        allow_leak=False, protocol="slices", LeakError=LeakError, ReproError=ReproError
    )
    with pytest.raises(LeakError, match="allow_leak=True"):
        exec(cell, space)
    space = dict(
        allow_leak=True, protocol="patient", LeakError=LeakError, ReproError=ReproError
    )
    with pytest.raises(LeakError, match="patients or slices"):
        exec(cell, space)


def test_a_tumour_that_does_not_fit_is_named(tmp_path):
    "The error names the patient and the smallest background that would do."
    import SimpleITK as sitk

    from glioma_repro.patients.core import write_volume
    from glioma_repro.images.slices import Slicing, slice_cohort

    cohort = Cohort(
        "made-up",
        pd.DataFrame(
            {
                "participant_id": ["sub-small", "sub-large"],
                "idh": ["mutant", "wildtype"],
            }
        ),
        tmp_path,
        mask_method="truth",
    )
    random = np.random.default_rng(0)
    for one, side in (("sub-small", 20), ("sub-large", 70)):
        mask = np.zeros((3, 96, 96), np.uint8)
        mask[:, 5 : 5 + side, 10:30] = 1
        write_volume(
            sitk.GetImageFromArray(mask), cohort.path(one, "label-tumor_mask", "truth")
        )
        write_volume(
            sitk.GetImageFromArray(
                random.normal(100, 10, (3, 96, 96)).astype(np.float32)
            ),
            cohort.path(one, "T2w"),
        )
    samples, report = slice_cohort(
        cohort,
        Slicing(size=60, which="equator", fit="embed", masked=True),
        ("T2w",),
        targets=("idh",),
        jobs=1,
    )
    assert set(samples.table["participant_id"]) == {
        "sub-small"
    } and samples.inputs.shape[2:] == (60, 60)
    assert (
        report["participant_id"].tolist() == ["sub-large"]
        and "size=70 would do" in report["problem"].iloc[0]
    )


def test_network_scales_with_width():
    """Half the width, half the filters; the same seed gives the same weights; a picture
    of another size works.
    """
    import torch

    full, half = (
        multi_scale_network((2, 64, 64), {"codel_1p19q": 2}, 3, width)
        for width in (0.25, 0.125)
    )
    assert [layer.filters for layer in full.layers if "conv" in layer.name] == [
        2 * layer.filters for layer in half.layers if "conv" in layer.name
    ]
    again = multi_scale_network((2, 64, 64), {"codel_1p19q": 2}, 3, 0.125)
    assert all(
        np.array_equal(a, b) for a, b in zip(half.get_weights(), again.get_weights())
    )
    assert lower(multi_scale_network((1, 90, 101), {"idh": 2}, 0, 0.0625)).eval()(
        torch.zeros(3, 1, 90, 101)
    )["idh"].shape == (3, 2)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The study with the published protocol asked for, as small as it goes, on a
    phantom without effect.
    """
    import json

    from glioma_repro.runs.execution import run

    folder = run(
        "akkus2017",
        "phantom:effect=0",
        tmp_path_factory.mktemp("runs"),
        allow_leak=True,
        configurations="3,4",
        ks="1,2",
        optimizers="sgd,rmsprop,adadelta,adam",
        epochs=4,
        augmented_epochs=2,
        stopping_epochs=12,
        repeats=2,
        permutations=2,
        masks="given",
        jobs=1,
    )
    return folder, json.loads((folder / "results.json").read_text(encoding="utf-8"))


def _table(results, name):
    return pd.DataFrame(
        results["tables"][name]["rows"], columns=results["tables"][name]["columns"]
    )


def test_both_protocols_stand_in_every_table(small_run):
    """Where it was asked for, the published protocol is beside the honest one
    everywhere, is marked, and lets sister slices through.
    """
    folder, results = small_run
    for name in ("table1", "table2", "table3", "inflation", "svm"):
        assert {"patients", "slices"} <= set(_table(results, name).columns), name
    for name in ("draws_mean", "stopping", "svm_draws", "svm_patients", "candidates"):
        assert set(_table(results, name)["protocol"]) == {"patients", "slices"}, name
    assert set(pd.read_csv(folder / "predictions.csv")["protocol"]) == {
        "patients",
        "slices",
        "patients, permuted labels",
        "slices, permuted labels",
    }
    assert "allow_leak" in results["statements"]["leak"]
    assert (
        _table(results, "table2")["model"].drop_duplicates().tolist()
        == ["sgd", "rmsprop", "adadelta", "adam"]
        and _table(results, "table2")["published (slices)"].notna().sum() == 12
    )
    through = _table(results, "draws_mean").set_index("protocol")[
        "test slices with a sister slice in training"
    ]
    assert through["patients"] == 0 and through["slices"] > 0.5
    assert {f"figure{number}" for number in (3, 4, 5)} | {
        "stopping",
        "inflation",
        "confusion",
    } <= set(results["figures"])


def test_tables_agree_with_the_predictions(small_run):
    "Table 3 and the accuracies of the inflation, computed again from predictions.csv."
    folder, results = small_run
    rows = pd.read_csv(folder / "predictions.csv", keep_default_na=False)
    wide = rows.pivot_table(
        index=["model", "protocol", "repeat", "participant_id", "slice", "label"],
        columns="class",
        values="score",
    ).reset_index()
    wide["called"] = np.where(wide["codeleted"] > 0.5, "codeleted", "intact")
    table3 = _table(results, "table3").set_index(["true", "called"])
    for name in ("patients", "slices"):
        mine = (
            wide[
                (wide["model"] == "2-fold, adam")
                & (wide["protocol"] == name)
                & (wide["repeat"] == 0)
            ]
            .groupby(["label", "called"])
            .size()
        )
        assert all(
            table3.at[key, f"{name}: slices"].split(" of ")[0] == str(mine.get(key, 0))
            for key in table3.index
        )
    inflation = _table(results, "inflation")
    inflation = inflation[
        inflation["model"].str.startswith("configuration 3")
        & (inflation["measure"] == "accuracy")
    ].set_index("labels")
    for labels, suffix in (("true", ""), ("permuted", ", permuted labels")):
        for name in ("patients", "slices"):
            mine = wide[
                wide["model"].str.startswith("configuration 3")
                & (wide["protocol"] == name + suffix)
            ]
            each = (mine["called"] == mine["label"]).groupby(mine["repeat"]).mean()
            assert np.isclose(inflation.at[labels, name], each.mean())


def test_permuted_labels_belong_to_patients(small_run):
    "With permuted labels a patient still has one label, and not always the true one."
    folder, _ = small_run
    rows = pd.read_csv(
        folder / "predictions.csv", keep_default_na=False
    ).drop_duplicates(["protocol", "repeat", "participant_id", "slice", "label"])
    dealt = rows[rows["protocol"].str.endswith("permuted labels")]
    assert (dealt.groupby(["repeat", "participant_id"])["label"].nunique() == 1).all()
    true = (
        rows[rows["protocol"].isin(["patients", "slices"])]
        .drop_duplicates("participant_id")
        .set_index("participant_id")["label"]
    )
    assert (
        dealt["participant_id"].map(true).dropna()
        != dealt.loc[dealt["participant_id"].map(true).notna(), "label"]
    ).any()


def test_both_stopping_rules_are_followed(small_run):
    """The stated rule ends where its definition says, the workable one uses the least
    validation loss.
    """
    _, results = small_run
    stops = _table(results, "stopping")
    assert set(stops["rule"]) == {"stated", "workable"} and set(stops["training"]) == {
        "SGD, no augmentation",
        "SGD, 2-fold augmentation",
    }
    assert (stops["epochs trained"] <= 12).all() and stops["ended by"].isin(
        ["the rule", "the limit on epochs"]
    ).all()
    pairs = stops.pivot(
        index=["protocol", "training"],
        columns="rule",
        values="validation loss of the weights",
    )
    # the same training, and the workable rule keeps its best epoch
    assert (pairs["workable"] <= pairs["stated"] + 1e-6).all()


def test_verdicts_say_what_was_run_and_against_which_null(small_run):
    "Before, no published figure had a null, and none said which run stands for it."
    _, results = small_run
    judged = _table(results, "published_reproduced")
    ours = judged[judged["reproduced"].notna() & judged["low"].notna()]
    assert len(ours) and ours["run here"].notna().all()
    shares = ours[ours["quantity"].isin(["accuracy", "sensitivity", "specificity"])]
    shares = shares[shares["source"].str.startswith("Table")]
    assert len(shares) and shares["n"].notna().all()
    assert shares["null"].notna().all() and shares["null"].ne("").all()
    told = shares["verdict"].isin(["reproduced", "differs", "not decided"])
    assert told.any() and shares.loc[told, "null_value"].notna().all()
    beaten = shares["verdict"].eq("reproduced")
    assert (shares.loc[beaten, "null_p"].astype(float) < 0.05).all()
    assert results["headline"][0]["measure"] == "accuracy of slices"
    rival = results["headline"][0]["rival"]
    assert "SVM" in rival["method"] and 0 <= rival["p"] <= 1
    assert "answer" in results["figures"]


def test_external_patients(tmp_path):
    "Before, the study had no parameter external."
    import json

    from glioma_repro.runs.execution import run

    folder = run(
        "akkus2017",
        "phantom:patients=24,voxel_size=6",
        tmp_path,
        targets="codel_1p19q,idh",
        external='site == "C"',
        configurations="3",
        ks="1",
        optimizers="sgd",
        epochs=2,
        augmented_epochs=1,
        stopping_epochs=0,
        repeats=1,
        permutations=0,
        masks="given",
        svm=False,
        jobs=1,
    )
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    table = pd.read_csv(folder / "predictions.csv")
    outside = set(table.loc[table["subset"] == "external", "participant_id"])
    assert outside and not outside & set(
        table.loc[table["subset"] == "test", "participant_id"]
    )
    assert {one["subset"] for one in results["headline"]} == {"test", "external"}
    scored = _table(results, "scored_external")
    assert set(scored.groupby("target")["scored"].sum()) == {len(outside)}
    kept = {path.parent.name for path in (folder / "model").rglob("card.json")}
    assert kept == {"codel_1p19q", "idh"}  # before, the first target's alone
