.DEFAULT_GOAL := help
.PHONY: help install demo demo-cutover test test-foreign check torture mutants cutover-matrix bench bench-latency down clean lock
bin := .venv/bin

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{printf "%-16s %s\n", $$1, $$2}'

install: .venv/.installed ## make .venv with everything that is needed; nothing to do when nothing changed

.venv/.installed: requirements.lock pyproject.toml scripts/install.sh
	@PYTHON='$(PYTHON)' sh scripts/install.sh
	@touch $@

demo: install ## the whole way once: embedded stack, sample data, snapshot, live changes, verification
	@$(bin)/tandem demo

demo-cutover: install ## the application moved to MongoDB while it writes, with its files and sessions; on a stack of its own
	@$(bin)/python -m tests.acceptance.cutover_demo $(ARGS)

test: install ## all tests, on embedded stacks, two files at a time; ARGS='--stack=containers' for another, or any of pytest's own
	@$(bin)/pytest -n 2 --dist loadfile $(ARGS)

test-foreign: install ## schemas of others: each folder of SQL files in CASES=DIR, from init to verify, then under a writer
	@[ -n '$(CASES)' ] || { echo 'which folder? make test-foreign CASES=DIR' >&2; exit 2; }
	@$(bin)/python -m tests.foreign '$(CASES)' $(ARGS)

# The mutants of the write rule are minutes of histories: they run with `make test`.
check: install ## format, lint, types, import rules, and the quick tests that need no server
	@$(bin)/ruff format --check .
	@$(bin)/ruff check .
	@$(bin)/mypy
	@$(bin)/lint-imports
	@$(bin)/pytest -n 2 tests/unit tests/architecture \
	  --deselect tests/unit/test_write_rule_simulated.py::test_a_broken_clause_is_noticed

torture: install ## random histories for long: SEED=... CASES=10000 (of a real PostgreSQL: 3 for each 100)
	@$(bin)/python -m tests.torture.histories $(if $(SEED),--seed $(SEED)) $(if $(CASES),--cases $(CASES)) $(ARGS)

mutants: install ## break each clause of the write rule in turn, and tell which test notices
	@$(bin)/python -m tests.torture.mutants $(ARGS)

cutover-matrix: install ## the controller killed at every point, servers standing still in every state; an hour
	@$(bin)/python -m tests.torture.cutover_matrix $(ARGS)

bench: install ## ratios: snapshot against insert_many, stream against blind bulk writes; minutes
	@$(bin)/python -m tests.benchmarks.main_job $(ARGS)

bench-latency: install ## from the commit to the acknowledged write, at 500 and 2,000 row changes a second
	@$(bin)/python -m tests.benchmarks.latency $(ARGS)

bench-verify: install ## verification against a plain count and scan of both sides: ARGS='--rows 1000000'
	@$(bin)/python -m tests.benchmarks.verify $(ARGS)

down: ## end the embedded stack; its data stays
	@if [ -x $(bin)/tandem ]; then $(bin)/tandem dev down; fi

clean: ## end the embedded stack, remove its data, .venv and what the tools left behind
	@if [ -x $(bin)/tandem ]; then $(bin)/tandem dev down --purge; fi
	@rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

lock: ## write the lock files anew from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --python-version 3.11 --quiet -o requirements.lock
	uv pip compile pyproject.toml --universal --generate-hashes --no-header --no-emit-index-url \
	  --python-version 3.11 --quiet -o requirements-runtime.lock
