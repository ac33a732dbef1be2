# In place of prom/prometheus: Debian's own version of it under the image's user and paths.
FROM stand-in-debian
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    prometheus wget && rm -rf /var/lib/apt/lists/*
RUN install -d -o nobody -g nogroup /prometheus
VOLUME /prometheus
WORKDIR /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
