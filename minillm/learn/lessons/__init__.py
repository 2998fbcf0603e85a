"""A folder for each lesson: all that belongs to it alone."""
