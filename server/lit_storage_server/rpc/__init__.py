"""Answers calls: the gRPC server, who may call, how many at once, and the direct way of a stream."""
