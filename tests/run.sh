#!/usr/bin/env bash
# The whole suite, on the PATH's Python. Every check runs, whatever the one before it said; the last lines say what failed.
set -uo pipefail
cd "$(dirname "$0")/.."
cores=$(getconf _NPROCESSORS_ONLN)  # nproc would answer OMP_NUM_THREADS
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MPLBACKEND=${MPLBACKEND:-Agg} GLIOMA_RUN=1
failed=()
said=$(mktemp); trap 'rm -f "$said"' EXIT
check() {  # NAME COMMAND…
  local name=$1 begun=$SECONDS; shift
  printf '\n== %s\n' "$name"
  if ! "$@" 2>&1 | tee "$said"; then
    failed+=("$name $(grep FAILED "$said" | sed 's/^ */\n  /')")
  fi
  echo "   ($((SECONDS - begun)) s)"
}

exported_in_step() {
  local copy; copy=$(mktemp -d)
  cp -r nbs glioma_repro settings.ini setup.py pyproject.toml "$copy"
  (cd "$copy" && nbdev_export) && diff -r -x __pycache__ glioma_repro "$copy/glioma_repro" || { echo "run nbdev_export and commit"; rm -rf "$copy"; return 1; }
  rm -rf "$copy"
}

check "the exported library is what the notebooks say" exported_in_step
check "form of the notebooks" python tools/check_notebooks.py
check "README.md is nbs/index.ipynb" python tools/readme.py --check
check "layers" lint-imports
check "style" ruff check nbs tests benchmarks tools setup.py
check "no name without a meaning in the library" ruff check --isolated --select F821,F822 glioma_repro
check "format" ruff format --check nbs tests benchmarks tools setup.py
check "lessons (nbdev_test)" python tests/lessons.py
check "tests" python -m pytest tests -n "$cores" --dist loadfile --no-loadscope-reorder --durations 30 --durations-min 5

if ((${#failed[@]})); then printf '\nFAILED: %s\n' "${failed[@]}"; exit 1; fi
echo "all checks passed"
