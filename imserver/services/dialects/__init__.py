"""What the dialects do besides: sessions of their own kind, and what their users say to each other."""
