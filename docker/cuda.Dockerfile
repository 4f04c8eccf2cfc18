# Passer for NVIDIA's GPUs: the program, NVRTC and CUDA's headers, with which it compiles its kernels at run time (docs/devices.md).
#
# NOT RUN: no container could be built where this was written, and no GPU has run Passer. `scripts/build-gpu.sh cuda` was run outside
# a container; the Python packages were installed, and the folders copied below are theirs.
#
#   docker build -f docker/cuda.Dockerfile -t passer:cuda .
#   docker run --rm --gpus all -v "$PWD:/work" -v passer-kernels:/kernels passer:cuda devices
#
# The host needs NVIDIA's driver for CUDA 13 and its container toolkit. The volume /kernels keeps compiled kernels.

# With git, which tells the program the commit that it writes into results.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    scripts/build-gpu.sh cuda && cp target/gpu/passer-cuda /passer

FROM python:3.12-slim-bookworm AS cuda
RUN pip install --no-cache-dir --target /packages \
      'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-cccl==13.0.*' \
    && rm -r /packages/nvidia/cu13/lib/cmake /packages/nvidia/cu13/lib/*.a /packages/nvidia/cu13/lib/*.alt.so.*

FROM debian:bookworm-slim
RUN useradd --uid 1000 --create-home passer && install -d -o passer -m 1777 /kernels
COPY --from=cuda /packages/nvidia/cu13 /usr/local/cuda
COPY --from=build /passer /usr/local/bin/passer
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/passer/
ENV CUDA_PATH=/usr/local/cuda \
    LD_LIBRARY_PATH=/usr/local/cuda/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PASSER_CACHE_DIR=/kernels
VOLUME /kernels
USER passer
WORKDIR /work
ENTRYPOINT ["passer"]
CMD ["--help"]
