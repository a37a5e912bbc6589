"""The report of runs and sweeps: one HTML page without a network, its figures and its tables."""
