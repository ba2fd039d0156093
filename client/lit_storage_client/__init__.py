"""All that a process needs which only resolves names and copies files; it serves nothing.

It imports `lit_storage_core` and `lit_storage_proto`, and not the server.
"""
