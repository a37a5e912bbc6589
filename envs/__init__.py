"""Risk environments: worlds that expose per-episode failure probabilities."""
