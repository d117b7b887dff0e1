# vnetd and vnetctl in a small image.
#
#   docker build -t vnetd .
#   docker run --rm --cap-add NET_ADMIN --cap-add SYS_ADMIN --device /dev/net/tun --name vnetd vnetd
#   docker exec vnetd vnetctl up /usr/share/vnetd/examples/hub-spoke.yaml
#
# BUILD_BASE and RUN_BASE take other bases, as ones that were made without a registry; PROFILE another cargo profile.
ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
ARG RUN_BASE=docker.io/library/debian:bookworm-slim

FROM ${BUILD_BASE} AS build
ARG PROFILE=release
ENV CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=symbols
WORKDIR /src
COPY . .
# clang compiles the kernel's half of the offload; without it everything runs in the daemon. make builds the allocator.
RUN { command -v clang && command -v make; } >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends clang make; }
RUN for package in daemon ctl; do \
        cargo install --locked --profile "${PROFILE}" --root /usr/local/vnetd --path "$package" || exit 1; \
    done

FROM ${RUN_BASE}
COPY --from=build /usr/local/vnetd/bin/ /usr/bin/
COPY examples/ /usr/share/vnetd/examples/
# What must outlive the container: the labs' definitions, keys and sessions.
VOLUME /var/lib/vnetd
EXPOSE 9470
ENV VNETD_SOCKET=/run/vnetd/vnetd.sock
CMD ["/usr/bin/vnetd", "--socket", "/run/vnetd/vnetd.sock", "--state-dir", "/var/lib/vnetd", "--metrics", "0.0.0.0:9470"]
