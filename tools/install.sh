#!/usr/bin/env bash
# Makes the virtual environment with the exact versions that reports were made with (constraints.txt).
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}

"$PYTHON" - <<'P' || exit 1
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 11):
    sys.exit(f"glioma_repro needs Python 3.10 or 3.11 (pyradiomics 3.0.1 does not build on later ones), this is {sys.version.split()[0]}: "
             "make PYTHON=python3.11 …")
P
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@" --constraint constraints.txt; }

say() { echo "[$SECONDS s] $1"; }

say "build tools and pyradiomics"
pip install -q numpy "setuptools<81" wheel                        # pyradiomics' build needs them and does not say so
pip install -q --no-build-isolation pyradiomics==3.0.1            # in isolation it never builds
say "torch"
if "$VENV/bin/python" -c 'import torch' 2>/dev/null; then :
elif command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1 || [ "$(uname -s)" != Linux ]; then
  pip install -q torch==2.13.0
else  # no GPU: the build without CUDA, from where pip is set up to look, else from PyTorch's own index
  pip install -q torch==2.13.0+cpu 2>/dev/null || pip install -q torch==2.13.0+cpu --index-url https://download.pytorch.org/whl/cpu \
    --extra-index-url "$("$VENV/bin/python" -m pip config get global.index-url 2>/dev/null || "$VENV/bin/python" -c 'from pip._internal.models.index import PyPI; print(PyPI.simple_url)')"
fi
say "everything else"
pip install -q --no-build-isolation -e ".[dev,fetch,cluster,pretrained]"
say "glioma_repro is installed in $VENV"
