"""What the service costs, always beside something that does the same work, in the same run.

Only 127.0.0.1, and for a bounded time. `python -m benchmarks` or `make bench`; no test depends on a
time measured here.
"""
