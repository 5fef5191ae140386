"""What runs the engine: the supervisor ``sprintd``, the command ``sprint``, logs and status."""
