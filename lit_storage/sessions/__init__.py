"""How a process takes part: it joins as a Work, or connects to copy."""
