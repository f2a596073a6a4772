// permil._kernels.flat: types, sizes and ranges are checked here, once for each call, so that kernels need not.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <tuple>
#include <utility>
#include <vector>

#include "_kernels/arrays.hpp"
#include "_kernels/levels.hpp"
#include "flat/_kernels/kernels.hpp"

namespace permil::flat {
namespace {

using Image = Array<const float, 2>;
using AnyImage = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;

const Kernels& kernels() { return KERNELS_IN_USE; }

template <class AnyArray>
Shape shape_of(const AnyArray& image) {
  return {int64_t(image.shape(0)), int64_t(image.shape(1))};
}

template <class AnyArray>
bool is_like(const AnyArray& array, const Shape& shape) {
  return has_shape(array, {shape.rows, shape.columns});
}

/// Memory of one call.
struct Memory {
  explicit Memory(int64_t n) : rows(size_t(ROWS_OF_FLOATS * n)), planes(size_t(n)) {}
  std::vector<float> rows;
  std::vector<int16_t> planes;
  Scratch scratch() { return {rows.data(), planes.data()}; }
};

Masks masks_of(const AnyImage& mask, const Shape& shape) {
  const bool is_narrow = mask.dtype() == nb::dtype<int16_t>(), is_wide = mask.dtype() == nb::dtype<int32_t>();
  if (!is_narrow && !is_wide) throw nb::type_error("a mask has integers of neither 16 nor 32 bits");
  require(is_like(mask, shape) && (mask.size() == 0 || (mask.stride(1) == 1 && mask.stride(0) == shape.columns)),
          "the mask has not the shape of the signal, or gaps");
  return {is_narrow ? static_cast<const int16_t*>(mask.data()) : nullptr, is_wide ? static_cast<const int32_t*>(mask.data()) : nullptr};
}

Lit lit_of(const Image& signal, const Image& variance, const AnyImage& mask, const Image& beam) {
  const Shape shape = shape_of(signal);
  require(is_like(variance, shape) && is_like(beam, shape), "variance and beam have not the shape of the signal");
  return {shape, signal.data(), variance.data(), beam.data(), masks_of(mask, shape)};
}

using Errors = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;

Steps steps_of(const Errors& error, const Shape& shape) {
  require(is_like(error, shape), "the error of the beam has not the shape of the signal");
  return {error.data(), error.stride(0), error.stride(1)};
}

Light light_of(const std::tuple<float, float, float>& light) { return {std::get<0>(light), std::get<1>(light), std::get<2>(light)}; }

void divide(Image signal, Image variance, AnyImage mask, Image beam, double photodiode, Array<float, 2> response,
            Array<float, 2> response_variance, Array<int16_t, 2> planes) {
  const Lit lit = lit_of(signal, variance, mask, beam);
  require(is_like(response, lit.shape) && is_like(response_variance, lit.shape) && is_like(planes, lit.shape),
          "the response has not the shape of the signal");
  nb::gil_scoped_release release;
  Memory memory(lit.shape.columns);
  kernels().divide(lit, photodiode, response.data(), response_variance.data(), planes.data(), memory.scratch());
}

void fill_weights(Image signal, Image variance, AnyImage mask, Image beam, Errors beam_error, std::tuple<float, float, float> light,
                  Array<float, 2> weights) {
  const Lit lit = lit_of(signal, variance, mask, beam);
  const Steps error = steps_of(beam_error, lit.shape);
  require(is_like(weights, lit.shape), "the weights have not the shape of the signal");
  nb::gil_scoped_release release;
  Memory memory(lit.shape.columns);
  kernels().fill_weights(lit, error, light_of(light), weights.data(), memory.scratch());
}

void add_pointing(Image signal, Image variance, AnyImage mask, Image beam, Errors beam_error, std::tuple<float, float, float> light,
                  Array<float, 2> first, Array<float, 3> sums, Array<int16_t, 2> count, Array<int16_t, 2> all_planes,
                  Array<int16_t, 2> any_planes) {
  const Lit lit = lit_of(signal, variance, mask, beam);
  const Steps error = steps_of(beam_error, lit.shape);
  require(is_like(first, lit.shape) && has_shape(sums, {lit.shape.rows, 6, lit.shape.columns}) && is_like(count, lit.shape) &&
              is_like(all_planes, lit.shape) && is_like(any_planes, lit.shape),
          "the sums have not the shape of the signal");
  nb::gil_scoped_release release;
  Memory memory(lit.shape.columns);
  kernels().add_pointing(lit, error, light_of(light), {first.data(), sums.data(), count.data(), all_planes.data(), any_planes.data()},
                         memory.scratch());
}

int64_t flag_outliers(Image image, Array<int16_t, 2> mask, Image beam, Image reference, Array<const int64_t, 2> bounds, int64_t first_row,
                      float scale, Array<const float, 1> noise, float limit, Array<float, 2> variance) {
  const Shape shape = shape_of(image);
  require(is_like(mask, shape) && is_like(beam, shape) && is_like(reference, shape) && is_like(variance, shape),
          "mask, beam, reference and variance have not the shape of the image");
  const int64_t count = int64_t(bounds.shape(0));
  require(has_shape(bounds, {count, 4}) && has_shape(noise, {count}) && first_row >= 0, "amplifiers have no such bounds or noise");
  for (int64_t amplifier = 0; amplifier < count; ++amplifier) {
    const int64_t* own = bounds.data() + 4 * amplifier;
    require(own[0] >= 0 && 0 <= own[2] && own[2] <= own[3] && own[3] <= shape.columns, "an amplifier lies outside the image");
  }
  nb::gil_scoped_release release;
  Memory memory(shape.columns);
  return kernels().flag_outliers({shape, first_row, image.data(), beam.data(), reference.data(), scale, limit},
                                 {count, bounds.data(), noise.data()}, mask.data(), variance.data(), memory.scratch());
}

void interpolate(Image nodes, int64_t first, int64_t step, Array<float, 2> image) {
  const Shape shape = shape_of(image);
  const int64_t rows = int64_t(nodes.shape(0)), columns = int64_t(nodes.shape(1)), last = first + (shape.rows - 1) * step;
  require(shape.rows == 0 || (first >= 0 && last >= 0 && first / CELL + 4 <= rows && last / CELL + 4 <= rows),
          "rows lie outside the lattice");
  require(shape.columns > 0 && (shape.columns - 1) / CELL + 4 <= columns, "columns lie outside the lattice");
  nb::gil_scoped_release release;
  Memory memory(columns);
  kernels().interpolate(nodes.data(), columns, first, step, shape, image.data(), memory.scratch());
}

/// Return rows of an image, one of `Number` in memory; TypeError where its pixels are not side by side.
template <class Number>
Rows<Number> rows_of(const AnyImage& image) {
  require(image.size() == 0 || image.shape(1) == 1 || image.stride(1) == 1, "pixels of a row are not side by side");
  return {static_cast<const Number*>(image.data()), image.stride(0)};
}

void add_to_blocks(AnyImage image, nb::object good, int64_t size, Array<const int64_t, 1> block_rows, Array<double, 2> sums) {
  const Shape shape = shape_of(image);
  require(size > 0 && int64_t(block_rows.size()) == shape.rows && int64_t(sums.shape(1)) == (shape.columns + size - 1) / size,
          "blocks are not those of the image");
  for (int64_t row = 0; row < shape.rows; ++row)
    require(block_rows.data()[row] >= 0 && block_rows.data()[row] < int64_t(sums.shape(0)), "a row lies in no block");
  Rows<uint8_t> flags{nullptr, 0};
  AnyImage flag_array;
  if (!good.is_none()) {
    flag_array = nb::cast<AnyImage>(good);
    if (flag_array.dtype() != nb::dtype<bool>()) throw nb::type_error("good pixels must be given as flags");
    require(is_like(flag_array, shape), "good pixels have not the shape of the image");
    flags = rows_of<uint8_t>(flag_array);
  }
  const Blocks blocks{size, int64_t(sums.shape(1)), block_rows.data()};
  const bool is_float = image.dtype() == nb::dtype<float>(), is_double = image.dtype() == nb::dtype<double>();
  if (!is_float && !is_double && image.dtype() != nb::dtype<bool>()) throw nb::type_error("an image has neither real numbers nor flags");
  const Rows<float> floats = rows_of<float>(image);
  const Rows<double> doubles = rows_of<double>(image);
  const Rows<uint8_t> bytes = rows_of<uint8_t>(image);
  nb::gil_scoped_release release;
  std::vector<double> scratch(size_t(shape.columns));
  if (is_float) kernels().add_floats(floats, flags, shape, blocks, sums.data(), scratch.data());
  else if (is_double) kernels().add_doubles(doubles, flags, shape, blocks, sums.data(), scratch.data());
  else kernels().add_flags(bytes, flags, shape, blocks, sums.data(), scratch.data());
}

void add_to_cells(Image response, Image variance, Array<const bool, 2> good, Array<const int64_t, 2> cells, Array<double, 2> sums) {
  const Shape shape = shape_of(response);
  const int64_t n_cells = int64_t(sums.shape(1));
  require(is_like(variance, shape) && is_like(good, shape) && is_like(cells, shape), "the images of a detector differ in shape");
  require(has_shape(sums, {3, n_cells}), "there are three sums");
  bool is_inside;
  {
    nb::gil_scoped_release release;
    is_inside = kernels().add_to_cells(response.data(), variance.data(), good.data(), cells.data(), int64_t(response.size()), sums.data(),
                                       n_cells);
  }
  require(is_inside, "a pixel lies outside the mosaic");
}

}  // namespace

void bind(nb::module_& module) {
  module.def("divide", &divide, nb::arg("signal").noconvert(), nb::arg("variance").noconvert(), nb::arg("mask").noconvert(),
             nb::arg("beam").noconvert(), nb::arg("photodiode"), nb::arg("response").noconvert(), nb::arg("response_variance").noconvert(),
             nb::arg("planes").noconvert(), "Fill response, its variance and its planes of a stack; NaN without data.");
  module.def("fill_weights", &fill_weights, nb::arg("signal").noconvert(), nb::arg("variance").noconvert(), nb::arg("mask").noconvert(),
             nb::arg("beam").noconvert(), nb::arg("beam_error").noconvert(), nb::arg("light"), nb::arg("weights").noconvert(),
             "Fill the weights of the pixels of a pointing (permil.flat.divide.PointingWeights).");
  module.def("add_pointing", &add_pointing, nb::arg("signal").noconvert(), nb::arg("variance").noconvert(), nb::arg("mask").noconvert(),
             nb::arg("beam").noconvert(), nb::arg("beam_error").noconvert(), nb::arg("light"), nb::arg("first").noconvert(),
             nb::arg("sums").noconvert(), nb::arg("count").noconvert(), nb::arg("all_planes").noconvert(), nb::arg("any_planes").noconvert(),
             "Add a pointing to all sums (permil.flat.combine.PointingCombination).");
  module.def("flag_outliers", &flag_outliers, nb::arg("image").noconvert(), nb::arg("mask").noconvert(), nb::arg("beam").noconvert(),
             nb::arg("reference").noconvert(), nb::arg("bounds").noconvert(), nb::arg("first_row"), nb::arg("scale"),
             nb::arg("noise").noconvert(), nb::arg("limit"), nb::arg("variance").noconvert(),
             "Fill the variances of rows of an exposure and flag outliers in its mask; return how many had not been flagged before.");
  module.def("interpolate", &interpolate, nb::arg("nodes").noconvert(), nb::arg("first"), nb::arg("step"), nb::arg("image").noconvert(),
             "Fill rows first, first + step, ... with the light between the nodes of a lattice.");
  module.def("add_to_blocks", &add_to_blocks, nb::arg("image").noconvert(), nb::arg("good").none(), nb::arg("size"),
             nb::arg("block_rows").noconvert(), nb::arg("sums").noconvert(),
             "Add an image, where it is good (everywhere for None), to the sums of its blocks.");
  module.def("add_to_cells", &add_to_cells, nb::arg("response").noconvert(), nb::arg("variance").noconvert(), nb::arg("good").noconvert(),
             nb::arg("cells").noconvert(), nb::arg("sums").noconvert(),
             "Add good pixels to the sums of response, variance and number of their cells.");
}

}  // namespace permil::flat
