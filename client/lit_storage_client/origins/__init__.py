"""Who has the files of a Work: the live Work, a store of its artifacts, or a custodian."""
