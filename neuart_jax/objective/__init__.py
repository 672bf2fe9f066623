"""What is minimized: a weighted sum of terms over the network's features."""
