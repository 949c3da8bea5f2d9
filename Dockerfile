# One image for every part: producer, worker, dashboard, the command, and the sandbox.
#
# The base is pinned by its dated tag. To pin its content too, give the digest that `docker pull` prints for it:
#   docker build --build-arg BASE=debian:bookworm-20260824-slim@sha256:… .
ARG BASE=debian:bookworm-20260824-slim

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-venv
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# What changes seldom comes first. Every package is the one whose hash is in the lock file, the build's own ones too.
COPY requirements-build.lock requirements.lock ./
RUN python3 -m venv /build \
    && /build/bin/pip install --quiet --require-hashes --requirement requirements-build.lock \
    && python3 -m venv --without-pip /opt/eip-reclaimer \
    && /build/bin/pip --python /opt/eip-reclaimer/bin/python install --quiet --no-compile --require-hashes \
        --requirement requirements.lock
COPY . .
# Of Kubernetes' client, its half for asyncio and its models and groups go, which is most of it: they are loaded when they
# are asked for, and nothing here asks (tests/kube/test_client_parts.py). The rest is compiled now, because nothing can be
# written later; by hash and not by time, so that the same sources make the same files.
RUN /build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /build/bin/pip --python /opt/eip-reclaimer/bin/python install --quiet --no-compile --no-deps --no-index /wheel/*.whl \
    && cd /opt/eip-reclaimer/lib/python3*/site-packages \
    && rm -r kubernetes/aio \
    && find kubernetes/client/api kubernetes/client/models -name '*.py' ! -name __init__.py -delete \
    && find . -depth -type d -name tests -exec rm -r {} + \
    && find . -name '*.pyi' -delete \
    && python3 -m compileall -q --invalidation-mode unchecked-hash .

FROM ${BASE}
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="eip-reclaimer" \
    org.opencontainers.image.description="Takes the addresses of deleted Kube-OVN EIPs off their gateways, exactly those, and proves it" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.base.name="${BASE}"
# iproute2 is the sandbox's. Nobody becomes anybody else in here, so no file is set-user-ID or set-group-ID.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates iproute2 python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig /var/log/* \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && echo 'eip-reclaimer:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'eip-reclaimer:x:65532:' >> /etc/group
COPY --from=build /opt/eip-reclaimer /opt/eip-reclaimer
ENV PATH=/opt/eip-reclaimer/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
# As a number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 9181 9464
# Asks what listens in the container, and is content beside a command that ends by itself: `eip-reclaimer healthy --help`.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["eip-reclaimer", "healthy"]
ENTRYPOINT ["eip-reclaimer"]
CMD ["--help"]
