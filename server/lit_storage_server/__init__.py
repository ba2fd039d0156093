"""The serving floor: what a process needs that lets others read its files."""
