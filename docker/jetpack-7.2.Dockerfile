# Jetson Orin and Thor with JetPack 7.2: L4T 39.2, CUDA 13.2, TensorRT 10.16, Ubuntu 24.04, Python 3.12.
#
#   docker build -f docker/jetpack-7.2.Dockerfile -t degmix-edge:jetpack-7.2 .
#   docker run --rm --runtime nvidia degmix-edge:jetpack-7.2
#
# Since JetPack 7.2 a Jetson runs NVIDIA's images for ARM servers. TensorRT is that of JetPack, from
# the repository that a Jetson itself updates from.
FROM nvcr.io/nvidia/cuda:13.2.0-devel-ubuntu24.04 AS base
ENV DEBIAN_FRONTEND=noninteractive
ARG L4T=r39.2
ADD https://repo.download.nvidia.com/jetson/jetson-ota-public.asc /etc/apt/keyrings/jetson.asc
RUN chmod 644 /etc/apt/keyrings/jetson.asc \
    && echo "deb [signed-by=/etc/apt/keyrings/jetson.asc] https://repo.download.nvidia.com/jetson/common $L4T main" \
    > /etc/apt/sources.list.d/jetson.list \
    && apt-get update && apt-get install --yes --no-install-recommends \
    ca-certificates python3 python3-libnvinfer tensorrt-libs \
    && rm -rf /var/lib/apt/lists/*

FROM base AS builder
RUN apt-get update && apt-get install --yes --no-install-recommends \
    build-essential cmake libnvinfer-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
# Compute capability 8.7 is Orin's, 11.0 is Thor's.
RUN cmake -S /src/plugins -B /build "-DDEGMIX_CUDA_ARCHITECTURES=87-real;110-real" \
    && cmake --build /build --parallel 2 \
    && cmake --install /build \
    && test -f /src/degmix_edge/native/libdegmix_trt10.so
RUN python3 -m venv --system-site-packages /opt/degmix \
    && /opt/degmix/bin/pip install --no-cache-dir "/src[tensorrt]"

FROM base
COPY --from=builder /opt/degmix /opt/degmix
RUN useradd --system --create-home --groups video degmix && install -d -o degmix /var/cache/degmix
ENV DEGMIX_CACHE=/var/cache/degmix PATH=/opt/degmix/bin:$PATH
VOLUME /var/cache/degmix
USER degmix
ENTRYPOINT ["degmix-edge"]
CMD ["doctor"]
