// The light of spots and its measurement by the sensor; see permil.simulate.spots.
#pragma once
#include "_kernels/mathematics.hpp"
#include "simulate/_kernels/structs.hpp"

namespace permil::simulate {
namespace {

constexpr double PI = 3.14159265358979323846;
/// Sigmas at which a Gaussian ends; beyond lie 3e-7 of its light.
constexpr double REACH = 5.5;

/// Add an elliptical Gaussian, integrated over each pixel.
///
/// Two nodes per axis make flux and second moments exact; the fourth derivative enters with 1/4320 only.
inline void add_core(double x, double y, double flux, double xx, double yy, double xy, int64_t ny, int64_t nx, Span<double> light) {
  const double determinant = xx * yy - xy * xy, node = 0.5 / std::sqrt(3.0);
  const double ixx = yy / determinant, iyy = xx / determinant, ixy = -xy / determinant;
  const double height = 0.25 * flux / (2.0 * PI * std::sqrt(determinant));
  const double reach_x = REACH * std::sqrt(xx) + 0.5, reach_y = REACH * std::sqrt(yy) + 0.5;
  const int64_t last_row = last_pixel(y + reach_y, ny), last_column = last_pixel(x + reach_x, nx);
  for (int64_t row = first_pixel(y - reach_y, ny); row <= last_row; ++row)
    for (int64_t column = first_pixel(x - reach_x, nx); column <= last_column; ++column) {
      double total = 0.0;
      for (int corner = 0; corner < 4; ++corner) {
        const double u = double(column) - x + (corner % 2 ? node : -node), v = double(row) - y + (corner / 2 ? node : -node);
        total += std::exp(-0.5 * (ixx * u * u + iyy * v * v) - ixy * u * v);
      }
      light[row * nx + column] += height * total;
    }
}

/// Fill the part of a one-dimensional Gaussian in each of the pixels first to last.
inline void integrate_gaussian(double centre, double scale, int64_t first, int64_t last, Span<double> parts) {
  double below = std::erf((double(first) - 0.5 - centre) * scale);
  for (int64_t pixel = first; pixel <= last; ++pixel) {
    const double above = std::erf((double(pixel) + 0.5 - centre) * scale);
    parts[pixel - first] = 0.5 * (above - below);
    below = above;
  }
}

/// Add a round Gaussian, integrated over each pixel; `along_y` and `along_x` are memory for a column and a row.
inline void add_round(double x, double y, double flux, double sigma, int64_t ny, int64_t nx, Span<double> along_y, Span<double> along_x,
                      Span<double> light) {
  const double reach = REACH * sigma + 0.5, scale = 1.0 / (sigma * std::sqrt(2.0));
  const int64_t first_row = first_pixel(y - reach, ny), last_row = last_pixel(y + reach, ny);
  const int64_t first_column = first_pixel(x - reach, nx), last_column = last_pixel(x + reach, nx);
  integrate_gaussian(y, scale, first_row, last_row, along_y);
  integrate_gaussian(x, scale, first_column, last_column, along_x);
  for (int64_t row = first_row; row <= last_row; ++row) {
    const double part = flux * along_y[row - first_row];
    const int64_t n = last_column - first_column + 1;
    const auto own = part_of(light, row * nx + first_column, larger(n, 0));
    LOOP (int64_t pixel = 0; pixel < n; ++pixel) own[pixel] += part * along_x[pixel];
  }
}

/// Return the slope of a density on the border between two of four pixels from its means over them, to fourth order.
inline double slope_on_border(double before_last, double last, double following, double after_following) {
  return (15.0 * (following - last) - (after_following - before_last)) / 12.0;
}

/// Call use(index, index before, index after) for a row of n pixels; neighbours beyond its ends are the outermost pixels.
template <class Use>
void for_neighbours(int64_t n, const Use& use) {
  use(0, 0, smaller(1, n - 1));
  LOOP (int64_t x = 1; x < n - 1; ++x) use(x, x - 1, x + 1);
  if (n > 1) use(n - 1, n - 2, n - 1);
}

/// Fill the moments of the steps of the charge of a row; the fourth-order terms of all rows are there.
inline void spread_row(const Sensor& sensor, int64_t row, const Spread& spread) {
  const int64_t nx = sensor.nx, at = row * nx, below = larger(row - 1, 0) * nx, above = smaller(row + 1, sensor.ny - 1) * nx;
  const auto fourth = span_of<const double>(spread.fourth + at, nx);
  const auto fourth_below = span_of<const double>(spread.fourth + below, nx), fourth_above = span_of<const double>(spread.fourth + above, nx);
  const auto charge = span_of(sensor.charge + at, nx), diffusion = span_of(sensor.diffusion + at, nx);
  const auto shift_x = span_of(sensor.centre_x + at, nx), shift_y = span_of(sensor.centre_y + at, nx);
  const auto xx = span_of(spread.xx + at, nx), yy = span_of(spread.yy + at, nx), xy = span_of(spread.xy + at, nx);
  for_neighbours(nx, [&](int64_t column, int64_t left, int64_t right) {
    const double x = shift_x[column], y = shift_y[column], own = charge[column];
    const double around = fourth_above[column] + fourth_below[column] + fourth[right] + fourth[left];
    const double diffused = own * diffusion[column] + 0.25 * (around - 4.0 * fourth[column]);
    xx[column] = own * x * x + diffused;
    yy[column] = own * y * y + diffused;
    xy[column] = own * x * y;
  });
}

/// Move the charge of a row across the borders between its columns; `across` is memory for the borders.
inline void move_along_row(const Sensor& sensor, const Spread& spread, int64_t row, Span<double> across, Span<double> moved) {
  const int64_t nx = sensor.nx, at = row * nx, below = larger(row - 1, 0) * nx, above = smaller(row + 1, sensor.ny - 1) * nx;
  const auto charge = span_of(sensor.charge + at, nx), shift = span_of(sensor.shift_x + row * (nx + 1), nx + 1);
  const auto xx = span_of<const double>(spread.xx + at, nx);
  const auto xy_below = span_of<const double>(spread.xy + below, nx), xy_above = span_of<const double>(spread.xy + above, nx);
  const auto cross = [&](int64_t border, int64_t first, int64_t a, int64_t d, int64_t last) {
    const int64_t b = border - 1, c = border;
    double flow = shift[border] * on_border(charge[b] + charge[c], charge[a] + charge[d], charge[first] + charge[last]);
    flow -= 0.5 * slope_on_border(xx[a], xx[b], xx[c], xx[d]);
    flow -= 0.125 * (xy_above[b] + xy_above[c] - xy_below[b] - xy_below[c]);
    across[border] = flow;
  };
  const auto cross_near_edge = [&](int64_t border) {
    cross(border, larger(border - 3, 0), larger(border - 2, 0), smaller(border + 1, nx - 1), smaller(border + 2, nx - 1));
  };
  const int64_t inner = smaller(3, nx), outer = larger(nx - 2, inner);
  for (int64_t border = 1; border < inner; ++border) cross_near_edge(border);
  LOOP (int64_t border = inner; border < outer; ++border) cross(border, border - 3, border - 2, border + 1, border + 2);
  for (int64_t border = outer; border < nx; ++border) cross_near_edge(border);
  across[0] = across[nx] = 0.0;
  LOOP (int64_t column = 0; column < nx; ++column) moved[column] = charge[column] + across[column] - across[column + 1];
}

/// Move charge across the border between a row and the one below it.
inline void move_across_rows(const Sensor& sensor, const Spread& spread, int64_t border, Span<double> moved_below, Span<double> moved) {
  const int64_t nx = sensor.nx, last = sensor.ny - 1;
  const auto row_of = [nx](const double* plane, int64_t row) { return span_of(plane + row * nx, nx); };
  const int64_t first = larger(border - 3, 0), a = larger(border - 2, 0), b = border - 1, c = border, d = smaller(border + 1, last);
  const auto charge_first = row_of(sensor.charge, first), charge_a = row_of(sensor.charge, a), charge_b = row_of(sensor.charge, b);
  const auto charge_c = row_of(sensor.charge, c), charge_d = row_of(sensor.charge, d);
  const auto charge_last = row_of(sensor.charge, smaller(border + 2, last)), shift = row_of(sensor.shift_y, border);
  const auto yy_a = row_of(spread.yy, a), yy_b = row_of(spread.yy, b), yy_c = row_of(spread.yy, c), yy_d = row_of(spread.yy, d);
  const auto xy_b = row_of(spread.xy, b), xy_c = row_of(spread.xy, c);
  for_neighbours(nx, [&](int64_t x, int64_t left, int64_t right) {
    double flow = shift[x] * on_border(charge_b[x] + charge_c[x], charge_a[x] + charge_d[x], charge_first[x] + charge_last[x]);
    flow -= 0.5 * slope_on_border(yy_a[x], yy_b[x], yy_c[x], yy_d[x]);
    flow -= 0.125 * (xy_b[right] + xy_c[right] - xy_b[left] - xy_c[left]);
    moved_below[x] -= flow;
    moved[x] += flow;
  });
}

}  // namespace
}  // namespace permil::simulate
