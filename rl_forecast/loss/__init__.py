"""The forecastability loss."""
