# syntax=docker/dockerfile:1
# One image for every role; the command chooses: web (default), listener, worker, release.

FROM python:3.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY requirements-worker.txt .
# Includes the service's own requirements.
RUN pip install --requirement requirements-worker.txt

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --user-group --no-create-home media
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY app.py worker_listener.py ./
COPY config config
COPY mediaservice mediaservice
COPY mediaworker mediaworker
COPY migrations migrations
# Readable for everybody, whatever the umask of the checkout.
RUN chmod -R a+rX /app && python -m compileall -q /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PORT=8000
USER 10001
EXPOSE 8000
# For web; an orchestrator gives listener and worker their own check, or none. Patient, because a check
# waits in line with requests that a hanging store holds up, and a restart would not mend that.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=12 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]
CMD ["gunicorn", "--config", "config/gunicorn.py", "app:app"]
