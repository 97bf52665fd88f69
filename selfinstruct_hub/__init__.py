"""Grow a pool of instruction tasks with a language model and publish every round as a versioned dataset."""

__version__ = "0.1.0"
