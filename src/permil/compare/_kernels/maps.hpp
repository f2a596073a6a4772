// Stars on maps: the response of each star to maps of a sensor, and the weights of the maps in sums over stars.
#pragma once
#include <cstring>

#include "compare/_kernels/flat_kernels.hpp"

namespace permil::compare {
namespace {

/// Return the pixel that stands for one beyond the detector's edge: nothing crosses it.
inline int64_t mirrored(int64_t index, int64_t size) {
  if (index < 0) index = -1 - index;
  if (index >= size) index = 2 * size - 1 - index;
  return smaller(larger(index, 0), size - 1);
}

/// Fill the pixels [band, pixel of the stamp] around one; pixels beyond the edges are mirrored.
inline void cut_patch(const float* map, const Maps& maps, const StarPlace& place, int64_t half, int64_t* columns, Span<double> patch) {
  const int64_t size = 2 * half + 1, pixels = size * size, first = place.column - half;
  const bool is_inside = first >= 0 && place.column + half < maps.nx;
  const auto offset = span_of(columns, size);
  for (int64_t b = 0; b < size; ++b) offset[b] = mirrored(first + b, maps.nx);
  for (int64_t band = 0; band < maps.bands; ++band)
    for (int64_t a = 0; a < size; ++a) {
      const auto own = span_of(map + (band * maps.ny + mirrored(place.row + a - half, maps.ny)) * maps.nx, maps.nx);
      const auto to = part_of(patch, band * pixels + a * size, size);
      if (is_inside) {
        const auto from = part_of(own, first, size);
        LOOP (int64_t b = 0; b < size; ++b) to[b] = from[b];
      } else {
        for (int64_t b = 0; b < size; ++b) to[b] = own[offset[b]];
      }
    }
}

/// Numbers that are multiplied and added together, on whatever vector units there are; sums over lanes are added up pairwise.
constexpr int64_t LANES = 8;
typedef double Lanes __attribute__((vector_size(LANES * sizeof(double))));

inline void load(Span<const double> row, int64_t first, Lanes& lanes) {
  std::memcpy(&lanes, &part_of(row, first, LANES)[0], sizeof lanes);
}

/// Fill the sums of two kernels times two patches; loaded values are used twice.
inline void sum_products(const Span<const double> (&kernels)[2], const Span<const double> (&patches)[2], int64_t pixels,
                         double (&sums)[2][2]) {
  Lanes total[2][2] = {}, kernel[2], patch[2];
  int64_t first = 0;
  for (; first + LANES <= pixels; first += LANES) {
    for (int each = 0; each < 2; ++each) {
      load(kernels[each], first, kernel[each]);
      load(patches[each], first, patch[each]);
    }
    total[0][0] += kernel[0] * patch[0];
    total[0][1] += kernel[0] * patch[1];
    total[1][0] += kernel[1] * patch[0];
    total[1][1] += kernel[1] * patch[1];
  }
  for (int of = 0; of < 2; ++of)
    for (int with = 0; with < 2; ++with) {
      const Lanes& own = total[of][with];
      sums[of][with] = ((own[0] + own[4]) + (own[2] + own[6])) + ((own[1] + own[5]) + (own[3] + own[7]));
      for (int64_t pixel = first; pixel < pixels; ++pixel) sums[of][with] += kernels[of][pixel] * patches[with][pixel];
    }
}

/// Response of a star to a band: templates of the three kinds by quantity, and instruments of the flux, the shifts and the sizes.
struct Answers {
  double templates[N_KINDS][N_QUANTITIES], instruments[N_SPREAD];
};

/// Fill the answers to F - 1 of templates of efficiency, from its kernels, and of the instruments, from the kernels of area and the
/// Laplacians of those of sizes.
inline void answer_to_excess(const double* efficiency, const double* area, const double* curved, int64_t pixels,
                             const Span<const double> (&patches)[2], Answers (&answers)[2]) {
  double sums[2][2];
  const auto sum = [&](const double* kernel) {
    sum_products({span_of(kernel, pixels), span_of(kernel + pixels, pixels)}, patches, pixels, sums);
  };
  for (int quantity = 0; quantity < N_QUANTITIES; quantity += 2) {
    sum(efficiency + quantity * pixels);
    for (int each = 0; each < 2; ++each)
      for (int band = 0; band < 2; ++band) answers[band].templates[0][quantity + each] = sums[each][band];
  }
  for (auto& own : answers) own.instruments[0] = own.templates[0][FLUX];
  sum(area + DX * pixels);
  for (int shift = 0; shift < 2; ++shift)
    for (int band = 0; band < 2; ++band) answers[band].instruments[1 + shift] = -sums[shift][band];
  sum(curved);
  for (int width = 0; width < 2; ++width)
    for (int band = 0; band < 2; ++band) answers[band].instruments[3 + width] = sums[width][band];
}

/// Fill the answers to the potential of templates of area and diffusion.
inline void answer_to_potential(const Stamp& stamp, const Span<const double> (&patches)[2], Answers (&answers)[2]) {
  const int64_t pixels = stamp.size * stamp.size;
  for (int kind = 1; kind < N_KINDS; ++kind)
    for (int quantity = 0; quantity < N_QUANTITIES; quantity += 2) {
      double sums[2][2];
      const double* const kernel = kernel_of(stamp, kind, quantity);
      sum_products({span_of(kernel, pixels), span_of(kernel + pixels, pixels)}, patches, pixels, sums);
      for (int each = 0; each < 2; ++each)
        for (int band = 0; band < 2; ++band) answers[band].templates[kind][quantity + each] = sums[each][band];
    }
}

/// Fill the Laplacians of the kernels of xx and yy to diffusion or area.
inline void curve_sizes(const Stamp& stamp, int kind, double* curved) {
  const int64_t pixels = stamp.size * stamp.size;
  for (int width = 0; width < 2; ++width)
    five_point_laplacian(span_of<const double>(kernel_of(stamp, kind, XX + width), pixels), stamp.size, span_of(curved + width * pixels, pixels));
}

/// Fill the response of a star to maps of bands; `patches` is memory for patches of both maps, `curved` for two stamps.
inline void predict_star(const Stars& stars, int64_t star, const Maps& maps, const double* unseen, const Stamp& stamp, double* patches,
                         double* curved, int64_t* columns, Span<double> templates, Span<double> instruments) {
  const int64_t pixels = stamp.size * stamp.size, bands = maps.bands;
  const StarPlace place = place_of(stars, star);
  const double flux = answer_of_star(stars, star, place, stamp), glow = stars.glow[star];
  double *const excess = patches, *const potential = patches + bands * pixels;
  cut_patch(maps.excess, maps, place, stars.half, columns, span_of(excess, bands * pixels));
  cut_patch(maps.potential, maps, place, stars.half, columns, span_of(potential, bands * pixels));
  // Bands go two by two; the last one of an odd number goes with itself.
  const auto patch_of = [&](const double* map, int64_t band) { return span_of(map + smaller(band, bands - 1) * pixels, pixels); };
  fill_star_kernels(stamp, N_QUANTITIES);
  curve_sizes(stamp, 2, curved);
  for (int64_t band = 0; band < bands; band += 2) {
    Answers answers[2];
    answer_to_excess(kernel_of(stamp, 0, 0), kernel_of(stamp, 1, 0), curved, pixels, {patch_of(excess, band), patch_of(excess, band + 1)}, answers);
    answer_to_potential(stamp, {patch_of(potential, band), patch_of(potential, band + 1)}, answers);
    for (int64_t each = 0; each < 2 && band + each < bands; ++each) {
      for (int quantity = 0; quantity < N_QUANTITIES; ++quantity)
        for (int kind = 0; kind < N_KINDS; ++kind)
          templates[(quantity * N_KINDS + kind) * bands + band + each] = answers[each].templates[kind][quantity];
      for (int number = 0; number < N_SPREAD; ++number) instruments[number * bands + band + each] = answers[each].instruments[number];
    }
  }
  if (!(glow > 0.0)) return;
  fill_glow_kernels(stamp, N_SPREAD);
  curve_sizes(stamp, 1, curved);
  for (int64_t band = 0; band < bands; band += 2) {
    Answers shown[2];
    answer_to_excess(stamp.answer, kernel_of(stamp, 1, 0), curved, pixels, {patch_of(excess, band), patch_of(excess, band + 1)}, shown);
    for (int64_t each = 0; each < 2 && band + each < bands; ++each) {
      const double scale = glow * flux * unseen[band + each];
      // Even light shows all kinds alike.
      for (int quantity = 0; quantity < N_QUANTITIES; ++quantity)
        for (int kind = 0; kind < N_KINDS; ++kind)
          templates[(quantity * N_KINDS + kind) * bands + band + each] += scale * shown[each].templates[0][quantity];
      for (int number = 0; number < N_SPREAD; ++number) instruments[number * bands + band + each] += scale * shown[each].instruments[number];
    }
  }
}

/// Cells around a star, the first of which holds the first pixel of its stamp, and the cell that each row and column of the stamp lies in.
struct StarCells {
  int64_t side, first_row, first_column;
  int64_t *row, *column;
};

/// Return the cells around a star; `numbers` is memory for twice the side of the stamp.
inline StarCells cells_around(const Stamp& stamp, const StarPlace& place, const CellMaps& maps, int64_t side, int64_t* numbers) {
  const int64_t size = stamp.size;
  const StarCells cells{side, larger(place.row - stamp.half, 0) / maps.cell, larger(place.column - stamp.half, 0) / maps.cell, numbers,
                        numbers + size};
  const auto row = span_of(cells.row, size), column = span_of(cells.column, size);
  for (int64_t pixel = 0; pixel < size; ++pixel) {
    row[pixel] = mirrored(place.row + pixel - stamp.half, maps.ny) / maps.cell - cells.first_row;
    column[pixel] = mirrored(place.column + pixel - stamp.half, maps.nx) / maps.cell - cells.first_column;
  }
  return cells;
}

/// Fill the sums of a kernel over cells, [row, column].
inline void bin_kernel(const Stamp& stamp, const double* kernel, const StarCells& cells, double* binned) {
  const int64_t size = stamp.size, side = cells.side;
  const auto row = span_of<const int64_t>(cells.row, size), column = span_of<const int64_t>(cells.column, size);
  const auto sums = span_of(binned, side * side), strip = span_of(stamp.work, size);
  for (int64_t cell = 0; cell < side * side; ++cell) sums[cell] = 0.0;
  for (int64_t a = 0; a < size;) {
    // Rows of the stamp that lie in one row of cells come first.
    const int64_t to_row = row[a];
    for (int64_t b = 0; b < size; ++b) strip[b] = 0.0;
    for (; a < size && row[a] == to_row; ++a) {
      const auto own = span_of(kernel + a * size, size);
      LOOP (int64_t b = 0; b < size; ++b) strip[b] += own[b];
    }
    if (to_row < 0 || to_row >= side) continue;
    for (int64_t b = 0; b < size; ++b)
      if (column[b] >= 0 && column[b] < side) sums[to_row * side + column[b]] += strip[b];
  }
}

/// Kernels summed over cells, [kind, quantity, row, column]: those of a star, and those of even light, whose kinds 1 and 2 are the same.
struct Binned {
  double *of_star, *of_light;
};

/// Add kernels of a star and of even light of one per pixel to the maps, with the weights [quantity, band] of the star; even light has
/// `light` and the part of each band that is not subtracted with the background.
inline void add_cells(const StarCells& cells, const Binned& binned, Span<const double> weights, double light, const double* unseen,
                      const CellMaps& maps) {
  const int64_t side = cells.side, plane = maps.rows * maps.columns;
  const int64_t rows = smaller(side, maps.rows - cells.first_row), columns = smaller(side, maps.columns - cells.first_column);
  const auto kernel_in = [&](const double* kernels, int kind, int quantity) {
    return span_of(kernels + (kind * N_SPREAD + quantity) * side * side, side * side);
  };
  for (int kind = 0; kind < N_KINDS; ++kind)
    for (int total = 0; total < 3; ++total) {
      // The sum of fluxes has one quantity, those of shifts and of sizes have two.
      const int first = total > 0 ? 2 * total - 1 : 0, second = 2 * total, of_light = kind > 0 ? 1 : 0;
      const auto star = kernel_in(binned.of_star, kind, first), also = kernel_in(binned.of_star, kind, second);
      const auto even = kernel_in(binned.of_light, of_light, first), also_even = kernel_in(binned.of_light, of_light, second);
      for (int64_t band = 0; band < maps.bands; ++band) {
        const double weight = weights[first * maps.bands + band], more = total > 0 ? weights[second * maps.bands + band] : 0.0;
        if (weight == 0.0 && more == 0.0) continue;
        const double lit = light * unseen[band] * weight, more_lit = light * unseen[band] * more;
        const int64_t at = ((kind * 3 + total) * maps.bands + band) * plane + cells.first_row * maps.columns + cells.first_column;
        for (int64_t a = 0; a < rows; ++a) {
          const auto sums = span_of(maps.sums + at + a * maps.columns, columns);
          LOOP (int64_t b = 0; b < columns; ++b) {
            const int64_t cell = a * side + b;
            const double change = weight * star[cell] + more * also[cell] + (lit * even[cell] + more_lit * also_even[cell]);
            sums[b] = float(double(sums[b]) + change);
          }
        }
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
  const auto part = span_of(stamp.answer, size * size);
  fill_circle(place.u0, place.v0, stars.radius, stamp, part);
  FlatSums sums{};
  for (int64_t a = 0; a < size; ++a) {
    const int64_t row = place.row + a - stamp.half;
    for (int64_t b = 0; b < size; ++b) {
      const int64_t column = place.column + b - stamp.half;
      const double weight = light[a * size + b] * part[a * size + b];
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
