// cut_boxes, the CPU kernel and the CUDA element (checks.h), against the formula of cut_boxes.h.
#include "tests/checks.h"
#include "windows/cut_boxes.h"
#include "windows/cut_boxes_element.h"
#include "windows/kernels_cuda.h"

namespace xaifast {
namespace {

using Places = std::vector<int64_t>;

// Any places from three before to three behind the map.
Places some_places(const BoxShape& s, int64_t seed) {
  Places places;
  for (int a = kBoxAxes - s.axes; a < kBoxAxes; ++a) {
    for (int64_t r = 0; r < s.rows; ++r)
      places.push_back((r * 5 + a * 3 + seed) % (s.shape[a] + 6) - 3);
  }
  return places;
}

template <class T>
double wanted(const BoxShape& s, const std::vector<T>& x, const std::vector<T>* box,
              const Places& origin, const Places& start, double fill, int64_t r,
              const int64_t (&p)[kBoxAxes], int64_t c) {
  bool in_map = true, in_box = box != nullptr;
  int64_t at = 0, own = r;
  for (int a = 0; a < kBoxAxes; ++a) {
    const int64_t i = p[a] + s.at(start.data(), r, a), k = i - s.at(origin.data(), r, a);
    in_map &= i >= 0 && i < s.shape[a];
    in_box &= k >= 0 && k < s.changed[a];
    at = at * s.shape[a] + i;
    own = own * s.changed[a] + k;
  }
  if (in_box) return value((*box)[own * s.channels + c]);
  return in_map ? value(x[at * s.channels + c]) : fill;
}

template <class T>
void test_shape(const BoxShape& s, bool changes) {
  const int64_t count = s.rows * s.positions() * s.channels;
  const auto x = numbers<T>(s.shape[0] * s.shape[1] * s.shape[2] * s.channels, 1);
  const auto box = numbers<T>(s.rows * s.changed[0] * s.changed[1] * s.changed[2] * s.channels, 2);
  const Places origin = some_places(s, 1), start = some_places(s, 4);
  const double fill = -std::numeric_limits<double>::infinity();
  Doubles want;
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t i = 0; i < s.size[0]; ++i) {
      for (int64_t j = 0; j < s.size[1]; ++j) {
        for (int64_t k = 0; k < s.size[2]; ++k) {
          for (int64_t c = 0; c < s.channels; ++c) {
            want.push_back(
                wanted(s, x, changes ? &box : nullptr, origin, start, fill, r, {i, j, k}, c));
          }
        }
      }
    }
  }
  const auto name = label<T>("cut_boxes", {s.rows, s.channels, s.axes, s.size[2], changes});
  const T* own = changes ? box.data() : nullptr;
  auto out = poison<T>(count);
  for (int64_t r = 0; r < s.rows; ++r) {  // row by row, as threads might
    cut_boxes<T>(x.data(), own, origin.data(), start.data(), out.data(), s, fill, r, r + 1);
  }
  expect(name, out, want, 0);
  for (const Play grid : kPlays) {
    out = poison<T>(count);
    const BoxElement<T> element{
        x.data(), own, origin.data(), start.data(), out.data(), s, static_cast<Compute<T>>(fill)};
    if (count > 0) play_packs<T>(element, grid);
    expect(name + " on a grid", out, want, 0);
  }
  if constexpr (kEmulated) {
    out = poison<T>(count);
    on_device(name, {reads(x), reads(box), reads(origin), reads(start), writes(out)}, [&] {
      return cut_boxes_cuda<T>(x.data(), own, origin.data(), start.data(), out.data(), s, fill,
                               nullptr);
    });
    expect(name + " on the device", out, want, 0);
  }
}

template <class T>
void test_type() {
  for (const int64_t channels : {1, 3, 8, 16}) {
    for (const bool changes : {false, true}) {
      test_shape<T>({4, channels, 1, {1, 1, 7}, {1, 1, 4}, {1, 1, 3}}, changes);
      test_shape<T>({5, channels, 2, {1, 5, 6}, {1, 4, 9}, {1, 2, 3}}, changes);
      test_shape<T>({7, channels, 3, {3, 4, 5}, {4, 3, 2}, {2, 4, 1}}, changes);
      test_shape<T>({3, channels, 2, {1, 5, 6}, {1, 5, 6}, {1, 0, 3}}, changes);
      test_shape<T>({0, channels, 2, {1, 5, 6}, {1, 5, 6}, {1, 1, 3}}, changes);
    }
  }
}

}  // namespace
}  // namespace xaifast

int main() {
  using namespace xaifast;
  test_type<float>();
  test_type<double>();
  test_type<BFloat16>();
  test_type<Float16>();
  return report();
}
