"""The phantom: same bytes, killed and repeated, a true truth, nothing in a null cohort,
bad settings.
"""

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy import stats

from glioma_repro.patients import anatomy, scanner
from glioma_repro.patients import phantom as ph
from glioma_repro.patients.core import (
    SEQUENCES,
    Cohort,
    ReproError,
    read_cohort,
    real_data,
    sha256_of,
)
from glioma_repro.methods.method import run_folds
from glioma_repro.methods.oracle import Oracle
from glioma_repro.patients.anatomy import EFFECTS
from glioma_repro.patients.cohort import patient_splits
from glioma_repro.patients.phantom import (
    LOBES,
    PhantomSettings,
    draw_attributes,
    draw_labels,
    make_phantom,
    patient_tissue,
    phantom,
    phantom_settings,
    scan,
    truth_bias,
    truth_displacement,
    truth_table,
    truth_transform,
)

COARSE = dict(patients=3, voxel_size=6.0, seed=4)


def bytes_of(folder):
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def array(image):
    return sitk.GetArrayFromImage(image)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("phantom") / "small", jobs=1, **COARSE)


# ---------------------------------------------------------------- the same bytes,
# whatever happens


def test_same_bytes_for_any_number_of_jobs(small, tmp_path):
    again = make_phantom(tmp_path / "b", jobs=2, **COARSE)
    assert bytes_of(again.folder) == bytes_of(small.folder)


@pytest.mark.parametrize("moment", ["truth", "images"])
def test_killed_and_repeated(small, tmp_path, monkeypatch, moment):
    calls, whole = [], ph.atomic_path

    def dying(path):
        if (
            path.name == "sub-s4p002"
            and ("truth" in path.parts) == (moment == "truth")
            and not calls
        ):
            calls.append(path)
            raise KeyboardInterrupt
        return whole(path)

    monkeypatch.setattr(ph, "atomic_path", dying)
    with pytest.raises(KeyboardInterrupt):
        make_phantom(tmp_path / "c", jobs=1, **COARSE)
    assert (
        calls
        and not (tmp_path / "c" / "participants.tsv").exists()
        and not (tmp_path / "c" / "sub-s4p002").exists()
    )
    assert bytes_of(make_phantom(tmp_path / "c", jobs=1, **COARSE).folder) == bytes_of(
        small.folder
    )


def test_a_patient_does_not_depend_on_the_others(small, tmp_path):
    more = make_phantom(tmp_path / "d", jobs=1, patients=1, voxel_size=6.0, seed=4)
    mine = bytes_of(small.folder)
    assert all(
        mine[name] == value
        for name, value in bytes_of(more.folder).items()
        if name.startswith("sub-") or "/sub-" in name
    )


def test_another_seed_is_other_people_and_other_hospitals():
    one, two = draw_labels(20, 3, 0), draw_labels(20, 3, 1)
    assert not set(one["participant_id"]) & set(two["participant_id"])
    assert scanner.scanner(0, "A") != scanner.scanner(1, "A") != scanner.scanner(1, "B")


def test_phantom_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("GLIOMA_CACHE", str(tmp_path))
    made = phantom("phantom:patients=1,voxel_size=6", jobs=1)
    monkeypatch.setattr(ph, "make_patient", None)
    again = phantom("phantom:voxel_size=6.0, patients=1", jobs=1)
    assert (
        again.folder == made.folder
        and again.participants.equals(made.participants)
        and again.phantom
        and again.mask_method == "truth"
    )


# ---------------------------------------------------------------- the truth is true


def test_the_cohort_is_whole(small):
    again = read_cohort(small.folder)
    assert again.participants.equals(small.participants) and again.phantom
    table = truth_table(again).set_index("participant_id")
    for one in again.ids:
        images = [again.image(one, suffix) for suffix in SEQUENCES]
        mask, parts, brain = (
            array(again.image(one, name, "truth"))
            for name in ("label-tumor_mask", "desc-tumor_dseg", "label-brain_mask")
        )
        assert array(again.mask(one, like=images[0])).sum() == (parts > 0).sum() > 0
        assert (mask > 0).sum() * 0.216 == pytest.approx(table.at[one, "tumor_ml"])
        assert brain[mask > 0].mean() > 0.9
        assert np.std([array(image)[brain > 0].mean() for image in images]) > 0


def test_the_bias_field_is_the_one_that_was_applied(tmp_path):
    plain, biased = (
        make_phantom(
            tmp_path / f"{bias}",
            patients=1,
            voxel_size=5.0,
            noise=0.0,
            bias=bias,
            jobs=1,
        )
        for bias in (0.0, 0.2)
    )
    for suffix in SEQUENCES:
        without, with_ = (
            array(one.image("sub-s0p001", suffix)).astype(float)
            for one in (plain, biased)
        )
        strong = without > 100
        ratio = with_[strong] / without[strong]
        np.testing.assert_allclose(
            ratio, array(truth_bias(biased, "sub-s0p001", suffix))[strong], rtol=0.02
        )
        assert ratio.std() > 0.05
        assert np.allclose(array(truth_bias(plain, "sub-s0p001", suffix)), 1)


def test_transforms_put_each_sequence_back(tmp_path):
    settings = dict(
        patients=1, voxel_size=3.0, noise=0.0, bias=0.0, sites=1, seed=2, jobs=1
    )
    still, moved = (
        make_phantom(tmp_path / "still", **settings),
        make_phantom(
            tmp_path / "moved", misaligned=True, slice_thickness=6.0, **settings
        ),
    )
    one = still.ids[0]
    fixed, inside = (
        still.image(one, "ce-gadolinium_T1w"),
        array(still.image(one, "label-brain_mask", "truth")) > 0,
    )
    assert (array(moved.image(one, "ce-gadolinium_T1w")) == array(fixed)).all(), (
        "the truth's own space does not move"
    )
    for suffix in ("T1w", "T2w", "FLAIR"):
        image, transform = moved.image(one, suffix), truth_transform(moved, one, suffix)
        assert image.GetSpacing()[2] == (3.0 if suffix == "T1w" else 6.0)
        back = [
            array(sitk.Resample(image, fixed, t, sitk.sitkLinear))[inside].astype(float)
            for t in (transform, transform.GetInverse(), sitk.Transform())
        ]
        wanted = array(still.image(one, suffix))[inside].astype(float)
        right, inverse, none = (np.corrcoef(b, wanted)[0, 1] for b in back)
        assert right > 0.9 and right > max(inverse, none) + 0.05, (
            suffix,
            right,
            inverse,
            none,
        )
        assert np.linalg.norm(transform.TransformPoint((0, 0, 0))) > 1


def test_the_anatomy_is_the_template_seen_through_the_stored_displacement(tmp_path):
    made = make_phantom(
        tmp_path / "full", patients=1, voxel_size=4.0, full_truth=True, jobs=1
    )
    one = made.ids[0]
    stored = sitk.DisplacementFieldTransform(
        sitk.Cast(
            sitk.ReadImage(
                str(
                    made.path(
                        one, "from-MNI152NLin2009aSym_to-truth_mode-image_xfm", "truth"
                    )
                )
            ),
            sitk.sitkVectorFloat64,
        )
    )
    again = truth_displacement(made, one)
    rng = np.random.default_rng(0)
    for point in rng.uniform([-60, -60, -40], [60, 60, 60], (20, 3)):
        np.testing.assert_allclose(
            stored.TransformPoint(point.tolist()),
            again.TransformPoint(point.tolist()),
            atol=1e-3,
        )
    fractions = (
        sum(
            array(made.image(one, f"label-{tissue}_probseg", "truth")).astype(float)
            for tissue in anatomy.TISSUES.index
        )
        / 255
    )
    inside = array(made.image(one, "label-brain_mask", "truth")) > 0
    assert np.median(np.abs(fractions[inside] - 1)) < 0.02
    template = sitk.Cast(
        sitk.Resample(
            anatomy.template_maps()["t1"],
            made.image(one, "T1w"),
            again,
            sitk.sitkLinear,
            0.0,
        ),
        sitk.sitkFloat32,
    )
    outside_tumour = inside & (array(made.mask(one)) == 0)
    assert (
        np.corrcoef(
            array(template)[outside_tumour],
            array(made.image(one, "T1w"))[outside_tumour],
        )[0, 1]
        > 0.6
    )


def test_a_patient_is_the_same_at_every_voxel_size():
    row = draw_labels(2, 3, 7).iloc[1]
    latent = draw_attributes(row, 7, 1.0)
    volumes = [
        (patient_tissue(row["participant_id"], latent, 7, size)["parts"] > 0).sum()
        * size**3
        for size in (2.5, 5.0)
    ]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.15)


def test_nothing_folds():
    for number in range(1, 7):
        row = draw_labels(number, 3, 3).iloc[-1]
        latent = draw_attributes(row, 3, 1.0) | dict(mass_effect=0.95)
        place = anatomy.place_tumour(latent, 3, row["participant_id"], 6.0)
        field, _ = anatomy.add_mass_effect(
            anatomy.anatomy_displacement(3, row["participant_id"], 3.0),
            place,
            latent,
            6.0,
        )
        assert anatomy.jacobian(field).min() > 0, row["participant_id"]


# ---------------------------------------------------------------- a null cohort tells
# nothing, an effect does


def flipped(row):
    return pd.Series(
        row.to_dict()
        | dict(
            idh="wildtype" if row["idh"] == "mutant" else "mutant",
            codel_1p19q="intact",
            who_grade=2 if row["who_grade"] == 4 else 4,
            mgmt="methylated" if row["mgmt"] == "unmethylated" else "unmethylated",
        )
    )


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_labels_reach_the_images_only_through_the_effect(effect):
    row = draw_labels(1, 3, 5).iloc[0]
    settings = PhantomSettings(voxel_size=6.0, effect=effect, seed=5)
    pictures = []
    for labels in (row, flipped(row)):
        latent = draw_attributes(labels, 5, effect)
        images, *_ = scan(
            patient_tissue(row["participant_id"], latent, 5, 6.0),
            row["participant_id"],
            row["site"],
            settings,
        )
        pictures.append(
            (latent, *[array(image).tobytes() for image in images.values()])
        )
    same = [a == b for a, b in zip(*pictures)]
    assert all(same) if effect == 0 else not any(same)
    times = [
        anatomy.draw_survival(labels, 50.0, 5, effect)["survival_days"]
        for _, one in draw_labels(8, 3, 5).iterrows()
        for labels in (one, flipped(one))
    ]
    assert (times[::2] == times[1::2]) == (effect == 0)


def test_null_attributes_are_independent_of_labels_over_many_patients():
    labels = draw_labels(1200, 3, 11)
    smallest = {}
    for effect in (0.0, 1.0):
        table = labels.join(
            pd.DataFrame(
                [draw_attributes(row, 11, effect) for _, row in labels.iterrows()]
            )
        )
        table["frontal"] = (table["lobe"] == "frontal").astype(float)
        numbers = [*anatomy.ATTRIBUTES.index, "frontal"]
        smallest[effect] = pd.Series(
            {
                (target, one): stats.kruskal(
                    *[part[one] for _, part in table.groupby(target)]
                ).pvalue
                for target in ("idh", "codel_1p19q", "mgmt", "who_grade", "site")
                for one in numbers
            }
        )
    count = len(smallest[0.0])
    assert smallest[0.0].min() > 0.001 / count, smallest[0.0].idxmin()
    assert (
        smallest[1.0]["idh"]["age"] < 1e-10
        and smallest[1.0]["who_grade"]["necrosis"] < 1e-10
    )
    assert smallest[1.0]["site"].min() > 0.001 / count, (
        "the site is tied to nothing unless asked for"
    )


@pytest.fixture(scope="module")
def null(tmp_path_factory):
    return make_phantom(
        tmp_path_factory.mktemp("phantom") / "null",
        patients=36,
        voxel_size=6.0,
        effect=0.0,
        seed=1,
        sites=1,
        unknown=0.2,
        jobs=1,
    )


def test_null_images_have_no_feature_that_knows_a_label(null):
    made = null
    rows = []
    for one in made.ids:
        mask, brain = (
            array(made.mask(one)) > 0,
            array(made.image(one, "label-brain_mask", "truth")) > 0,
        )
        values = {
            suffix: array(made.image(one, suffix)).astype(float) for suffix in SEQUENCES
        }
        inside = {
            suffix: value[mask].mean() / value[brain & ~mask].mean()
            for suffix, value in values.items()
        }
        rows.append(
            inside
            | dict(
                volume=mask.sum(),
                place=np.argwhere(mask).mean(0)[1],
                gain=inside["ce-gadolinium_T1w"] / inside["T1w"],
            )
        )
    features, table = pd.DataFrame(rows), truth_table(made)
    p = {
        (target, one): stats.mannwhitneyu(
            features[one][table[target] == a], features[one][table[target] == b]
        ).pvalue
        for target, (a, b) in dict(
            idh=("mutant", "wildtype"),
            mgmt=("methylated", "unmethylated"),
            codel_1p19q=("codeleted", "intact"),
        ).items()
        for one in features
    }
    p |= {
        ("age", target): stats.mannwhitneyu(
            *[part["age"] for _, part in table.groupby(target)]
        ).pvalue
        for target in ("idh", "mgmt", "codel_1p19q")
    }
    assert min(p.values()) > 0.01 / len(p), min(p, key=p.get)


def test_labels_can_be_tied_to_the_site():
    tied = draw_labels(600, 2, 0, site_labels=1.0)
    free = draw_labels(600, 2, 0)
    assert (
        stats.chi2_contingency(pd.crosstab(tied["site"], tied["idh"])).pvalue
        < 1e-10
        < 1e-3
        < stats.chi2_contingency(pd.crosstab(free["site"], free["idh"])).pvalue
    )


def test_every_effect_names_known_words_and_a_source():
    assert set(EFFECTS["target"]) == {"idh", "codel_1p19q", "mgmt", "grade"}
    assert set(EFFECTS["attribute"]) <= {*anatomy.ATTRIBUTES.index, *LOBES}
    assert (
        EFFECTS["source"].str.contains(r"\d{4}").all()
        and not EFFECTS.duplicated(["target", "attribute"]).any()
    )


def test_oracle_uses_the_given_folds_and_unknown_labels(null):
    made = null
    assert 0 < made.participants["idh"].isna().sum() < 20
    assert truth_table(made)["idh"].notna().all()
    splits = patient_splits(made, ["idh"], folds=3, seed=0)
    predictions = run_folds([Oracle()], made, splits, ["idh"], jobs=1).predictions
    assert (
        set(predictions.table["participant_id"]) == set(made.ids)
        and predictions.table["fold"].nunique() == 3
    )
    assert (
        predictions.table["label"].isna().sum()
        == 2 * made.participants["idh"].isna().sum()
    )


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "spec, words",
    [
        ("phantom:patient=3", "did you mean 'patients'"),
        ("phantom:effect=strong", "effect='strong'"),
        ("phantom:patients=0", "patients=0"),
        ("phantom:patients=2.5", "patients='2.5'"),
        ("phantom:seed=1,seed=2", "twice"),
        ("phantom:effect=nan", "effect=nan"),
        ("phantom:voxel_size=0", "voxel_size"),
        ("phantom:misaligned=perhaps", "true or false"),
        ("phantom:seed=-1", "seed=-1"),
        ("phantom:atlas=/nowhere.nii", "no atlas"),
        ("phantomx", "no phantom"),
    ],
)
def test_settings_are_strict(spec, words):
    with pytest.raises(ReproError, match=words):
        phantom_settings(spec)


def test_unknown_option_names_the_nearest(tmp_path):
    with pytest.raises(ReproError, match="did you mean 'misaligned'"):
        make_phantom(tmp_path / "x", misalign=True)


def test_a_folder_that_holds_something_else_is_not_touched(small, tmp_path):
    with pytest.raises(ReproError, match="other settings"):
        make_phantom(small.folder, jobs=1, **(COARSE | dict(effect=0.0)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    with pytest.raises(ReproError, match="not empty"):
        make_phantom(tmp_path / "mine", jobs=1, **COARSE)
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "keep"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReproError, match="cannot be written"):
        make_phantom(tmp_path / "file" / "phantom", jobs=1, **COARSE)


def test_real_patients_have_no_truth(tmp_path):
    table = pd.DataFrame(dict(participant_id=["sub-1"]))
    for cohort in (Cohort("real", table), Cohort("real", table, tmp_path)):
        with pytest.raises(ReproError, match="no phantom"):
            truth_table(cohort)


# ---------------------------------------------------------------- against real data


def test_the_lobe_rule_agrees_with_an_atlas():
    found = real_data() and sorted(
        p for p in (real_data() / "mni_structural_atlas").glob("*.nii*")
    )
    if not found:
        pytest.skip(
            "no mni_structural_atlas: set GLIOMA_DATA to the folder of public downloads"
        )
    rule, atlas = anatomy.lobe_map(), anatomy.lobe_map(found[0])
    both = (atlas > 0) & (anatomy._coarse_head(3.0)[0] > 0.6)
    agreement = (rule == atlas)[both].mean()
    print(pd.crosstab(rule[both], atlas[both], normalize="columns").round(2))
    assert agreement > 0.75, agreement


def test_the_version_covers_every_module_that_makes_images(monkeypatch):
    hashed = []
    monkeypatch.setattr(ph, "sha256_of", lambda path: hashed.append(path.name) or "")
    ph.generator_version.__wrapped__()
    assert sorted(hashed) == ["anatomy.py", "phantom.py", "scanner.py"]
    makers = {
        one.__module__.rpartition(".")[2] + ".py"
        for one in vars(ph).values()
        if callable(one) and getattr(one, "__module__", "").startswith(ph.__package__)
    }
    # what else it imports reads, writes, counts or draws numbers
    assert makers - {*hashed} == {"core.py", "files.py"}
