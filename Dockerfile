# syntax=docker/dockerfile:1

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/tandem
COPY requirements-build.lock requirements-runtime.lock ./
RUN python -m pip install --require-hashes -r requirements-build.lock \
    && /opt/tandem/bin/pip install --require-hashes --only-binary :all: -r requirements-runtime.lock
COPY pyproject.toml README.md ./
COPY connectors connectors
COPY consumers consumers
COPY sync sync
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /opt/tandem/bin/pip install --no-deps --no-index /wheel/*.whl \
    && /opt/tandem/bin/pip check

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tandem
COPY --from=build /opt/tandem /opt/tandem
ENV PATH=/opt/tandem/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Here commands look for mapping.yaml and tandem.yaml.
WORKDIR /tandem
USER 10001:10001
ENTRYPOINT ["tandem"]
CMD ["--help"]
