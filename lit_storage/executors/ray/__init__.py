"""Works on the nodes of a cluster of Ray. Imports no Ray itself, which may be missing."""
