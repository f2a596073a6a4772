"""Where the projector stands, what the stage says, and where the beam falls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from permil.simulate.targets import Position


@dataclass(frozen=True)
class Stage:
    """The stage that carries the projector.

    Attributes
    ----------
    jitter
        Rms per axis of the true position about the one aimed at, mm.
    readback
        Noise of the recorded position, mm.
    recorded
        Whether the measured position is recorded, or the one aimed at.
    offset
        Beam centre minus aimed position, CCS mm.
    rotation
        Angle of the stage's axes to the camera's, radians, counter-clockwise from X to Y.
    added
        What the stage adds to the commanded position (XOFFSET and YOFFSET), mm. It is meant to make up for most of the shift
        between lamp and beam, so that ``offset`` is what remains.
    """

    jitter: float = 0.0
    readback: float = 0.0
    recorded: bool = True
    offset: Position = (0.0, 0.0)
    rotation: float = 0.0
    added: Position = (0.0, 0.0)

    def lamp(self, commanded: Position, rng: np.random.Generator) -> Position:
        """Return where the lamp really stands, in the stage's axes; ``rng`` is that of the point."""
        x, y = rng.normal(0.0, self.jitter, 2)
        return commanded[0] + self.added[0] + float(x), commanded[1] + self.added[1] + float(y)

    def record(self, commanded: Position, lamp: Position, rng: np.random.Generator) -> Position:
        """Return the position that the header records; ``rng`` is that of the exposure."""
        if not self.recorded:
            return commanded[0] + self.added[0], commanded[1] + self.added[1]
        x, y = rng.normal(0.0, self.readback, 2)
        return lamp[0] + float(x), lamp[1] + float(y)

    def beam_centre(self, lamp: Position) -> Position:
        """Return the CCS place of the beam's centre: the lamp in the camera's axes, then the shift between lamp and beam."""
        x, y = lamp[0] - self.added[0], lamp[1] - self.added[1]
        cosine, sine = math.cos(self.rotation), math.sin(self.rotation)
        return cosine * x - sine * y + self.offset[0], sine * x + cosine * y + self.offset[1]
