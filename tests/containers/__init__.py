"""The compose file under a real Docker engine, with stand-ins of the images that it names: `make containers`."""
