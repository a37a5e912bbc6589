"""The language-model job: base model, fine-tuning by several methods, held-out forecasts."""
