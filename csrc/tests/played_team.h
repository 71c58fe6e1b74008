// A thread block played by threads on the host: LaneTeam with a thread for each lane. What a block
// of CUDA does with shuffles and barriers is done with std::barrier here; everything else is the
// same source. Under ThreadSanitizer, a missing sync() or barrier() of a kernel shows as a race.
#pragma once

#include <barrier>
#include <deque>
#include <thread>
#include <vector>

#include "regression/team.h"

namespace xaifast {

struct Stage {
  int workers;
  int lanes;
  std::barrier<> all;
  std::deque<std::barrier<>> each;  // of the lanes of a worker
  std::vector<double> shown;        // by each lane to the others of its worker

  Stage(int workers, int lanes)
      : workers(workers),
        lanes(lanes),
        all(workers * lanes),
        shown(static_cast<std::size_t>(workers * lanes)) {
    for (int w = 0; w < workers; ++w) each.emplace_back(lanes);
  }
};

class PlayedLanes {
 public:
  PlayedLanes(Stage& stage, int worker, int lane) : stage_(stage), worker_(worker), lane_(lane) {}

  int worker() const { return worker_; }
  int workers() const { return stage_.workers; }
  int lane() const { return lane_; }
  int lanes() const { return stage_.lanes; }
  void sync() const { stage_.each[static_cast<std::size_t>(worker_)].arrive_and_wait(); }
  void barrier() const { stage_.all.arrive_and_wait(); }

  double add(double x) const {
    const double* shown = show(x);
    double sum = 0;
    for (int i = 0; i < lanes(); ++i) sum += shown[i];
    sync();
    return sum;
  }
  double most(double x) const {
    const double* shown = show(x);
    for (int i = 0; i < lanes(); ++i) x = shown[i] > x ? shown[i] : x;
    sync();
    return x;
  }

 private:
  const double* show(double x) const {
    double* shown = stage_.shown.data() + worker_ * lanes();
    shown[lane_] = x;
    sync();
    return shown;
  }

  Stage& stage_;
  int worker_;
  int lane_;
};

using PlayedTeam = LaneTeam<PlayedLanes>;

// f(team) by every lane of a team of `workers` workers with `lanes` lanes each.
template <class F>
void play_team(int workers, int lanes, const F& f) {
  Stage stage(workers, lanes);
  std::vector<std::thread> threads;
  for (int w = 0; w < workers; ++w) {
    for (int l = 0; l < lanes; ++l) {
      threads.emplace_back([&stage, &f, w, l] { f(PlayedTeam(stage, w, l)); });
    }
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace xaifast
