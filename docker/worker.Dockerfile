# The worker: one step of one partition, as a pod or `docker run` asks for it.
#
#   docker build --file docker/worker.Dockerfile --build-arg TORCH=cu130 --tag laion-people-worker:0.1.0-cu130 .
#
# TORCH is one of PyTorch's wheel indexes: cpu, or a CUDA build. Its wheels bring the CUDA libraries along and the
# host's NVIDIA container runtime brings the driver, so that both are built on a plain Python.
# A digest makes the base exact: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.9
ARG TORCH=cpu
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/${TORCH}
# Modules are compiled here, because a pod's root is read-only.
ENV UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1
RUN pip install --no-cache-dir "uv==${UV_VERSION}"
WORKDIR /opt/laion-people
COPY requirements-worker.txt requirements-worker.overrides.txt ./
COPY bin/setup bin/
RUN bin/setup worker

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="laion-people-worker" org.opencontainers.image.licenses="Apache-2.0"
# A user whom the image doesn't know is of the group root, and may write to these folders too.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin worker \
    && install --directory --owner worker --group root --mode 775 /models /data
WORKDIR /opt/laion-people
COPY --from=build /opt/laion-people/.venv .venv
COPY bin/laion-people bin/
COPY bin/python-path bin/
COPY plugins plugins
COPY include/__init__.py include/
COPY include/models include/models
# With a read-only root, /tmp, /data and /models are all that needs to be writable; caches go to the home, /tmp.
# NVIDIA_VISIBLE_DEVICES is left to `docker run --gpus` and the device plugin: an image that sets it shows every GPU of
# the node to pods that asked for none (https://github.com/NVIDIA/k8s-device-plugin/issues/61).
ENV PATH=/opt/laion-people/bin:${PATH} \
    PYTHONSAFEPATH=1 \
    HOME=/tmp \
    USER=worker \
    LAION_PEOPLE_STORE=/data \
    LAION_PEOPLE_MODELS_DIR=/models \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME ["/models"]
USER 10001
# No HEALTHCHECK: the container ends with its step, and its exit code is the answer.
ENTRYPOINT ["laion-people"]
