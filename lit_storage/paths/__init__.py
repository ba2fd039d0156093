"""What a user holds: Path, whose files it means, and how far a copy is."""
