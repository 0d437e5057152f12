"""How an artifact's outputs relate to the float student (conversion drift) and to the teacher (distillation gap). Knows no task."""
