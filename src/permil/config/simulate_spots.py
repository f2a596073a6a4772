"""Section ``simulate_spots``: exposures of artificial stars whose truth is known.

The defaults make a campaign on a cut-out sensor. ``camera: lsstcam`` with ``mask: {spots: 49}`` makes one on a whole sensor: lengths
of the illumination are parts of the mask. A preset is a dictionary of overrides; explicit keys win over it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from permil.config.base import ConfigPath, Section
from permil.config.names import DetectorText
from permil.config.simulate import LedName, SimulateElectronics, given_values
from permil.yaml_file import merged

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]


class SimulateSpotsEffects(Section):
    """The switches: an effect that is off leaves no trace, whatever its size."""

    background: bool = Field(True, description="glow of the projector between the spots")
    brighter_fatter: bool = Field(False, description="charge already gathered repels charge (galsim's silicon sensor; slow)")
    diffusion: bool = Field(True, description="charge diffusion that differs over the sensor and changes the width of spots")
    displacement: bool = Field(True, description="pixel-area variation: charge lands beside where light fell")
    distortion: bool = Field(True, description="optical distortion of the grid")
    efficiency: bool = Field(True, description="quantum efficiency that differs over the sensor")
    jitter: bool = Field(True, description="the stage misses the commanded position")
    lamp_drift: bool = Field(True, description="lamp that brightens or fades over the campaign")
    lamp_scatter: bool = Field(True, description="lamp that scatters between exposures")
    node_scatter: bool = Field(True, description="pinholes that are not where the grid has them")
    shape_variation: bool = Field(True, description="widths and shapes of spots that differ over the mask")
    bias_structure: bool = Field(True, description="fixed pattern of the bias in each segment")
    cosmic_rays: bool = Field(True, description="tracks of charge in every exposure")
    crosstalk: bool = Field(True, description="ghosts of the neighbouring amplifiers")
    dark_current: bool = Field(True, description="dark current of all pixels")
    deferred_charge: bool = Field(True, description="tail of the last pixel in the leading overscan columns and rows")
    gain_scatter: bool = Field(True, description="gains that scatter about the camera's nominal ones")
    nonlinearity: bool = Field(True, description="quadratic response of each amplifier")
    offset_drift: bool = Field(True, description="bias level that drifts between exposures and rows")
    read_noise: bool = Field(True, description="read noise")
    saturation: bool = Field(True, description="full well")


class SimulateSpotsMask(Section):
    """The mask of pinholes and its image: where spots lie, how bright and how wide they are."""

    spots: Annotated[int, Field(ge=3)] = Field(15, description="spots along each side of the mask")
    pitch_px: Positive = Field(65.32, description="distance of neighbouring spots, pixels")
    angle_rad: float = Field(-0.055, description="angle of the grid's i axis to the detector's x axis, rad")
    electrons: Positive = Field(1.5e6, description="flux of a spot in the middle of the bright disc, electrons")
    flux_scatter: Fraction = Field(0.02, description="scatter of the pinholes' areas, relative rms")
    disc_radius: Positive = Field(0.7, description="radius of the bright disc, in half sides of the mask")
    disc_edge: Positive = Field(0.04, description="width of the disc's edge, in half sides of the mask")
    disc_offset: tuple[float, float] = Field((-0.1, -0.02), description="centre of the disc in the mask, in half sides of it")
    skirt: Fraction = Field(0.05, description="light of the skirt at the disc's centre, relative to the disc's")
    core_variance_px2: Positive = Field(4.2, description="variance of the core of a spot, per axis, pixel^2")
    core_variance_scatter: Fraction = Field(0.04, description="smooth change of the core's variance over the mask, relative rms")
    ellipticity_scatter: Fraction = Field(0.03, description="smooth change of the core's shape over the mask, rms")
    wing_fraction: Fraction = Field(0.30, description="part of a spot's light in its wings")
    wing_sigma_px: Positive = Field(4.7, description="sigma of the wings, pixels")
    halo_fraction: Fraction = Field(0.08, description="part of a spot's light in its halo")
    halo_sigma_px: Positive = Field(10.4, description="sigma of the halo, pixels")
    distortion_px: NotNegative = Field(1.1, description="optical distortion, rms over both axes, pixels")
    distortion_degree: Annotated[int, Field(ge=2)] = Field(3, description="highest degree of the distortion polynomial")
    node_scatter_px: NotNegative = Field(0.12, description="scatter of the pinholes' places, rms over both axes, pixels")


class SimulateSpotsBackground(Section):
    """Glow of the projector between the spots."""

    electrons: NotNegative = Field(120.0, description="glow in the bright disc, electrons per pixel")
    edge: Positive = Field(0.2, description="width of the glow's edge, in half sides of the mask")
    pedestal: NotNegative = Field(10.0, description="light everywhere, electrons per pixel")


class SimulateSpotsMixture(Section):
    """A flat of known parts: independent random fields of one spectrum, added to the other maps of the sensor."""

    rms: Fraction = Field(0.0, description="rms of all parts together in the flat, relative; 0: none")
    scale_px: Positive = Field(12.0, description="sigma of the Gaussian that makes them smooth, pixels")
    high_pass_px: Positive = Field(30.0, description="sigma of the Gaussian whose smoothing is taken off: no structure is wider")
    efficiency: NotNegative = Field(0.6, description="part of the variance that is quantum efficiency; parts are over their sum")
    area: NotNegative = Field(0.4, description="part of the variance that is pixel area")
    diffusion: NotNegative = Field(0.0, description="part of the variance that is diffusion")

    @model_validator(mode="after")
    def _has_parts(self) -> SimulateSpotsMixture:
        if not self.efficiency + self.area + self.diffusion > 0:
            raise ValueError("one of efficiency, area and diffusion must be above 0")
        return self


class SimulateSpotsSensor(Section):
    """How the sensor answers: three maps, each of which acts on the charge."""

    efficiency_rms: Fraction = Field(3e-3, description="smooth quantum efficiency, relative rms")
    efficiency_scale_px: Positive = Field(60.0, description="sigma of the Gaussian that makes it smooth, pixels")
    pixel_efficiency_rms: Fraction = Field(5e-4, description="quantum efficiency from pixel to pixel, relative rms")
    tree_ring_rms: Fraction = Field(1e-3, description="pixel-area variation of the tree rings in the flat, relative rms")
    tree_ring_scale_px: Positive = Field(12.0, description="sigma of one ring, pixels")
    pixel_area_rms: Fraction = Field(1e-3, description="pixel-area variation from pixel to pixel in the flat, relative rms")
    diffusion_rms_px2: NotNegative = Field(0.05, description="change of the charge's variance by diffusion, rms, pixel^2")
    diffusion_scale_px: Positive = Field(12.0, description="sigma of the Gaussian that makes it smooth, pixels")
    dark_current: NotNegative = Field(0.05, description="dark current of a pixel, electrons per s")
    mixture: SimulateSpotsMixture = Field(SimulateSpotsMixture(), description="parts of the flat with known shares")


class SimulateSpotsLamp(Section):
    """The lamp behind the mask."""

    scatter: Fraction = Field(2e-3, description="scatter of the light between exposures, relative rms")
    drift: float = Field(2e-3, description="linear change of the light over the campaign, relative")


class SimulateSpotsCampaign(Section):
    """What is exposed."""

    mode: Literal["dithered", "fixed"] = Field("dithered", description="each exposure at its own place, or all at one")
    exposures: Annotated[int, Field(ge=1)] = Field(100, description="spot exposures")
    biases: Count = Field(20, description="bias exposures before them")
    window_pitches: NotNegative = Field(10.5, description="side of the square of dithers, in pitches of the grid")
    exposure_time_s: Positive = Field(15.0, description="exposure time, s")
    jitter_um: NotNegative = Field(10.0, description="rms per axis of the true position about the commanded one, um")
    filter: str = Field("", description="card FILTER; none when empty, as in 2019")
    compressed: bool = Field(False, description="RICE-compressed files")


class SimulateSpotsFlats(Section):
    """Flats of the same sensor before the spots: a beam scan and pointings of the bench's projector."""

    images: Count = Field(0, description="images at each of the five pointings; 0: no flats")
    led: LedName = Field("red", description="LED; name it in campaign.filter as well where spots and flats are of one band")
    scan_size: Annotated[int, Field(ge=4)] = Field(10, description="positions of the beam scan along each axis")
    scan_width_mm: Positive = Field(20.0, description="side of the scanned window, mm; the middle of whole sensors needs 80")
    electrons: Positive = Field(50000.0, description="electrons per pixel at the beam's maximum where the flat is 1")


PRESETS: dict[str, dict[str, Any]] = {
    "stars": {},
    "stars-and-flats": {
        "sensor": {"efficiency_rms": 1e-3, "mixture": {"rms": 3e-3}},
        "campaign": {"exposures": 40, "filter": "red", "compressed": True},
        "flats": {"images": 5},
    },
}
"""Overrides of each preset."""


class SimulateSpotsConfig(Section):
    """A campaign of the spot projector on a sensor whose truth is known."""

    preset: Literal["stars", "stars-and-flats"] = Field("stars", description="named set of values; explicit keys win over it")
    seed: Count = Field(1, description="seed of everything random")
    camera: Annotated[str, ConfigPath(is_camera=True)] = Field("spots-cutout", description="camera by name or file")
    detector: DetectorText = Field("R22_S11", description="detector that the spots fall on")
    effects: SimulateSpotsEffects = Field(SimulateSpotsEffects(), description="switches of all effects")
    mask: SimulateSpotsMask = Field(SimulateSpotsMask(), description="mask of pinholes and its image")
    background: SimulateSpotsBackground = Field(SimulateSpotsBackground(), description="glow between the spots")
    sensor: SimulateSpotsSensor = Field(SimulateSpotsSensor(), description="answer of the sensor")
    lamp: SimulateSpotsLamp = Field(SimulateSpotsLamp(), description="lamp")
    campaign: SimulateSpotsCampaign = Field(SimulateSpotsCampaign(), description="what is exposed")
    flats: SimulateSpotsFlats = Field(SimulateSpotsFlats(), description="flats of the same sensor")
    electronics: SimulateElectronics = Field(SimulateElectronics(), description="amplifiers")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        preset = given.get("preset", "stars")
        return merged(PRESETS.get(preset, {}) if isinstance(preset, str) else {}, given_values(given))
