"""How a student learns: losses, the training step, the teacher, and the loop that survives being killed."""
