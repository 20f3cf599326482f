"""Files that users send each other."""
