"""The reference media-worker: takes `media.process`, writes renditions, publishes the result.

Pixels are touched in a confined child process only (`decoder`), never where credentials live: the
consumer imports `sandbox` and `renditions`, and must not import `decoder` or `images`.
"""
