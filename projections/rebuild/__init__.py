"""Read models built beside the live ones, compared, and swapped."""
