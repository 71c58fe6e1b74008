// Who works on one regression: a team of workers. The kernels are written once, as steps that a
// team takes (design_steps.h, weighted_least_squares_steps.h, weighted_lasso_steps.h); the teams
// are
//   Solo     one CPU thread
//   Crew     the threads of a CPU, for one large problem (ops_cpu.cpp)
//   Block    a thread block of CUDA, each warp a worker of 32 lanes (team.cuh)
// and, in the native tests, threads that play the workers and lanes of a block.
//
// Steps are taken by the whole team:
//   share(n, work, f)  f(i) for i < n, each by one worker; `work` is about how many numbers one f
//                      touches
//   once(f)            f by one worker
// Both return when all is done and everyone sees what was written.
//
// Inside a step, the worker calls these with all of its lanes, and every lane gets the result:
//   set(p, x)          *p = x
//   each(n, f)         f(i) for i < n, each by one lane
//   alone(f)           f by one lane
//   max(n, least, f)   the largest f(i), or `least` if none is larger
//   sum(n, f)          of f(i)
//   dot, dots, add_multiple, largest (vectors.h)
//   subtract(columns, count, n, vectors, v, f)
//                      columns[k][i] -= sum_b f(k, b) v(b)[i] for count <= kColumns columns [n] and
//                      `vectors` vectors v(b) [n]
// Nothing that is computed inside a step may leave it but through memory. No atomics, and sums in a
// fixed order: the same team gives the same result every time.
#pragma once

#include <cstdint>

#include "common/pack.h"
#include "regression/vectors.h"

#ifdef __CUDACC__
#define XAI_DEVICE __device__
#else
#define XAI_DEVICE
#endif

namespace xaifast {

struct Solo {
  template <class F>
  void share(std::int64_t n, std::int64_t /*work*/, const F& f) const {
    for (std::int64_t i = 0; i < n; ++i) f(i);
  }
  template <class F>
  void once(const F& f) const {
    f();
  }
  template <class V>
  void set(V* p, V x) const {
    *p = x;
  }
  template <class F>
  void each(std::int64_t n, const F& f) const {
    for (std::int64_t i = 0; i < n; ++i) f(i);
  }
  template <class F>
  void alone(const F& f) const {
    f();
  }
  template <class F>
  double max(std::int64_t n, double least, const F& f) const {
    for (std::int64_t i = 0; i < n; ++i) {
      const double x = f(i);
      least = x > least ? x : least;
    }
    return least;
  }
  template <class F>
  double sum(std::int64_t n, const F& f) const {
    double s = 0;
    for (std::int64_t i = 0; i < n; ++i) s += f(i);
    return s;
  }
  template <class T>
  double largest(const T* x, std::int64_t n) const {
    return xaifast::largest(x, n);
  }
  double dot(const double* x, const double* y, std::int64_t n) const {
    return xaifast::dot(x, y, n);
  }
  void add_multiple(double s, const double* x, double* y, std::int64_t n) const {
    xaifast::add_multiple(s, x, y, n);
  }
  void dots(const double* v, const double* const* columns, std::int64_t count, double* products,
            std::int64_t n) const {
    xaifast::dots(v, columns, count, products, n);
  }
  template <class V, class F>
  void subtract(double* const* columns, std::int64_t count, std::int64_t n, std::int64_t vectors,
                const V& v, const F& f) const {
    const std::int64_t tiled = vectors / kTile * kTile;
    for (std::int64_t b = 0; b < tiled; b += kTile) {
      double factors[kColumns * kTile];
      const double* tile[kTile];
      for (std::int64_t i = 0; i < kTile; ++i) {
        tile[i] = v(b + i);
        for (std::int64_t k = 0; k < count; ++k) factors[k * kTile + i] = f(k, b + i);
      }
      xaifast::subtract_products(factors, tile, columns, count, n);
    }
    for (std::int64_t k = 0; k < count; ++k) {
      for (std::int64_t b = tiled; b < vectors; ++b) {
        xaifast::add_multiple(-f(k, b), v(b), columns[k], n);
      }
    }
  }
};

// How a Crew gets its threads: run calls range(body, begin, end) for the parts of [0, n), in
// parallel where that pays.
struct Threads {
  using Range = void (*)(const void* body, std::int64_t begin, std::int64_t end);
  void (*run)(std::int64_t n, std::int64_t work, Range range, const void* body);
};

struct Crew : Solo {
  Threads threads;

  explicit Crew(Threads threads) : threads(threads) {}

  template <class F>
  void share(std::int64_t n, std::int64_t work, const F& f) const {
    const auto range = [](const void* body, std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) (*static_cast<const F*>(body))(i);
    };
    threads.run(n, work, range, &f);
  }
};

// The same for workers of several lanes. Lanes are what a machine gives: worker(), workers(),
// lane(), lanes(), sync() between the lanes of a worker, barrier() between all, add(x) and most(x):
// the sum and the largest of x over the lanes of a worker, handed to each of them. What writes
// waits for the other lanes before it (one may still have to read what was there) and after it.
template <class Lanes>
struct LaneTeam : Lanes {
  using Lanes::Lanes;

  template <class F>
  XAI_DEVICE void share(std::int64_t n, std::int64_t /*work*/, const F& f) const {
    for (std::int64_t i = this->worker(); i < n; i += this->workers()) f(i);
    this->barrier();
  }
  template <class F>
  XAI_DEVICE void once(const F& f) const {
    if (this->worker() == 0) f();
    this->barrier();
  }
  template <class F>
  XAI_DEVICE void alone(const F& f) const {
    this->sync();
    if (this->lane() == 0) f();
    this->sync();
  }
  template <class V>
  XAI_DEVICE void set(V* p, V x) const {
    alone([&] { *p = x; });
  }
  template <class F>
  XAI_DEVICE void each(std::int64_t n, const F& f) const {
    this->sync();
    for (std::int64_t i = this->lane(); i < n; i += this->lanes()) f(i);
    this->sync();
  }
  template <class F>
  XAI_DEVICE double max(std::int64_t n, double least, const F& f) const {
    for (std::int64_t i = this->lane(); i < n; i += this->lanes()) {
      const double x = f(i);
      least = x > least ? x : least;
    }
    return this->most(least);
  }
  template <class F>
  XAI_DEVICE double sum(std::int64_t n, const F& f) const {
    double s = 0;
    for (std::int64_t i = this->lane(); i < n; i += this->lanes()) s += f(i);
    return this->add(s);
  }
  template <class T>
  XAI_DEVICE double largest(const T* x, std::int64_t n) const {
    return max(n, 0.0,
               [&](std::int64_t i) { return static_cast<double>(x[i] < 0 ? -x[i] : x[i]); });
  }
  XAI_DEVICE double dot(const double* x, const double* y, std::int64_t n) const {
    return sum(n, [&](std::int64_t i) { return x[i] * y[i]; });
  }
  XAI_DEVICE void add_multiple(double s, const double* x, double* y, std::int64_t n) const {
    each(n, [&](std::int64_t i) { y[i] += s * x[i]; });
  }
  XAI_DEVICE void dots(const double* v, const double* const* columns, std::int64_t count,
                       double* products, std::int64_t n) const {
    for (int k = 0; k < kColumns; ++k) products[k] = 0;
    for (std::int64_t i = this->lane(); i < n; i += this->lanes()) {
      for (int k = 0; k < kColumns; ++k) {
        if (k < count) products[k] += v[i] * columns[k][i];
      }
    }
    for (int k = 0; k < kColumns; ++k) products[k] = this->add(products[k]);
  }
  template <class V, class F>
  XAI_DEVICE void subtract(double* const* columns, std::int64_t count, std::int64_t n,
                           std::int64_t vectors, const V& v, const F& f) const {
    this->sync();
    XAI_NO_UNROLL
    for (std::int64_t i = this->lane(); i < n; i += this->lanes()) {
      double x[kColumns] = {};
      XAI_NO_UNROLL
      for (std::int64_t b = 0; b < vectors; ++b) {
        const double vi = v(b)[i];
        for (int k = 0; k < kColumns; ++k) {
          if (k < count) x[k] += f(k, b) * vi;
        }
      }
      for (int k = 0; k < kColumns; ++k) {
        if (k < count) columns[k][i] -= x[k];
      }
    }
    this->sync();
  }
};

}  // namespace xaifast
