# The page on port 7860, as an unprivileged user, with the compact weights inside and no need of a network.
#   docker build -t neurovision .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:7860:7860 neurovision
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TF_CPP_MIN_LOG_LEVEL=3 \
    CUDA_VISIBLE_DEVICES="" \
    HF_HUB_OFFLINE=1 \
    HOME=/tmp \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_TEMP_DIR=/tmp \
    GRADIO_SERVER_PORT=7860

RUN useradd --create-home --uid 1000 user
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY app.py LICENSE README.md ./
COPY neurovision neurovision
COPY weights weights
COPY examples examples
COPY docs docs
USER 1000
EXPOSE 7860
HEALTHCHECK --interval=30s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
CMD ["python", "app.py"]
