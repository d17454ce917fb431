"""What can be wrong, as the command line says it."""


class Missing(Exception):
    """Something that the change rests on is not there, in MLX or in this project."""


class Conflict(Exception):
    """A file of the checkout is not what this tool left or expects."""
