"""At which level variation stands: light source, raft, detector, amplifier, cell."""
