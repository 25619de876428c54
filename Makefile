# make demo   a search of four trials on phantom images and a pick of one, from nothing; at its end
#             where report, MLflow and review page are
# make test   lint, types and tests, from nothing, but for those of the next line
# make faults each fault of `make chaos` once: kills, full disks, servers and nodes that go away
# make quick  lint, types and the tests that start no process and no browser, and do not simulate
# make chaos  damaged input by the hundred thousand, then every fault at random moments: two to three
#             hours; the faults go on where they were
# make setup  the environment alone, in .venv
# make peers  Keras on TensorFlow, which benchmarks.step compares with, in .venv-peers

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test faults quick lint chaos peers

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m search.run --num-samples 4
	$(BIN)/python -m selection.pick --study demo
	@echo
	@echo "to look at the demo:"
	@echo "report: file://$$(ls -t '$(CURDIR)'/runs/demo/selection/*/report.html | head -n 1)"
	@$(BIN)/python -m search.sync --study demo | sed -n 's/^to look at it/MLflow/p'
	@echo "review: $(BIN)/python -m selection.review --study demo, then open the address that it prints"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not faults"

faults: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m faults

quick: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
		-m "not process and not browser and not statistics"

chaos: $(STAMP)
	$(BIN)/python -m tests.faults.fuzz --count 100000 --out fuzz.jsonl
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.chaos --minutes 75 --out docs/reliability.md

peers:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check \
		tensorflow-cpu==2.21.0 tf-keras==2.21.0
