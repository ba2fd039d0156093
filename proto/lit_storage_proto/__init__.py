"""What two peers must agree on: the wire, names, digests, limits, errors, and the Registry port.

The lowest of the four floors: it imports nothing of this product, and a client in another
language would need its counterpart.
"""
