"""What this process asks of the operating system: files, mounts, processes, clocks and names."""
