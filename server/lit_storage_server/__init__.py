"""What a process needs that lets others read its files. It does not import the client."""
