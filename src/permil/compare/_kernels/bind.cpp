// permil._kernels.compare: types, sizes and ranges are checked here, once for each call, so that kernels need not.
#include <algorithm>
#include <cmath>
#include <vector>

#include <nanobind/stl/pair.h>

#include "_kernels/arrays.hpp"
#include "_kernels/levels.hpp"
#include "compare/_kernels/kernels.hpp"

namespace permil::compare {
namespace {

const Kernels& kernels() { return KERNELS_IN_USE; }

constexpr const char* STARS_DIFFER = "stars differ in number";
/// The kernels of area and diffusion take pixels up to three away.
constexpr int64_t LEAST_HALF = 4;
constexpr const char* STAMPS_TOO_SMALL = "the stamps of stars are too small";
constexpr double FARTHEST = 1e9;

/// Stars, and the arrays that they lie in.
struct StarArrays {
  Array<const double, 1> x, y, glow, fractions;
  Array<const double, 3> covariances;
  Array<const double, 2> moments;
  Stars stars;

  explicit StarArrays(nb::handle shapes)
      : x(array_of<const double, 1>(shapes, "x")),
        y(array_of<const double, 1>(shapes, "y")),
        glow(array_of<const double, 1>(shapes, "glow")),
        fractions(array_of<const double, 1>(shapes, "fractions")),
        covariances(array_of<const double, 3>(shapes, "covariances")),
        moments(array_of<const double, 2>(shapes, "moments")) {
    const int64_t count = int64_t(x.size()), components = int64_t(fractions.size());
    require(has_shape(y, {count}) && has_shape(glow, {count}) && has_shape(moments, {count, 3}), STARS_DIFFER);
    require(has_shape(covariances, {count, components, 3}), "the components of stars differ in number");
    for (const auto* each : {&x, &y})
      require(std::all_of(each->data(), each->data() + count, [](double place) { return std::fabs(place) < FARTHEST; }),
              "a star has no place, or lies far outside");
    stars = {count,          x.data(), y.data(), glow.data(), components, fractions.data(), covariances.data(), moments.data(),
             nb::cast<double>(shapes.attr("radius")), nb::cast<bool>(shapes.attr("adaptive")), nb::cast<int64_t>(shapes.attr("half"))};
    require(stars.half >= 0, STAMPS_TOO_SMALL);
  }
};

/// Memory for stamps and patches of a star.
class OwnMemory {
 public:
  OwnMemory(int64_t half, int64_t bands)
      : size_(2 * half + 1), numbers_((N_STAMPS + 2 + 2 * bands) * size_ * size_), cells_(2 * size_), borders_(2 * (size_ + 1)) {}
  StarMemory memory() {
    const int64_t pixels = size_ * size_;
    double* const light = numbers_.data();
    double* const answer = light + pixels;
    double* const border_x = answer + N_QUANTITIES * pixels;
    double* const border_y = border_x + pixels;
    double* const kernels = border_y + pixels;
    double* const work = kernels + N_KINDS * N_QUANTITIES * pixels;
    double* const curved = work + pixels;
    return {{size_ / 2, size_, light, answer, border_x, border_y, kernels, work, borders_.data()}, curved + 2 * pixels, curved, cells_.data()};
  }

 private:
  int64_t size_;
  std::vector<double> numbers_;
  std::vector<int64_t> cells_;
  std::vector<Border> borders_;
};

void draw_star(nb::handle shapes, Array<double, 2> light) {
  const StarArrays arrays(shapes);
  require(arrays.stars.count == 1 && has_shape(light, {int64_t(light.shape(0)), int64_t(light.shape(0))}), "give one star and a square stamp");
  kernels().draw_star(arrays.stars, int64_t(light.shape(0)), light.data());
}

double fill_kernels(nb::handle shapes, Array<double, 4> of_star, Array<double, 4> of_glow) {
  const StarArrays arrays(shapes);
  const int64_t size = 2 * arrays.stars.half + 1;
  require(arrays.stars.count == 1, "give one star");
  require(arrays.stars.half >= LEAST_HALF, STAMPS_TOO_SMALL);
  for (const auto* each : {&of_star, &of_glow})
    require(has_shape(*each, {N_KINDS, N_QUANTITIES, size, size}), "the kernels have not the size of the stamp");
  OwnMemory own(arrays.stars.half, 0);
  Stamp stamp = own.memory().stamp, glow = stamp;
  stamp.kernels = of_star.data();
  glow.kernels = of_glow.data();
  return kernels().fill_kernels(arrays.stars, stamp, glow);
}

void predict_stars(nb::handle shapes, Array<const float, 3> excess, Array<const float, 3> potential, Array<const double, 1> unseen,
                   Array<double, 4> templates, Array<double, 3> instruments) {
  const StarArrays arrays(shapes);
  const int64_t bands = int64_t(excess.shape(0)), ny = int64_t(excess.shape(1)), nx = int64_t(excess.shape(2));
  require(has_shape(potential, {bands, ny, nx}) && has_shape(unseen, {bands}) && ny > 0 && nx > 0, "the maps of bands differ in shape");
  require(has_shape(templates, {arrays.stars.count, N_QUANTITIES, N_KINDS, bands}) &&
              has_shape(instruments, {arrays.stars.count, N_QUANTITIES, bands}),
          STARS_DIFFER);
  require(arrays.stars.half >= LEAST_HALF, STAMPS_TOO_SMALL);
  nb::gil_scoped_release release;
  OwnMemory own(arrays.stars.half, bands);
  kernels().predict_stars(arrays.stars, {excess.data(), potential.data(), ny, nx, bands}, unseen.data(), own.memory(), templates.data(),
                          instruments.data());
}

void spread_weights(nb::handle shapes, int64_t cell, std::pair<int64_t, int64_t> shape, Array<const double, 1> unseen,
                    Array<const double, 3> weights, Array<float, 5> maps) {
  const StarArrays arrays(shapes);
  const auto [ny, nx] = shape;
  const int64_t bands = int64_t(unseen.size()), rows = int64_t(maps.shape(3)), columns = int64_t(maps.shape(4));
  require(cell > 0 && ny > 0 && nx > 0 && rows * cell >= ny && columns * cell >= nx && has_shape(maps, {N_KINDS, 3, bands, rows, columns}),
          "the maps have not the size of the detector");
  require(has_shape(weights, {arrays.stars.count, N_SPREAD, bands}), STARS_DIFFER);
  require(arrays.stars.half >= LEAST_HALF, STAMPS_TOO_SMALL);
  nb::gil_scoped_release release;
  OwnMemory own(arrays.stars.half, 0);
  const int64_t side = (2 * arrays.stars.half + 1) / cell + 2;
  std::vector<double> binned(2 * N_KINDS * N_SPREAD * side * side);
  kernels().spread_weights(arrays.stars, unseen.data(), weights.data(), own.memory(), binned.data(), side,
                           {maps.data(), bands, rows, columns, cell, ny, nx});
}

void weigh_flat(nb::handle shapes, Array<const double, 2> excess, Array<const double, 2> variance, Array<const bool, 2> usable,
                Array<double, 1> seen, Array<double, 1> spread, Array<double, 1> lost) {
  const StarArrays arrays(shapes);
  const int64_t ny = int64_t(excess.shape(0)), nx = int64_t(excess.shape(1));
  require(has_shape(variance, {ny, nx}) && has_shape(usable, {ny, nx}), "the flat, its variance and its usable pixels differ in shape");
  for (const auto* each : {&seen, &spread, &lost}) require(has_shape(*each, {arrays.stars.count}), STARS_DIFFER);
  nb::gil_scoped_release release;
  OwnMemory own(arrays.stars.half, 0);
  kernels().weigh_flat(arrays.stars, {excess.data(), variance.data(), usable.data(), ny, nx}, own.memory().stamp, seen.data(),
                       spread.data(), lost.data());
}

/// Least and largest of some numbers.
struct Range {
  double low, high;
};

/// Return the annuli around an axis that hold all cells, with one to spare.
Annuli annuli_of(const Range& x, const Range& y, double axis_x, double axis_y, double width) {
  double furthest = 0.0;
  for (double to_x : {x.low, x.high})
    for (double to_y : {y.low, y.high}) furthest = std::max(furthest, std::hypot(to_x - axis_x, to_y - axis_y));
  const double nearest = std::hypot(std::max({x.low - axis_x, axis_x - x.high, 0.0}), std::max({y.low - axis_y, axis_y - y.high, 0.0}));
  const int64_t first = int64_t(nearest / width);
  return {axis_x, axis_y, width, first, int64_t(furthest / width) - first + 3};
}

nb::ndarray<nb::numpy, double, nb::ndim<4>> radial_sums(Array<const double, 1> x, Array<const double, 1> y, Array<const double, 1> level,
                                                        Array<const int64_t, 1> tile, int64_t tiles, Array<const double, 2> axes,
                                                        double width) {
  const Cells cells{int64_t(x.size()), x.data(), y.data(), level.data(), tile.data()};
  require(cells.count > 0 && has_shape(y, {cells.count}) && has_shape(level, {cells.count}) && has_shape(tile, {cells.count}),
          "cells differ in number");
  require(std::all_of(cells.tile, cells.tile + cells.count, [=](int64_t each) { return each >= 0 && each < tiles; }),
          "a cell lies in none of the tiles");
  const int64_t count = int64_t(axes.shape(0));
  require(has_shape(axes, {count, 2}), "an axis has two coordinates");
  const auto lies_near = [](double place) { return std::fabs(place) < FARTHEST; };
  require(width > 0 && std::all_of(x.data(), x.data() + cells.count, lies_near) && std::all_of(y.data(), y.data() + cells.count, lies_near) &&
              std::all_of(axes.data(), axes.data() + 2 * count, [=](double place) { return lies_near(place / width); }),
          "cells or the axis have no place, or lie far outside");
  const auto range_of = [&](const double* place) {
    const auto [low, high] = std::minmax_element(place, place + cells.count);
    return Range{*low, *high};
  };
  const Range x_range = range_of(cells.x), y_range = range_of(cells.y);
  std::vector<Annuli> annuli;
  int64_t most = 0;
  for (int64_t axis = 0; axis < count; ++axis) {
    annuli.push_back(annuli_of(x_range, y_range, axes.data()[2 * axis], axes.data()[2 * axis + 1], width));
    most = std::max(most, annuli.back().count);
  }
  auto* const memory = new std::vector<double>(2 * count * tiles * most);
  nb::capsule owner(memory, [](void* pointer) noexcept { delete static_cast<std::vector<double>*>(pointer); });
  {
    nb::gil_scoped_release release;
    for (int64_t axis = 0; axis < count; ++axis) {
      annuli[axis].count = most;
      kernels().add_to_annuli(cells, annuli[axis], memory->data() + 2 * axis * tiles * most);
    }
  }
  return {memory->data(), {size_t(count), size_t(tiles), size_t(most), 2}, owner};
}

void give_order(Array<const float, 2> numbers, Array<const double, 1> ascending, Array<double, 2> rows) {
  const int64_t n_rows = int64_t(numbers.shape(0)), n = int64_t(numbers.shape(1));
  require(has_shape(ascending, {n}) && has_shape(rows, {n_rows, n}), "rows of numbers and values differ in length");
  require(n < (int64_t(1) << 32), "the rows are too long");
  nb::gil_scoped_release release;
  std::vector<uint64_t> items(2 * n);
  std::vector<int64_t> starts(N_STARTS);
  kernels().give_order(numbers.data(), ascending.data(), n_rows, n, items.data(), starts.data(), rows.data());
}

}  // namespace

void bind(nb::module_& module) {
  using nb::arg;
  module.def("circle_part", [](double u, double v, double radius) { return kernels().circle_part(u, v, radius); }, arg("u"), arg("v"),
             arg("radius"), "Return the part of a pixel, its centre at (u, v) from the circle's, that lies in the circle.");
  module.def("draw_star", &draw_star, arg("shapes"), arg("light").noconvert(),
             "Draw one star, its centre at (x, y) from that of the stamp, as light per pixel.");
  module.def("fill_kernels", &fill_kernels, arg("shapes"), arg("of_star").noconvert(), arg("of_glow").noconvert(),
             "Fill the kernels (3, 6, size, size) of one star, and those of even light of one per pixel; return the star's flux in the circle.");
  module.def("predict_stars", &predict_stars, arg("shapes"), arg("excess").noconvert(), arg("potential").noconvert(),
             arg("unseen").noconvert(), arg("templates").noconvert(), arg("instruments").noconvert(),
             "Fill what each quantity of each star answers to maps of bands, were they of one kind.");
  module.def("spread_weights", &spread_weights, arg("shapes"), arg("cell"), arg("shape"), arg("unseen").noconvert(),
             arg("weights").noconvert(), arg("maps").noconvert(),
             "Add what weighted sums over stars weigh each cell of the three maps with: the adjoint of predict_stars.");
  module.def("weigh_flat", &weigh_flat, arg("shapes"), arg("excess").noconvert(), arg("variance").noconvert(), arg("usable").noconvert(),
             arg("seen").noconvert(), arg("spread").noconvert(), arg("lost").noconvert(),
             "Fill mean and variance of a flat over the light of each star in its circle, and the part of the weight that is not usable.");
  module.def("radial_sums", &radial_sums, arg("x").noconvert(), arg("y").noconvert(), arg("level").noconvert(), arg("tile").noconvert(),
             arg("tiles"), arg("axes").noconvert(), arg("width"),
             "Return sums and weights of annuli around each axis for each tile, shape (axes, tiles, annuli, 2); a cell is shared by the two "
             "nearest annuli, of which the first ones are those nearest to the axis that hold a cell.");
  module.def("give_order", &give_order, arg("numbers").noconvert(), arg("ascending").noconvert(), arg("rows").noconvert(),
             "Fill rows with ascending values in the order of finite numbers, equal ones by their index.");
}

}  // namespace permil::compare
