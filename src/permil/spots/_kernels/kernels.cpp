// The kernels of permil.spots; compiled once for each level of instructions.
#include "spots/_kernels/kernels.hpp"

#include "spots/_kernels/background.hpp"
#include "spots/_kernels/discs.hpp"
#include "spots/_kernels/moments.hpp"
#include "spots/_kernels/normal.hpp"

namespace permil::spots {
namespace {

void add_measurements(const Measurements& all, double* memory, const Equations& sums) {
  for (int64_t n = 0; n < all.count; ++n)
    if (all.weight[n] != 0.0) add_measurement(all, n, span_of(memory, all.width), sums);
}

void sum_circles(const Image& image, const Places& places, const double* radii, int64_t n_radii, const RowErrors& errors, double* memory,
                 const CircleSums& sums) {
  const RowOfPixels pixels{span_of(memory, image.nx), span_of(memory + image.nx, image.nx), span_of(memory + 2 * image.nx, image.nx)};
  const double reach = radii[n_radii - 1] + 0.5;
  for (int64_t spot = 0; spot < places.count; ++spot) {
    const double x = places.x[spot], y = places.y[spot];
    const int64_t last_row = last_pixel(y + reach, image.ny);
    for (int64_t row = first_pixel(y - reach, image.ny); row <= last_row; ++row)
      for (int64_t strip = 0; strip < errors.noise.n_strips; ++strip) {
        int64_t first = first_pixel(x - reach, image.nx), last = last_pixel(x + reach, image.nx);
        limit_to_strip(errors.noise, strip, first, last);
        if (first <= last) add_part_of_row(image, errors, places, spot, row, strip, first, last, span_of(radii, n_radii), n_radii, pixels, sums);
      }
  }
}

void measure_moments(const Image& image, const Places& places, double sigma, double largest_sigma, double largest_shift, double reach,
                     const double* background_error, const RowErrors& errors, double* parameters, double* covariance) {
  for (int64_t spot = 0; spot < places.count; ++spot) {
    double found[5] = {places.x[spot], places.y[spot], sigma * sigma, sigma * sigma, 0.0};
    if (!converge(image, found, {reach, largest_sigma, largest_shift})) continue;
    for (int a = 0; a < 5; ++a) parameters[5 * spot + a] = found[a];
    covariance_of(image, found, background_error[spot], errors, spot, reach * reach, span_of(covariance + 25 * spot, 25));
  }
}

void fit_boxes(const Image& image, const Boxes& boxes, const RowNoise& noise, double* along, double* memory, int64_t n_memory,
               const Planes& planes) {
  for (int64_t row = 0; row < boxes.rows; ++row)
    for (int64_t column = 0; column < boxes.columns; ++column)
      fit_box(image, boxes, noise, row, column, {along, memory, memory + n_memory / 2}, planes);
}

void propagate(const Mesh& mesh, const RowNoise& noise, const MeshPlaces& places, const int64_t* first_row, double* answer, int64_t n_lines,
               double* memory, double* variance) {
  const int64_t n_answers = n_lines * noise.n_strips;
  for (int64_t place = 0; place < places.count; ++place) {
    const Neighbourhood near = around(mesh, places.nearest_row[place], places.nearest_column[place]);
    Near weight;
    weigh_planes(mesh, places, place, near, weight);
    variance[place] = variance_at(mesh, noise, near, weight, first_row[place], span_of(answer + place * n_answers, n_answers), n_lines,
                                  span_of(memory, noise.n_strips));
  }
}

void bin_pixels(const Image& image, float* binned, bool* empty) {
  const int64_t nx = image.nx / 2;
  for (int64_t row = 0; row < image.ny / 2; ++row)
    bin_row(span_of(image.signal + 2 * row * image.nx, 2 * image.nx), span_of(image.usable + 2 * row * image.nx, 2 * image.nx), image.nx,
            span_of(binned + row * nx, nx), span_of(empty + row * nx, nx));
}

void clear_discs(const Places& places, double radius, int64_t ny, int64_t nx, bool* free) {
  for (int64_t spot = 0; spot < places.count; ++spot)
    for_rows_of_disc(places.x[spot], places.y[spot], radius, ny, nx, [&](int64_t row, int64_t first, int64_t last) {
      const auto pixels = span_of(free + row * nx, nx);
      for (int64_t column = first; column <= last; ++column) pixels[column] = false;
    });
}

template <class Plane>
void planes_in_discs(const Places& places, double radius, int64_t ny, int64_t nx, const Plane* mask, const bool* usable, int64_t* planes,
                     bool* unusable) {
  for (int64_t spot = 0; spot < places.count; ++spot) {
    Plane all = 0;
    bool all_usable = true;
    for_rows_of_disc(places.x[spot], places.y[spot], radius, ny, nx, [&](int64_t row, int64_t first, int64_t last) {
      const auto own = span_of(mask + row * nx, nx);
      const auto is_usable = span_of(usable + row * nx, nx);
      for (int64_t column = first; column <= last; ++column) {
        all |= own[column];
        all_usable &= is_usable[column];
      }
    });
    planes[spot] = all;
    unusable[spot] = !all_usable;
  }
}

}  // namespace

extern const Kernels PERMIL_LEVEL = {add_measurements, sum_circles, measure_moments, fit_boxes,
                                     propagate,        bin_pixels,  clear_discs,     planes_in_discs<int16_t>,
                                     planes_in_discs<int32_t>};

}  // namespace permil::spots
