"""Sweeps: methods x weights x seeds x worlds, weights chosen on validation tasks, held-out tasks touched once."""
