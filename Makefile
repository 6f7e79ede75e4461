# make demo   set-up, then the main job on the phantom: reports in runs/
# make test   set-up, then the whole suite
# make lab    set-up, then JupyterLab on the notebooks
# make docs   set-up, then the documentation site (needs Quarto); a study shows its newest run on the phantom below runs/; REPORTS=runs puts the reports on it

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lab docs setup readme clean

setup: $(INSTALLED)

$(INSTALLED): settings.ini setup.py constraints.txt tools/install.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" bash tools/install.sh
	@touch $@

demo: $(INSTALLED)
	$(BIN)/glioma-repro run baselines --cohort phantom --out runs
	$(BIN)/glioma-repro run chang2018 --cohort phantom --out runs
	$(BIN)/glioma-repro report runs

test: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/run.sh

lab: $(INSTALLED)
	$(BIN)/jupyter lab --notebook-dir=nbs

docs: $(INSTALLED)
	@command -v quarto >/dev/null || { echo "The site is built by Quarto, which is not on this machine: 'nbdev_install_quarto' in the virtual environment, or https://quarto.org/docs/get-started, then 'make docs' again."; exit 1; }
	@touch README.md  # else nbdev writes one of its own over it, from the first page
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_docs
	$(BIN)/python tools/readme.py
	@[ -z "$(REPORTS)" ] || $(BIN)/python -c "from glioma_repro.runs.site import publish_reports; publish_reports('$(REPORTS)', '_docs')"

readme: $(INSTALLED)
	$(BIN)/python tools/gallery.py
	$(BIN)/python tools/readme.py

clean:
	rm -rf $(VENV) _docs _proc build *.egg-info
