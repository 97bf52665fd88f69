"""Releases read by other versions of `datasets` and by other readers: `make test-compat`."""
