# The whole project for one machine: Airflow's environment beside the worker's, so that a task is a process of the
# scheduler's container. docker-compose.yaml runs every part of Airflow from it.
#
#   docker build --file docker/local.Dockerfile --build-arg WORKER_IMAGE=laion-people-worker:0.1.0-cu130 \
#     --tag laion-people-local:0.1.0-cu130 .
#
# Both stages must have the same Python: the one that the worker's image was built on.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG WORKER_IMAGE=laion-people-worker:0.1.0-cpu

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.9
ENV UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1
RUN pip install --no-cache-dir "uv==${UV_VERSION}"
WORKDIR /opt/laion-people
COPY requirements.txt docker/requirements-airflow.txt ./
COPY bin/setup bin/
RUN bin/setup airflow \
    && uv pip install --no-cache --python .venv/airflow/bin/python --requirement requirements-airflow.txt

FROM ${WORKER_IMAGE}
LABEL org.opencontainers.image.title="laion-people-local" org.opencontainers.image.licenses="Apache-2.0"
# Named volumes take their owner from these folders.
USER 0
RUN install --directory --owner worker --group root --mode 775 /opt/airflow /opt/airflow/logs
COPY --from=build /opt/laion-people/.venv/airflow .venv/airflow
COPY docker/init docker/health docker/put-metadata docker/demo docker/
COPY dags dags
COPY DAGs.md ./
COPY docs docs
COPY include/sample include/sample
COPY tools/demo.py tools/local_airflow.py tools/
# Owned by root: neither a DAG nor a step can rewrite them.
USER 10001
ENV PATH=/opt/laion-people/bin:/opt/laion-people/docker:/opt/laion-people/.venv/airflow/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/laion-people:/opt/laion-people/plugins \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/laion-people/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/laion-people/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT=120 \
    AIRFLOW__CORE__EXECUTOR=LocalExecutor \
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False
ENTRYPOINT []
CMD ["airflow", "version"]
# No HEALTHCHECK: the parts of Airflow are asked different things, see docker-compose.yaml.
