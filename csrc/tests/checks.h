// What the native tests share. They need no framework and no PyTorch. Each CPU kernel, each CUDA
// kernel's element played on the host as a grid would run it (common/grid.h), and each CUDA kernel
// on an emulated device (cuda/device.h) meets a naive loop in float64. Sizes are odd or zero,
// outputs start as NaN, inputs are small multiples of 1/4, so that sums are exact in every number
// type and ties are frequent.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <vector>

#include "common/floats.h"
#include "common/grid.h"
#include "common/pack.h"
#include "tests/cuda/device.h"

namespace xaifast {

using std::int64_t;
using Doubles = std::vector<double>;

inline std::string digits(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", x);
  return text;
}

inline int checks = 0;
inline int failures = 0;

inline void check(bool good, const std::string& what) {
  ++checks;
  if (good) return;
  ++failures;
  std::printf("FAILED %s\n", what.c_str());
}

template <class T>
const char* type_name();
template <>
inline const char* type_name<float>() {
  return "float32";
}
template <>
inline const char* type_name<double>() {
  return "float64";
}
template <>
inline const char* type_name<BFloat16>() {
  return "bfloat16";
}
template <>
inline const char* type_name<Float16>() {
  return "float16";
}

// Relative rounding error of T, with room for a few operations.
template <class T>
double tolerance() {
  if (std::is_same_v<T, double>) return 1e-14;
  if (std::is_same_v<T, float>) return 1e-6;
  return std::is_same_v<T, Float16> ? 0x1p-10 : 0x1p-7;
}

template <class T>
double value(T x) {
  return static_cast<Compute<T>>(x);
}

template <class T>
std::string label(const char* name, std::initializer_list<int64_t> sizes) {
  std::string text = name;
  text.append("<").append(type_name<T>()).append(">");
  for (const auto n : sizes) text.append(" ").append(std::to_string(n));
  return text;
}

// n numbers in -2, -1.75, ..., 2, the same for the same seed.
template <class T>
std::vector<T> numbers(int64_t n, unsigned seed) {
  std::vector<T> x(static_cast<std::size_t>(n));
  for (auto& xi : x) {
    seed = seed * 1664525u + 1013904223u;
    xi = static_cast<T>((static_cast<float>((seed >> 16) % 17) - 8.0f) / 4.0f);
  }
  return x;
}

template <class T>
std::vector<T> poison(int64_t n) {
  return std::vector<T>(static_cast<std::size_t>(n), static_cast<T>(std::nanf("")));
}

// A NaN or an infinity must be met exactly.
inline bool near(double got, double want, double allowed) {
  if (std::isnan(want) || std::isnan(got)) return std::isnan(want) && std::isnan(got);
  return got == want || std::abs(got - want) <= allowed * std::max(1.0, std::abs(want));
}

template <class T>
void expect(const std::string& what, const std::vector<T>& got, const Doubles& want,
            double allowed = tolerance<T>()) {
  check(got.size() == want.size(), what + ": size");
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (near(value(got[i]), want[i], allowed)) continue;
    check(false, what + ": at " + std::to_string(i) + " got " + digits(value(got[i])) + ", want " +
                     digits(want[i]));
    return;
  }
}

// The grids that every element is played on: one thread, few threads that go round, too many.
struct Play {
  int64_t threads;
  int64_t rows;
};
constexpr Play kPlays[] = {{1, 1}, {7, 2}, {512, 5}};

template <int W, class Element>
void play(const Element& element, Play grid) {
  for (int64_t row = 0; row < grid.rows; ++row) {
    for (int64_t thread = 0; thread < grid.threads; ++thread) {
      run_thread<W>(element, thread, grid.threads, row, grid.rows);
    }
  }
}

template <class T, class Element>
void play_packs(const Element& element, Play grid) {
  if (element.packs()) {
    play<kPackWidth<T>>(element, grid);
  } else {
    play<1>(element, grid);
  }
}

// Prints the counts, and gives main its result.
inline int report() {
  report_device();
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace xaifast
