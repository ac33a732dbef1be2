# In place of apache/airflow:slim: its user, folders, environment and entrypoint's ways, with Debian's own CPython and no
# Airflow in it (the project's lock installs that). No bytecode either, as in that image.
FROM stand-in-debian
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    python3-dev python3-venv dumb-init curl && rm -rf /var/lib/apt/lists/* && find /usr -name '*.pyc' -delete
RUN useradd --uid 50000 --gid 0 --create-home airflow && install -d -o airflow -g 0 -m 0775 /opt/airflow
COPY airflow-entrypoint /entrypoint
USER 50000
RUN python3 -m venv /home/airflow/.local && find /home/airflow -name '*.pyc' -delete
ENV PATH=/home/airflow/.local/bin:/usr/local/bin:/usr/bin:/bin AIRFLOW_HOME=/opt/airflow DUMB_INIT_SETSID=1 \
    PIP_CERT=/etc/machine-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/airflow
ENTRYPOINT ["/usr/bin/dumb-init", "--", "/entrypoint"]
