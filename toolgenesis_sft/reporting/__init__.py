"""Scores in, numbers that people can trust out: report.json, report.html, comparisons."""
