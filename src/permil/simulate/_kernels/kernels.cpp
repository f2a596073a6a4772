// The kernels of permil.simulate; compiled once for each level of instructions.
#include "simulate/_kernels/kernels.hpp"

#include "simulate/_kernels/beam.hpp"
#include "simulate/_kernels/electronics.hpp"
#include "simulate/_kernels/rice.hpp"
#include "simulate/_kernels/spots.hpp"

namespace permil::simulate {
namespace {

void fill_normal(const Layers& layers, uint64_t* state, double* output, int64_t n) {
  Normals normals(layers, state);
  const auto row = span_of(output, n);
  for (int64_t x = 0; x < n; ++x) row[x] = normals.next();
  normals.save(state);
}

void draw_charge(const Layers& layers, const Segments& own, const float* light, float level, const float* dark, uint64_t* state,
                 float* memory, float* charge) {
  const int64_t nx = own.nx;
  Normals normals(layers, state);
  // Normals of a row come first, since the rest then runs on vector units.
  const auto noise = span_of(memory, nx);
  for (int64_t at = 0; at < own.amplifiers * own.ny * nx; at += nx) {
    fill_normals(normals, noise, nx);
    draw_row(span_of(light + at, nx), level, span_of(dark + at, nx), noise, span_of(charge + at, nx), nx);
  }
  normals.save(state);
}

void add_photon_noise(const Layers& layers, int64_t ny, int64_t nx, const double* mean, uint64_t* state, float* memory, float* charge) {
  Normals normals(layers, state);
  const auto noise = span_of(memory, nx);
  for (int64_t at = 0; at < ny * nx; at += nx) {
    const auto own = span_of(mean + at, nx);
    const auto row = span_of(charge + at, nx);
    fill_normals(normals, noise, nx);
    LOOP (int64_t x = 0; x < nx; ++x) row[x] = float(own[x] + std::sqrt(at_least(own[x], 0.0)) * double(noise[x]));
  }
  normals.save(state);
}

void convert_charge(const Segments& own, const double* full_well, const double* gain, const double* curvature, float* charge) {
  const int64_t pixels = own.ny * own.nx;
  for (int64_t amplifier = 0; amplifier < own.amplifiers; ++amplifier)
    convert_row(span_of(charge + amplifier * pixels, pixels), float(full_well[amplifier]), float(1.0 / gain[amplifier]),
                float(4.0 * curvature[amplifier]), pixels);
}

void read_out(const Layers& layers, const Segments& own, const float* counts, const Electronics& electronics, const Readout& readout,
              uint64_t* state, float* memory, const Raw& raw) {
  Normals normals(layers, state);
  const auto line = span_of(memory, raw.nx), noise = span_of(memory + raw.nx, raw.nx);
  const auto all = span_of(counts, own.amplifiers * own.ny * own.nx);
  for (int64_t victim = 0; victim < own.amplifiers; ++victim)
    for (int64_t row = 0; row < raw.ny; ++row) {
      const int64_t at = victim * raw.ny + row;
      compose_row(all, own, electronics, victim, row, raw, line);
      fill_normals(normals, noise, raw.nx);
      digitise_row(line, span_of(electronics.bias + at * raw.nx, raw.nx), readout.drift[at] + 0.5f, float(readout.noise[victim]), noise,
                   span_of(raw.pixels + at * raw.nx, raw.nx), raw.nx);
    }
  normals.save(state);
}

int64_t compress_rows(const int32_t* pixels, int64_t ny, int64_t nx, uint8_t* heap, int64_t n_heap, int32_t* descriptors) {
  int64_t offset = 0;
  for (int64_t row = 0; row < ny; ++row) {
    const int64_t end = encode_row(span_of(pixels + row * nx, nx), nx, span_of(heap, n_heap), offset);
    descriptors[2 * row] = int32_t(end - offset);
    descriptors[2 * row + 1] = int32_t(offset);
    offset = end;
  }
  return offset;
}

void beam_at_points(const Beam& beam, const double* x, const double* y, int64_t n, double* levels) {
  for (int64_t point = 0; point < n; ++point) levels[point] = beam_at(beam, x[point], y[point]);
}

void beam_on_grid(const Beam& beam, const double* rows, int64_t n_rows, const BeamColumns& columns, float* levels) {
  take_columns(beam, columns);
  for (int64_t row = 0; row < n_rows; ++row)
    fill_beam_row(beam, rows[row], columns, span_of(levels + row * columns.count, columns.count));
}

void add_cores(const Spots& spots, const double* xx, const double* yy, const double* xy, int64_t ny, int64_t nx, double* light) {
  for (int64_t spot = 0; spot < spots.count; ++spot)
    add_core(spots.x[spot], spots.y[spot], spots.flux[spot], xx[spot], yy[spot], xy[spot], ny, nx, span_of(light, ny * nx));
}

void add_rounds(const Spots& spots, double sigma, int64_t ny, int64_t nx, double* memory, double* light) {
  for (int64_t spot = 0; spot < spots.count; ++spot)
    add_round(spots.x[spot], spots.y[spot], spots.flux[spot], sigma, ny, nx, span_of(memory, ny), span_of(memory + ny, nx),
              span_of(light, ny * nx));
}

void move_charge(const Sensor& sensor, const Spread& spread, double* memory, double* moved) {
  const int64_t ny = sensor.ny, nx = sensor.nx, pixels = ny * nx;
  const auto charge = span_of(sensor.charge, pixels), diffusion = span_of(sensor.diffusion, pixels);
  const auto fourth = span_of(spread.fourth, pixels);
  LOOP (int64_t pixel = 0; pixel < pixels; ++pixel) fourth[pixel] = charge[pixel] * (diffusion[pixel] * diffusion[pixel]);
  for (int64_t row = 0; row < ny; ++row) spread_row(sensor, row, spread);
  for (int64_t row = 0; row < ny; ++row) move_along_row(sensor, spread, row, span_of(memory, nx + 1), span_of(moved + row * nx, nx));
  for (int64_t border = 1; border < ny; ++border)
    move_across_rows(sensor, spread, border, span_of(moved + (border - 1) * nx, nx), span_of(moved + border * nx, nx));
}

}  // namespace

extern const Kernels PERMIL_LEVEL = {fill_normal,    draw_charge,  add_photon_noise, convert_charge, read_out,   compress_rows,
                                     beam_at_points, beam_on_grid, add_cores,        add_rounds,     move_charge};

}  // namespace permil::simulate
