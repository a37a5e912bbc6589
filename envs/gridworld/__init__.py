"""Risk gridworlds: rules written once, a batched engine, a MiniGrid environment and exact risk."""
