// permil._kernels.joint: types, sizes and ranges are checked here, once for each call, so that kernels need not.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "_kernels/arrays.hpp"
#include "_kernels/levels.hpp"
#include "flat/joint/_kernels/kernels.hpp"
#include "flat/joint/_kernels/spline.hpp"

namespace permil::joint {
namespace {

using Rows = Array<const double, 2>;
using Row = Array<const double, 1>;
using Matrix = nb::ndarray<double, nb::ndim<2>, nb::device::cpu>;

const Kernels& kernels() { return KERNELS_IN_USE; }

/// Return a matrix, or a leading part of one.
Square square_of(const Matrix& matrix) {
  const int64_t n = int64_t(matrix.shape(0));
  require(has_shape(matrix, {n, n}) && (n < 2 || (matrix.stride(1) == 1 && matrix.stride(0) >= n)), "the matrix is not square, or its rows have gaps");
  return {matrix.data(), n, matrix.stride(0)};
}

/// Return new memory of NumPy, not filled.
template <int N>
Array<double, N> empty(nb::tuple shape) {
  return nb::cast<Array<double, N>>(nb::module_::import_("numpy").attr("empty")(shape));
}

Pixels pixels_of(const Row& x, const Row& y) {
  require(x.size() == y.size(), "x and y differ in number");
  return {int64_t(x.size()), x.data(), y.data()};
}

Exposures exposures_of(const Rows& centres, const Rows& frames, int64_t n_smooth) {
  const int64_t count = int64_t(centres.shape(0));
  require(has_shape(centres, {count, 2}) && has_shape(frames, {count, 3}), "centres and frames are not those of the exposures");
  require(n_smooth == 0 || n_smooth == 5, "there are 5 patterns of weather or none");
  return {count, centres.data(), frames.data(), n_smooth};
}

Exposures exposures_of(const Rows& centres) {
  const int64_t count = int64_t(centres.shape(0));
  require(has_shape(centres, {count, 2}), "centres are not those of the exposures");
  return {count, centres.data(), nullptr, 0};
}

/// Return patterns whose B-splines are all unknowns.
Patterns patterns_of(const Array<const int64_t, 2>& counts, const Rows& places, const double* vector, int64_t n_unknowns) {
  const int64_t n = int64_t(counts.shape(0));
  require(n >= 1 && n <= MOST_PATTERNS && has_shape(counts, {n, 3}) && has_shape(places, {n, 4}), "patterns have no such numbers");
  require(n_unknowns < int64_t(1) << 31, "there are too many unknowns");
  for (int64_t pattern = 0; pattern < n; ++pattern) {
    const int64_t* own = counts.data() + 3 * pattern;
    require(own[0] >= 4 && own[1] >= 4 && own[0] < n_unknowns && own[1] < n_unknowns && own[2] >= 0 && own[2] + own[0] * own[1] <= n_unknowns,
            "B-splines of a pattern are not among the unknowns");
  }
  return {n, counts.data(), places.data(), vector, n_unknowns};
}

Patterns patterns_of(const Array<const int64_t, 2>& counts, const Rows& places, const Row& vector) {
  return patterns_of(counts, places, vector.data(), int64_t(vector.size()));
}

Further further_of(const Array<const int64_t, 2>& columns, const Array<const double, 3>& parts, int64_t n_exposures, int64_t n_unknowns) {
  const int64_t count = int64_t(columns.shape(1)), n_parts = int64_t(parts.shape(2));
  require(has_shape(columns, {n_exposures, count}) && has_shape(parts, {n_exposures, count, n_parts}) && (n_parts == 3 || n_parts == 8),
          "further unknowns are not those of the exposures");
  for (size_t entry = 0; entry < columns.size(); ++entry)
    require(columns.data()[entry] >= 0 && columns.data()[entry] < n_unknowns, "a further unknown is not among the unknowns");
  return {count, n_parts, columns.data(), parts.data()};
}

int64_t size_of_block(Windows windows, int64_t n_patterns) {
  int64_t size = 0;
  for (int64_t pattern = 0; pattern < n_patterns; ++pattern) size += windows[4 * pattern + 1] * windows[4 * pattern + 3];
  return size;
}

/// Raise ValueError unless the windows of an exposure lie in their patterns and its block holds them.
void require_windows(Windows windows, const int64_t* counts, int64_t n_patterns, int64_t n_parts, int64_t side) {
  for (int64_t pattern = 0; pattern < n_patterns; ++pattern)
    for (int64_t axis = 0; axis < 2; ++axis) {
      const int64_t first = windows[4 * pattern + 2 * axis], number = windows[4 * pattern + 2 * axis + 1];
      require(first >= 0 && number >= 4 && first + number <= counts[3 * pattern + axis], "a window lies outside its pattern");
    }
  require(side == 0 || size_of_block(windows, n_patterns) + n_parts <= side, "a block is too small for its windows");
}

nb::object predict(Row x, Row y, Rows centres, Row scales, Array<const int64_t, 2> counts, Rows places, Row vector, Rows frames,
                   Rows weather) {
  const Pixels pixels = pixels_of(x, y);
  const Exposures exposures = exposures_of(centres, frames, int64_t(weather.shape(1)));
  const Patterns patterns = patterns_of(counts, places, vector);
  require(int64_t(scales.size()) == exposures.count && int64_t(weather.shape(0)) == exposures.count, "scales are not those of the exposures");
  const auto result = empty<2>(nb::make_tuple(exposures.count, pixels.count));
  {
    nb::gil_scoped_release release;
    kernels().predict(pixels, exposures, patterns, scales.data(), weather.data(), result.data());
  }
  return nb::cast(result);
}

nb::object evaluate(Row x, Row y, Array<const int64_t, 2> counts, Rows places, Row coefficients) {
  const Pixels pixels = pixels_of(x, y);
  const Patterns patterns = patterns_of(counts, places, coefficients);
  const auto result = empty<1>(nb::make_tuple(pixels.count));
  {
    nb::gil_scoped_release release;
    kernels().evaluate(pixels, patterns, result.data());
  }
  return nb::cast(result);
}

std::pair<nb::object, double> profile_response(Array<double, 2> difference, Array<double, 2> weights, double threshold) {
  const int64_t n_exposures = int64_t(difference.shape(0)), n_pixels = int64_t(difference.shape(1));
  require(has_shape(weights, {n_exposures, n_pixels}), "weights have not the shape of the difference");
  const auto response = empty<1>(nb::make_tuple(n_pixels));
  double objective;
  {
    nb::gil_scoped_release release;
    objective = kernels().profile_response(difference.data(), weights.data(), n_exposures, n_pixels, threshold, response.data());
  }
  return {nb::cast(response), objective};
}

void slopes_along(Row x, Row y, Rows centres, Array<const int64_t, 2> counts, Rows places, Row vector,
                  nb::ndarray<double, nb::ndim<3>, nb::device::cpu> result) {
  const Pixels pixels = pixels_of(x, y);
  const Exposures exposures = exposures_of(centres);
  const Patterns patterns = patterns_of(counts, places, vector);
  require(has_shape(result, {exposures.count, 2, pixels.count}) && result.stride(2) == 1 && result.stride(1) == pixels.count,
          "slopes have not the shape of the signals, or gaps");
  nb::gil_scoped_release release;
  kernels().slopes_along(pixels, exposures, patterns, result.data(), result.stride(0));
}

void add_gradient(Row x, Row y, Rows residual, Rows weights, Rows centres, Array<const int64_t, 2> counts, Rows places, Row vector,
                  Array<const int64_t, 2> further, Array<const double, 3> parts, Rows frames, Array<double, 1> gradient) {
  const Pixels pixels = pixels_of(x, y);
  const Exposures exposures = exposures_of(centres, frames, int64_t(parts.shape(2)) - 3);
  const Patterns patterns = patterns_of(counts, places, vector);
  const Further others = further_of(further, parts, exposures.count, patterns.n_unknowns);
  require(has_shape(residual, {exposures.count, pixels.count}) && has_shape(weights, {exposures.count, pixels.count}),
          "residuals and weights are not those of the signals");
  require(int64_t(gradient.size()) == patterns.n_unknowns, "the gradient is not that of the unknowns");
  nb::gil_scoped_release release;
  std::vector<double> scratch(size_t(doubles_of_derivatives(patterns.count, pixels.count)));
  kernels().add_gradient(pixels, exposures, patterns, others, residual.data(), weights.data(), gradient.data(), scratch.data());
}

void mark_windows(Row bounds, Rows centres, Array<const int64_t, 2> counts, Rows places, Array<const int64_t, 2> further,
                  Array<const bool, 1> lit, Array<int64_t, 3> windows, Array<bool, 1> marked) {
  const Exposures exposures = exposures_of(centres);
  const Patterns patterns = patterns_of(counts, places, nullptr, int64_t(marked.size()));
  const int64_t n_further = int64_t(further.shape(1));
  require(has_shape(bounds, {4}) && has_shape(lit, {exposures.count}) && has_shape(further, {exposures.count, n_further}) &&
              has_shape(windows, {exposures.count, patterns.count, 4}),
          "windows are not those of the exposures");
  for (size_t entry = 0; entry < further.size(); ++entry)
    require(further.data()[entry] >= 0 && further.data()[entry] < patterns.n_unknowns, "a further unknown is not among the unknowns");
  const Further others{n_further, 0, further.data(), nullptr};
  nb::gil_scoped_release release;
  kernels().mark_windows(bounds.data(), exposures, patterns, others, lit.data(), windows.data(), marked.data());
}

/// Raise ValueError unless the super-pixels of a tile lie in the windows of an exposure, and their B-splines in the columns of its sums.
void require_tile(const double* bounds, const Exposures& exposures, const Patterns& patterns, int64_t exposure, Windows windows,
                  const Array<const int64_t, 1>& positions, int64_t n_columns) {
  for (int64_t pattern = 0; pattern < patterns.count; ++pattern) {
    const int64_t *own = windows + 4 * pattern, *counts = patterns.counts + 3 * pattern;
    const Window least = window_of(bounds, seen_in(patterns, exposures, pattern, exposure));
    require(own[0] <= least.first_x && least.first_x + least.number_x <= own[0] + own[1] && own[2] <= least.first_y &&
                least.first_y + least.number_y <= own[2] + own[3],
            "super-pixels of a tile lie outside its windows");
    for (int64_t i = own[0]; i < own[0] + own[1]; ++i)
      for (int64_t j = own[2]; j + 4 <= own[2] + own[3]; ++j) {
        const int64_t position = positions.data()[counts[2] + i * counts[1] + j];
        require(position >= 0 && position + 4 <= n_columns, "B-splines of a tile are not in its sums");
      }
  }
}

void sum_tile(Row x, Row y, Rows weights, Rows centres, Array<const int64_t, 2> counts, Rows places, Row vector,
              Array<const int64_t, 2> further, Array<const double, 3> parts, Rows frames, Array<const int64_t, 3> windows,
              Array<const int64_t, 1> positions, Array<double, 2> sums, Array<double, 1> moments, Array<double, 3> blocks) {
  const Pixels pixels = pixels_of(x, y);
  const Exposures exposures = exposures_of(centres, frames, int64_t(parts.shape(2)) - 3);
  const Patterns patterns = patterns_of(counts, places, vector);
  const Further others = further_of(further, parts, exposures.count, patterns.n_unknowns);
  const int64_t n_columns = int64_t(sums.shape(1)), side = int64_t(blocks.shape(1));
  require(has_shape(weights, {exposures.count, pixels.count}) && has_shape(sums, {pixels.count, n_columns}) &&
              has_shape(moments, {pixels.count}),
          "weights and sums are not those of the super-pixels");
  require(int64_t(positions.size()) == patterns.n_unknowns, "positions are not those of the unknowns");
  require(has_shape(windows, {exposures.count, patterns.count, 4}), "windows are not those of the exposures");
  require(blocks.size() == 0 || has_shape(blocks, {exposures.count, side, side}), "blocks are not those of the exposures");
  double bounds[4] = {__builtin_inf(), -__builtin_inf(), __builtin_inf(), -__builtin_inf()};
  for (int64_t pixel = 0; pixel < pixels.count; ++pixel) {
    require(x.data()[pixel] - x.data()[pixel] == 0.0 && y.data()[pixel] - y.data()[pixel] == 0.0, "the place of a super-pixel is not finite");
    bounds[0] = std::min(bounds[0], x.data()[pixel]);
    bounds[1] = std::max(bounds[1], x.data()[pixel]);
    bounds[2] = std::min(bounds[2], y.data()[pixel]);
    bounds[3] = std::max(bounds[3], y.data()[pixel]);
  }
  for (int64_t exposure = 0; exposure < exposures.count; ++exposure) {
    const Windows own = windows.data() + 4 * patterns.count * exposure;
    if (own[1] == 0) continue;
    require_windows(own, patterns.counts, patterns.count, others.n_parts, blocks.size() > 0 ? side : 0);
    require_tile(bounds, exposures, patterns, exposure, own, positions, n_columns);
    for (int64_t number = 0; number < others.count; ++number) {
      const int64_t position = positions.data()[others.columns[exposure * others.count + number]];
      require(position >= 0 && position < n_columns, "an unknown of a tile is not in its sums");
    }
  }
  nb::gil_scoped_release release;
  std::vector<double> scratch(size_t(doubles_of_tile(patterns.count, others.n_parts, pixels.count)));
  const TileSums out{positions.data(), sums.data(), n_columns, moments.data(), blocks.size() > 0 ? blocks.data() : nullptr, side};
  kernels().sum_tile(pixels, weights.data(), exposures, patterns, others, windows.data(), out, scratch.data());
}

void add_blocks(Matrix matrix, Array<const double, 3> blocks, Array<const int64_t, 3> windows, Array<const int64_t, 2> counts,
                Array<const int64_t, 2> further, Array<const double, 3> parts, int64_t low, int64_t high) {
  const Square square = square_of(matrix);
  const int64_t n = square.size, n_exposures = int64_t(blocks.shape(0)), side = int64_t(blocks.shape(1));
  const int64_t n_patterns = int64_t(counts.shape(0));
  require(0 <= low && high <= n, "the matrix has not these rows");
  require(has_shape(blocks, {n_exposures, side, side}) && has_shape(windows, {n_exposures, n_patterns, 4}),
          "blocks and windows are not those of the exposures");
  require(n_patterns >= 1 && has_shape(counts, {n_patterns, 3}), "patterns have no such numbers");
  for (int64_t pattern = 0; pattern < n_patterns; ++pattern) {
    const int64_t* own = counts.data() + 3 * pattern;
    require(own[0] >= 4 && own[1] >= 4 && own[0] < n && own[1] < n && own[2] >= 0 && own[2] + own[0] * own[1] <= n,
            "B-splines of a pattern are not among the unknowns");
  }
  const Further others = further_of(further, parts, n_exposures, n);
  for (int64_t exposure = 0; exposure < n_exposures; ++exposure) {
    const Windows own = windows.data() + 4 * n_patterns * exposure;
    if (own[1] != 0) require_windows(own, counts.data(), n_patterns, others.n_parts, side);
  }
  nb::gil_scoped_release release;
  kernels().add_blocks(square, blocks.data(), n_exposures, side, windows.data(), counts.data(), n_patterns, others, low, high);
}

void subtract_rows(Matrix matrix, Rows product, Array<const int64_t, 1> columns, int64_t first) {
  const Square square = square_of(matrix);
  const int64_t n_rows = int64_t(product.shape(0)), n_columns = int64_t(product.shape(1));
  require(first >= 0 && first + n_columns == int64_t(columns.size()) && n_rows <= n_columns, "the product is not that of the unknowns");
  for (size_t place = size_t(first); place < columns.size(); ++place)
    require(columns.data()[place] >= 0 && columns.data()[place] < square.size, "a column is not among the unknowns");
  nb::gil_scoped_release release;
  kernels().subtract_rows(square, product.data(), n_rows, n_columns, columns.data(), first);
}

void mirror_upper(Matrix matrix) {
  const Square square = square_of(matrix);
  nb::gil_scoped_release release;
  kernels().mirror_upper(square);
}

void medians(const std::vector<Array<const float, 2>>& images, Array<float, 2> result) {
  std::vector<const float*> pixels;
  for (const auto& image : images) {
    require(has_shape(image, {int64_t(result.shape(0)), int64_t(result.shape(1))}), "images and their medians differ in shape");
    pixels.push_back(image.data());
  }
  nb::gil_scoped_release release;
  std::vector<float> scratch(images.size() * MEDIANS_TOGETHER);
  kernels().medians(pixels.data(), int64_t(pixels.size()), int64_t(result.size()), result.data(), scratch.data());
}

void divide_blocks(Array<const float, 2> image, Array<const bool, 2> good, Rows mean, int64_t block, Array<const int64_t, 1> block_rows,
                   Array<float, 2> result) {
  const int64_t n_rows = int64_t(image.shape(0)), n_columns = int64_t(image.shape(1));
  require(has_shape(good, {n_rows, n_columns}) && has_shape(result, {n_rows, n_columns}) && has_shape(block_rows, {n_rows}),
          "good pixels or rows are not those of the image");
  require(block > 0 && int64_t(mean.shape(1)) == (n_columns + block - 1) / block, "means are not those of the blocks");
  for (int64_t row = 0; row < n_rows; ++row)
    require(block_rows.data()[row] >= 0 && block_rows.data()[row] < int64_t(mean.shape(0)), "a row lies in no block");
  nb::gil_scoped_release release;
  kernels().divide_blocks(image.data(), reinterpret_cast<const uint8_t*>(good.data()), mean.data(), n_rows, n_columns, block,
                          block_rows.data(), result.data());
}

int64_t average(Array<const float, 2> image, Array<const int16_t, 2> mask, Array<const float, 2> pattern, int64_t block,
                Array<const int64_t, 1> limits, Rows noise, float limit, Array<double, 2> signals, Array<int64_t, 2> kept) {
  const int64_t n = int64_t(image.shape(0)), n_columns = int64_t(image.shape(1)), n_rows = int64_t(signals.shape(0));
  require(has_shape(mask, {n, n_columns}) && has_shape(pattern, {n, n_columns}), "mask and pattern have not the shape of the image");
  require(block > 0 && int64_t(signals.shape(1)) == (n_columns + block - 1) / block, "super-pixels are not those of the image");
  const int64_t n_blocks = int64_t(signals.shape(1));
  require(has_shape(noise, {n_rows, n_blocks}) && has_shape(kept, {n_rows, n_blocks}) && has_shape(limits, {n_rows + 1}),
          "super-pixels differ in number");
  for (int64_t row = 0; row <= n_rows; ++row)
    require(limits.data()[row] >= 0 && limits.data()[row] <= n, "rows of super-pixels lie outside the image");
  nb::gil_scoped_release release;
  std::vector<float> scratch(size_t(ROWS_OF_AVERAGE * n_columns));
  return kernels().average({n_columns, block, image.data(), mask.data(), pattern.data()}, limits.data(), n_rows, noise.data(), limit,
                           signals.data(), kept.data(), scratch.data());
}

}  // namespace

void bind(nb::module_& module) {
  module.def("predict", &predict, nb::arg("x").noconvert(), nb::arg("y").noconvert(), nb::arg("centres").noconvert(),
             nb::arg("scales").noconvert(), nb::arg("counts").noconvert(), nb::arg("places").noconvert(), nb::arg("vector").noconvert(),
             nb::arg("frames").noconvert(), nb::arg("weather").noconvert(),
             "Return log d - f of each exposure and super-pixel, shape (e, p), for a vector of unknowns.\n\n"
             "frames, shape (e, 3): place and half side of the patterns of weather. weather, shape (e, 5): their coefficients; of shape\n"
             "(e, 0) without weather.");
  module.def("evaluate", &evaluate, nb::arg("x").noconvert(), nb::arg("y").noconvert(), nb::arg("counts").noconvert(),
             nb::arg("places").noconvert(), nb::arg("coefficients").noconvert(),
             "Return the values of a pattern (counts, shape (1, 3), and places, shape (1, 4)) at places; NaN outside its area.");
  module.def("profile_response", &profile_response, nb::arg("difference").noconvert(), nb::arg("weights").noconvert(), nb::arg("threshold"),
             "Solve for the response of each super-pixel and the robust weights; the difference becomes the residual.\n\n"
             "Minimises the sum of Huber's function (Huber 1964) of sqrt(w) (difference - f) by reweighting. difference, shape (e, p): log d\n"
             "minus all but the response, overwritten; where the weight is 0 it may be NaN. weights, shape (e, p): inverse variances,\n"
             "overwritten with the robust ones. threshold: in standard deviations, infinite for least squares.\n\n"
             "Returns the response, shape (p,), NaN where there is no weight, and twice the minimum.");
  module.def("slopes_along", &slopes_along, nb::arg("x").noconvert(), nb::arg("y").noconvert(), nb::arg("centres").noconvert(),
             nb::arg("counts").noconvert(), nb::arg("places").noconvert(), nb::arg("vector").noconvert(), nb::arg("result").noconvert(),
             "Fill the derivatives of the logarithm with respect to the projector's position, shape (e, 2, p).");
  module.def("add_gradient", &add_gradient, nb::arg("x").noconvert(), nb::arg("y").noconvert(), nb::arg("residual").noconvert(),
             nb::arg("weights").noconvert(), nb::arg("centres").noconvert(), nb::arg("counts").noconvert(), nb::arg("places").noconvert(),
             nb::arg("vector").noconvert(), nb::arg("further").noconvert(), nb::arg("parts").noconvert(), nb::arg("frames").noconvert(),
             nb::arg("gradient").noconvert(), "Add the sum of w x r of a detector to the gradient.");
  module.def("mark_windows", &mark_windows, nb::arg("bounds").noconvert(), nb::arg("centres").noconvert(), nb::arg("counts").noconvert(),
             nb::arg("places").noconvert(), nb::arg("further").noconvert(), nb::arg("lit").noconvert(), nb::arg("windows").noconvert(),
             nb::arg("marked").noconvert(),
             "Find the B-splines on which a tile of super-pixels depends in each exposure that is lit, and mark all its unknowns.\n\n"
             "bounds, shape (4,): least and largest x, least and largest y of the tile. windows, shape (e, patterns, 4): first B-spline along\n"
             "the first axis and how many, the same along the second; not touched where an exposure is not lit. marked, shape (unknowns,).");
  module.def("sum_tile", &sum_tile, nb::arg("x").noconvert(), nb::arg("y").noconvert(), nb::arg("weights").noconvert(),
             nb::arg("centres").noconvert(), nb::arg("counts").noconvert(), nb::arg("places").noconvert(), nb::arg("vector").noconvert(),
             nb::arg("further").noconvert(), nb::arg("parts").noconvert(), nb::arg("frames").noconvert(), nb::arg("windows").noconvert(),
             nb::arg("positions").noconvert(), nb::arg("sums").noconvert(), nb::arg("moments").noconvert(), nb::arg("blocks").noconvert(),
             "Sum the rows of a tile of super-pixels.\n\n"
             "windows: see mark_windows; exposures with empty ones are not lit. positions, shape (unknowns,): column of sums of each unknown.\n"
             "sums, shape (p, columns): the sum of w x of each super-pixel is added. moments, shape (p,): the sum of w. blocks, shape\n"
             "(e, s, s): the sum of w x x' of each exposure, its upper triangle: B-splines of the windows in turn, then unknowns that stand\n"
             "for all others, a change of the logarithm, shifts of the projector along both axes, patterns of weather. Nothing if it is empty.");
  module.def("add_blocks", &add_blocks, nb::arg("matrix").noconvert(), nb::arg("blocks").noconvert(), nb::arg("windows").noconvert(),
             nb::arg("counts").noconvert(), nb::arg("further").noconvert(), nb::arg("parts").noconvert(), nb::arg("low"), nb::arg("high"),
             "Add the blocks of a tile (sum_tile) to the upper triangle of a matrix of the unknowns, in its rows from low to high.");
  module.def("subtract_rows", &subtract_rows, nb::arg("matrix").noconvert(), nb::arg("product").noconvert(), nb::arg("columns").noconvert(),
             nb::arg("first"),
             "Subtract rows of a symmetric product from the upper triangle of a matrix.\n\n"
             "product, shape (m, columns - first): rows that belong to the unknowns columns[first : first + m], from column first on. columns:\n"
             "the unknowns, rising.");
  module.def("medians", &medians, nb::arg("images").noconvert(), nb::arg("result").noconvert(),
             "Fill the medians over images, pixel by pixel and without NaN; NaN where no image has a value.");
  module.def("divide_blocks", &divide_blocks, nb::arg("image").noconvert(), nb::arg("good").noconvert(), nb::arg("mean").noconvert(),
             nb::arg("block"), nb::arg("block_rows").noconvert(), nb::arg("result").noconvert(),
             "Fill the quotients of good pixels and the means of their blocks; NaN where they are not good.");
  module.def("average", &average, nb::arg("image").noconvert(), nb::arg("mask").noconvert(), nb::arg("pattern").noconvert(),
             nb::arg("block"), nb::arg("limits").noconvert(), nb::arg("noise").noconvert(), nb::arg("limit"),
             nb::arg("signals").noconvert(), nb::arg("kept").noconvert(),
             "Fill signals and numbers of pixels of all super-pixels of an exposure; return how many pixels were left out as outliers.\n\n"
             "limits, shape (rows + 1,): first row of the image of each row of super-pixels. noise, shape (rows, columns): variance of a\n"
             "pixel that does not depend on the signal. limit: squared standard deviations from which a pixel is an outlier.");
  module.def("mirror_upper", &mirror_upper, nb::arg("matrix").noconvert(), "Copy the upper triangle of a matrix to its lower one.");
}

}  // namespace permil::joint
