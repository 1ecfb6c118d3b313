# The page on port 7860, as an unprivileged user, with the compact weights inside, converted, and no need of a network.
#   docker build -t neurovision .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:7860:7860 neurovision
# With CUDA, for a machine with the NVIDIA container toolkit:
#   docker build -t neurovision:gpu --build-arg DEVICE=gpu .
#   docker run --rm --gpus all --read-only --tmpfs /tmp -p 127.0.0.1:7860:7860 neurovision:gpu
# deploy/compose.yaml starts it beside an image archive; tests/run_lines.py runs these lines without a container engine.
FROM python:3.11-slim AS packages
ARG DEVICE=cpu
COPY requirements.txt requirements.lock /tmp/
# requirements.lock has a digest of every package, but for the CPU and x86_64 only; elsewhere only the versions of
# requirements.txt are held. What the page never loads is taken out again: tests, headers, drivers of Intel's GPUs and NPUs,
# a video encoder, and the C parser that only TensorFlow's developers use.
RUN python -m venv /opt/venv \
    && case "$DEVICE-$(uname -m)" in \
        cpu-x86_64) set -- --require-hashes --no-deps -r /tmp/requirements.lock ;; \
        gpu-*) set -- -r /tmp/requirements.txt; \
            sed -i -e 's/^tensorflow-cpu==/tensorflow[and-cuda]==/' -e 's/^xgboost-cpu==/xgboost==/' /tmp/requirements.txt ;; \
        *) set -- -r /tmp/requirements.txt ;; \
    esac \
    && /opt/venv/bin/python -m pip install --no-cache-dir "$@" \
    && /opt/venv/bin/python -m pip check \
    && /opt/venv/bin/python -m pip uninstall --yes libclang setuptools pip \
    && site=/opt/venv/lib/python3.11/site-packages \
    && for package in numpy pandas scipy skimage sklearn nibabel matplotlib; do \
        find "$site/$package" -type d -name tests -prune -exec rm -rf {} + ; \
    done \
    && rm -rf "$site/tensorflow/include" "$site/openvino/include" "$site/openvino/libs/cache.json" \
        "$site/openvino/libs/libopenvino_intel_gpu_plugin.so" "$site/openvino/libs/libopenvino_intel_npu_plugin.so" \
        "$site/gradio/templates/frontend/static/ffmpeg"

FROM python:3.11-slim
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TF_CPP_MIN_LOG_LEVEL=3 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HF_HUB_OFFLINE=1 \
    HOME=/tmp \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_TEMP_DIR=/tmp \
    GRADIO_SERVER_PORT=7860
RUN useradd --create-home --uid 1000 user \
    && install --directory --owner=1000 --group=1000 --mode=0700 /state
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY app.py LICENSE README.md ./
COPY neurovision neurovision
COPY weights weights
COPY examples examples
COPY docs/evaluation docs/evaluation
COPY docs/diffusion.json docs/
# The converted graph serves every processor; one with bfloat16 measures at its first start whether it may be used.
RUN python -m compileall -q neurovision \
    && python -m neurovision convert
USER 1000
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
CMD ["python", "app.py"]
