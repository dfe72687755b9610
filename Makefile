# The two commands: `make demo` and `make test`. Everything they need they install themselves, into .venv.
PYTHON ?= python3
RUN := .venv/bin/python
export OPENBLAS_NUM_THREADS = 1

.PHONY: demo test check bench soak clean
demo:
	@$(PYTHON) .ci/environment.py venv demo
	@.venv/bin/mingluo demo $(ARGS)

test: check
	@$(RUN) -m pytest -q -n 4 --dist worksteal -m "not timing"
	@$(RUN) -m pytest -q -n 3 -m timing

check:
	@$(PYTHON) .ci/environment.py system
	@$(PYTHON) .ci/environment.py venv demo test
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

bench:
	@$(PYTHON) .ci/environment.py system
	@$(PYTHON) .ci/environment.py venv demo test
	@$(RUN) -m hil.bench $(ONLY)

soak:
	@$(PYTHON) .ci/environment.py system
	@$(PYTHON) .ci/environment.py venv demo test
	@MINGLUO_SOAK=1 $(RUN) -m pytest -q -s tests/test_kill.py tests/test_journal_crash.py tests/test_siren.py \
		tests/test_wire_faults.py tests/test_crash_states.py tests/test_power_cuts.py tests/test_link_faults.py \
		tests/test_link_netns.py tests/test_system.py tests/test_long_outage.py tests/test_salvage.py tests/test_mishaps.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
