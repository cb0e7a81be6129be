"""Measure an index: metrics, the scores of every query, protocols' results, comparisons and
reports."""
