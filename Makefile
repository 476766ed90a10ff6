# `make demo` and `make test` set up a virtual environment on their own.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test gpu bench clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -c constraints.txt -e ".[test]"
	touch $@

demo: $(VENV)/.ready
	$(RUN) examples/demo.py

# A process for each core, each with its share of the threads.
test: $(VENV)/.ready
	$(RUN) -m pytest -n auto --maxprocesses 8 --dist loadfile

# Tests and measurements on a GPU; says so and does nothing where there is none.
gpu: $(VENV)/.ready
	$(RUN) -m pytest -rs -m gpu tests/test_gpu.py
	$(RUN) benchmarks/gpu.py --inductor

bench: $(VENV)/.ready
	$(RUN) -m smelt bench

clean:
	rm -rf $(VENV) build *.egg-info
