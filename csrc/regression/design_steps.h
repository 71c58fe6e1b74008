// The steps from X, y and weight to a design (design.h), for any team (team.h).
#pragma once

#include <cmath>

#include "regression/design.h"
#include "regression/team.h"

namespace xaifast {

// Features that one worker loads at once: X is row-major, so neighbours share a cache line.
inline constexpr std::int64_t kLoaded = 8;

// A row is heavy if it is so many times larger than the one in the middle.
inline constexpr double kHeavy = 64;

// e such that 1 <= largest / 2^e < 2, but far enough from the ends of float64 that 2^-e is a
// number.
XAI_DEVICE inline std::int64_t exponent_of(double largest) {
  if (!(largest > 0)) return 0;
  const int e = std::ilogb(largest);
  return e < -1000 ? -1000 : (e > 1000 ? 1000 : e);
}

XAI_DEVICE inline double scaled(double x, std::int64_t e) {
  return std::scalbn(x, static_cast<int>(e));
}

XAI_DEVICE inline Design design_at(double* workspace, const DesignShape& p) {
  double* place = workspace + kFacts;
  double* root = place + p.rows();
  double* mean = root + 2 * p.rows();
  return {p,
          reinterpret_cast<DesignFacts*>(workspace),
          reinterpret_cast<std::int64_t*>(place),
          root,
          root + p.rows(),
          mean,
          mean + p.M,
          workspace + columns_begin(p)};
}

XAI_DEVICE inline bool is_centred(const Design& d) { return d.p.intercept && d.facts->count > 0; }

// The root of the ridge, scaled like X and the weights.
XAI_DEVICE inline double ridge_root(const Design& d) {
  return scaled(std::sqrt(d.p.ridge), -d.facts->w_scale / 2 - d.facts->x_scale);
}

// weight_root, and which samples count.
template <class T, class Team>
XAI_DEVICE void prepare_weights(const Team& team, const T* weight, const Design& d) {
  team.once([&] {
    const std::int64_t scale = exponent_of(team.largest(weight, d.p.S)) / 2 * 2;
    const double factor = scaled(1, -scale);
    double* w = d.weight_root;
    team.each(d.p.S,
              [&](std::int64_t s) { w[s] = std::sqrt(static_cast<double>(weight[s]) * factor); });
    const auto last = static_cast<double>(d.p.S - 1);
    const double most = team.largest(w, d.p.S);
    const double heaviest = -team.max(d.p.S, -last, [&](std::int64_t s) {
      return w[s] == most ? -static_cast<double>(s) : -last;
    });
    const double count = team.sum(d.p.S, [&](std::int64_t s) { return w[s] != 0 ? 1.0 : 0.0; });
    const double total = team.dot(w, w, d.p.S);
    team.set(d.facts, DesignFacts{static_cast<std::int64_t>(heaviest),
                                  static_cast<std::int64_t>(count), 0, 0, total, 0, scale});
  });
}

// How far X, and the root of the ridge beside it, are scaled. Leaves the largest |x| of each sample
// that counts in `root`.
template <class T, class Team>
XAI_DEVICE void scale_design(const Team& team, const T* X, const Design& d) {
  team.share(d.p.S, d.p.M, [&](std::int64_t s) {
    team.set(d.root + s, d.weight_root[s] != 0 ? team.largest(X + s * d.p.M, d.p.M) : 0.0);
  });
  team.once([&] {
    std::int64_t scale = exponent_of(team.largest(d.root, d.p.S));
    const std::int64_t ridge = exponent_of(std::sqrt(d.p.ridge)) - d.facts->w_scale / 2;
    if (d.p.ridge > 0 && ridge > scale) scale = ridge < 1000 ? ridge : 1000;
    team.set(&d.facts->x_scale, scale);
  });
}

// Places rows of `size` [n] from the largest to the smallest, to within a factor of 4, which is as
// good. Returns how many are much larger than the one in the middle. No size is negative; they are
// overwritten.
XAI_DEVICE inline std::int64_t place_rows(double* size, std::int64_t* place, std::int64_t n) {
  double level = HUGE_VAL, middle = 0;
  for (std::int64_t next = 0; next < n;) {
    double below = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      if (std::signbit(size[i])) continue;  // placed
      if (size[i] < level / 4) {
        below = size[i] > below ? size[i] : below;
        continue;
      }
      if (next == n / 2) middle = size[i];
      place[i] = next++;
      size[i] = -size[i];
    }
    level = below;
  }
  std::int64_t heavy = 0;
  for (std::int64_t i = 0; i < n; ++i) heavy += -size[i] > kHeavy * middle;
  return heavy;
}

// place, then root in that order. What is left of a row after the means are taken away is about
// root_s (|x_s| + |mean|).
template <class Team>
XAI_DEVICE void order_rows(const Team& team, const Design& d) {
  team.once([&] {
    const double* w = d.weight_root;
    double* size = d.root;
    const double weighted = team.sum(d.p.S, [&](std::int64_t s) { return w[s] * w[s] * size[s]; });
    const double mean = is_centred(d) ? weighted / d.facts->total : 0.0;
    const double factor = scaled(1, -d.facts->x_scale);
    team.each(d.p.rows(), [&](std::int64_t i) {
      const double x = i < d.p.S ? w[i] * ((size[i] + mean) * factor) : ridge_root(d);
      size[i] = std::isnan(x) ? HUGE_VAL : std::fabs(x);
    });
    team.alone([&] { d.facts->heavy = place_rows(size, d.place, d.p.rows()); });
    team.each(d.p.rows(), [&](std::int64_t i) { d.root[d.place[i]] = i < d.p.S ? w[i] : 0.0; });
  });
}

// Columns [begin, begin + n) of A, n <= kLoaded; from the heaviest sample where means are taken.
template <class T, class Team>
XAI_DEVICE void load_columns(const Team& team, const T* X, const Design& d, std::int64_t begin,
                             std::int64_t n) {
  const double factor = scaled(1, -d.facts->x_scale);
  const T* heaviest = X + (is_centred(d) ? d.facts->heaviest * d.p.M : 0) + begin;
  double origin[kLoaded] = {};
  for (int k = 0; k < kLoaded; ++k) {
    if (k < n && is_centred(d)) origin[k] = static_cast<double>(heaviest[k]) * factor;
  }
  double* columns = d.columns + begin * d.p.rows();
  team.each(d.p.S, [&](std::int64_t s) {
    const T* x = X + s * d.p.M + begin;
    double* row = columns + d.place[s];
    const double root = d.root[d.place[s]];
    for (int k = 0; k < kLoaded; ++k) {
      if (k >= n) break;
      row[k * d.p.rows()] =
          root != 0 ? root * (static_cast<double>(x[k]) * factor - origin[k]) : 0.0;
    }
  });
  team.each(d.p.rows() - d.p.S, [&](std::int64_t i) {
    double* row = columns + d.place[d.p.S + i];
    for (std::int64_t k = 0; k < n; ++k) {
      row[k * d.p.rows()] = i == begin + k ? ridge_root(d) : 0.0;
    }
  });
}

// Takes the mean out of column k; the heaviest sample is at `origin`.
template <class T, class Team>
XAI_DEVICE void centre_column(const Team& team, const T* origin, const Design& d, std::int64_t k) {
  double* a = d.columns + k * d.p.rows();
  double mean = 0;
  if (is_centred(d)) {
    mean = team.dot(d.root, a, d.p.rows()) / d.facts->total;
    team.add_multiple(-mean, d.root, a, d.p.rows());
    mean += static_cast<double>(origin[k]) * scaled(1, -d.facts->x_scale);
  }
  team.set(d.mean + k, mean);
  team.set(d.squares + k, team.dot(a, a, d.p.rows()));
}

template <class T, class Team>
XAI_DEVICE void fill_columns(const Team& team, const T* X, const Design& d) {
  const std::int64_t groups = (d.p.M + kLoaded - 1) / kLoaded;
  team.share(groups, 4 * d.p.rows() * kLoaded, [&](std::int64_t g) {
    const std::int64_t begin = g * kLoaded, end = begin + kLoaded < d.p.M ? begin + kLoaded : d.p.M;
    load_columns(team, X, d, begin, end - begin);
    const T* origin = X + (is_centred(d) ? d.facts->heaviest * d.p.M : 0);
    for (std::int64_t k = begin; k < end; ++k) centre_column(team, origin, d, k);
  });
}

template <class T, class Team>
XAI_DEVICE void prepare_with(const Team& team, const T* X, const T* weight, const Design& d) {
  prepare_weights(team, weight, d);
  scale_design(team, X, d);
  order_rows(team, d);
  fill_columns(team, X, d);
}

// b [rows] for the target y [S] of one problem. Inside a step.
template <class T, class Team>
XAI_DEVICE Target prepare_target(const Team& team, const T* y, const Design& d, double* b) {
  const auto root = [&](std::int64_t s) { return d.root[d.place[s]]; };
  const double largest = team.max(d.p.S, 0.0, [&](std::int64_t s) {
    return root(s) != 0 ? std::fabs(static_cast<double>(y[s])) : 0.0;
  });
  const std::int64_t scale = exponent_of(largest);
  const double factor = scaled(1, -scale);
  const bool centred = is_centred(d);
  const double origin = centred ? static_cast<double>(y[d.facts->heaviest]) * factor : 0.0;
  team.each(d.p.S, [&](std::int64_t s) {
    const double x = static_cast<double>(y[s]) * factor - origin;
    b[d.place[s]] = root(s) != 0 ? root(s) * x : 0.0;
  });
  team.each(d.p.rows() - d.p.S, [&](std::int64_t i) { b[d.place[d.p.S + i]] = 0; });
  if (!centred) return {0, scale};
  const double mean = team.dot(d.root, b, d.p.rows()) / d.facts->total;
  team.add_multiple(-mean, d.root, b, d.p.rows());
  return {origin + mean, scale};
}

}  // namespace xaifast
