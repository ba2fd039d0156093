"""The command `lit-storage`."""
