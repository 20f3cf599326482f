"""What nodes tell and ask each other."""
