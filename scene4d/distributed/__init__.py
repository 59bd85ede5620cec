"""What is done to a network, or agreed upon, when several processes train or judge it."""
