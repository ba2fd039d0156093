"""The first version of the wire: ``path_storage.proto`` and the stubs generated from it."""
