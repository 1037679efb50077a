# CPU image: `docker build -t r1zero . && docker run --rm r1zero train experiment=demo`
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libnuma1 && rm -rf /var/lib/apt/lists/*
WORKDIR /r1zero
COPY . .
# PIP_EXTRA_INDEX_URL: the index of CPU wheels that PyTorch's installation page names; without it torch brings CUDA.
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir ".[cpu]"
WORKDIR /work
ENTRYPOINT ["r1zero"]
