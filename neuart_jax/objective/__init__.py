"""The objective: a weighted sum of terms over the network's features."""
