"""What serving and copying share: the operating system, security, registries, artifacts and formats on disk.

It imports `lit_storage_proto` and nothing else of this product.
"""
