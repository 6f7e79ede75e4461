#!/usr/bin/env bash
# The whole suite, on the PATH's Python: the exported library in step with the notebooks, layers, style, lessons, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MPLBACKEND=${MPLBACKEND:-Agg} GLIOMA_RUN=1

step() { printf '\n== %s\n' "$1"; }

step "the exported library is what the notebooks say"
copy=$(mktemp -d); trap 'rm -rf "$copy"' EXIT
cp -r nbs glioma_repro settings.ini setup.py pyproject.toml "$copy"
(cd "$copy" && nbdev_export)
diff -r -x __pycache__ glioma_repro "$copy/glioma_repro" || { echo "run nbdev_export and commit"; exit 1; }

step "notebooks are clean"
python tools/check_notebooks.py
python tools/readme.py --check

step "layers"
lint-imports

step "style"
ruff check nbs tests benchmarks tools setup.py

step "lessons (nbdev_test)"
nbdev_test --n_workers "$(nproc)" --do_print

step "tests"
python -m pytest tests
