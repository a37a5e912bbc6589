"""The risk contract for environments that know nothing of it, and a checker for those that follow it."""
