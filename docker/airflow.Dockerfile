# Airflow with this project's DAGs, for the official Helm chart: every component runs this image.
#
#   docker build --file docker/airflow.Dockerfile --tag laion-people-airflow:0.1.0 .
#
# A digest makes the base exact: --build-arg AIRFLOW_IMAGE=apache/airflow:slim-3.3.2-python3.11@sha256:...
ARG AIRFLOW_IMAGE=apache/airflow:slim-3.3.2-python3.11
FROM ${AIRFLOW_IMAGE}
LABEL org.opencontainers.image.title="laion-people-airflow" org.opencontainers.image.licenses="Apache-2.0"
# The number of the base's user airflow, so that a cluster can see that it isn't root.
USER 50000
COPY requirements.txt docker/requirements-airflow.txt /opt/airflow/
# Modules are compiled here, once, instead of in each new container.
RUN uv pip install --no-cache --compile-bytecode --requirement /opt/airflow/requirements.txt \
    --requirement /opt/airflow/requirements-airflow.txt
# Owned by root: a DAG can't rewrite itself. The page in the UI reads profiles and the list of weights, not the weights.
COPY dags /opt/airflow/dags
COPY plugins /opt/airflow/plugins
COPY docs /opt/airflow/docs
COPY DAGs.md /opt/airflow/
COPY include/__init__.py /opt/airflow/include/
COPY include/models/*.py include/models/*.yaml /opt/airflow/include/models/
# Steps run as pods of the worker's image: there are no models here. Importing the pod operator takes seconds of CPU,
# more than the default leaves time for on a busy node.
ENV PYTHONPATH=/opt/airflow:/opt/airflow/plugins \
    PYTHONSAFEPATH=1 \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT=120 \
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False \
    LAION_PEOPLE_RUNNER=kubernetes
# No HEALTHCHECK: scheduler, API server, DAG processor and triggerer are asked different things; the chart's probes do.
