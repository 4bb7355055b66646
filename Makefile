# LAION-People: every command makes the environments that it needs and re-uses them next time.
.DEFAULT_GOAL := help
.PHONY: help demo test test-mmcv lint truth bench images up down compose-demo clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## run all DAGs on the built-in sample in a real Airflow; ends with the funnel and an HTML report
	@bin/setup worker airflow
	@bin/demo

test: lint ## run the whole test suite
	.venv/worker/bin/pytest --ignore tests/dags
	.venv/airflow/bin/pytest tests/dags

test-mmcv: ## run the OpenMMLab tests with the compiled mmcv, which takes half an hour to build, once
	@bin/setup mmcv
	EXPECTED_MMCV=compiled .venv/mmcv/bin/pytest \
		tests/models/test_openmmlab.py tests/models/test_rtmdet.py tests/models/test_rtmpose.py

lint: ## check style and types
	@bin/setup dev
	.venv/worker/bin/ruff check .
	.venv/worker/bin/ruff format --check .
	.venv/worker/bin/mypy
	PYTHONPATH=.:plugins .venv/worker/bin/lint-imports

truth: ## measure how true facts and captions are, on rendered people or on labelled photographs (TRUTH=FOLDER, docs/truth.md)
	@bin/setup worker
	@PYTHONPATH=.:plugins .venv/worker/bin/python tools/truth.py $(TRUTH) $(ARGS)

bench: ## measure rows/s of each step, where the time goes, and the ratios to other ways (ARGS="--peers --docs")
	@bin/setup worker
	@PYTHONPATH=.:plugins .venv/worker/bin/python tools/bench.py $(ARGS)

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TORCH ?= cpu
WORKER = laion-people-worker:$(VERSION)-$(TORCH)

images: ## build the Docker images of Airflow and of the worker (TORCH=cu130: for NVIDIA GPUs)
	docker build --file docker/airflow.Dockerfile --tag laion-people-airflow:$(VERSION) .
	docker build --file docker/worker.Dockerfile --build-arg TORCH=$(TORCH) --tag $(WORKER) .
	docker build --file docker/local.Dockerfile --build-arg WORKER_IMAGE=$(WORKER) --tag laion-people-local:$(VERSION)-$(TORCH) .

COMPOSE_DEMO = bin/compose --project-name laion-people-demo --file docker-compose.yaml --file docker/compose.demo.yaml

compose-demo: ## run the sample through the whole stack of docker-compose.yaml (after `make images`)
	$(COMPOSE_DEMO) up --detach
	$(COMPOSE_DEMO) run --rm --no-deps demo

up: ## start Airflow with its UI on port 8080
	@bin/setup worker airflow
	@bin/up

down: ## stop the Airflow that `make up` started
	@bin/down

clean: ## remove what the demo left (environments stay)
	rm -rf .demo .airflow
