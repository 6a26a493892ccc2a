"""Two sets of pictures or of their features, and how near one is to the other."""
