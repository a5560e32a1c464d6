"""Benchmarks of linzoo: every figure that it claims, measured beside what it is compared with."""

import os

# Read once, when torch is loaded: the memory profiler would put lines of its own on stderr.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
