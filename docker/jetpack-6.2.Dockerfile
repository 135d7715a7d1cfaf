# Jetson Orin with JetPack 6.2: L4T 36.4, CUDA 12.6, TensorRT 10.3, Ubuntu 22.04, Python 3.10.
#
#   docker build -f docker/jetpack-6.2.Dockerfile -t degmix-edge:jetpack-6.2 .
#   docker run --rm --runtime nvidia degmix-edge:jetpack-6.2
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0 AS builder
ENV DEBIAN_FRONTEND=noninteractive PATH=/usr/local/cuda/bin:$PATH
RUN apt-get update && apt-get install --yes --no-install-recommends \
    build-essential cmake python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
# Compute capability 8.7 is Orin's.
RUN cmake -S /src/plugins -B /build -DDEGMIX_CUDA_ARCHITECTURES=87-real \
    && cmake --build /build --parallel 2 \
    && cmake --install /build \
    && test -f /src/degmix_edge/native/libdegmix_trt10.so
# TensorRT's own Python package comes with JetPack, so the environment sees the system's packages.
RUN python3 -m venv --system-site-packages /opt/degmix \
    && /opt/degmix/bin/pip install --no-cache-dir --upgrade pip \
    && /opt/degmix/bin/pip install --no-cache-dir "/src[tensorrt]"

FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
RUN apt-get update && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=builder /opt/degmix /opt/degmix
RUN useradd --system --create-home --groups video degmix && install -d -o degmix /var/cache/degmix
ENV DEGMIX_CACHE=/var/cache/degmix PATH=/opt/degmix/bin:$PATH
VOLUME /var/cache/degmix
USER degmix
ENTRYPOINT ["degmix-edge"]
CMD ["doctor"]
