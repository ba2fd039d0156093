"""Reads what is shared: confinement, walks, and the frames of a stream. Nothing here knows gRPC."""
