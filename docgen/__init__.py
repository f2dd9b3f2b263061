"""What of the documents is made from the code: for `make contract`, `openapi` and `settings`.

A module is named after what it writes. Never part of a deployment, and it starts no server: those
are in `devstack`.
"""
