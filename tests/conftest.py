"""What several test files share."""

import pandas as pd
import pytest

from glioma_repro.patients.core import Cohort, real_data


# whole files go to the workers: those that take minutes first, or one worker ends alone
LONGEST = [
    "test_whole_path",
    "test_study",
    "test_methods",
    "test_preprocess",
    "test_registration",
    "test_chang2018",
    "test_one_command",
    "test_akkus2017",
    "test_choi2021",
    "test_vandervoort2022",
    "test_liu2022",
    "test_site",
    "test_brain",
    "test_curate",
    "test_statistics",
]


@pytest.hookimpl(trylast=True)  # after the order inside each file was shuffled
def pytest_collection_modifyitems(items):
    """The longest files first, see LONGEST."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture
def tiny(tmp_path):
    """Four patients without images, on disk."""
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{number}" for number in range(4)],
            "site": ["A", "A", "B", "B"],
            "idh": ["mutant", "wildtype", "mutant", None],
            "age": [31.0, 62.5, 40.0, 55.0],
            "who_grade": [2, 4, 3, 2],
        }
    )
    cohort = Cohort("tiny", table, tmp_path / "tiny", "Four patients")
    cohort.write()
    return cohort


@pytest.fixture(scope="session", autouse=True)
def small_reports(tmp_path_factory):
    """Every report that the tests made can be sent by mail; looked at at the end."""
    yield
    made = tmp_path_factory.getbasetemp().rglob("report.html")
    large = {str(one): one.stat().st_size for one in made}
    large = {name: size for name, size in large.items() if size >= 3_000_000}
    assert not large, "a report is to have less than 3 MB"


@pytest.fixture(scope="session")
def quick(tmp_path_factory):
    """A recipe of one's own without brain and atlas, for tests of what carries every
    recipe: rigid, to the T2w.
    """
    path = tmp_path_factory.mktemp("recipe") / "quick.yaml"
    path.write_text(
        "name: quick\ntitle: T1w post-contrast to T2w\npaper: none\n"
        "sequences: [ce-gadolinium_T1w, T2w]\noptional: []\nsteps:\n"
        "  - {step: register, to: T2w, kind: rigid, interpolation: linear}\n"
        "  - {step: brain, method: none}\n"
        "  - {step: normalise, region: image}\n",
        encoding="utf-8",
    )
    return str(path)


@pytest.fixture(scope="session")
def downloads():
    """The folder of public downloads; a test that asks for it is skipped where there is
    none.
    """
    folder = real_data()
    if folder is None:
        pytest.skip(
            "no real data: set GLIOMA_DATA to a folder with the public downloads"
        )
    return folder
