"""How stars see a flat: their light, what their measurement answers to, the flat at their places, the pairs that are compared."""
