"""Benchmarks of linzoo: every figure that it claims, measured beside what it is compared with."""
