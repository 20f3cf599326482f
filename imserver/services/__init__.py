"""What can be asked of a node, whatever dialect or server it came by: sessions, delivery, de-duplication."""
