"""Installs glioma_repro from settings.ini, the one place that names versions and dependencies."""

import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

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
    "glioma_repro.notebooks.methods": "nbs/methods",
    "glioma_repro.notebooks.studies": "nbs/studies",
    "glioma_repro.data_manifests": "data_manifests",
    "glioma_repro.data_manifests.published": "data_manifests/published",
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
    packages=["glioma_repro", "glioma_repro.methods", *CARRIED],
    package_dir=CARRIED,
    package_data={"": ["*.ipynb", "*.yaml", "*.csv", "*.yml", "*.css"]},
    include_package_data=False,
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={
        "dev": shlex.split(cfg["dev_requirements"]),
        "fetch": ["pooch>=1.8", "kagglehub>=0.3", "idc-index>=0.6"],
        "cluster": ["dask[distributed]>=2024.5"],
        "tensorboard": ["tensorboard>=2.16"],
    },
    python_requires=f">={cfg['min_python']},<3.12",
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    zip_safe=False,
)
