"""Real servers on loopback, as child processes: for `make run`, tests and benchmarks.

Never part of a deployment: nothing in `mediaservice` or `mediaworker` may import this package.
"""
