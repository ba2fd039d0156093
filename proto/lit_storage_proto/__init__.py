"""What two peers must agree on: the wire, names, digests, limits, errors, and the Registry port.

The lowest layer: it imports nothing of this product, and a client in another
language would need its counterpart.
"""

import os

# Read by gRPC when it is first imported, which is after this. Without it gRPC tells the terminal of
# each connection that a stopping Work closed, and of each child that a Work forked.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
