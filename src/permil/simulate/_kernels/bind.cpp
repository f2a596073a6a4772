// permil._kernels.simulate: types, sizes and ranges are checked here, once for each call, so that kernels need not.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "_kernels/arrays.hpp"
#include "_kernels/levels.hpp"
#include "simulate/_kernels/kernels.hpp"

namespace permil::simulate {
namespace {

const Kernels& kernels() { return KERNELS_IN_USE; }

constexpr const char* AMPLIFIERS_DIFFER = "amplifiers differ in number";
constexpr const char* SEGMENTS_DIFFER = "segments differ in shape";
constexpr const char* IMAGES_DIFFER = "images differ in shape";
constexpr const char* SPOTS_DIFFER = "spots differ in number";

Layers make_layers() {
  constexpr double TAIL = 3.6541528853610088;
  const double half_pi = std::acos(-1.0) / 2.0, density = std::exp(-0.5 * (TAIL * TAIL));
  const double area = TAIL * density + std::sqrt(half_pi) * std::erfc(TAIL / std::sqrt(2.0));
  Layers layers{};
  layers.edges[0] = area / density;
  layers.edges[1] = TAIL;
  for (int layer = 2; layer < Layers::COUNT; ++layer) {
    const double before = layers.edges[layer - 1];
    layers.edges[layer] = std::sqrt(-2.0 * std::log(area / before + std::exp(-0.5 * (before * before))));
  }
  for (int layer = 0; layer <= Layers::COUNT; ++layer) layers.densities[layer] = std::exp(-0.5 * (layers.edges[layer] * layers.edges[layer]));
  return layers;
}

const Layers& layers() {
  static const Layers own = make_layers();
  return own;
}

void require_state(const Array<uint64_t, 1>& state) { require(has_shape(state, {4}), "a state of the random generator has four words"); }

template <class T>
Segments segments_of(const Array<T, 3>& pixels) {
  return {int64_t(pixels.shape(0)), int64_t(pixels.shape(1)), int64_t(pixels.shape(2))};
}

void fill_normal(Array<uint64_t, 1> state, Array<double, 1> output) {
  require_state(state);
  nb::gil_scoped_release release;
  kernels().fill_normal(layers(), state.data(), output.data(), int64_t(output.size()));
}

void draw_charge(Array<const float, 3> light, double level, Array<const float, 3> dark, Array<uint64_t, 1> state, Array<float, 3> charge) {
  const Segments own = segments_of(light);
  require(has_shape(dark, {own.amplifiers, own.ny, own.nx}) && has_shape(charge, {own.amplifiers, own.ny, own.nx}), SEGMENTS_DIFFER);
  require_state(state);
  nb::gil_scoped_release release;
  std::vector<float> memory(own.nx);
  kernels().draw_charge(layers(), own, light.data(), float(level), dark.data(), state.data(), memory.data(), charge.data());
}

void add_photon_noise(Array<const double, 2> mean, Array<uint64_t, 1> state, Array<float, 2> charge) {
  const int64_t ny = int64_t(mean.shape(0)), nx = int64_t(mean.shape(1));
  require(has_shape(charge, {ny, nx}), IMAGES_DIFFER);
  require_state(state);
  nb::gil_scoped_release release;
  std::vector<float> memory(nx);
  kernels().add_photon_noise(layers(), ny, nx, mean.data(), state.data(), memory.data(), charge.data());
}

void convert_charge(Array<float, 3> charge, Array<const double, 1> full_well, Array<const double, 1> gain,
                    Array<const double, 1> curvature) {
  const Segments own = segments_of(charge);
  for (const auto* each : {&full_well, &gain, &curvature}) require(has_shape(*each, {own.amplifiers}), AMPLIFIERS_DIFFER);
  nb::gil_scoped_release release;
  kernels().convert_charge(own, full_well.data(), gain.data(), curvature.data(), charge.data());
}

void read_out(Array<const float, 3> counts, nb::handle electronics, Array<const float, 2> drift, Array<const double, 1> noise,
              int64_t prescan, Array<uint64_t, 1> state, Array<int32_t, 3> raw) {
  const Segments own = segments_of(counts);
  const int64_t ny = int64_t(raw.shape(1)), nx = int64_t(raw.shape(2));
  const auto crosstalk = array_of<const double, 2>(electronics, "crosstalk");
  const auto bias = array_of<const float, 3>(electronics, "bias");
  const auto deferred = array_of<const double, 1>(electronics, "deferred");
  require(has_shape(raw, {own.amplifiers, ny, nx}) && has_shape(crosstalk, {own.amplifiers, own.amplifiers}) &&
              has_shape(noise, {own.amplifiers}),
          AMPLIFIERS_DIFFER);
  require(has_shape(bias, {own.amplifiers, ny, nx}) && has_shape(drift, {own.amplifiers, ny}), "bias or drift is not that of the raw segments");
  require(own.ny > 0 && own.nx > 0 && own.ny <= ny && prescan >= 0 && prescan + own.nx <= nx, "the active pixels lie outside the raw segments");
  require_state(state);
  const Electronics of_detector{crosstalk.data(), bias.data(), deferred.data(), int64_t(deferred.size())};
  nb::gil_scoped_release release;
  std::vector<float> memory(2 * nx);
  kernels().read_out(layers(), own, counts.data(), of_detector, {drift.data(), noise.data()}, state.data(), memory.data(),
                     {raw.data(), ny, nx, prescan});
}

int64_t compress_rows(Array<const int32_t, 2> pixels, Array<uint8_t, 1> heap, Array<int32_t, 2> descriptors) {
  const int64_t ny = int64_t(pixels.shape(0)), nx = int64_t(pixels.shape(1));
  // A block of 32 pixels that cannot be compressed has 5 bits more than its pixels; the first pixel comes once more.
  require(nx > 0 && has_shape(descriptors, {ny, 2}) && int64_t(heap.size()) >= ny * (8 + 4 * nx + nx / 32 + 1),
          "there is not enough memory for compressed rows");
  nb::gil_scoped_release release;
  return kernels().compress_rows(pixels.data(), ny, nx, heap.data(), int64_t(heap.size()), descriptors.data());
}

/// Return a beam with the seven constants of its radial shape.
Beam beam_of(const Array<const double, 2>& knots, double spacing, const Array<const double, 1>& shape) {
  const int64_t n_x = int64_t(knots.shape(0)), n_y = int64_t(knots.shape(1));
  require(n_x >= 4 && n_y >= 4 && spacing > 0 && has_shape(shape, {7}), "the beam has too few knots, or no shape");
  const double* own = shape.data();
  return {knots.data(), n_x, n_y, spacing, own[0], own[1], own[2], own[3], own[4], own[5], own[6]};
}

void beam_at_points(Array<const double, 1> x, Array<const double, 1> y, Array<const double, 2> knots, double spacing,
                    Array<const double, 1> shape, Array<double, 1> levels) {
  const int64_t n = int64_t(x.size());
  const Beam beam = beam_of(knots, spacing, shape);
  require(has_shape(y, {n}) && has_shape(levels, {n}), "places differ in number");
  nb::gil_scoped_release release;
  kernels().beam_at_points(beam, x.data(), y.data(), n, levels.data());
}

void beam_on_grid(Array<const double, 1> rows, Array<const double, 1> columns, Array<const double, 2> knots, double spacing,
                  Array<const double, 1> shape, Array<float, 2> levels) {
  const int64_t n_rows = int64_t(rows.size()), n = int64_t(columns.size());
  const Beam beam = beam_of(knots, spacing, shape);
  require(has_shape(levels, {n_rows, n}), "the grid has other sides than its levels");
  nb::gil_scoped_release release;
  std::vector<int64_t> first(n);
  std::vector<double> memory(6 * n + beam.n_y);
  double* const own = memory.data();
  kernels().beam_on_grid(beam, rows.data(), n_rows, {n, columns.data(), first.data(), own, own + 4 * n, own + 5 * n, own + 6 * n},
                         levels.data());
}

Spots spots_of(const Array<const double, 1>& x, const Array<const double, 1>& y, const Array<const double, 1>& flux) {
  const int64_t count = int64_t(x.size());
  require(has_shape(y, {count}) && has_shape(flux, {count}), SPOTS_DIFFER);
  return {count, x.data(), y.data(), flux.data()};
}

void add_cores(Array<double, 2> light, Array<const double, 1> x, Array<const double, 1> y, Array<const double, 1> flux,
               Array<const double, 1> xx, Array<const double, 1> yy, Array<const double, 1> xy) {
  const Spots spots = spots_of(x, y, flux);
  for (const auto* each : {&xx, &yy, &xy}) require(has_shape(*each, {spots.count}), SPOTS_DIFFER);
  nb::gil_scoped_release release;
  kernels().add_cores(spots, xx.data(), yy.data(), xy.data(), int64_t(light.shape(0)), int64_t(light.shape(1)), light.data());
}

void add_round(Array<double, 2> light, Array<const double, 1> x, Array<const double, 1> y, Array<const double, 1> flux, double sigma) {
  const Spots spots = spots_of(x, y, flux);
  const int64_t ny = int64_t(light.shape(0)), nx = int64_t(light.shape(1));
  nb::gil_scoped_release release;
  std::vector<double> memory(ny + nx);
  kernels().add_round(spots, sigma, ny, nx, memory.data(), light.data());
}

void move_charge(Array<const double, 2> charge, Array<const double, 2> shift_x, Array<const double, 2> shift_y,
                 Array<const double, 3> displacement, Array<const double, 2> diffusion, Array<double, 2> moved) {
  const int64_t ny = int64_t(charge.shape(0)), nx = int64_t(charge.shape(1)), pixels = ny * nx;
  require(ny > 0 && nx > 0 && has_shape(moved, {ny, nx}) && has_shape(diffusion, {ny, nx}) && has_shape(shift_x, {ny, nx + 1}) &&
              has_shape(shift_y, {ny + 1, nx}) && has_shape(displacement, {2, ny, nx}),
          IMAGES_DIFFER);
  const Sensor sensor{ny, nx, charge.data(), diffusion.data(), shift_x.data(), shift_y.data(), displacement.data(), displacement.data() + pixels};
  nb::gil_scoped_release release;
  const std::unique_ptr<double[]> planes(new double[4 * pixels]);
  std::vector<double> memory(nx + 1);
  kernels().move_charge(sensor, {planes.get(), planes.get() + pixels, planes.get() + 2 * pixels, planes.get() + 3 * pixels}, memory.data(),
                        moved.data());
}

}  // namespace

void bind(nb::module_& module) {
  using nb::arg;
  module.def("fill_normal", &fill_normal, arg("state").noconvert(), arg("output").noconvert(),
             "Fill standard normals and advance the state of the generator.");
  module.def("draw_charge", &draw_charge, arg("light").noconvert(), arg("level"), arg("dark").noconvert(), arg("state").noconvert(),
             arg("charge").noconvert(), "Draw the charge of every active pixel, electrons.");
  module.def("add_photon_noise", &add_photon_noise, arg("mean").noconvert(), arg("state").noconvert(), arg("charge").noconvert(),
             "Fill charge of a mean with photon noise, electrons.");
  module.def("convert_charge", &convert_charge, arg("charge").noconvert(), arg("full_well").noconvert(), arg("gain").noconvert(),
             arg("curvature").noconvert(), "Turn charge into counts above bias in place, without noise of the readout.");
  module.def("read_out", &read_out, arg("counts").noconvert(), arg("electronics"), arg("drift").noconvert(), arg("noise").noconvert(),
             arg("prescan"), arg("state").noconvert(), arg("raw").noconvert(), "Turn counts above bias into raw segments.");
  module.def("compress_rows", &compress_rows, arg("pixels").noconvert(), arg("heap").noconvert(), arg("descriptors").noconvert(),
             "Compress each row as one RICE_1 tile; return how many bytes all have.");
  module.def("beam_at_points", &beam_at_points, arg("x").noconvert(), arg("y").noconvert(), arg("knots").noconvert(), arg("spacing"),
             arg("shape").noconvert(), arg("levels").noconvert(), "Evaluate a beam at places.");
  module.def("beam_on_grid", &beam_on_grid, arg("rows").noconvert(), arg("columns").noconvert(), arg("knots").noconvert(), arg("spacing"),
             arg("shape").noconvert(), arg("levels").noconvert(),
             "Evaluate a beam where the first coordinate depends on the row alone and the second on the column alone.");
  module.def("add_cores", &add_cores, arg("light").noconvert(), arg("x").noconvert(), arg("y").noconvert(), arg("flux").noconvert(),
             arg("xx").noconvert(), arg("yy").noconvert(), arg("xy").noconvert(), "Add elliptical Gaussians, integrated over each pixel.");
  module.def("add_round", &add_round, arg("light").noconvert(), arg("x").noconvert(), arg("y").noconvert(), arg("flux").noconvert(),
             arg("sigma"), "Add round Gaussians, integrated over each pixel.");
  module.def("move_charge", &move_charge, arg("charge").noconvert(), arg("shift_x").noconvert(), arg("shift_y").noconvert(),
             arg("displacement").noconvert(), arg("diffusion").noconvert(), arg("moved").noconvert(),
             "Carry charge across the borders of pixels; nothing crosses the outer ones.");
}

}  // namespace permil::simulate
