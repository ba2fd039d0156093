"""The process that serves the files of one Work: its parent's side, its own side, and what they say."""
