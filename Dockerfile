# syntax=docker/dockerfile:1.7
# One image for every role: docker run booking gateway, docker run booking worker, …

FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive a build, so that a change of the sources compiles this crate and no other.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin booking \
    && install -D -s target/release/booking /out/booking

# The same release of Debian as the build: the binary needs its glibc.
FROM debian:12.12-slim
# What https of others is checked against: JWKS_URL, traces, webhooks. The package's version is that
# of the pinned release or a security update of it, which is wanted.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 booking \
    && useradd --system --uid 10001 --gid booking --no-create-home --shell /usr/sbin/nologin booking
COPY --from=build /out/booking /usr/local/bin/booking
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
# Each process has a container, and so an address, of its own: every role listens on the same port.
ENV HOST=0.0.0.0 PORT=3000 OPS_PORT=3000
EXPOSE 3000
# A role writes no file; the file system may be read-only.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["booking", "health"]
# The roles stop on SIGTERM, within SHUTDOWN_SECONDS.
STOPSIGNAL SIGTERM
ENTRYPOINT ["booking"]
CMD ["help"]
