"""The compiled loop: from a pair and a configuration to a picture."""
