"""All that a process needs which only resolves names and copies files; it serves nothing.

The second of the four floors: it imports `lit_storage_proto` and nothing above it.
"""
