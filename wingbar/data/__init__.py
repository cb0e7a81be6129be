"""Data sets: records, readers, splits by protocol, official layouts, and downloads."""
