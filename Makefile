# LAION-People: every command makes the environments that it needs and re-uses them next time.
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench up down clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## run all DAGs on the built-in sample in a real Airflow; ends with the funnel and an HTML report
	@bin/setup worker airflow
	@bin/demo

test: lint ## run the whole test suite
	.venv/worker/bin/pytest --ignore tests/dags
	.venv/airflow/bin/pytest tests/dags

lint: ## check style and types
	@bin/setup dev
	.venv/worker/bin/ruff check .
	.venv/worker/bin/ruff format --check .
	.venv/worker/bin/mypy

bench: ## measure rows/s of each step on the sample, and where the time goes
	@bin/setup worker
	@PYTHONPATH=.:plugins .venv/worker/bin/python tools/bench.py

up: ## start Airflow with its UI on port 8080
	@bin/setup worker airflow
	@bin/up

down: ## stop the Airflow that `make up` started
	@bin/down

clean: ## remove what the demo left (environments stay)
	rm -rf .demo .airflow
