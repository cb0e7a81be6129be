"""The command line: one file a group of verbs, the flags of each verb beside its function."""
