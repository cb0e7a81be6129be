"""Copies in an index: exact ones by content, near ones by code, feature and pixels."""
