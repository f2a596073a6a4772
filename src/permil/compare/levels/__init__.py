"""Split of the variation over levels: light source, raft, detector, amplifier, cell.

`groups` finds the levels that the cells can separate, `split` estimates their variance components, `results` has the tables.
"""
