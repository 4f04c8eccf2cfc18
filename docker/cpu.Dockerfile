# Passer for CPUs: the program on a small Debian, as a user without rights.
#
# NOT RUN: no container could be built where this was written. `cargo build` was run outside one, and the program needs glibc and libgcc alone.
#
#   docker build -f docker/cpu.Dockerfile -t passer .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" passer quickstart
#
# FEATURES adds Cargo features: --build-arg FEATURES=onnx

# With git, which tells the program the commit that it writes into results.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
ARG FEATURES=""
# The image's own toolchain, without the formatter and lints that rust-toolchain.toml also names.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --package cli --bin passer --features "$FEATURES" \
    && cp target/release/passer /passer

FROM debian:bookworm-slim
RUN useradd --uid 1000 --create-home passer
COPY --from=build /passer /usr/local/bin/passer
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/passer/
USER passer
# Relative paths of data, runs and results are of this folder: mount your own here.
WORKDIR /work
ENTRYPOINT ["passer"]
CMD ["--help"]
