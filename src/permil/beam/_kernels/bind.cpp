// permil._kernels.beam: types, sizes and ranges are checked here, once for each call, so that kernels need not.
#include "_kernels/arrays.hpp"
#include "_kernels/levels.hpp"
#include "beam/_kernels/kernels.hpp"

namespace permil::beam {
namespace {

const Kernels& kernels() { return KERNELS_IN_USE; }

Table table_of(const Array<const double, 2>& coefficients, const Array<const double, 1>& origin, double step) {
  require(coefficients.shape(0) >= 4 && coefficients.shape(1) >= 4, "a table has fewer than four B-splines along an axis");
  require(has_shape(origin, {2}) && step > 0.0, "a table has no origin or no step");
  return {coefficients.data(), int64_t(coefficients.shape(0)), int64_t(coefficients.shape(1)), origin.data()[0], origin.data()[1], step};
}

void fill_image(Array<float, 2> image, Array<const double, 1> origin, Array<const double, 2> matrix, Array<const double, 2> half_planes,
                Array<const double, 2> coefficients, Array<const double, 1> start, double step) {
  const Table table = table_of(coefficients, start, step);
  require(has_shape(origin, {2}) && has_shape(matrix, {2, 2}), "an image has no origin or no matrix");
  require(has_shape(half_planes, {int64_t(half_planes.shape(0)), 3}), "half planes have three coefficients");
  require(image.shape(1) < (1u << 31), "an image has too many columns");
  nb::gil_scoped_release release;
  const Frame frame{int64_t(image.shape(0)), int64_t(image.shape(1)), origin.data()[0], origin.data()[1], matrix.data()};
  kernels().fill_image(table, frame, {int64_t(half_planes.shape(0)), half_planes.data()}, image.data());
}

void values_at(Array<const double, 2> points, Array<const double, 2> coefficients, Array<const double, 1> start, double step,
               Array<double, 1> values) {
  const Table table = table_of(coefficients, start, step);
  require(has_shape(points, {int64_t(values.size()), 2}), "values are not those of the points");
  nb::gil_scoped_release release;
  kernels().values_at(table, points.data(), int64_t(values.size()), values.data());
}

}  // namespace

void bind(nb::module_& module) {
  module.def("fill_image", &fill_image, nb::arg("image").noconvert(), nb::arg("origin").noconvert(), nb::arg("matrix").noconvert(),
             nb::arg("half_planes").noconvert(), nb::arg("coefficients").noconvert(), nb::arg("start").noconvert(), nb::arg("step"),
             "Fill an image with a spline (permil.beam.model.SplineTable.image); NaN outside the half planes.");
  module.def("values_at", &values_at, nb::arg("points").noconvert(), nb::arg("coefficients").noconvert(), nb::arg("start").noconvert(),
             nb::arg("step"), nb::arg("values").noconvert(), "Fill the values of a spline at points, shape (n, 2).");
}

}  // namespace permil::beam
