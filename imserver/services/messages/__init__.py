"""What is stored: taken in, told in order, acknowledged, found again."""
