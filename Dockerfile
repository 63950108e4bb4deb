# docker build -t mosear .                          on CPUs
# docker build -t mosear --build-arg ACCELERATOR=cuda .
# docker run --rm -v "$PWD:/work" mosear train +experiment=lora        (with GPUs: docker run --gpus all ...)
FROM python:3.12-slim-bookworm

ARG ACCELERATOR=cpu
# The index of PyTorch's CPU builds; the ordinary index serves CUDA builds, which bring CUDA's libraries along.
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/home/mosear

WORKDIR /opt/mosear
COPY constraints.txt ./
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Torch first: this layer is the largest, and changes only with the pinned versions.
RUN case "$ACCELERATOR" in \
      cpu) index=(--index-url "$CPU_INDEX") ;; \
      cuda) index=() ;; \
      *) echo "ACCELERATOR=$ACCELERATOR must be cpu or cuda" >&2; exit 2 ;; \
    esac \
    && grep -E '^(torch|torchvision)==' constraints.txt > torch.txt \
    && pip install "${index[@]}" --requirement torch.txt

COPY pyproject.toml LICENSE ./
COPY conf conf
COPY mosear mosear
RUN pip install -c constraints.txt . \
    && useradd --create-home --uid 1000 mosear \
    && mkdir /work \
    && chown mosear:mosear /work

USER 1000
WORKDIR /work
ENTRYPOINT ["mosear"]
CMD ["--help"]
