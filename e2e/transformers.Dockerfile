# An engine that nobody here wrote, `transformers serve`, with tiny weights: for the end-to-end suite alone, which builds it
# (e2e/installation.py). Its base is our LLM runtime, whose Python it shares.
#
# images/build.py makes the context: `wheels/` are the locked dependencies, `files/` is what makes the weights.
ARG BASE

FROM ${BASE} AS dependencies
USER root
COPY wheels /wheels
# pip belongs to the Python under the virtual environment. What the base has in the same version is not installed again.
RUN PATH=${PATH#/opt/headrace/bin:} python -m pip --python /opt/headrace/bin/python install \
      --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --root /program /wheels/*.whl

FROM ${BASE} AS transformers
ARG NAME
LABEL org.opencontainers.image.title="${NAME}" org.opencontainers.image.licenses="Apache-2.0"
USER root
COPY --from=dependencies /program /
COPY files /files
# What is imported for it is kept compiled: the user may not write there. The library keeps a file from all but its owner.
RUN PYTHONDONTWRITEBYTECODE= python /files/behaviours_weights.py /weights && chmod -R a+rX /weights
USER 65532:65532
