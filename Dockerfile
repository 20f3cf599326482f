# The server as an image: docker build -t imserver .
# compose.yaml runs two of them with Redis and nginx. docs/guides/deploy.md says more.

FROM python:3.11-slim-bookworm AS build
RUN apt-get update -q && apt-get install -q --yes --no-install-recommends binutils
# Without pip, and without caches of modules, as the base image: a start takes 1.3 s of a processor more.
RUN python -m venv --without-pip /opt/imserver
# The dependencies first: they change less often than the rest.
COPY requirements.lock /src/
RUN pip --python /opt/imserver/bin/python install --no-cache-dir --no-compile --disable-pip-version-check \
    --require-hashes -r /src/requirements.lock
COPY setup.py pyproject.toml README.md LICENSE /src/
COPY config /src/config
COPY templates /src/templates
COPY static /src/static
COPY sdk /src/sdk
COPY imserver_client /src/imserver_client
COPY imserver /src/imserver
RUN pip --python /opt/imserver/bin/python install --no-cache-dir --no-compile --disable-pip-version-check \
    --no-deps /src/imserver_client /src
# What no server reads: symbols for debuggers, the tests of packages, and what their native code was made of.
RUN find /opt/imserver -type f -name '*.so*' -exec strip --strip-unneeded {} + \
    && find /opt/imserver/lib -type d \( -name test -o -name tests \) -prune -exec rm -r {} + \
    && find /opt/imserver/lib -type f -regex '.*\.\(c\|cpp\|h\|pxd\|pxi\|pyx\)' -delete \
    && echo "megabytes of the server, without the base image:" && du -sm /opt/imserver

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /data imserver \
    && install --directory --owner imserver --mode 0700 /data
COPY --from=build /opt/imserver /opt/imserver
# A container is reached from outside, so it wants API keys (IMSERVER_API_KEYS). Without one it ends at once and says so, unless
# IMSERVER_SERVER_INSECURE=true lets everybody who reaches its ports do everything.
ENV PATH=/opt/imserver/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    IMSERVER_SERVER_HOST=0.0.0.0 \
    IMSERVER_SERVER_DATA_DIR=/data
USER 10001
WORKDIR /data
VOLUME /data
# HTTP, WebSocket, the two RPC ports, which only other nodes need, and the port of go-websocket's own image, on which
# IMSERVER_SERVER_EXTRA_LISTEN='[{port: 6000, ws_dialect: client}]' listens.
EXPOSE 8080 8089 9001 9002 6000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.getenv('IMSERVER_APP_HTTP_PORT', '8080') + '/health', timeout=4)"]
# Drains; give it longer than the drain takes (docker stop --time 60).
STOPSIGNAL SIGTERM
ENTRYPOINT ["imserver"]
CMD ["serve"]
