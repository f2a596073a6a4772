"""Split of the variation over levels: light source, raft, detector, amplifier, cell."""
