"""The one loop over folds and what it promises: the same bytes, nothing learned from a
test patient, nothing lost, nothing unpickled.
"""

import json
import os
import re
import zipfile
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from glioma_repro.networks.augmentation import Augmentation
from glioma_repro.patients.cohort import Split, patient_splits
from glioma_repro.patients.core import TARGETS, Cohort, LeakError, ReproError, Samples
from glioma_repro.methods.catalogue import METHODS, load_model, methods_of
from glioma_repro.methods.classical import Features
from glioma_repro.methods import method as method_module
from glioma_repro.methods.method import (
    Age,
    Majority,
    Method,
    Model,
    classes_of,
    code_of,
    common_patients,
    dealt_labels,
    gather_samples,
    modules_of,
    predict_cohort,
    read_model,
    run_folds,
    trainable,
)
from glioma_repro.methods.multi_scale_cnn import (
    MultiScaleCNN,
    TextureSVM,
    protocol_splits,
)
from glioma_repro.images.slices import channel_moments, fill_channels
from glioma_repro.methods.oracle import Oracle
from glioma_repro.methods.residual_cnn import ResidualCNN
from glioma_repro.networks.training import Training

QUIET = dict(jobs=1, description="", study="test")
SMALL = ResidualCNN(
    training=Training(iterations=4, batch=8),
    augment=Augmentation(),
    filters=(4, 8),
    features=8,
    missing="impute",
)


def made(patients=18, slices=2, size=16, seed=0):
    """A cohort, and bright or dark blobs (IDH) in two sequences; MGMT is known for
    every second patient.
    """
    random = np.random.default_rng(seed)
    bright = np.arange(patients) % 2
    y, x = np.indices((size, size))
    blob = (
        np.exp(-((y - 8) ** 2 + (x - 8) ** 2) / 12)[None]
        * np.where(np.repeat(bright, slices), 1, -1)[:, None, None]
    )
    inputs = (
        (blob + random.normal(0, 0.4, blob.shape))[:, None]
        .repeat(2, 1)
        .astype(np.float32)
    )
    ids = [f"sub-{one:03d}" for one in range(patients)]
    mgmt = pd.array(
        np.array(TARGETS["mgmt"])[(np.arange(patients) // 4) % 2], dtype="string"
    )
    mgmt[::5] = pd.NA
    people = pd.DataFrame(
        {
            "participant_id": ids,
            "idh": np.array(TARGETS["idh"])[bright],
            "mgmt": mgmt,
            "age": 60.0 - 15 * bright + random.normal(0, 8, patients),
        }
    )
    cohort = Cohort("toy", people)
    table = pd.DataFrame(
        {
            "participant_id": np.repeat(ids, slices),
            "slice": np.tile(np.arange(slices), patients),
        }
    )
    targets = pd.DataFrame({one: cohort.labels(one) for one in ("idh", "mgmt")}).loc[
        table["participant_id"]
    ]
    return cohort, Samples(inputs, table, targets, ("T1w", "FLAIR"))


def run(methods, cohort, samples, splits=None, targets=("idh", "mgmt"), **settings):
    splits = splits or patient_splits(cohort, targets, folds=3, seed=0)
    return run_folds(
        methods,
        cohort,
        splits,
        targets,
        samples={one.name: samples for one in methods},
        **QUIET | settings,
    )


def test_the_same_bytes_on_any_number_of_processes(tmp_path):
    cohort, samples = made()
    methods = [Majority(), SMALL]
    for jobs in (1, 2):
        found = run(
            methods, cohort, samples, jobs=jobs, folder=tmp_path / str(jobs), final=True
        )
        found.predictions.write(tmp_path / f"{jobs}.csv")
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    for path in sorted((tmp_path / "1").rglob("*")):
        if path.is_file() and path.name != "cost.txt":
            other = tmp_path / "2" / path.relative_to(tmp_path / "1")
            assert path.read_bytes() == other.read_bytes(), path.name


def test_the_loop_says_how_far_it_is_and_how_long_it_takes(capsys):
    cohort, samples = made()
    run([Majority()], cohort, samples, description="baselines")
    said = capsys.readouterr().err
    # one a fold, with the time that is left
    for number in (1, 2, 3):
        assert re.search(rf"baselines: .* {number}/3 \[\S+<\S+,", said), said


def test_what_was_done_is_not_done_again_unless_it_was_touched(tmp_path):
    cohort, samples = made()
    first = run([Majority()], cohort, samples, folder=tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("fold.json")}
    touched = next(iter(stamps)).parent / "predictions.csv"
    touched.write_text(touched.read_text().replace("0.5", "0.9"))
    again = run([Majority()], cohort, samples, folder=tmp_path)
    changed = [path for path in stamps if path.stat().st_mtime_ns != stamps[path]]
    assert changed == [touched.parent / "fold.json"]  # an edited table is not trusted
    pd.testing.assert_frame_equal(first.predictions.table, again.predictions.table)
    other = replace(samples, inputs=samples.inputs + 1)
    run([Majority()], cohort, other, folder=tmp_path)
    # other data, another fold
    assert all(path.stat().st_mtime_ns != stamps[path] for path in stamps)


def test_only_the_last_model_stays_where_it_is_asked_for(tmp_path):
    cohort, samples = made()
    found = run([Majority()], cohort, samples, final=True, keep=False, folder=tmp_path)
    assert [key[3] for key in found.models] == [None] and len(
        list(tmp_path.rglob("card.json"))
    ) == 1
    assert (
        len(found.costs) == 4
        and found.model(Majority()).classes["idh"] == TARGETS["idh"]
    )


def test_a_fold_depends_on_the_modules_that_its_method_imports():
    mine = modules_of("glioma_repro.methods.residual_cnn")
    assert {
        "glioma_repro.networks.training",
        "glioma_repro.images.slices",
        "glioma_repro.methods.network",
    } <= set(mine)
    assert not {
        "glioma_repro.runs.study",
        "glioma_repro.patients.curation",
        "glioma_repro.methods.classical",
    } & set(mine)
    assert code_of(SMALL) != code_of(Features()) and code_of(SMALL) == code_of(
        ResidualCNN()
    )


@dataclass(frozen=True)
class Breaks(Majority):
    """Fails, or dies, in the fold that tests sub-000."""

    name: str = "breaks"
    dies: bool = False

    def fit(self, samples, validation=None, seed=0, folder=None):
        if "sub-000" not in set(samples.table["participant_id"]):
            if self.dies:
                os._exit(9)
            raise ValueError("a broken fold")
        return Majority.fit(self, samples)


@pytest.mark.parametrize(
    "dies, said", [(False, "a broken fold"), (True, "the worker died")]
)
def test_a_fold_that_breaks_costs_itself_only(tmp_path, dies, said):
    cohort, samples = made()
    splits = patient_splits(cohort, ("idh",), folds=2, seed=0)
    found = run(
        [Breaks(dies=dies), Majority()],
        cohort,
        samples,
        splits,
        ("idh",),
        folder=tmp_path,
        jobs=2,
    )
    problems = found.problems.dropna(subset="fold")
    assert len(problems) == 1 and said in problems["problem"].iloc[0]
    assert found.predictions.table.groupby("model")["fold"].nunique().to_dict() == {
        "breaks": 1,
        "majority": 2,
    }
    # the traceback is kept
    assert dies or "ValueError" in next(tmp_path.rglob("*.error.txt")).read_text()


def test_two_workers_of_a_cluster_give_the_bytes_of_one_process(tmp_path):
    """And a worker that dies costs its own fold only."""
    dask = pytest.importorskip("dask")
    distributed = pytest.importorskip("dask.distributed")
    cohort, samples = made()
    splits = patient_splits(cohort, ("idh",), folds=2, seed=0)
    lasting = [Majority(), SMALL]
    run(lasting, cohort, samples, splits, ("idh",), folder=tmp_path / "one")
    # a fold that killed one worker goes to no other of the cluster
    settings = {"distributed.scheduler.allowed-failures": 0}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
    ):
        found = run(
            [Breaks(dies=True), *lasting],
            cohort,
            samples,
            splits,
            ("idh",),
            folder=tmp_path / "two",
            scheduler=cluster.scheduler_address,
        )
    problems = found.problems.dropna(subset="fold")
    assert problems["model"].tolist() == ["breaks"]
    assert "the worker died" in problems["problem"].iloc[0]

    def left_by(name):
        "{path: bytes} of the models that last, but for how long each took."
        paths = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        kept = {path.relative_to(tmp_path / name): path for path in paths}
        return {
            place: path.read_bytes()
            for place, path in kept.items()
            if place.parts[0] not in ("breaks", "samples") and path.name != "cost.txt"
        }

    one, two = left_by("one"), left_by("two")
    weights = [path for path in one if path.suffix == ".safetensors"]
    assert len(weights) == 2 * len(lasting)  # of every fold
    assert one == two


def test_samples_larger_than_memory_stay_on_disk(tmp_path, monkeypatch):
    """Before, a fold read all its rows at once, and the branch of training that leaves
    them on disk was never reached.
    """
    cohort, samples = made()
    splits, seen = patient_splits(cohort, ("idh",), folds=2, seed=0), []
    once = method_module._fitted

    def fitted(fold, folder, train, *others):
        seen.append(type(train.inputs))
        return once(fold, folder, train, *others)

    monkeypatch.setattr(method_module, "_fitted", fitted)
    found = []
    for limit in (method_module.LARGEST, 1000):
        monkeypatch.setattr(method_module, "LARGEST", limit)
        found.append(run([SMALL], cohort, samples, splits, ("idh",)).predictions.table)
    assert seen == 2 * [np.ndarray] + 2 * [np.memmap]
    assert found[0].equals(found[1])
    # what a method makes is left on disk before the next makes its own
    monkeypatch.setattr(
        Age,
        "samples",
        lambda *_: (samples, pd.DataFrame(columns=["participant_id", "problem"])),
    )
    mapped, _ = gather_samples([Age()], cohort, ("idh",), folder=tmp_path)
    for kept in (mapped["age"], mapped["age"].of(cohort.ids)):
        assert isinstance(kept.inputs, np.memmap)


def test_a_test_patient_teaches_nothing_not_even_how_to_fill_a_gap():
    """Before, every picture that was cut from a cohort had its gaps filled from all
    pictures, those of the test fold too.
    """
    cohort, samples = made()
    holes = samples.inputs.copy()
    holes[
        samples.table["participant_id"]
        .isin(["sub-002", "sub-004"])[lambda one: one]
        .index,
        1,
    ] = np.nan
    samples, splits = (
        replace(samples, inputs=holes),
        patient_splits(cohort, ["idh"], folds=3, seed=0),
    )
    victim = next(one for one in splits[0].test if one not in ("sub-002", "sub-004"))
    wild = holes.copy()
    wild[(samples.table["participant_id"] == victim).to_numpy()] *= 50
    one, two = (
        run([SMALL], cohort, part, splits[:1], ("idh",)).predictions.table
        for part in (samples, replace(samples, inputs=wild))
    )
    differs = one["score"].to_numpy() != two["score"].to_numpy()
    assert set(one.loc[differs, "participant_id"]) == {victim}


def test_filling_is_least_squares():
    _, samples = made()
    holes = samples.inputs.copy()
    holes[0, 1] = np.nan
    design = np.column_stack(
        [samples.inputs[1:, 0].ravel(), np.ones(samples.inputs[1:, 0].size)]
    )
    weights, *_ = np.linalg.lstsq(design, samples.inputs[1:, 1].ravel(), rcond=None)
    filled = fill_channels(holes, channel_moments(holes))
    np.testing.assert_allclose(
        filled[0, 1], weights[0] * holes[0, 0] + weights[1], atol=1e-4
    )
    with pytest.raises(ReproError, match="no patient to learn from has every"):
        fill_channels(holes, channel_moments(holes[:1]))


def test_one_judge():
    _, samples = made()
    wanted = classes_of(samples) | {"grade": (), "codel_1p19q": ("intact",)}
    samples.targets["grade"] = samples.targets["codel_1p19q"] = pd.NA
    good, bad = trainable(samples.take(samples.targets["idh"] == "mutant"), wanted)
    assert (
        list(good) == ["mgmt"]
        and "wildtype" in bad["idh"]
        and "known label" in bad["grade"]
        and "every patient" in bad["codel_1p19q"]
    )


def test_nothing_to_train_is_an_error_with_the_reason():
    cohort, samples = made()
    alone = replace(samples, targets=samples.targets.assign(idh="mutant"))
    with pytest.raises(ReproError, match="every patient with a known label is mutant"):
        run([Majority()], cohort, alone, targets=("idh",))
    with pytest.raises(ReproError, match="same name"):
        run([Majority(), Majority()], cohort, samples)


def test_nobody_stands_on_both_sides_unless_it_is_asked_for():
    cohort, samples = made()
    sisters = Split(
        0,
        0,
        "test",
        tuple(f"{one}/0" for one in cohort.ids),
        tuple(f"{one}/1" for one in cohort.ids),
    )
    with pytest.raises(LeakError, match="allow_leak=True"):
        run([Majority()], cohort, samples, [sisters])
    found = run([Majority()], cohort, samples, [sisters], allow_leak=True)
    assert set(found.predictions.table["slice"]) == {1}
    held = Split(
        0,
        0,
        "test",
        tuple(cohort.ids[6:]),
        tuple(cohort.ids[:3]),
        validation=tuple(cohort.ids[2:6]),
    )
    with pytest.raises(LeakError):
        run([Majority()], cohort, samples, [held])


def test_validation_patients_choose_the_epoch_and_are_scored_apart():
    cohort, samples = made()
    split = Split(
        0,
        0,
        "test",
        tuple(cohort.ids[8:]),
        tuple(cohort.ids[:4]),
        validation=tuple(cohort.ids[4:8]),
    )
    method = replace(
        SMALL, training=Training(epochs=6, batch=8, patience=1), follow=True
    )
    found = run([method], cohort, samples, [split], ("idh",))
    assert found.predictions.table.groupby("subset")[
        "participant_id"
    ].nunique().to_dict() == {"test": 4, "validation": 4}
    assert (
        found.histories["validation_loss"].notna().all()
        and found.histories["validation_accuracy"].between(0, 1).all()
    )


def test_dealt_labels_belong_to_patients_and_are_the_same_for_every_method():
    cohort, samples = made()
    found = run([Majority(), SMALL], cohort, samples, permutations=2)
    table = found.predictions.table
    assert set(table["protocol"]) == {
        "patients",
        "patients, permuted 1",
        "patients, permuted 2",
    }
    labels = (
        table[table["target"] == "idh"]
        .groupby(["protocol", "participant_id"])["label"]
        .nunique(dropna=False)
    )
    assert (labels == 1).all()  # slices and methods agree
    assert (
        dealt_labels(cohort, ["idh"], 5)["idh"].tolist()
        != cohort.labels("idh").tolist()
    )


def test_external_patients_and_the_saved_model_say_the_same_to_the_bit(tmp_path):
    cohort, samples = made()
    other, outside = made(6, seed=4)
    other = Cohort(
        "elsewhere",
        other.participants.assign(
            participant_id="sub-ext" + other.participants["participant_id"].str[4:]
        ),
    )
    outside = replace(
        outside,
        table=outside.table.assign(
            participant_id="sub-ext" + outside.table["participant_id"].str[4:]
        ),
    )
    found = run(
        [SMALL],
        cohort,
        samples,
        external=other,
        outside={SMALL.name: outside},
        folder=tmp_path,
    )
    table = found.predictions.select(subset="external", target="idh").table
    assert (
        set(table["cohort"]) == {"elsewhere"}
        and table["fold"].isna().all()
        and table["participant_id"].nunique() == 6
    )
    model = read_model(found.model(SMALL).save(tmp_path / "kept"), [ResidualCNN])
    scores = (
        model.predict(outside).predictions("idh", outside.targets["idh"]).table["score"]
    )
    assert (scores.to_numpy() == table["score"].to_numpy()).all()


def test_a_missing_sequence_is_filled_or_refused():
    cohort, samples = made()
    model = SMALL.fit(samples, seed=1)
    holes = samples.inputs[:2].copy()
    holes[:, 1] = np.nan
    newcomer = replace(samples.take([0, 1]), inputs=holes)
    assert np.isfinite(model.predict(newcomer).values["idh"]).all()
    with pytest.raises(ReproError, match="other channels or features"):
        model.predict(Samples(holes[:, :1], newcomer.table, newcomer.targets, ("T1w",)))


def test_nothing_untrusted_is_read(tmp_path):
    cohort, _ = made()
    samples, _ = Age().samples(cohort, ["idh"])
    folder = Age().fit(samples).save(tmp_path / "age")
    assert not [
        path
        for path in folder.iterdir()
        if path.suffix in (".pkl", ".joblib", ".pickle")
    ]
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    evil = skops.io.dumps(FunctionTransformer(os.system))
    (folder / "idh.skops").write_bytes(evil)
    with pytest.raises(ReproError, match="not the file that was saved"):
        load_model(folder)
    card = json.loads((folder / "card.json").read_text())
    import hashlib

    card["files"]["idh.skops"] = hashlib.sha256(evil).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ReproError, match="not trusted"):
        load_model(folder)
    card["files"] |= {"../../elsewhere": "0"}
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ReproError):
        load_model(folder)


@pytest.mark.parametrize(
    "content, said",
    [
        ("", "card.json, line 1"),
        ("[]", "card.json holds []"),
        ("{", "card.json, line 1"),
        ('{"kind": "Age"}', "is no saved model, or a damag"),
        ('{"kind": ["Age"], "settings": 3}', "is no saved model, or a damag"),
    ],
)
def test_a_damaged_card_is_one_clear_error(tmp_path, content, said):
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ReproError, match=re.escape(said)) as refused:
        load_model(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_a_model_does_not_replace_what_is_no_model(tmp_path):
    cohort, _ = made()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    model = Age().fit(Age().samples(cohort, ["idh"])[0])
    with pytest.raises(ReproError, match="is no model"):
        model.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_skops_files_hold_no_time_and_no_address(tmp_path):
    cohort, _ = made()
    samples, _ = Age().samples(cohort, ["idh"])
    first, second = (
        Age().fit(samples).save(tmp_path / name) / "idh.skops" for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes() and zipfile.is_zipfile(first)


def test_every_method_of_the_catalogue_keeps_its_settings(tmp_path):
    for name, method in METHODS.items():
        model = Model(method, {"idh": TARGETS["idh"]}, ("a",), {"shares": np.ones(2)})
        assert (
            load_model(model.save(tmp_path / name.replace(" ", "-"))).method == method
        )
    with pytest.raises(ReproError, match="did you mean chang2018"):
        methods_of("chang2016")


def test_a_setting_by_position_is_the_kinds_own():
    """Before, the second word of Oracle("age", ("age",)) was taken for another setting,
    and the oracle knew everything.
    """
    assert Oracle("age as an attribute", ("age",)).attributes == ("age",)
    assert Features("volume", ("volume",)).groups == ("volume",)


def test_predict_says_who_was_in_training_and_who_is_unlike():
    cohort, _ = made()
    model = Age().fit(Age().samples(cohort, ["idh"])[0])
    found = run_folds(
        [Age()],
        cohort,
        patient_splits(cohort, ["idh"], 3, seed=0),
        ["idh"],
        final=True,
        **QUIET,
    )
    model = found.model(Age())
    newcomers = Cohort(
        "new",
        pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "age": [104.0, 50.0]}),
    )
    notes = predict_cohort(model, newcomers).notes
    assert (
        notes["participant_id"].tolist() == ["sub-1"]
        and "outside" in notes["note"].iloc[0]
    )
    known = predict_cohort(model, cohort.subset(["sub-004"])).notes
    assert known["note"].str.contains(
        "was in training"
    ).all() and "sub-004" not in json.dumps(model.about)
    with pytest.raises(ReproError, match="no column age"):
        predict_cohort(
            model, Cohort("ageless", newcomers.participants.drop(columns="age"))
        )


def test_a_model_refuses_images_in_another_state(monkeypatch):
    """Trained on stripped, normalised images and asked about raw ones, a model would
    answer all the same.
    """
    from glioma_repro.methods import method as module

    cohort, _ = made()
    with monkeypatch.context() as patch:
        patch.setattr(
            module,
            "state_of",
            lambda one: {
                "space": "chang2018",
                "done": {"stripped": True, "normalised": True},
            },
        )
        found = run_folds(
            [Age()],
            cohort,
            patient_splits(cohort, ["idh"], 2, seed=0),
            ["idh"],
            final=True,
            **QUIET,
        )
        model = found.model(Age())
        assert len(predict_cohort(model, cohort).predictions)
    with pytest.raises(
        ReproError,
        match="stripped, normalised; these are not: run the recipe chang2018",
    ):
        predict_cohort(model, cohort)


def test_the_texture_machine_leaves_three_classes_out():
    cohort, samples = made(24)
    grade = pd.array(np.tile(["2", "3", "4"], 16), dtype="string")
    features = Samples(
        np.random.default_rng(0).normal(size=(48, 40))
        + 3 * (samples.targets["idh"] == "mutant").to_numpy()[:, None],
        samples.table,
        samples.targets.assign(grade=grade)[["idh", "grade"]],
        tuple(f"T1w f{one}" for one in range(40)),
    )
    found = run([TextureSVM()], cohort, features, targets=("idh", "grade"))
    assert (
        set(found.predictions.table["target"]) == {"idh"}
        and "two classes apart" in found.problems["problem"].iloc[0]
    )


def test_both_protocols_train_on_as_many():
    cohort, samples = made(24, slices=3)
    whole = samples.take(samples.targets["idh"].notna().to_numpy())
    splits = protocol_splits(whole, "idh", cohort.identities(), repeats=2, seed=3)
    again = protocol_splits(whole, "idh", cohort.identities(), repeats=2, seed=3)
    assert splits == again and splits["patients"][0] != splits["patients"][1]
    for one, two in zip(*splits.values()):
        assert [len(one.train), len(one.validation), len(one.test)] == [
            len(two.train),
            len(two.validation),
            len(two.test),
        ]
    with pytest.raises(ReproError, match="at least 5 patients"):
        protocol_splits(whole.of(cohort.ids[:6]), "idh", cohort.identities())


def test_a_fitted_picture_size_is_kept():
    _, samples = made(size=48)
    method = MultiScaleCNN(width=0.03125)
    assert method.size is None and method.pinned(samples).size == 48
    assert common_patients({"a": samples, "b": samples.of(["sub-001", "sub-000"])}) == [
        "sub-000",
        "sub-001",
    ]


def test_a_method_must_say_what_it_does():
    with pytest.raises(NotImplementedError, match="Method.samples"):
        Method().samples(made()[0])
