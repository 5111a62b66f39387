# Everything that runs in containers, by target:
#
#   module      builds plugin.wasm and prints its SHA-256
#   oci         the module alone: what Istio's WasmPlugin and Envoy Gateway's EnvoyExtensionPolicy pull
#   envoy       Envoy with the module and the configuration of docker-compose.yml
#   simulator   Azure OpenAI resources and IMDS, simulated
#   client      walks the tour of docker-compose.yml
#
# The versions are those of .env, which a test compares.
ARG RUST_VERSION=1.95
ARG ENVOY_VERSION=1.40.0
ARG PYTHON_VERSION=3.13

# Everything that names crates, with empty sources: it changes when a dependency does, and not with every line of code.
FROM rust:${RUST_VERSION}-slim-trixie AS manifests
WORKDIR /source
COPY . .
RUN find . -type f ! -name Cargo.toml ! -name Cargo.lock ! -name '*.rs' -delete \
 && find . -name '*.rs' -exec truncate --size 0 {} +

# All crates are fetched and unpacked once. Stages that build at the same time would do that at the same time, each in the way of
# the others if they shared a cache.
FROM rust:${RUST_VERSION}-slim-trixie AS crates
WORKDIR /source
COPY --from=manifests /source .
RUN cargo fetch --locked --target "$(rustc --print host-tuple)"

FROM crates AS source
COPY . .

# What `cargo xtask wasm` does with the module when it is built.
FROM source AS finish
RUN cargo build --frozen --profile containers --package finish \
 && install -D -t /out target/containers/finish \
 && rm -r target

FROM source AS module
# The revision that is built, which the module logs when it starts; .git is not copied.
ARG REVISION=unknown
RUN rustup target add wasm32-wasip1
RUN AOAI_REVISION=$REVISION cargo build --frozen --release --target wasm32-wasip1 \
      --package azure-openai-balancer --lib \
 && install -D -m 0644 target/wasm32-wasip1/release/azure_openai_balancer.wasm /built/plugin.wasm \
 && rm -r target
COPY --from=finish /out/finish /usr/local/bin/
RUN mkdir /out && finish /built/plugin.wasm /out/plugin.wasm && cd /out && sha256sum plugin.wasm

# Exactly one layer with exactly this file: what both projects ask for.
FROM scratch AS oci
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="azure-openai-balancer" \
      org.opencontainers.image.description="An Envoy filter that balances Azure OpenAI resources" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=module /out/plugin.wasm ./

FROM source AS tools
# Without shared libraries: they run in images that have none.
RUN target="$(rustc --print host-tuple)" \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --frozen --profile containers --target "$target" \
      --package demo --bin client --package simulator --bin simulator --package probe --bin probe \
 && cd "target/$target/containers" \
 && install -D -t /out client probe \
 && install -D -t /out/simulator/usr/local/bin simulator probe \
 && install -d -m 1777 /out/simulator/tmp \
 && rm -r /source/target

FROM envoyproxy/envoy:distroless-v${ENVOY_VERSION} AS envoy
COPY --from=tools /out/probe /usr/local/bin/
COPY --from=module /out/plugin.wasm /etc/envoy/azure_openai_balancer.wasm
COPY deploy/compose/envoy.yaml /etc/envoy/
# Under a name of its own: a configuration that is mounted in the other's place must not find keys that everybody knows.
COPY deploy/compose/clients.yaml /etc/envoy/demo-clients.yaml
USER 65532:65532
EXPOSE 10000 9901 9902
HEALTHCHECK --interval=2s --timeout=3s --start-period=60s CMD ["/usr/local/bin/probe", "http://127.0.0.1:9901/ready"]
ENTRYPOINT ["/usr/local/bin/envoy"]
CMD ["-c", "/etc/envoy/envoy.yaml"]

FROM scratch AS simulator
COPY --from=tools /out/simulator/ /
USER 65532:65532
EXPOSE 8081 8082 8083 8090 18091
HEALTHCHECK --interval=2s --timeout=3s --start-period=10s CMD ["/usr/local/bin/probe", "http://127.0.0.1:18091/admin/health"]
ENTRYPOINT ["/usr/local/bin/simulator"]

FROM python:${PYTHON_VERSION}-slim-trixie AS client
ARG OPENAI_VERSION=2.54.0
RUN pip install --no-cache-dir --root-user-action ignore openai==${OPENAI_VERSION}
COPY --from=tools /out/client /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/client"]
