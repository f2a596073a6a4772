// The kernels of permil.compare; compiled once for each level of instructions.
#include "compare/_kernels/kernels.hpp"

#include "compare/_kernels/maps.hpp"
#include "compare/_kernels/order.hpp"
#include "compare/_kernels/rings.hpp"

namespace permil::compare {
namespace {

double part_in_circle(double u, double v, double radius) { return circle_part(u, v, radius); }

void draw_first_star(const Stars& stars, int64_t size, double* light) {
  draw_star(stars.x[0], stars.y[0], stars.fractions, stars.covariances, stars.n_components, size, span_of(light, size * size));
}

double fill_kernels(const Stars& stars, const Stamp& of_star, const Stamp& of_glow) {
  const double flux = answer_of_star(stars, 0, place_of(stars, 0), of_star);
  const int64_t numbers = N_QUANTITIES * of_star.size * of_star.size;
  fill_star_kernels(of_star, N_QUANTITIES);
  fill_glow_kernels(of_glow, N_QUANTITIES);
  for (int64_t number = 0; number < numbers; ++number) {
    of_glow.kernels[number] = of_glow.answer[number];
    of_glow.kernels[2 * numbers + number] = of_glow.kernels[numbers + number];
  }
  return flux;
}

void predict_stars(const Stars& stars, const Maps& maps, const double* unseen, const StarMemory& memory, double* templates,
                   double* instruments) {
  const int64_t n_templates = N_QUANTITIES * N_KINDS * maps.bands, n_instruments = N_QUANTITIES * maps.bands;
  for (int64_t star = 0; star < stars.count; ++star)
    predict_star(stars, star, maps, unseen, memory.stamp, memory.patches, memory.curved, memory.numbers,
                 span_of(templates + star * n_templates, n_templates), span_of(instruments + star * n_instruments, n_instruments));
}

void spread_weights(const Stars& stars, const double* unseen, const double* weights, const StarMemory& memory, double* binned, int64_t side,
                    const CellMaps& maps) {
  const Stamp& stamp = memory.stamp;
  const int64_t n_weights = N_SPREAD * maps.bands, pixels = stamp.size * stamp.size, n_cells = side * side;
  for (int64_t star = 0; star < stars.count; ++star) {
    const StarPlace place = place_of(stars, star);
    const double flux = answer_of_star(stars, star, place, stamp), glow = at_least(stars.glow[star], 0.0);
    const StarCells cells = cells_around(stamp, place, maps, side, memory.numbers);
    Binned kernels{binned, binned};
    fill_star_kernels(stamp, N_SPREAD);
    for (int kind = 0; kind < N_KINDS; ++kind)
      for (int quantity = 0; quantity < N_SPREAD; ++quantity)
        bin_kernel(stamp, kernel_of(stamp, kind, quantity), cells, binned + (kind * N_SPREAD + quantity) * n_cells);
    if (glow > 0.0) {
      kernels.of_light = binned + N_KINDS * N_SPREAD * n_cells;
      fill_glow_kernels(stamp, N_SPREAD);
      for (int quantity = 0; quantity < N_SPREAD; ++quantity) {
        bin_kernel(stamp, stamp.answer + quantity * pixels, cells, kernels.of_light + quantity * n_cells);
        bin_kernel(stamp, kernel_of(stamp, 1, quantity), cells, kernels.of_light + (N_SPREAD + quantity) * n_cells);
      }
    }
    add_cells(cells, kernels, span_of(weights + star * n_weights, n_weights), glow * flux, unseen, maps);
  }
}

void weigh_flat(const Stars& stars, const Flat& flat, const Stamp& stamp, double* seen, double* spread, double* lost) {
  for (int64_t star = 0; star < stars.count; ++star) {
    const FlatSums sums = sum_flat(stars, star, flat, stamp);
    lost[star] = 1.0 - sums.known / sums.total;
    if (!(sums.known > 0.0)) continue;
    seen[star] = sums.mean / sums.known;
    spread[star] = sums.squares / (sums.known * sums.known);
  }
}

void sum_annuli(const Cells& cells, const Annuli& annuli, double* sums) { add_to_annuli(cells, annuli, sums); }

void give_order_to_rows(const float* numbers, const double* ascending, int64_t n_rows, int64_t n, uint64_t* items, int64_t* starts,
                        double* rows) {
  for (int64_t row = 0; row < n_rows; ++row)
    give_order(span_of(numbers + row * n, n), span_of(ascending, n), n, items, starts, span_of(rows + row * n, n));
}

}  // namespace

extern const Kernels PERMIL_LEVEL = {part_in_circle, draw_first_star, fill_kernels, predict_stars, spread_weights, weigh_flat, sum_annuli,
                                     give_order_to_rows};

}  // namespace permil::compare
