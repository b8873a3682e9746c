"""Student policies: the network, and how it acts."""
