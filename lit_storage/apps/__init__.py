"""An App and its Works: what runs where, and what the Flow and a Work tell each other."""
