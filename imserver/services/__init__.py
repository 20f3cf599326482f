"""What can be asked of a node, whatever dialect or door it came by: sessions, delivery, de-duplication."""
