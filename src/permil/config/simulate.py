"""Sections ``simulate`` and ``simulate_spots``: a bench, and exposures of artificial stars, with known truth.

A preset is a dictionary of overrides, as are ``nuisances: false`` and ``light: true``; explicit keys override all of them. The defaults of
``simulate_spots`` make a campaign on a cut-out sensor; ``camera: lsstcam`` with ``mask: {spots: 49}`` makes one on a whole sensor, since
lengths of the illumination are relative to the mask.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from permil.config.base import ConfigPath, Section
from permil.config.names import DetectorText, RaftText
from permil.yaml_file import merged

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]


def _require_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("give the smaller value first")
    return limits


Range = Annotated[tuple[Fraction, Fraction], AfterValidator(_require_order)]
LedName = Literal["uv", "blue", "red", "nm750", "nm850", "nm960"]


class DetectorEffects(Section):
    """Switches of effects of sensor and amplifiers: a disabled effect leaves no trace in the files."""

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


class SimulateEffects(DetectorEffects):
    """Switches of effects: a disabled effect leaves no trace in the files."""

    annealing: bool = Field(True, description="laser-annealing pattern in uv")
    bad_columns: bool = Field(True, description="columns of low response")
    board_drift: bool = Field(True, description="linear change of the counts of each readout board over the campaign")
    brighter_fatter: bool = Field(False, description="collected charge repels charge: noise of neighbouring pixels is correlated")
    detector_response: bool = Field(True, description="quantum efficiency that differs between detectors and vendors")
    dust: bool = Field(True, description="shadows of dust on the sensor")
    edge_rolloff: bool = Field(True, description="roll-off along the outer edges")
    gain_steps: bool = Field(True, description="gains of some amplifiers that change once during the campaign")
    hot_pixels: bool = Field(True, description="pixels of high dark current")
    jitter: bool = Field(True, description="random error of the stage position")
    led_drift: bool = Field(True, description="lamp that brightens and fades slowly; the photodiode follows")
    led_instability: bool = Field(True, description="lamp that scatters between exposures; the photodiode follows")
    midline: bool = Field(True, description="response along the line between the two halves")
    offset: bool = Field(True, description="shift between projector position and beam centre")
    photodiode_drift: bool = Field(True, description="photodiode whose response changes linearly over the campaign")
    photodiode_noise: bool = Field(True, description="noise of each photodiode reading")
    photodiode_step: bool = Field(True, description="photodiode whose response jumps once")
    photodiode_walk: bool = Field(True, description="photodiode whose response walks randomly")
    prnu: bool = Field(True, description="response that differs from pixel to pixel")
    response_gradient: bool = Field(True, description="smooth change of response across a detector")
    ring: bool = Field(True, description="ring in the beam where its slope breaks")
    rotation: bool = Field(True, description="rotation of the stage's axes relative to the camera's")
    sensor_defects: bool = Field(
        True, description="dark, vampire, unstable and non-linear pixels, clusters, weak and dead columns"
    )
    structure: bool = Field(True, description="random structure of the beam")
    temperature_drift: bool = Field(True, description="gain that depends on the temperature of the readout board")
    tree_rings: bool = Field(True, description="tree rings")
    weather: bool = Field(True, description="smooth variable patterns in the light that the photodiode does not measure")


class SimulateBeam(Section):
    """Shape of the projector's beam (1 at its maximum), a function of pixel minus projector position."""

    half_window_mm: Positive = Field(40.0, description="half side of the window of the next two values, mm")
    edge: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.83, description="level on the axes at the window's edge")
    corner: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.66, description="level in the window's corners")
    ellipticity: Fraction = Field(0.005, description="largest ellipticity; the value differs by LED")
    led_size_rms: Fraction = Field(0.003, description="scatter of the beam's size between LEDs")
    ring_radius_mm: Positive = Field(25.0, description="radius of the ring, mm")
    ring_break_per_mm: float = Field(2e-3, description="decrease of the slope at the ring, relative, per mm")
    structure_rms: Fraction = Field(3e-3, description="rms of the random structure, relative")
    structure_sigma_mm: Positive = Field(4.0, description="sigma of the Gaussian that smooths white noise into structure, mm")


class SimulateSensor(Section):
    """Response of the sensors, that is the true flat, and their defects."""

    prnu_rms: Fraction = Field(5e-3, description="pixel-to-pixel response, relative rms")
    prnu_correlation: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.9, description="fraction of that variance common to all LEDs"
    )
    tree_ring_rms: Fraction = Field(2e-3, description="tree rings, relative rms (times a factor of the LED)")
    tree_ring_width_mm: Positive = Field(0.12, description="sigma of one ring, mm")
    edge_depth: Fraction = Field(0.04, description="roll-off at the very edge, relative")
    edge_scale_mm: Positive = Field(0.05, description="e-folding length of the roll-off, mm")
    midline_depth: Fraction = Field(0.01, description="loss at the mid-line, relative")
    midline_scale_mm: Positive = Field(0.02, description="e-folding length of that loss, mm")
    dust_spots: Annotated[int, Field(ge=0)] = Field(6, description="dust spots per detector")
    dust_depth: Fraction = Field(0.03, description="largest depth of a dust shadow, relative")
    bad_columns: Annotated[int, Field(ge=0)] = Field(2, description="bad columns per detector")
    hot_pixels: Annotated[int, Field(ge=0)] = Field(10, description="hot pixels per detector")
    hot_pixel_rate: NotNegative = Field(500.0, description="mean dark current of a hot pixel, electrons per s")
    dark_pixels: Annotated[int, Field(ge=0)] = Field(0, description="dark pixels per detector")
    vampire_pixels: Annotated[int, Field(ge=0)] = Field(
        0, description="bright pixels per detector that draw charge from their eight neighbours"
    )
    dark_clusters: Annotated[int, Field(ge=0)] = Field(0, description="dark clusters of 3 x 3 pixels per detector")
    pixel_strength: Range = Field((0.1, 0.9), description="loss or excess of these three kinds, relative: smallest and largest")
    weak_columns: Annotated[int, Field(ge=0)] = Field(0, description="weak columns per detector")
    weak_column_depth: Range = Field((0.03, 0.5), description="loss of a weak column, relative: smallest and largest")
    dead_columns: Annotated[int, Field(ge=0)] = Field(0, description="dead columns per detector, with a loss of 85 % or more")
    unstable_pixels: Annotated[int, Field(ge=0)] = Field(
        0, description="pixels per detector whose response jumps between two levels from exposure to exposure"
    )
    unstable_strength: Range = Field(
        (0.05, 0.5), description="rms of the response of unstable pixels, relative: smallest and largest"
    )
    nonlinear_pixels: Annotated[int, Field(ge=0)] = Field(0, description="non-linear pixels per detector")
    nonlinear_strength: Range = Field(
        (0.1, 0.6), description="loss at 50,000 electrons, proportional to the charge, relative: smallest and largest"
    )
    dark_current: NotNegative = Field(0.05, description="dark current of a pixel, electrons per s")
    brighter_fatter: Annotated[float, Field(ge=0.0, le=0.5)] = Field(
        0.15, description="fraction of the photon variance lost to the brighter-fatter effect at 50,000 electrons"
    )
    annealing_amplitude: Fraction = Field(0.01, description="laser-annealing pattern, relative amplitude in uv")
    annealing_period_mm: Positive = Field(1.5, description="period of that pattern, mm")
    detector_rms: Fraction = Field(0.01, description="scatter of the response between detectors of a vendor, relative")
    gradient_rms: Fraction = Field(2e-3, description="smooth change of response across a detector, relative rms")


class SimulateElectronics(Section):
    """Amplifiers: from electrons to counts."""

    bias_level_adu: Positive = Field(25000.0, description="mean bias level, adu")
    bias_level_rms_adu: NotNegative = Field(1500.0, description="scatter of the level between amplifiers, adu")
    bias_structure_adu: NotNegative = Field(3.0, description="size of the fixed bias pattern, adu")
    offset_drift_adu: NotNegative = Field(2.0, description="change of the level between exposures, adu rms")
    row_drift_adu: NotNegative = Field(0.5, description="correlated change of the level from row to row, adu rms")
    gain_rms: Fraction = Field(0.025, description="scatter of true gains about nominal ones, relative")
    read_noise_rms: Fraction = Field(0.05, description="scatter of true read noise about nominal one, relative")
    deferred_fraction: Fraction = Field(2e-4, description="fraction of the charge of the last pixel in the first overscan pixel")
    deferred_pixels: Positive = Field(1.5, description="e-folding length of the deferred charge, pixels")
    crosstalk: NotNegative = Field(2.5e-4, description="mean coefficient between neighbouring amplifiers of one half")
    crosstalk_rms: Fraction = Field(0.3, description="scatter of the coefficients, relative")
    curvature: Fraction = Field(2e-3, description="loss of response at the reference level, relative, mean over amplifiers")
    curvature_rms: Fraction = Field(
        6e-4, description="rms of that loss over amplifiers; above the mean, some losses are negative"
    )
    curvature_level_adu: Positive = Field(45000.0, description="reference level of the curvature, adu above bias")
    temperature_coefficient: float = Field(-6.5e-4, description="relative change of the counts per deg C of the readout board")
    temperature_coefficient_rms: NotNegative = Field(0.0, description="scatter of that coefficient between boards, per deg C")
    board_drift: Fraction = Field(
        0.0, description="linear change of a board's counts from the first to the last exposure, relative; rms over boards"
    )
    temperature_amplitude: NotNegative = Field(
        0.1, description="amplitude of the temperature of each readout board, half of peak to peak, deg C"
    )
    temperature_period_s: Positive = Field(1200.0, description="period of that temperature, s; the phase differs between boards")
    cosmic_ray_rate: NotNegative = Field(0.02, description="cosmic rays per cm2 and s")


class SimulateLamp(Section):
    """LEDs and the control photodiode."""

    electrons: Positive = Field(50000.0, description="electrons per pixel at the beam's maximum where the flat is 1")
    photodiode_noise: Fraction = Field(1e-4, description="noise of one photodiode reading, relative rms")
    photodiode_drift: Fraction = Field(
        3e-3, description="linear change of the photodiode's response from start to end, relative; rms over seeds"
    )
    photodiode_walk: Fraction = Field(
        1e-3, description="random walk of that response: its change from start to end, relative; rms over seeds"
    )
    photodiode_step: Fraction = Field(1e-3, description="step of that response, relative; rms over seeds")
    photodiode_step_at: Literal["pointings"] | Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        "pointings", description="time of the step: pointings (after the scan), or a fraction of the campaign's exposures"
    )
    led_instability: Fraction = Field(1e-3, description="scatter of the light between exposures, relative rms")
    led_drift: Fraction = Field(1e-3, description="slow change of the light over the campaign, relative amplitude")


class SimulateWeather(Section):
    """Smooth variable patterns in the light path, the same in all LEDs, that the photodiode does not measure."""

    rms: Fraction = Field(0.0, description="relative rms over the beam's window (beam.half_window_mm) and over time")
    correlation_s: Positive = Field(600.0, description="correlation time, s; an exposure takes 3.1 s")


class SimulateGainSteps(Section):
    """Gains that change once."""

    count: Annotated[int, Field(ge=0)] = Field(0, description="number of amplifiers or boards whose gain steps")
    unit: Literal["amplifier", "board"] = Field(
        "amplifier", description="units whose gain steps: single amplifiers, or whole boards"
    )
    size: Fraction = Field(2e-3, description="size of each step, relative; with a random sign")
    at: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5, description="time of the step, as a fraction of the campaign's exposures"
    )


class SimulateStage(Section):
    """The stage that carries the projector."""

    jitter_um: NotNegative = Field(10.0, description="rms per axis of the true position about the commanded one, um")
    readback_um: NotNegative = Field(0.1, description="noise of the recorded position, um rms")
    recorded: bool = Field(True, description="headers record the measured position; otherwise the commanded one")
    offset_mm: tuple[float, float] = Field((0.9, -0.9), description="beam centre minus aimed position, CCS mm")
    rotation_mrad: float = Field(0.2, description="angle of the stage's axes to the camera's, mrad")
    folder_before_offset_mm: tuple[float, float] | None = Field(
        None, description="XOFFSET and YOFFSET that the stage adds to the position in the folder's name, mm"
    )


class SimulateCampaign(Section):
    """Exposures of a campaign, and detectors read out."""

    scan_size: Annotated[int, Field(ge=2)] = Field(12, description="positions of the beam scan along each axis")
    scan_width_mm: Positive = Field(80.0, description="side of the scanned window, mm")
    scan_order: Literal["planned", "random"] = Field("planned", description="positions of the scan column by column, or shuffled")
    images: Annotated[int, Field(ge=1)] = Field(5, description="images per pointing and LED")
    biases: Annotated[int, Field(ge=0)] = Field(10, description="bias exposures before the pointings of a run")
    readout: Literal["raft", "target"] = Field("raft", description="a pointing reads the whole raft, or the CCD aimed at")
    compression: Literal["none", "rice", "sample"] = Field(
        "sample", description="no compression, RICE, or RICE in one exposure per LED"
    )


class SimulateHandover(Section):
    """Inputs of the reduction other than raw files."""

    gains: Literal["true", "fe55", "ptc"] = Field(
        "true", description="gains in the configuration: true, or as measured with Fe55 or by photon transfer (both are written)"
    )
    fe55_rms: Fraction = Field(2e-3, description="errors of gains from Fe55, relative rms over amplifiers")
    ptc_rms: Fraction = Field(2e-3, description="errors of gains from photon transfer, relative rms over amplifiers")
    ptc_bias: float = Field(5e-3, gt=-1.0, description="common error of all gains from photon transfer, relative")
    linearity: bool = Field(True, description="write the table of linearity")
    defects: bool = Field(True, description="write the table of bad columns and hot pixels")
    temperature_coefficient: bool = Field(True, description="write the temperature coefficient of the gains if they change")


PRESETS: dict[str, dict[str, Any]] = {
    "mini": {
        "camera": "lsstcam-bin8",
        "rafts": ["R22"],
        "leds": ["red", "nm960"],
        "sensor": {"prnu_rms": 2e-3},
        "campaign": {"readout": "raft", "compression": "sample"},
    },
    "raft": {
        "camera": "lsstcam",
        "rafts": ["R22"],
        "campaign": {"readout": "raft", "compression": "rice"},
    },
    "focal-plane": {
        "camera": "lsstcam-bin8",
        "rafts": [],
        "sensor": {"prnu_rms": 2e-3},
        "campaign": {"readout": "target", "compression": "sample"},
    },
}
"""Overrides of each preset."""

LIGHT: dict[str, Any] = {"campaign": {"images": 1}}
"""Overrides of ``light: true``."""

NO_NUISANCES: dict[str, Any] = {
    "effects": dict.fromkeys(
        (
            "bias_structure", "board_drift", "brighter_fatter", "cosmic_rays", "crosstalk", "dark_current", "deferred_charge", "gain_steps",
            "hot_pixels", "jitter", "led_drift", "led_instability", "nonlinearity", "offset", "offset_drift",
            "photodiode_drift", "photodiode_noise", "photodiode_step", "photodiode_walk", "ring", "rotation", "structure",
            "temperature_drift", "weather",
        ),
        False,
    )
}  # fmt: skip
"""Overrides of ``nuisances: false``: photon noise, read noise, gains and the flat itself stay."""


class SimulateConfig(Section):
    """A campaign of the projector on a camera, with known truth."""

    preset: Literal["mini", "raft", "focal-plane"] = Field("mini", description="named set of values; explicit keys override it")
    light: bool = Field(False, description="one image per pointing")
    nuisances: bool = Field(True, description="false: only photon noise, read noise, gains and the flat")
    seed: Annotated[int, Field(ge=0)] = Field(1, description="seed of all random numbers")
    camera: Annotated[str, ConfigPath(is_camera=True)] = Field("lsstcam-bin8", description="camera by name or file")
    rafts: tuple[RaftText, ...] = Field((), description="rafts with pointings; empty: all with science detectors")
    detectors: tuple[DetectorText, ...] = Field((), description="restrict to these detectors; empty: all of the rafts")
    leds: Annotated[tuple[LedName, ...], Field(min_length=1)] = Field(
        ("nm960", "nm850", "nm750", "red", "blue", "uv"), description="LEDs in the order of exposure"
    )
    effects: SimulateEffects = Field(SimulateEffects(), description="switches of all effects")
    beam: SimulateBeam = Field(SimulateBeam(), description="the projector's beam")
    sensor: SimulateSensor = Field(SimulateSensor(), description="response and defects of the sensors")
    electronics: SimulateElectronics = Field(SimulateElectronics(), description="amplifiers")
    lamp: SimulateLamp = Field(SimulateLamp(), description="LEDs and photodiode")
    weather: SimulateWeather = Field(SimulateWeather(), description="the light path")
    gain_steps: SimulateGainSteps = Field(SimulateGainSteps(), description="gains that change once")
    stage: SimulateStage = Field(SimulateStage(), description="the projector's stage")
    campaign: SimulateCampaign = Field(SimulateCampaign(), description="exposures and detectors read out")
    handover: SimulateHandover = Field(SimulateHandover(), description="inputs of the reduction")

    @model_validator(mode="before")
    @classmethod
    def _apply_overrides(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        layered: dict[str, Any] = {}
        preset = given.get("preset", "mini")
        layers = [PRESETS.get(preset, {}) if isinstance(preset, str) else {}]
        if given.get("light", False) is True:
            layers.append(LIGHT)
        if given.get("nuisances", True) is False:
            layers.append(NO_NUISANCES)
        for layer in (*layers, given_values(given)):
            layered = merged(layered, layer)
        return layered


def given_values(content: dict[str, Any]) -> dict[str, Any]:
    """Return the explicit values of a section; subsections given as objects become maps of their explicit values."""
    return {
        key: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value for key, value in content.items()
    }


Count = Annotated[int, Field(ge=0)]


class SimulateSpotsEffects(DetectorEffects):
    """Switches of effects: a disabled effect leaves no trace."""

    background: bool = Field(True, description="glow of the projector between the spots")
    brighter_fatter: bool = Field(False, description="collected charge repels charge (galsim's silicon sensor; slow)")
    diffusion: bool = Field(True, description="charge diffusion that differs over the sensor and changes the width of spots")
    displacement: bool = Field(True, description="pixel-area variation: charge is displaced from the light")
    distortion: bool = Field(True, description="optical distortion of the grid")
    efficiency: bool = Field(True, description="quantum efficiency that differs over the sensor")
    jitter: bool = Field(True, description="random error of the stage position")
    lamp_drift: bool = Field(True, description="lamp that brightens or fades over the campaign")
    lamp_scatter: bool = Field(True, description="lamp that scatters between exposures")
    node_scatter: bool = Field(True, description="pinholes displaced from the nodes of the grid")
    shape_variation: bool = Field(True, description="widths and shapes of spots that differ over the mask")


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
    node_scatter_px: NotNegative = Field(0.12, description="scatter of the pinholes' positions, rms over both axes, pixels")


class SimulateSpotsBackground(Section):
    """Glow of the projector between the spots."""

    electrons: NotNegative = Field(120.0, description="glow in the bright disc, electrons per pixel")
    edge: Positive = Field(0.2, description="width of the glow's edge, in half sides of the mask")
    pedestal: NotNegative = Field(10.0, description="light everywhere, electrons per pixel")


class SimulateSpotsMixture(Section):
    """A flat of known parts: independent random fields of one spectrum, added to the other maps of the sensor."""

    rms: Fraction = Field(0.0, description="rms of all parts together in the flat, relative; 0: none")
    scale_px: Positive = Field(12.0, description="sigma of the smoothing Gaussian, pixels")
    high_pass_px: Positive = Field(30.0, description="sigma of the Gaussian of the subtracted large-scale structure, pixels")
    efficiency: NotNegative = Field(
        0.6, description="fraction of the variance due to quantum efficiency; fractions are normalised to a sum of 1"
    )
    area: NotNegative = Field(0.4, description="fraction of the variance due to pixel area")
    diffusion: NotNegative = Field(0.0, description="fraction of the variance due to diffusion")

    @model_validator(mode="after")
    def _has_parts(self) -> SimulateSpotsMixture:
        if not self.efficiency + self.area + self.diffusion > 0:
            raise ValueError("one of efficiency, area and diffusion must be above 0")
        return self


class SimulateSpotsSensor(Section):
    """Response of the sensor: three maps that act on the charge."""

    efficiency_rms: Fraction = Field(3e-3, description="smooth quantum efficiency, relative rms")
    efficiency_scale_px: Positive = Field(60.0, description="sigma of the smoothing Gaussian, pixels")
    pixel_efficiency_rms: Fraction = Field(5e-4, description="quantum efficiency from pixel to pixel, relative rms")
    tree_ring_rms: Fraction = Field(1e-3, description="pixel-area variation of the tree rings in the flat, relative rms")
    tree_ring_scale_px: Positive = Field(12.0, description="sigma of one ring, pixels")
    pixel_area_rms: Fraction = Field(1e-3, description="pixel-area variation from pixel to pixel in the flat, relative rms")
    diffusion_rms_px2: NotNegative = Field(0.05, description="change of the charge's variance by diffusion, rms, pixel^2")
    diffusion_scale_px: Positive = Field(12.0, description="sigma of the smoothing Gaussian, pixels")
    dark_current: NotNegative = Field(0.05, description="dark current of a pixel, electrons per s")
    mixture: SimulateSpotsMixture = Field(SimulateSpotsMixture(), description="parts of the flat with known fractions")


class SimulateSpotsLamp(Section):
    """The lamp behind the mask."""

    scatter: Fraction = Field(2e-3, description="scatter of the light between exposures, relative rms")
    drift: float = Field(2e-3, description="linear change of the light over the campaign, relative")


class SimulateSpotsCampaign(Section):
    """Exposures of a campaign."""

    mode: Literal["dithered", "fixed"] = Field("dithered", description="each exposure at its own position, or all at one")
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
    led: LedName = Field("red", description="LED; name it in campaign.filter as well if spots and flats are of one band")
    scan_size: Annotated[int, Field(ge=4)] = Field(10, description="positions of the beam scan along each axis")
    scan_width_mm: Positive = Field(20.0, description="side of the scanned window, mm; use 80 for the middle of whole sensors")
    electrons: Positive = Field(50000.0, description="electrons per pixel at the beam's maximum where the flat is 1")


SPOTS_PRESETS: dict[str, dict[str, Any]] = {
    "stars": {},
    "stars-and-flats": {
        "sensor": {"efficiency_rms": 1e-3, "mixture": {"rms": 3e-3}},
        "campaign": {"exposures": 40, "filter": "red", "compressed": True},
        "flats": {"images": 5},
    },
}
"""Overrides of each preset."""


class SimulateSpotsConfig(Section):
    """A campaign of the spot projector on a sensor, with known truth."""

    preset: Literal["stars", "stars-and-flats"] = Field("stars", description="named set of values; explicit keys override it")
    seed: Count = Field(1, description="seed of all random numbers")
    camera: Annotated[str, ConfigPath(is_camera=True)] = Field("spots-cutout", description="camera by name or file")
    detector: DetectorText = Field("R22_S11", description="detector of the spots")
    effects: SimulateSpotsEffects = Field(SimulateSpotsEffects(), description="switches of all effects")
    mask: SimulateSpotsMask = Field(SimulateSpotsMask(), description="mask of pinholes and its image")
    background: SimulateSpotsBackground = Field(SimulateSpotsBackground(), description="glow between the spots")
    sensor: SimulateSpotsSensor = Field(SimulateSpotsSensor(), description="response of the sensor")
    lamp: SimulateSpotsLamp = Field(SimulateSpotsLamp(), description="lamp")
    campaign: SimulateSpotsCampaign = Field(SimulateSpotsCampaign(), description="exposures")
    flats: SimulateSpotsFlats = Field(SimulateSpotsFlats(), description="flats of the same sensor")
    electronics: SimulateElectronics = Field(SimulateElectronics(), description="amplifiers")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        preset = given.get("preset", "stars")
        return merged(SPOTS_PRESETS.get(preset, {}) if isinstance(preset, str) else {}, given_values(given))
