"""Forecast the worst failure of a deployment from the scores of an evaluation."""
