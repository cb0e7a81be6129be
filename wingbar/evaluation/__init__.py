"""Measure an index: metrics, scores of queries, protocols, comparisons and reports."""
