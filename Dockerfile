# syntax=docker/dockerfile:1

# Built: `docker build -t crawler .`     Used: `docker run --rm -v crawl:/data crawler run books`
#
# The official images build Python with profile-guided optimisation, which a crawl feels: parsing and resolving links is
# most of a page. Both stages are the same image, so that the virtual environment fits when it is copied.
FROM python:3.13-slim-bookworm AS build

WORKDIR /src
# What is installed is what `make lock` wrote down, to the last byte: pip compares each file's hash. Wheels only: neither
# stage has a compiler. What builds our own wheel stays behind. pip compiles the bytecode here, the final file system
# being read-only.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements ./requirements
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt \
    && python -m venv /opt/crawler \
    && /opt/crawler/bin/pip install --require-hashes --only-binary :all: -r requirements/container.txt
COPY pyproject.toml README.md LICENSE ./
COPY crawler ./crawler
RUN /opt/build/bin/pip wheel --no-index --no-build-isolation --no-deps --wheel-dir /wheels . \
    && /opt/crawler/bin/pip install --no-index --no-deps /wheels/*.whl


FROM python:3.13-slim-bookworm

# The status page is for the orchestrator, which is outside: /healthz and /readyz. The rest of it needs a token
# (CRAWLER_STATUS__TOKEN_FILE) or has to be asked from inside.
ENV PATH=/opt/crawler/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CRAWLER_STATUS__LISTEN=0.0.0.0:9090
EXPOSE 9090

RUN groupadd --gid 10001 crawler \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin crawler \
    && install --directory --owner 10001 --group 10001 /data

COPY --from=build /opt/crawler /opt/crawler
COPY spiders /app/spiders
COPY config /app/config

# Job folders and outputs live in /data, where relative names lead. Spiders and settings are looked for in the working
# folder too: a new volume starts with these links. A folder mounted from the host comes without them: then work in /app
# and give full names below /data, as docker-compose.yml does.
WORKDIR /data
RUN ln -s /app/spiders /app/config /data/
VOLUME /data

# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
# The crawl drains and ends with exit code 75; the same command continues it.
STOPSIGNAL SIGTERM
# Does the event loop come round? It asks the page above, so of all commands only `run` is healthy, and only as long as
# that page is on. Kubernetes does not look at this: docs/deploy has its probes.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["crawler", "health"]
ENTRYPOINT ["crawler"]
CMD ["--help"]
