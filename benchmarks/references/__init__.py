"""The same work done by others: what the service's figures are divided by."""
