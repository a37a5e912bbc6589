"""The gridworld job: base agent, fine-tuned agents, exact held-out risks, pictures of tasks."""
