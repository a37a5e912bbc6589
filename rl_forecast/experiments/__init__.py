"""Experiments: configurations, run folders and the jobs behind the command lines."""
