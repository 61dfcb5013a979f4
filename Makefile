# The two commands: `make demo` and `make test`; `make app` shows the demo's clips in a browser. Both make .venv first, once; see .ci/environment.
.PHONY: app demo test test-all lint environment

demo: environment
	@.venv/bin/dualspace demo

app: environment
	@.venv/bin/dualspace app $(APP)

# Two processes at least, four at most, a file of tests each; threads of their own would only be in each other's way.
test: environment
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -m "not slow" -n auto --maxprocesses 4 --dist loadfile $(PYTEST)

test-all: environment
	@.venv/bin/python -m pytest -q $(PYTEST)

lint: environment
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

environment:
	@sh .ci/environment
