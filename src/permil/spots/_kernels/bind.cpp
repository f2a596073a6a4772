// permil._kernels.spots: types, sizes and ranges are checked here, once for each call, so that kernels need not.
#include <algorithm>
#include <tuple>
#include <vector>

#include <nanobind/stl/tuple.h>

#include "_kernels/arrays.hpp"
#include "_kernels/levels.hpp"
#include "spots/_kernels/kernels.hpp"

namespace permil::spots {
namespace {

const Kernels& kernels() { return KERNELS_IN_USE; }

constexpr const char* IMAGES_DIFFER = "the image, its variance and its usable pixels differ in shape";
constexpr const char* SPOTS_DIFFER = "spots differ in number";

Image image_of(const Array<const float, 2>& signal, const Array<const bool, 2>& usable) {
  const int64_t ny = int64_t(signal.shape(0)), nx = int64_t(signal.shape(1));
  require(has_shape(usable, {ny, nx}), IMAGES_DIFFER);
  return {signal.data(), nullptr, usable.data(), ny, nx};
}

Image image_of(const Array<const float, 2>& signal, const Array<const float, 2>& variance, const Array<const bool, 2>& usable) {
  Image image = image_of(signal, usable);
  require(has_shape(variance, {image.ny, image.nx}), IMAGES_DIFFER);
  image.variance = variance.data();
  return image;
}

Places places_of(const Array<const double, 1>& x, const Array<const double, 1>& y) {
  require(x.size() == y.size(), SPOTS_DIFFER);
  return {x.data(), y.data(), int64_t(x.size())};
}

/// Raise ValueError unless numbers increase from the first to the last, which lie between two limits.
void require_increasing(const Array<const int64_t, 1>& numbers, int64_t least, int64_t most, const char* what) {
  require(numbers.size() > 0 && numbers.data()[0] >= least && numbers.data()[numbers.size() - 1] <= most &&
              std::is_sorted(numbers.data(), numbers.data() + numbers.size()),
          what);
}

/// The noise of rows, and the arrays that it lies in.
struct RowNoiseArrays {
  Array<const int64_t, 1> starts;
  Array<const double, 2> variance;

  explicit RowNoiseArrays(nb::handle noise, int64_t ny)
      : starts(array_of<const int64_t, 1>(noise, "starts")), variance(array_of<const double, 2>(noise, "variance")) {
    require_increasing(starts, 0, INT32_MAX, "the strips of the row noise do not increase");
    require(has_shape(variance, {ny, int64_t(starts.size())}), "the row noise is not that of the image");
  }
  RowNoise noise() const { return {starts.data(), int64_t(starts.size()), variance.data()}; }
};

/// The noise of rows around spots, and the arrays that it lies in.
struct RowErrorArrays {
  RowNoiseArrays noise;
  Array<const int64_t, 1> first_row;
  Array<const double, 3> answer;

  RowErrorArrays(nb::handle errors, int64_t ny, int64_t spots)
      : noise(errors.attr("noise"), ny),
        first_row(array_of<const int64_t, 1>(errors, "first_row")),
        answer(array_of<const double, 3>(errors, "answer")) {
    require(has_shape(first_row, {spots}) && has_shape(answer, {spots, int64_t(answer.shape(1)), int64_t(noise.starts.size())}),
            "the row noise is not that of the spots");
  }
  RowErrors errors() const { return {noise.noise(), first_row.data(), answer.data(), int64_t(answer.shape(1))}; }
};

void add_measurements(Array<const int64_t, 1> spot, Array<const int64_t, 1> exposure, Array<const int32_t, 2> index,
                      Array<const double, 2> values, Array<const double, 1> weight, Array<const double, 1> residual,
                      Array<const double, 1> factor, int64_t exposures, nb::handle equations) {
  const int64_t n = int64_t(spot.size()), width = int64_t(index.shape(1));
  const auto spot_weight = array_of<double, 1>(equations, "spot_weight"), spot_side = array_of<double, 1>(equations, "spot_side");
  const auto coupling = array_of<double, 2>(equations, "coupling"), other_weight = array_of<double, 2>(equations, "other_weight");
  const auto other_side = array_of<double, 1>(equations, "other_side");
  const int64_t spots = int64_t(spot_weight.size()), others = int64_t(other_side.size());
  require(has_shape(exposure, {n}) && has_shape(index, {n, width}) && has_shape(values, {n, width}) && has_shape(weight, {n}) &&
              has_shape(residual, {n}) && has_shape(factor, {n}),
          "measurements differ in number");
  require(has_shape(spot_side, {spots}) && has_shape(coupling, {spots, others}) && has_shape(other_weight, {others, others}) &&
              exposures >= 0 && exposures <= others,
          "the normal equations differ in their numbers of parameters");
  const auto lie_below = [](const auto& numbers, int64_t size) {
    return std::all_of(numbers.data(), numbers.data() + numbers.size(), [=](int64_t each) { return each >= 0 && each < size; });
  };
  require(lie_below(spot, spots) && lie_below(exposure, exposures) && lie_below(index, others - exposures),
          "a measurement has parameters that are not those of the normal equations");
  const Measurements all{n,          spot.data(), exposure.data(), index.data(), values.data(), width, weight.data(), residual.data(),
                         factor.data()};
  const Equations sums{spot_weight.data(), spot_side.data(), coupling.data(), other_weight.data(), other_side.data(), exposures, others};
  nb::gil_scoped_release release;
  std::vector<double> memory(width);
  kernels().add_measurements(all, memory.data(), sums);
}

void sum_circles(Array<const float, 2> signal, Array<const float, 2> variance, Array<const bool, 2> usable, Array<const double, 1> x,
                 Array<const double, 1> y, Array<const double, 1> radii, nb::handle row_errors, Array<double, 2> flux,
                 Array<double, 2> squared, Array<double, 2> area, Array<double, 2> shared) {
  const Image image = image_of(signal, variance, usable);
  const Places places = places_of(x, y);
  const RowErrorArrays errors(row_errors, image.ny, places.count);
  const int64_t n_radii = int64_t(radii.size());
  require(n_radii > 0, "there are no circles");
  for (const auto* each : {&flux, &squared, &area, &shared}) require(has_shape(*each, {places.count, n_radii}), SPOTS_DIFFER);
  const CircleSums sums{flux.data(), squared.data(), area.data(), shared.data()};
  nb::gil_scoped_release release;
  std::vector<double> memory(3 * image.nx);
  kernels().sum_circles(image, places, radii.data(), n_radii, errors.errors(), memory.data(), sums);
}

void measure_moments(Array<const float, 2> signal, Array<const float, 2> variance, Array<const bool, 2> usable, Array<const double, 1> x,
                     Array<const double, 1> y, double sigma, double largest_sigma, double largest_shift, double reach,
                     Array<const double, 1> background_error, nb::handle row_errors, Array<double, 2> parameters,
                     Array<double, 3> covariance) {
  const Image image = image_of(signal, variance, usable);
  const Places places = places_of(x, y);
  const RowErrorArrays errors(row_errors, image.ny, places.count);
  require(has_shape(background_error, {places.count}) && has_shape(parameters, {places.count, 5}) &&
              has_shape(covariance, {places.count, 5, 5}),
          SPOTS_DIFFER);
  nb::gil_scoped_release release;
  kernels().measure_moments(image, places, sigma, largest_sigma, largest_shift, reach, background_error.data(), errors.errors(),
                            parameters.data(), covariance.data());
}

void fit_boxes(Array<const float, 2> signal, Array<const bool, 2> free, Array<const int64_t, 1> row_edges,
               Array<const int64_t, 1> column_edges, Array<const double, 1> centres_y, Array<const double, 1> centres_x,
               nb::handle row_noise, Array<double, 2> level, Array<double, 2> error, Array<double, 3> answer, Array<double, 3> row_answer) {
  const Image image = image_of(signal, free);
  const RowNoiseArrays noise(row_noise, image.ny);
  const int64_t rows = int64_t(centres_y.size()), columns = int64_t(centres_x.size()), strips = int64_t(noise.starts.size());
  require_increasing(row_edges, 0, image.ny, "boxes lie outside the image");
  require_increasing(column_edges, 0, image.nx, "boxes lie outside the image");
  require(has_shape(row_edges, {rows + 1}) && has_shape(column_edges, {columns + 1}) && has_shape(level, {rows, columns}) &&
              has_shape(error, {rows, columns}) && has_shape(answer, {3, rows, columns}) &&
              has_shape(row_answer, {image.ny, columns, strips}),
          "boxes differ in number");
  const auto largest_step = [](const Array<const int64_t, 1>& edges) {
    int64_t largest = 0;
    for (size_t box = 0; box + 1 < edges.size(); ++box) largest = std::max(largest, edges.data()[box + 1] - edges.data()[box]);
    return largest;
  };
  const Boxes boxes{rows, columns, row_edges.data(), column_edges.data(), centres_y.data(), centres_x.data()};
  const Planes planes{level.data(), error.data(), answer.data(), row_answer.data()};
  nb::gil_scoped_release release;
  std::vector<double> along(largest_step(column_edges)), memory(2 * largest_step(row_edges) * strips);
  kernels().fit_boxes(image, boxes, noise.noise(), along.data(), memory.data(), int64_t(memory.size()), planes);
}

void propagate(nb::handle background, nb::tuple derivatives, Array<const int64_t, 1> row_edges, Array<const double, 2> rows,
               Array<const double, 2> columns, Array<const int64_t, 1> nearest_row, Array<const int64_t, 1> nearest_column,
               Array<const int64_t, 1> first_row, Array<double, 3> answer, Array<double, 1> variance) {
  const auto curvature = array_of<const double, 3>(background, "curvature"), row_answer = array_of<const double, 3>(background, "row_answer");
  const auto plane_error = array_of<const double, 2>(background, "plane_error");
  const RowNoiseArrays noise(background.attr("row_noise"), int64_t(row_answer.shape(0)));
  const int64_t ny = int64_t(row_answer.shape(0)), strips = int64_t(noise.starts.size());
  const int64_t n_rows = int64_t(plane_error.shape(0)), n_columns = int64_t(plane_error.shape(1)), places = int64_t(variance.size());
  require(has_shape(curvature, {3, n_rows, n_columns}) && has_shape(row_answer, {ny, n_columns, strips}) &&
              has_shape(row_edges, {n_rows + 1}),
          "the meshes of the background differ");
  require_increasing(row_edges, 0, ny, "boxes lie outside the image");
  const auto [slope_v, bend_v, slope_u, bend_u] =
      nb::cast<std::tuple<Array<const double, 2>, Array<const double, 2>, Array<const double, 2>, Array<const double, 2>>>(derivatives, false);
  require(has_shape(slope_v, {n_rows, n_rows}) && has_shape(bend_v, {n_rows, n_rows}) && has_shape(slope_u, {n_columns, n_columns}) &&
              has_shape(bend_u, {n_columns, n_columns}),
          "derivatives are not those of the mesh");
  require(has_shape(rows, {places, n_rows}) && has_shape(columns, {places, n_columns}) && has_shape(nearest_row, {places}) &&
              has_shape(nearest_column, {places}) && has_shape(first_row, {places}) &&
              has_shape(answer, {places, int64_t(answer.shape(1)), strips}),
          "places differ in number");
  for (int64_t place = 0; place < places; ++place) {
    const int64_t row = nearest_row.data()[place], column = nearest_column.data()[place];
    require(row >= 0 && row < n_rows && column >= 0 && column < n_columns, "a place lies outside the mesh");
  }
  const Mesh mesh{n_rows,        n_columns,     curvature.data(),   slope_v.data(),   bend_v.data(),
                  slope_u.data(), bend_u.data(), plane_error.data(), row_edges.data(), row_answer.data()};
  const MeshPlaces all{places, rows.data(), columns.data(), nearest_row.data(), nearest_column.data()};
  nb::gil_scoped_release release;
  std::vector<double> memory(strips);
  kernels().propagate(mesh, noise.noise(), all, first_row.data(), answer.data(), int64_t(answer.shape(1)), memory.data(), variance.data());
}

void bin_pixels(Array<const float, 2> signal, Array<const bool, 2> usable, Array<float, 2> binned, Array<bool, 2> empty) {
  const Image image = image_of(signal, usable);
  require(has_shape(binned, {image.ny / 2, image.nx / 2}) && has_shape(empty, {image.ny / 2, image.nx / 2}),
          "the binned image has not half of the sides");
  nb::gil_scoped_release release;
  kernels().bin_pixels(image, binned.data(), empty.data());
}

void clear_discs(Array<bool, 2> free, Array<const double, 1> x, Array<const double, 1> y, double radius) {
  const Places places = places_of(x, y);
  nb::gil_scoped_release release;
  kernels().clear_discs(places, radius, int64_t(free.shape(0)), int64_t(free.shape(1)), free.data());
}

template <class Plane>
void planes_in_discs(Array<const Plane, 2> mask, Array<const bool, 2> usable, Array<const double, 1> x, Array<const double, 1> y,
                     double radius, Array<int64_t, 1> planes, Array<bool, 1> unusable) {
  const Places places = places_of(x, y);
  const int64_t ny = int64_t(mask.shape(0)), nx = int64_t(mask.shape(1));
  require(has_shape(usable, {ny, nx}), IMAGES_DIFFER);
  require(has_shape(planes, {places.count}) && has_shape(unusable, {places.count}), SPOTS_DIFFER);
  nb::gil_scoped_release release;
  if constexpr (sizeof(Plane) == 2)
    kernels().planes_in_discs_16(places, radius, ny, nx, mask.data(), usable.data(), planes.data(), unusable.data());
  else
    kernels().planes_in_discs_32(places, radius, ny, nx, mask.data(), usable.data(), planes.data(), unusable.data());
}

}  // namespace

void bind(nb::module_& module) {
  using nb::arg;
  module.def("add_measurements", &add_measurements, arg("spot").noconvert(), arg("exposure").noconvert(), arg("index").noconvert(),
             arg("values").noconvert(), arg("weight").noconvert(), arg("residual").noconvert(), arg("factor").noconvert(), arg("exposures"),
             arg("equations"), "Add measurements to normal equations.");
  module.def("sum_circles", &sum_circles, arg("signal").noconvert(), arg("variance").noconvert(), arg("usable").noconvert(),
             arg("x").noconvert(), arg("y").noconvert(), arg("radii").noconvert(), arg("row_errors"), arg("flux").noconvert(),
             arg("squared").noconvert(), arg("area").noconvert(), arg("shared").noconvert(),
             "Add light, variance and area of circles around spots, and their covariance with the background through the rows.");
  module.def("measure_moments", &measure_moments, arg("signal").noconvert(), arg("variance").noconvert(), arg("usable").noconvert(),
             arg("x").noconvert(), arg("y").noconvert(), arg("sigma"), arg("largest_sigma"), arg("largest_shift"), arg("reach"),
             arg("background_error").noconvert(), arg("row_errors"), arg("parameters").noconvert(), arg("covariance").noconvert(),
             "Fill centres and adaptive moments of spots, and their covariance; a spot that does not converge is left as it is.");
  module.def("fit_boxes", &fit_boxes, arg("signal").noconvert(), arg("free").noconvert(), arg("row_edges").noconvert(),
             arg("column_edges").noconvert(), arg("centres_y").noconvert(), arg("centres_x").noconvert(), arg("row_noise"),
             arg("level").noconvert(), arg("error").noconvert(), arg("answer").noconvert(), arg("row_answer").noconvert(),
             "Fit planes to boxes: values and errors at their centres, answers to u^2, v^2 and u v, and to the level of each row.");
  module.def("propagate", &propagate, arg("background"), arg("derivatives"), arg("row_edges").noconvert(), arg("rows").noconvert(),
             arg("columns").noconvert(), arg("nearest_row").noconvert(), arg("nearest_column").noconvert(), arg("first_row").noconvert(),
             arg("answer").noconvert(), arg("variance").noconvert(),
             "Fill the variance of a background at places, and its change with the levels of rows from first_row on.");
  module.def("bin_pixels", &bin_pixels, arg("signal").noconvert(), arg("usable").noconvert(), arg("binned").noconvert(),
             arg("empty").noconvert(), "Fill means of the usable ones among 2 x 2 pixels, and where there is none.");
  module.def("clear_discs", &clear_discs, arg("free").noconvert(), arg("x").noconvert(), arg("y").noconvert(), arg("radius"),
             "Clear pixels within a radius of places.");
  const auto define_planes = [&](auto function) {
    module.def("planes_in_discs", function, arg("mask").noconvert(), arg("usable").noconvert(), arg("x").noconvert(), arg("y").noconvert(),
               arg("radius"), arg("planes").noconvert(), arg("unusable").noconvert(),
               "Fill the mask planes within a radius of places, and whether one of the pixels there is not usable.");
  };
  define_planes(&planes_in_discs<int16_t>);
  define_planes(&planes_in_discs<int32_t>);
}

}  // namespace permil::spots
