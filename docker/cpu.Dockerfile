# A robot without a GPU: ONNX Runtime, and our library for pictures on the processor.
#
#   docker build -f docker/cpu.Dockerfile -t degmix-edge:cpu .
#   docker run --rm degmix-edge:cpu
FROM python:3.12-slim-bookworm AS builder
RUN apt-get update && apt-get install --yes --no-install-recommends cmake g++ make \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN cmake -S /src -B /build -DDEGMIX_CUDA=OFF \
    && cmake --build /build --target degmix_pixels \
    && install -D -t /src/degmix_edge/native /build/plugins/pixels/libdegmix_pixels.so
RUN python -m venv /opt/degmix \
    && /opt/degmix/bin/pip install --no-cache-dir "/src[cpu]"

FROM python:3.12-slim-bookworm
COPY --from=builder /opt/degmix /opt/degmix
RUN useradd --system --create-home --groups video degmix && install -d -o degmix /var/cache/degmix
ENV DEGMIX_CACHE=/var/cache/degmix PATH=/opt/degmix/bin:$PATH
VOLUME /var/cache/degmix
USER degmix
ENTRYPOINT ["degmix-edge"]
CMD ["verify", "degmix_tiny"]
