"""What stays readable of a Work that has stopped: versions of its declared paths, in a store.

How a store is laid out is written in ``v1/artifact.proto``. `urls` says which stores there are and
opens them; `store` has versions on top of `objects`, of which there is an adapter for a disk and one for
fsspec; `writer` writes a version; `artifact` reads one, by `tree`, `pieces` and `stream`, as a live Work
would send it. Nothing is imported here, so that a process which needs none of it does not load it.
"""
