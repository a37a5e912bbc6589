"""Agents whose training shapes the tail of their failures."""
