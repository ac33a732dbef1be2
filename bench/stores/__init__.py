"""What real S3 servers honour of what the product relies on: `python -m bench.stores`, or `make stores`."""
