# The operator: what turns resources into children, on a cluster's API server. Without torch.
#
# images/build.py makes the context: `wheels/` are the locked dependencies, `headrace/` is our wheel with what this image
# runs and nothing else. Whatever changes seldom comes first, so that a change of our code builds one small layer.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS python
# The standard library is compiled here because the user may not write there (official images come without bytecode).
RUN python -m compileall -q -j 0 -x '/(test|tests|idlelib|lib2to3|turtledemo|(site|dist)-packages)/' \
      "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && echo 'headrace:x:65532:65532:headrace:/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'headrace:x:65532:' >> /etc/group

FROM python AS dependencies
RUN python -m venv --without-pip /opt/headrace
COPY wheels /wheels
RUN python -m pip --python /opt/headrace/bin/python install \
      --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check /wheels/*.whl \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/headrace/lib

FROM dependencies AS program
COPY headrace /wheel
RUN python -m pip --python /opt/headrace/bin/python install \
      --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --root /program /wheel/*.whl \
 && python -m compileall -q --invalidation-mode unchecked-hash -s /program -p / /program

FROM python
LABEL org.opencontainers.image.title="headrace-operator" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=dependencies /opt/headrace /opt/headrace
COPY --from=program /program /
ENV PATH=/opt/headrace/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 TMPDIR=/tmp
USER 65532:65532
EXPOSE 8081
CMD ["headrace-operator"]
