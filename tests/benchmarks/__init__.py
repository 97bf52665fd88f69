"""Measurements behind the figures of the README. Each prints ratios measured in one run; none is a test."""
