# One file for every image of Manylens. The GPU is the default:
#
#   docker build -t manylens .                                          the service, for a GPU
#   docker build -t manylens:cpu --build-arg ENGINE=cpu .               the service, for a machine without one
#   docker build -t manylens:demo --build-arg ENGINE=cpu --target demo .      with the embedded model and its adapters
#   docker build -t manylens:train --target train .                     the trainer
#
# Without a network for base images: --build-arg BASE=a-local-image. Where torch's wheels lie in a folder:
# --build-context wheels=FOLDER.
ARG BASE=docker.io/library/debian:bookworm-slim

# Empty; `--build-context wheels=FOLDER` puts a folder of wheels in its place.
FROM scratch AS wheels

FROM ${BASE} AS system
ARG ENGINE=gpu
# gcc, libc's and Python's headers stay in the GPU image: Triton compiles the launcher of each kernel while the service
# runs, and vLLM dies at its first question without them (vllm-project/vllm#2997, #14075). The CPU image compiles nothing.
# DL3008: Debian keeps no old versions to pin, and what BASE is decides. SC2046: the words are meant to be split.
# hadolint ignore=DL3008,SC2046
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 libpython3.11 libgomp1 libnuma1 \
       $(if [ "${ENGINE}" = gpu ]; then echo gcc libc6-dev libpython3.11-dev; fi) \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives /var/log/apt /var/log/dpkg.log

# What every image runs as, and where it may write. Kubernetes may give another user id: its group is 0 all the same.
# A line in passwd and USER: torch's inductor asks for the user's name and ends in a KeyError without one.
RUN echo "manylens:x:65532:0:Manylens:/cache:/usr/sbin/nologin" >>/etc/passwd \
    && install -d -o 65532 -g 0 -m 0775 /cache
# PROMETHEUS_…: fewer series on /metrics; nobody reads when a counter was made.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/app \
    PYTHONUNBUFFERED=1 \
    USER=manylens \
    HOME=/cache \
    XDG_CACHE_HOME=/cache/xdg \
    HF_HOME=/cache/huggingface \
    VLLM_CACHE_ROOT=/cache/vllm \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton \
    VLLM_NO_USAGE_STATS=1 \
    PROMETHEUS_DISABLE_CREATED_SERIES=True

# uv alone, mounted where it installs something: no image below holds uv or pip.
FROM system AS uv
# DL3008 as above; DL3013: uv only installs, what it installs is in pyproject.toml.
# hadolint ignore=DL3008,DL3013
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir uv
# So that this stage is made again whenever `deps` is: buildah 1.28 mounts nothing of a stage that is wholly from its cache.
COPY pyproject.toml deploy/image/install-packages /opt/uv/

# What pyproject.toml names, compiled. Only a change of that file or of the script makes this again.
FROM system AS deps
ARG ENGINE=gpu
# Bytecode that is taken as it is: without any a start takes over two minutes, and bytecode that carries a time of its
# source is made again, in memory, at each start wherever a builder rewrites times. The mode is spelt in capitals.
ENV UV_COMPILE_BYTECODE=1 PYC_INVALIDATION_MODE=UNCHECKED_HASH UV_LINK_MODE=copy UV_CACHE_DIR=/root/.cache/uv
WORKDIR /build
COPY pyproject.toml deploy/image/install-packages ./
RUN --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/uv \
    ./install-packages "${ENGINE}" "tracing redis"

# The trainer's packages on top of the service's.
FROM deps AS deps-train
ARG ENGINE=gpu
RUN --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/uv \
    ./install-packages "${ENGINE}" "tracing redis train quantize"

# Our two packages alone, with the entry points by which torch and vLLM find us. A change of code makes this again.
FROM system AS app
ENV UV_COMPILE_BYTECODE=1 PYC_INVALIDATION_MODE=UNCHECKED_HASH UV_LINK_MODE=copy UV_CACHE_DIR=/root/.cache/uv
WORKDIR /build
COPY --from=uv /opt/uv /opt/uv
COPY pyproject.toml README.md LICENSE ./
COPY manylens manylens
COPY service service
COPY trainer trainer
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv pip install --python /usr/bin/python3 --no-deps --target /opt/app .

FROM deps AS serve-base
WORKDIR /srv
ENV VQA_HOST=0.0.0.0 VQA_PORT=8000 VQA_ADAPTERS=/adapters VQA_ADAPTERS_CACHE=/cache/adapters VQA_LOG_FORMAT=json
EXPOSE 8000
# For who runs it without Kubernetes, whose probes are in deploy/k8s.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["/opt/venv/bin/python", "-I", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['VQA_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["/opt/venv/bin/python", "-m", "service"]

# The service with a model that is there: to try it, and to test it.
FROM serve-base AS demo
COPY models/tiny-llava-int4 /srv/models/tiny-llava-int4
COPY models/adapters /srv/models/adapters
ENV VQA_MODEL=/srv/models/tiny-llava-int4 VQA_ADAPTERS=/srv/models/adapters VQA_ANONYMOUS=true
COPY --from=app /opt/app /opt/app
USER 65532:0

FROM deps-train AS train
WORKDIR /srv
COPY --from=app /opt/app /opt/app
USER 65532:0
ENTRYPOINT ["/opt/venv/bin/python", "-m", "trainer"]

# Last, so that a build that names no target makes the service.
FROM serve-base AS serve
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Manylens" \
      org.opencontainers.image.description="One LLaVA on one GPU serving many LoRA adapters" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=app /opt/app /opt/app
USER 65532:0
