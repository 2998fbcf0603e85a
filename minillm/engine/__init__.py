"""One step of generation: schedule, execute, commit."""
