"""What turns this project's sources into a change of an MLX checkout."""
