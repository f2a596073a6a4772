// Stars on maps: what each star answers to maps of a sensor, and what sums over stars weigh the maps with.
#pragma once
#include "compare/_kernels/flat_kernels.hpp"

namespace permil::compare {
namespace {

/// Return the pixel that stands for one beyond the detector's edge: nothing crosses it.
inline int64_t mirrored(int64_t index, int64_t size) {
  if (index < 0) index = -1 - index;
  if (index >= size) index = 2 * size - 1 - index;
  return smaller(larger(index, 0), size - 1);
}

/// Fill the pixels [band, pixel of the stamp] around one; what lies beyond the edges is mirrored.
inline void cut_patch(const float* map, const Maps& maps, const StarPlace& place, int64_t half, int64_t* columns, Span<double> patch) {
  const int64_t size = 2 * half + 1, pixels = size * size;
  const auto offset = span_of(columns, size);
  for (int64_t b = 0; b < size; ++b) offset[b] = mirrored(place.column + b - half, maps.nx) * maps.bands;
  for (int64_t a = 0; a < size; ++a) {
    const int64_t row = mirrored(place.row + a - half, maps.ny);
    const auto own = span_of(map + row * maps.nx * maps.bands, maps.nx * maps.bands);
    for (int64_t band = 0; band < maps.bands; ++band)
      LOOP (int64_t b = 0; b < size; ++b) patch[band * pixels + a * size + b] = own[offset[b] + band];
  }
}

/// Return the sum of a kernel times a patch, in lanes that are added up pairwise.
inline double sum_product(Span<const double> kernel, Span<const double> patch, int64_t pixels) {
  constexpr int LANES = 32;
  double lanes[LANES] = {}, total = 0.0;
  int64_t pixel = 0;
  for (; pixel + LANES <= pixels; pixel += LANES)
    for (int lane = 0; lane < LANES; ++lane) lanes[lane] += kernel[pixel + lane] * patch[pixel + lane];
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  for (; pixel < pixels; ++pixel) total += kernel[pixel] * patch[pixel];
  return lanes[0] + total;
}

/// What a star answers to a band: templates of the three kinds by quantity, and instruments of the flux, the shifts and the sizes.
struct Answers {
  double templates[N_KINDS][N_QUANTITIES], instruments[N_SPREAD];
};

/// Fill the answers to F - 1 of templates of efficiency, and of the instruments; `curved` holds the Laplacian of the sizes' kernels.
inline void answer_to_excess(const Stamp& stamp, const double* curved, Span<const double> patch, Answers& answers) {
  const int64_t pixels = stamp.size * stamp.size;
  const auto sum = [&](const double* kernel) { return sum_product(span_of(kernel, pixels), patch, pixels); };
  for (int quantity = 0; quantity < N_QUANTITIES; ++quantity) answers.templates[0][quantity] = sum(kernel_of(stamp, 0, quantity));
  answers.instruments[0] = answers.templates[0][FLUX];
  for (int shift = 0; shift < 2; ++shift) answers.instruments[1 + shift] = -sum(kernel_of(stamp, 1, DX + shift));
  for (int width = 0; width < 2; ++width) answers.instruments[3 + width] = sum(curved + width * pixels);
}

/// Fill the answers to the potential of templates of area and diffusion.
inline void answer_to_potential(const Stamp& stamp, Span<const double> patch, Answers& answers) {
  const int64_t pixels = stamp.size * stamp.size;
  for (int kind = 1; kind < N_KINDS; ++kind)
    for (int quantity = 0; quantity < N_QUANTITIES; ++quantity)
      answers.templates[kind][quantity] = sum_product(span_of<const double>(kernel_of(stamp, kind, quantity), pixels), patch, pixels);
}

/// Fill the Laplacians of the kernels of xx and yy to diffusion.
inline void curve_sizes(const Stamp& stamp, double* curved) {
  const int64_t pixels = stamp.size * stamp.size;
  for (int width = 0; width < 2; ++width)
    five_point_laplacian(span_of<const double>(kernel_of(stamp, 2, XX + width), pixels), stamp.size, span_of(curved + width * pixels, pixels));
}

/// Fill what a star answers to maps of bands; `patches` is memory for patches of both maps, `curved` for two stamps.
inline void predict_star(const Stars& stars, int64_t star, const Maps& maps, const double* unseen, const Stamp& stamp, double* patches,
                         double* curved, int64_t* columns, Span<double> templates, Span<double> instruments) {
  const int64_t pixels = stamp.size * stamp.size, bands = maps.bands;
  const StarPlace place = place_of(stars, star);
  const double flux = answer_of_star(stars, star, place, stamp), glow = stars.glow[star];
  const auto excess = span_of(patches, bands * pixels), potential = span_of(patches + bands * pixels, bands * pixels);
  cut_patch(maps.excess, maps, place, stars.half, columns, excess);
  cut_patch(maps.potential, maps, place, stars.half, columns, potential);
  fill_star_kernels(stamp);
  curve_sizes(stamp, curved);
  for (int64_t band = 0; band < bands; ++band) {
    Answers answers;
    answer_to_excess(stamp, curved, part_of<const double>(excess, band * pixels, pixels), answers);
    answer_to_potential(stamp, part_of<const double>(potential, band * pixels, pixels), answers);
    for (int quantity = 0; quantity < N_QUANTITIES; ++quantity)
      for (int kind = 0; kind < N_KINDS; ++kind)
        templates[(quantity * N_KINDS + kind) * bands + band] = answers.templates[kind][quantity];
    for (int number = 0; number < N_SPREAD; ++number) instruments[number * bands + band] = answers.instruments[number];
  }
  if (!(glow > 0.0)) return;
  fill_glow_kernels(stamp);
  curve_sizes(stamp, curved);
  for (int64_t band = 0; band < bands; ++band) {
    Answers shown;
    answer_to_excess(stamp, curved, part_of<const double>(excess, band * pixels, pixels), shown);
    const double scale = glow * flux * unseen[band];
    // Even light shows all kinds alike.
    for (int quantity = 0; quantity < N_QUANTITIES; ++quantity)
      for (int kind = 0; kind < N_KINDS; ++kind)
        templates[(quantity * N_KINDS + kind) * bands + band] += scale * shown.templates[0][quantity];
    for (int number = 0; number < N_SPREAD; ++number) instruments[number * bands + band] += scale * shown.instruments[number];
  }
}

/// Cells around a star, the first of which holds the first pixel of its stamp, [kind, quantity, row, column].
struct Binned {
  double* sums;
  int64_t side, first_row, first_column;
};

/// Sum kernels over cells; `columns` is memory for a row of the stamp.
inline void bin_kernels(const Stamp& stamp, const StarPlace& place, const CellMaps& maps, int64_t* columns, const Binned& binned) {
  const int64_t size = stamp.size, pixels = size * size, cells = binned.side * binned.side;
  const auto to_column = span_of(columns, size);
  for (int64_t b = 0; b < size; ++b) to_column[b] = mirrored(place.column + b - stamp.half, maps.nx) / maps.cell - binned.first_column;
  for (int kind = 0; kind < N_KINDS; ++kind)
    for (int quantity = 0; quantity < N_SPREAD; ++quantity) {
      const auto kernel = span_of(kernel_of(stamp, kind, quantity), pixels);
      const auto sums = span_of(binned.sums + (kind * N_SPREAD + quantity) * cells, cells);
      for (int64_t cell = 0; cell < cells; ++cell) sums[cell] = 0.0;
      for (int64_t a = 0; a < size; ++a) {
        const int64_t to_row = mirrored(place.row + a - stamp.half, maps.ny) / maps.cell - binned.first_row;
        if (to_row < 0 || to_row >= binned.side) continue;
        for (int64_t b = 0; b < size; ++b)
          if (to_column[b] >= 0 && to_column[b] < binned.side) sums[to_row * binned.side + to_column[b]] += kernel[a * size + b];
      }
    }
}

/// Add cells, times a factor and the weights [quantity, band] of a star, to the maps.
inline void add_cells(const Binned& binned, Span<const double> weights, double factor, const double* unseen, const CellMaps& maps) {
  const int64_t side = binned.side, plane = maps.rows * maps.columns;
  const int64_t rows = smaller(side, maps.rows - binned.first_row), columns = smaller(side, maps.columns - binned.first_column);
  for (int kind = 0; kind < N_KINDS; ++kind)
    for (int quantity = 0; quantity < N_SPREAD; ++quantity)
      for (int64_t band = 0; band < maps.bands; ++band) {
        const double own = weights[quantity * maps.bands + band], weight = unseen ? factor * unseen[band] * own : own;
        if (weight == 0.0) continue;
        const int64_t total = (quantity + 1) / 2;
        for (int64_t a = 0; a < rows; ++a) {
          const int64_t at = ((kind * 3 + total) * maps.bands + band) * plane + (binned.first_row + a) * maps.columns + binned.first_column;
          const auto sums = span_of(maps.sums + at, columns);
          const auto cells = span_of(binned.sums + ((kind * N_SPREAD + quantity) * side + a) * side, side);
          LOOP (int64_t b = 0; b < columns; ++b) sums[b] = float(double(sums[b]) + weight * cells[b]);
        }
      }
}

/// Weights of a star on a flat: their sum, that on usable pixels, and sums of the flat and of its variance with these.
struct FlatSums {
  double total, known, mean, squares;
};

/// Sum a flat over the light of a star in its circle.
inline FlatSums sum_flat(const Stars& stars, int64_t star, const Flat& flat, const Stamp& stamp) {
  const int64_t size = stamp.size;
  const StarPlace place = place_of(stars, star);
  const auto light = span_of(stamp.light, size * size);
  draw_star(place.u0, place.v0, stars.fractions, stars.covariances + 3 * star * stars.n_components, stars.n_components, size, light);
  FlatSums sums{};
  for (int64_t a = 0; a < size; ++a) {
    const int64_t row = place.row + a - stamp.half;
    for (int64_t b = 0; b < size; ++b) {
      const int64_t column = place.column + b - stamp.half;
      const double part = circle_part(double(b - stamp.half) - place.u0, double(a - stamp.half) - place.v0, stars.radius);
      const double weight = light[a * size + b] * part;
      sums.total += weight;
      if (row < 0 || row >= flat.ny || column < 0 || column >= flat.nx) continue;
      const int64_t at = row * flat.nx + column;
      if (!flat.usable[at]) continue;
      sums.known += weight;
      sums.mean += weight * flat.excess[at];
      sums.squares += weight * weight * flat.variance[at];
    }
  }
  return sums;
}

}  // namespace
}  // namespace permil::compare
