// Planes in the boxes of the background's mesh, and how their errors go to places on it; see permil.spots.background.
#pragma once
#include <cstring>
#include <limits>

#include "spots/_kernels/circles.hpp"

namespace permil::spots {
namespace {

constexpr double CLIP_SIGMA = 4.0;
// Part of a box's pixels that must be free of spots; a box with fewer has no plane.
constexpr double LEAST_FREE = 0.04;
constexpr int64_t LEAST_PIXELS = 10;
constexpr int N_FITS = 3;
// Boxes on each side whose planes count in the error of the background; farther ones have weights below a hundredth.
constexpr int64_t NEIGHBOURS = 3, MOST_NEAR = 2 * NEIGHBOURS + 1;

/// Pixels that are summed together, on whatever vector units there are; sums over lanes are added up pairwise.
constexpr int64_t LANES = 8;
typedef double Lanes __attribute__((vector_size(LANES * sizeof(double))));
typedef float FloatLanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int64_t IntLanes __attribute__((vector_size(LANES * sizeof(int64_t))));
typedef uint8_t ByteLanes __attribute__((vector_size(LANES)));

template <class T, class AnyLanes>
inline void load(Span<const T> row, int64_t first, AnyLanes& lanes) {
  std::memcpy(&lanes, &part_of(row, first, LANES)[0], sizeof lanes);
}

inline double sum_of(const Lanes& own) { return ((own[0] + own[4]) + (own[2] + own[6])) + ((own[1] + own[5]) + (own[3] + own[7])); }

/// Sums over the free pixels of a row: powers 0 to 3 of u, residual, residual times u, squared residual.
struct PlaneRow {
  double a0, a1, a2, a3, b0, b1, b2;
};

/// Return the sums over columns `low` to `high - 1`; `along` holds u from column `origin` on.
inline PlaneRow sum_row(Span<const float> image, Span<const bool> free, int64_t low, int64_t high, Span<const double> along,
                        int64_t origin, double height, double slope, double limit) {
  const Lanes zero{};
  Lanes n = zero, x = zero, xx = zero, xxx = zero, b = zero, bx = zero, bb = zero;
  int64_t column = low;
  for (; column + LANES <= high; column += LANES) {
    FloatLanes signal;
    ByteLanes usable;
    Lanes u;
    load(image, column, signal);
    load(free, column, usable);
    load(along, column - origin, u);
    const Lanes distance = __builtin_convertvector(signal, Lanes) - height - slope * u;
    const IntLanes kept = (__builtin_convertvector(usable, IntLanes) != 0) & (distance <= limit) & (distance >= -limit);
    const Lanes residual = kept ? distance : zero, first = kept ? u : zero, second = first * u;
    n += kept ? zero + 1.0 : zero;
    x += first;
    xx += second;
    xxx += second * u;
    b += residual;
    bx += residual * u;
    bb += residual * residual;
  }
  PlaneRow sums{sum_of(n), sum_of(x), sum_of(xx), sum_of(xxx), sum_of(b), sum_of(bx), sum_of(bb)};
  for (; column < high; ++column) {
    if (!free[column]) continue;
    const double u = along[column - origin], residual = double(image[column]) - height - slope * u;
    if (!(std::fabs(residual) <= limit)) continue;
    sums.a0 += 1.0;
    sums.a1 += u;
    sums.a2 += u * u;
    sums.a3 += u * u * u;
    sums.b0 += residual;
    sums.b1 += residual * u;
    sums.b2 += residual * residual;
  }
  return sums;
}

/// Sums over the free pixels of a box, named after their powers of u and v and of the residual b.
struct PlaneSums {
  double n, x, y, xx, xy, yy, b, bx, by, bb, xxx, xxy, xyy, yyy;
};

inline void add_row(const PlaneRow& row, double v, PlaneSums& sums) {
  sums.n += row.a0;
  sums.x += row.a1;
  sums.y += v * row.a0;
  sums.xx += row.a2;
  sums.xy += v * row.a1;
  sums.yy += v * v * row.a0;
  sums.xxx += row.a3;
  sums.xxy += v * row.a2;
  sums.xyy += v * v * row.a1;
  sums.yyy += v * v * v * row.a0;
  sums.b += row.b0;
  sums.bx += row.b1;
  sums.by += v * row.b0;
  sums.bb += row.b2;
}

/// Memory for a box: u of its columns, and sums of the powers 0 and 1 of u, [row, strip].
struct BoxMemory {
  double *along, *zeroth, *first_power;
};

/// Fill how a plane answers to the level of each row of its box; return the part of the pixels' scatter that rows have in common.
inline double answer_to_rows(const double (&inverse)[3][3], const BoxMemory& memory, const RowNoise& noise, const Boxes& boxes, int64_t row,
                             int64_t column, double* row_answer) {
  const int64_t y_low = boxes.row_edges[row], height = boxes.row_edges[row + 1] - y_low, n = noise.n_strips;
  const auto zeroth = span_of(memory.zeroth, height * n), first_power = span_of(memory.first_power, height * n);
  double common = 0.0, pixels = 0.0;
  for (int64_t y = 0; y < height; ++y) {
    const double slope = inverse[0][0] + inverse[0][2] * (double(y_low + y) - boxes.centres_y[row]) / double(height);
    const auto level = span_of(noise.variance + (y_low + y) * n, n);
    const auto answer = span_of(row_answer + ((y_low + y) * boxes.columns + column) * n, n);
    for (int64_t strip = 0; strip < n; ++strip) {
      pixels += zeroth[y * n + strip];
      common += level[strip] * zeroth[y * n + strip];
      answer[strip] = slope * zeroth[y * n + strip] + inverse[0][1] * first_power[y * n + strip];
    }
  }
  return common / pixels;
}

/// Sum a box over the pixels whose distance from a plane is within a limit.
inline PlaneSums sum_box(const Image& image, const Boxes& boxes, const RowNoise& noise, int64_t row, int64_t column,
                         const double (&plane)[3], double limit, const BoxMemory& memory) {
  const int64_t y_low = boxes.row_edges[row], height = boxes.row_edges[row + 1] - y_low, n = noise.n_strips;
  const int64_t x_low = boxes.column_edges[column], width = boxes.column_edges[column + 1] - x_low;
  const auto zeroth = span_of(memory.zeroth, height * n), first_power = span_of(memory.first_power, height * n);
  PlaneSums sums{};
  for (int64_t y = 0; y < height; ++y) {
    const double v = (double(y_low + y) - boxes.centres_y[row]) / double(height);
    const int64_t at = (y_low + y) * image.nx;
    for (int64_t strip = 0; strip < n; ++strip) {
      int64_t first = x_low, last = x_low + width - 1;
      limit_to_strip(noise, strip, first, last);
      zeroth[y * n + strip] = first_power[y * n + strip] = 0.0;
      if (first > last) continue;
      const PlaneRow own = sum_row(span_of(image.signal + at, image.nx), span_of(image.usable + at, image.nx), first, last + 1,
                                   span_of<const double>(memory.along, width), x_low, plane[0] + plane[2] * v, plane[1], limit);
      zeroth[y * n + strip] = own.a0;
      first_power[y * n + strip] = own.a1;
      add_row(own, v, sums);
    }
  }
  return sums;
}

/// Fit the plane of a box with outliers left out; it stays NaN where too few pixels are free. Without outliers the second fit is the last.
inline void fit_box(const Image& image, const Boxes& boxes, const RowNoise& noise, int64_t row, int64_t column, const BoxMemory& memory,
                    const Planes& planes) {
  const int64_t x_low = boxes.column_edges[column], width = boxes.column_edges[column + 1] - x_low;
  const int64_t height = boxes.row_edges[row + 1] - boxes.row_edges[row], own = row * boxes.columns + column;
  const auto along = span_of(memory.along, width);
  for (int64_t x = 0; x < width; ++x) along[x] = (double(x_low + x) - boxes.centres_x[column]) / double(width);
  double plane[3] = {}, limit = std::numeric_limits<double>::infinity(), all = 0.0;
  for (int fit = 0, last = N_FITS - 1; fit <= last; ++fit) {
    const PlaneSums sums = sum_box(image, boxes, noise, row, column, plane, limit, memory);
    if (sums.n < LEAST_FREE * double(height) * double(width) || sums.n < LEAST_PIXELS) return;
    const double normal[3][3] = {{sums.n, sums.x, sums.y}, {sums.x, sums.xx, sums.xy}, {sums.y, sums.xy, sums.yy}};
    double inverse[3][3], change[3];
    if (!(invert(normal, inverse) > 1e-9 * (sums.n * sums.n * sums.n))) return;
    for (int a = 0; a < 3; ++a) {
      change[a] = inverse[a][0] * sums.b + inverse[a][1] * sums.bx + inverse[a][2] * sums.by;
      plane[a] += change[a];
    }
    const double squares = sums.bb - change[0] * sums.b - change[1] * sums.bx - change[2] * sums.by;
    const double spread = at_least(squares / (sums.n - 3.0), 0.0);
    limit = CLIP_SIGMA * std::sqrt(spread);
    if (fit == 0) all = sums.n;
    else if (sums.n == all) last = fit;
    if (fit < last) continue;
    const double common = answer_to_rows(inverse, memory, noise, boxes, row, column, planes.row_answer);
    const double first = inverse[0][0], along_u = inverse[0][1], along_v = inverse[0][2];
    const int64_t count = boxes.rows * boxes.columns;
    planes.level[own] = plane[0];
    // The scatter of the pixels has the noise of the rows, which is not independent.
    planes.error[own] = std::sqrt(first * at_least(spread - common, 0.0));
    planes.answer[own] = first * sums.xx + along_u * sums.xxx + along_v * sums.xxy;
    planes.answer[count + own] = first * sums.yy + along_u * sums.xyy + along_v * sums.yyy;
    planes.answer[2 * count + own] = first * sums.xy + along_u * sums.xxy + along_v * sums.xyy;
  }
}

/// A small matrix of boxes around a place.
using Near = double[MOST_NEAR][MOST_NEAR];

/// Boxes `top` to `top + rows - 1` and `left` to `left + columns - 1` around a place.
struct Neighbourhood {
  int64_t top, left, rows, columns;
};

inline Neighbourhood around(const Mesh& mesh, int64_t row, int64_t column) {
  const int64_t top = larger(row - NEIGHBOURS, 0), left = larger(column - NEIGHBOURS, 0);
  return {top, left, smaller(row + NEIGHBOURS + 1, mesh.rows) - top, smaller(column + NEIGHBOURS + 1, mesh.columns) - left};
}

/// Fill the weight of each plane in the background at a place: the weights of the spline, back through the correction for curvature.
inline void weigh_planes(const Mesh& mesh, const MeshPlaces& places, int64_t place, const Neighbourhood& near, Near& weight) {
  Near damped[3], mixed;
  const int64_t count = mesh.rows * mesh.columns;
  for (int64_t a = 0; a < near.rows; ++a)
    for (int64_t b = 0; b < near.columns; ++b) {
      const double spline = places.rows[place * mesh.rows + near.top + a] * places.columns[place * mesh.columns + near.left + b];
      const int64_t own = (near.top + a) * mesh.columns + near.left + b;
      weight[a][b] = spline;
      for (int direction = 0; direction < 3; ++direction) damped[direction][a][b] = spline * mesh.curvature[direction * count + own];
    }
  for (int64_t a = 0; a < near.rows; ++a)
    for (int64_t b = 0; b < near.columns; ++b) {
      double along_u = 0.0, along_v = 0.0;
      mixed[a][b] = 0.0;
      for (int64_t c = 0; c < near.columns; ++c)
        along_u += damped[0][a][c] * mesh.bend_u[(near.left + c) * mesh.columns + near.left + b];
      for (int64_t c = 0; c < near.rows; ++c) {
        along_v += mesh.bend_v[(near.top + c) * mesh.rows + near.top + a] * damped[1][c][b];
        mixed[a][b] += mesh.slope_v[(near.top + c) * mesh.rows + near.top + a] * damped[2][c][b];
      }
      weight[a][b] = weight[a][b] - along_u - along_v;
    }
  for (int64_t a = 0; a < near.rows; ++a)
    for (int64_t b = 0; b < near.columns; ++b) {
      double along_both = 0.0;
      for (int64_t c = 0; c < near.columns; ++c)
        along_both += mixed[a][c] * mesh.slope_u[(near.left + c) * mesh.columns + near.left + b];
      weight[a][b] -= along_both;
    }
}

/// Return the variance of the background at a place, from the planes and the level of each row; fill its answer to rows that are asked for.
inline double variance_at(const Mesh& mesh, const RowNoise& noise, const Neighbourhood& near, const Near& weight, int64_t first_row,
                          Span<double> answer, int64_t n_lines, Span<double> change) {
  const int64_t n = noise.n_strips;
  double total = 0.0;
  for (int64_t a = 0; a < near.rows; ++a)
    for (int64_t b = 0; b < near.columns; ++b) {
      const double error = weight[a][b] * mesh.plane_error[(near.top + a) * mesh.columns + near.left + b];
      total += error * error;
    }
  for (int64_t a = 0; a < near.rows; ++a)
    for (int64_t row = mesh.row_edges[near.top + a]; row < mesh.row_edges[near.top + a + 1]; ++row) {
      const auto planes = span_of(mesh.row_answer + (row * mesh.columns + near.left) * n, near.columns * n);
      const auto level = span_of(noise.variance + row * n, n);
      for (int64_t strip = 0; strip < n; ++strip) change[strip] = 0.0;
      for (int64_t b = 0; b < near.columns; ++b)
        LOOP (int64_t strip = 0; strip < n; ++strip) change[strip] += weight[a][b] * planes[b * n + strip];
      const int64_t line = row - first_row;
      const bool is_asked = 0 <= line && line < n_lines;
      for (int64_t strip = 0; strip < n; ++strip) {
        if (level[strip] == 0.0) continue;
        total += level[strip] * change[strip] * change[strip];
        if (is_asked) answer[line * n + strip] = change[strip];
      }
    }
  return total;
}

}  // namespace
}  // namespace permil::spots
