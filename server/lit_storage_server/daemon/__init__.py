"""The daemon of a machine: named shares, metrics and logs, and what stopped Works left."""
