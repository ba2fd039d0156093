"""Formats of what an unfinished copy leaves on the disk, for every process of a Work that reads them."""
