"""Publishes what a Work declared as an artifact, by the Work itself or for one that was killed."""
