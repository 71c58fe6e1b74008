// The emulated device: fibers, barriers, the checks of each access. See emulation.h.
#include "tests/cuda/emulation.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <link.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <utility>

#include "tests/cuda/include/cuda_runtime_api.h"
#include "tests/cuda/session.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulation {
namespace {

using std::size_t;
using Address = std::uintptr_t;
using Phase = std::uint32_t;

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kSharedBytes = 512 << 10;  // with the gaps between variables
constexpr size_t kGap = 64;
constexpr int kFrames = 32;

// ---- what a byte of memory remembers ----------------------------------------------------------

// A phase is the time between two barriers of a block; blocks and launches have phases of their
// own, and phases only grow. Turns are counted by the barriers of a warp.
struct Cell {
  Address write_pc, read_pc;
  Phase write_phase, read_phase, far_read_phase;  // the last is of an earlier block
  std::uint32_t write_turn, read_turn, read_lanes;
  std::uint16_t writer;
  std::int16_t read_warp;  // kMany: of several
  bool atomic, in_flight;
};
constexpr std::int16_t kMany = -1;

struct Cells {
  static constexpr size_t kChunk = 4096;
  std::vector<std::unique_ptr<Cell[]>> chunks;

  explicit Cells(size_t bytes) : chunks((bytes + kChunk - 1) / kChunk) {}
  Cell& operator[](size_t i) {
    auto& chunk = chunks[i / kChunk];
    if (chunk == nullptr) chunk = std::make_unique<Cell[]>(kChunk);
    return chunk[i % kChunk];
  }
};

struct Region {
  Address begin, end;
  bool readable, writable, written;  // written: before the launch
  std::string name;
  std::function<void(size_t, size_t)> fill, look;
  std::unique_ptr<Cells> cells;  // null for what is only read
};

// ---- threads ----------------------------------------------------------------------------------

enum class State { kReady, kBarrier, kWarpBarrier, kLockStep, kDone };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  bool there;
};

struct Fiber {
  ucontext_t context;
  jmp_buf jump;
  char* stack = nullptr;
  bool started = false;
  State state = State::kDone;
  const char* operation = nullptr;
  std::uint32_t mask = 0;
  void* brought = nullptr;
  Where where;
  Address frames[kFrames];
  int depth = 0;
  std::vector<std::vector<Copy>> batches;
};

struct Kernel {
  std::string name;
  size_t runs = 0;
};

struct Shared {
  const void* key;
  Region region;
};

struct Device {
  std::vector<Kernel> kernels;
  std::map<std::string, std::string> declared;  // kernel and its file
  std::uint64_t seed = 1, state = 1;
  size_t cases = 0, blocks = 0, most_blocks = 0;
  int architecture = 90, most_dynamic = 48 << 10;
  cudaError_t error = cudaSuccess;
  std::vector<Region> regions;    // of the case
  std::vector<Region> allocated;  // by cudaMalloc
  std::vector<Fault> faults;

  // Of the launch.
  const Configuration* configuration = nullptr;
  void (*body)(const void*) = nullptr;
  const void* call = nullptr;
  int kernel = -1;
  Phase phase = 1, launch_phase = 1, block_phase = 1;
  Phase scope = 1;  // what was before does not count: blocks share buffers, not shared memory
  bool faulty = false;

  // Of the block.
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::uint32_t> turns;  // of its warps
  std::vector<unsigned> ready;
  unsigned threads = 0, waiting = 0;
  std::vector<Shared> shared;
  size_t shared_used = 0, shared_bytes = 0;  // with gaps, and without
  char* arena = nullptr;
  Cells arena_cells{kSharedBytes};
  Region* last = nullptr;

  jmp_buf home;
  Fiber* current = nullptr;
  unsigned me = 0;
  bool checking = false;  // a kernel's thread runs, and none of our own code
};

Device& device() {
  static auto* const one = new Device;  // instantiations are added before main, and live on
  return *one;
}
Device& d = device();

std::uint64_t draw() {  // xorshift64*
  auto& s = d.state;
  s ^= s >> 12;
  s ^= s << 25;
  s ^= s >> 27;
  return s * 0x2545F4914F6CDD1Du;
}
void seed_case() {
  d.state = (d.seed + d.cases) * 0x9E3779B97F4A7C15u | 1;
  draw();
}

template <class T>
void shuffle_all(std::vector<T>& x) {
  for (size_t i = x.size(); i > 1; --i) std::swap(x[i - 1], x[draw() % i]);
}

uint3 place_of(unsigned thread, dim3 size) {
  return {thread % size.x, thread / size.x % size.y, thread / size.x / size.y};
}

// ---- reports ----------------------------------------------------------------------------------

std::string text_of(uint3 i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}
std::string text_of(const Where& w) {
  return std::string(w.file_name()) + ":" + std::to_string(w.line());
}

// Lines of source of a return address, from the inside out.
std::string lines_of(Address pc, const char* between) {
  Dl_info info{};
  if (pc == 0 || dladdr(reinterpret_cast<void*>(pc), &info) == 0) return "an unknown place";
  const auto base = reinterpret_cast<Address>(info.dli_fbase);
  char command[4096];
  std::snprintf(command, sizeof command, "addr2line -i -e '%s' %#zx 2>/dev/null", info.dli_fname,
                static_cast<size_t>(pc - base - 1));
  std::string text;
  if (FILE* const pipe = popen(command, "r")) {
    char line[4096];
    while (std::fgets(line, sizeof line, pipe) != nullptr) {
      std::string one(line);
      one.erase(one.find_last_not_of(" \n") + 1);
      if (const auto extra = one.find(" (disc"); extra != one.npos) one.erase(extra);
      const bool ours = one.find("tests/cuda/emulation.h") != one.npos ||
                        one.find(".cu.cpp:") != one.npos;  // of a launch
      if (!ours) text += (text.empty() ? "" : between) + one;
    }
    pclose(pipe);
  }
  if (text.empty() || text[0] != '?') return text;
  std::snprintf(command, sizeof command, "%s+%#zx", info.dli_fname, static_cast<size_t>(pc - base));
  return command;
}

std::string kernel_name() {
  return d.kernel < 0 ? "a kernel" : d.kernels[static_cast<size_t>(d.kernel)].name;
}

std::string head(const char* kind) {
  return std::string(kind) + " in " + kernel_name() + ", launched at " +
         text_of(d.configuration->where) + ", seed " + std::to_string(d.seed + d.cases - 1);
}

std::string here() {
  return "block " + text_of(blockIdx) + ", thread " + text_of(place_of(d.me, blockDim));
}

void record(const char* kind, const std::string& text) {
  d.faults.push_back({kind, text});
  d.faulty = true;
}

// The fiber is left as it is: the block ends.
[[noreturn]] void leave() {
  d.checking = false;
  _longjmp(d.home, 1);
}

[[noreturn]] void stop(const char* kind, const std::string& what, Address pc) {
  d.checking = false;
  std::string text =
      head(kind) + "\n    " + here() + ": " + what + "\n    at   " + lines_of(pc, "\n    in   ");
  const Fiber& f = *d.current;
  for (int i = std::min(f.depth, kFrames) - 1; i > 0; --i) {
    const std::string lines = lines_of(f.frames[i], "\n    in   ");
    if (!lines.empty()) text += "\n    from " + lines;
  }
  record(kind, text);
  leave();
}

// ---- checks of an access ----------------------------------------------------------------------

bool other_block(Phase p) { return p >= d.scope && p < d.block_phase; }

// Whether what another thread did then may happen at the same time as what this one does now.
bool unordered(Phase phase, std::uint32_t turn, unsigned thread) {
  if (phase < d.scope) return false;
  if (phase < d.block_phase) return true;
  if (phase != d.phase || thread == d.me) return false;
  return thread / kWarp != d.me / kWarp || turn == d.turns[d.me / kWarp];
}

std::string then(const char* did, Phase phase, unsigned thread, Address pc) {
  const std::string who = other_block(phase) ? "a thread of another block"
                          : thread == ~0u    ? "another thread"
                                             : "thread " + text_of(place_of(thread, blockDim));
  return "; " + who + " has " + did + " it, with no barrier between, at " + lines_of(pc, " in ");
}

std::string bytes_at(const Region& r, Address p, size_t n) {
  return std::to_string(n) + " bytes at byte " + std::to_string(p - r.begin) + " of " + r.name +
         " (" + std::to_string(r.end - r.begin) + " bytes)";
}

void check_write(const Region& r, Cell& c, Address p, size_t n, Address pc, bool atomic) {
  if (unordered(c.write_phase, c.write_turn, c.writer) && !(atomic && c.atomic)) {
    stop("race",
         "writes " + bytes_at(r, p, n) + then("written", c.write_phase, c.writer, c.write_pc), pc);
  }
  unsigned reader = ~0u;
  bool race = other_block(c.read_phase) || other_block(c.far_read_phase);
  if (!race && c.read_phase == d.phase) {
    const unsigned warp = d.me / kWarp;
    if (c.read_warp == kMany) {
      race = true;
    } else if (static_cast<unsigned>(c.read_warp) != warp || c.read_turn == d.turns[warp]) {
      std::uint32_t lanes = c.read_lanes;
      if (static_cast<unsigned>(c.read_warp) == warp) lanes &= ~(1u << d.me % kWarp);
      race = lanes != 0;
      if (race) {
        reader = static_cast<unsigned>(c.read_warp) * kWarp +
                 static_cast<unsigned>(__builtin_ctz(lanes));
      }
    }
  }
  if (race && !(atomic && c.atomic)) {
    const Phase phase = other_block(c.far_read_phase) ? c.far_read_phase : c.read_phase;
    stop("race", "writes " + bytes_at(r, p, n) + then("read", phase, reader, c.read_pc), pc);
  }
}

void write_cell(const Region& r, Cell& c, Address p, size_t n, Address pc, bool atomic) {
  check_write(r, c, p, n, pc, atomic);
  c.write_phase = d.phase;
  c.write_turn = d.turns[d.me / kWarp];
  c.writer = static_cast<std::uint16_t>(d.me);
  c.write_pc = pc;
  c.atomic = atomic;
  c.in_flight = false;
}

void read_cell(const Region& r, Cell& c, Address p, size_t n, Address pc, Phase oldest) {
  if (c.in_flight && c.write_phase >= d.block_phase) {
    stop("copy", "reads " + bytes_at(r, p, n) + ", which an asynchronous copy is still to bring",
         pc);
  }
  if (c.write_phase < oldest) {
    stop("unwritten", "reads " + bytes_at(r, p, n) + ", which nobody has written", pc);
  }
  if (unordered(c.write_phase, c.write_turn, c.writer)) {
    stop("race",
         "reads " + bytes_at(r, p, n) + then("written", c.write_phase, c.writer, c.write_pc), pc);
  }
  const auto warp = static_cast<std::int16_t>(d.me / kWarp);
  const std::uint32_t turn = d.turns[d.me / kWarp], lane = 1u << d.me % kWarp;
  if (c.read_phase == d.phase) {
    if (c.read_warp != warp) {
      c.read_warp = kMany;
    } else if (c.read_turn == turn) {
      c.read_lanes |= lane;
    } else {
      c.read_turn = turn;
      c.read_lanes = lane;
    }
  } else {
    if (other_block(c.read_phase)) c.far_read_phase = c.read_phase;
    c.read_phase = d.phase;
    c.read_warp = warp;
    c.read_turn = turn;
    c.read_lanes = lane;
  }
  c.read_pc = pc;
}

// Constants and our own variables lie in the image of the program.
struct Image {
  Address begin, end;
};
const std::vector<Image>& images() {
  static const std::vector<Image> all = [] {
    std::vector<Image> found;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& h = info->dlpi_phdr[i];
            const Address begin = info->dlpi_addr + h.p_vaddr;
            if (h.p_type == PT_LOAD) {
              static_cast<std::vector<Image>*>(out)->push_back({begin, begin + h.p_memsz});
            }
          }
          return 0;
        },
        &found);
    return found;
  }();
  return all;
}

Region* find(Address p) {
  if (d.last != nullptr && p >= d.last->begin && p < d.last->end) return d.last;
  for (auto* regions : {&d.regions, &d.allocated}) {
    for (Region& r : *regions) {
      if (p >= r.begin && p < r.end) return d.last = &r;
    }
  }
  return nullptr;
}

std::string nearest(Address p, size_t n) {
  const Region* best = nullptr;
  Address distance = 0;
  const auto consider = [&](const Region& r) {
    const Address away = p < r.begin ? r.begin - p : p - r.end;
    if (best == nullptr || away < distance) best = &r, distance = away;
  };
  for (const auto& r : d.regions) consider(r);
  for (const auto& r : d.allocated) consider(r);
  for (const auto& s : d.shared) consider(s.region);
  const std::string what = std::to_string(n) + " bytes outside of every buffer";
  if (best == nullptr) return what;
  return what + ", " + std::to_string(distance) + " bytes " +
         (p < best->begin ? "before " : "behind ") + best->name + " (" +
         std::to_string(best->end - best->begin) + " bytes)";
}

void touch_shared(Address p, size_t n, bool write, bool atomic, Address pc) {
  for (Shared& s : d.shared) {
    Region& r = s.region;
    if (p < r.begin || p >= r.end) continue;
    if (p + n > r.end) break;
    const size_t at = p - reinterpret_cast<Address>(d.arena);
    for (size_t i = 0; i < n; ++i) {
      Cell& c = d.arena_cells[at + i];
      if (!write || atomic) read_cell(r, c, p, n, pc, d.block_phase);
      if (write) write_cell(r, c, p, n, pc, atomic);
    }
    return;
  }
  stop("bounds", (write ? "writes " : "reads ") + nearest(p, n), pc);
}

void touch(Address p, size_t n, bool write, bool atomic, Address pc) {
  const auto arena = reinterpret_cast<Address>(d.arena);
  const bool in_arena = p - arena < kSharedBytes;
  d.scope = in_arena ? d.block_phase : d.launch_phase;
  if (in_arena) return touch_shared(p, n, write, atomic, pc);
  if (Region* const r = find(p)) {
    if (p + n > r->end) stop("bounds", (write ? "writes " : "reads ") + bytes_at(*r, p, n), pc);
    if (write && !r->writable) {
      stop("read-only", "writes " + bytes_at(*r, p, n) + ", which is only read", pc);
    }
    if (r->fill && !write && (r->cells == nullptr || (*r->cells)[p - r->begin].write_phase == 0)) {
      r->fill(p - r->begin, n);
    }
    if (r->cells == nullptr) return;
    const Phase oldest = r->written ? 0 : 1;
    for (size_t i = 0; i < n; ++i) {
      Cell& c = (*r->cells)[p - r->begin + i];
      if (atomic) {
        const bool good = c.atomic && c.write_phase >= d.launch_phase;
        if (!good) read_cell(*r, c, p, n, pc, oldest);
      } else if (!write) {
        read_cell(*r, c, p, n, pc, oldest);
      }
      if (write) write_cell(*r, c, p, n, pc, atomic);
    }
    return;
  }
  for (const Image& image : images()) {
    if (p < image.begin || p >= image.end) continue;
    if (!write) return;
    stop("bounds", "writes a variable of the host", pc);
  }
  stop("bounds", (write ? "writes " : "reads ") + nearest(p, n), pc);
}

// ---- fibers -----------------------------------------------------------------------------------

void wait(State state) {
  Fiber& f = *d.current;
  f.state = state;
  d.checking = false;
  if (_setjmp(f.jump) == 0) _longjmp(d.home, 1);
}

void wake(unsigned thread) {
  d.fibers[thread]->state = State::kReady;
  d.ready.push_back(thread);
}

void run_thread() {
  for (;;) {
    d.current->depth = 0;
    d.checking = true;
    d.body(d.call);
    copy_async_commit();
    copy_async_wait(0);
    d.checking = false;
    wait(State::kDone);
  }
}

void resume(unsigned thread) {
  Fiber& f = *d.fibers[thread];
  d.current = &f;
  d.me = thread;
  threadIdx = place_of(thread, blockDim);
  if (_setjmp(d.home) == 0) {
    if (f.started) {
      d.checking = true;
      _longjmp(f.jump, 1);
    }
    f.started = true;
    f.depth = 0;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = kStackBytes;
    f.context.uc_link = nullptr;
    makecontext(&f.context, run_thread, 0);
    setcontext(&f.context);
  }
  d.current = nullptr;
}

void make_fibers(unsigned threads) {
  while (d.fibers.size() < threads) {
    auto f = std::make_unique<Fiber>();
    void* const memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(memory, 4096, PROT_NONE);
    f->stack = static_cast<char*>(memory);
    d.fibers.push_back(std::move(f));
  }
}

const char* name_of(const Fiber& f) {
  switch (f.state) {
    case State::kBarrier:
      return "__syncthreads";
    case State::kWarpBarrier:
      return "__syncwarp";
    default:
      return f.operation;
  }
}

// Nobody can go on: who waits for what.
void report_standstill() {
  std::map<std::string, unsigned> where;
  bool block = false;
  unsigned done = 0;
  for (unsigned t = 0; t < d.threads; ++t) {
    const Fiber& f = *d.fibers[t];
    if (f.state == State::kDone) {
      ++done;
      continue;
    }
    block |= f.state == State::kBarrier;
    std::string text = std::string(name_of(f)) + " at " + text_of(f.where);
    if (f.state != State::kBarrier) {
      char mask[16];
      std::snprintf(mask, sizeof mask, "%#x", f.mask);
      text += " with mask " + std::string(mask);
    }
    ++where[text];
  }
  const char* const kind = block ? "barrier" : "warp";
  std::string text = head(kind) + "\n    block " + text_of(blockIdx) +
                     ": threads that should meet do not. Of " + std::to_string(d.threads);
  for (const auto& [place, count] : where) {
    text += "\n    " + std::to_string(count) + " wait in " + place;
  }
  if (done > 0) text += "\n    " + std::to_string(done) + " have ended";
  record(kind, text);
}

void start_block() {
  d.block_phase = ++d.phase;
  d.waiting = 0;
  d.shared.clear();
  d.shared_used = d.shared_bytes = 0;
  d.last = nullptr;
  d.turns.assign((d.threads + kWarp - 1) / kWarp, 0);
  d.ready.resize(d.threads);
  std::iota(d.ready.begin(), d.ready.end(), 0u);
  for (unsigned t = 0; t < d.threads; ++t) {
    d.fibers[t]->state = State::kReady;
    d.fibers[t]->batches.assign(1, {});
  }
}

void run_block(uint3 block) {
  blockIdx = block;
  ++d.blocks;
  start_block();
  while (!d.ready.empty()) {
    const size_t i = draw() % d.ready.size();
    const unsigned thread = d.ready[i];
    d.ready[i] = d.ready.back();
    d.ready.pop_back();
    resume(thread);
    if (d.faulty) break;
  }
  for (unsigned t = 0; !d.faulty && t < d.threads; ++t) {
    if (d.fibers[t]->state != State::kDone) report_standstill();
  }
  if (d.faulty) {
    for (auto& f : d.fibers) f->started = false;
  }
}

std::vector<size_t> chosen_blocks(size_t count) {
  std::vector<size_t> blocks;
  if (d.most_blocks == 0 || count <= d.most_blocks) {
    blocks.resize(count);
    std::iota(blocks.begin(), blocks.end(), size_t{0});
  } else {
    std::set<size_t> some{0, count - 1};
    while (some.size() < d.most_blocks) some.insert(draw() % count);
    blocks.assign(some.begin(), some.end());
  }
  shuffle_all(blocks);
  return blocks;
}

size_t most_shared_memory() { return static_cast<size_t>(d.most_dynamic); }

bool launchable(const Configuration& c) {
  const auto positive = [](dim3 n) { return n.x > 0 && n.y > 0 && n.z > 0; };
  return positive(c.grid) && positive(c.block) && c.grid.x <= 0x7fffffffu && c.grid.y <= 65535 &&
         c.grid.z <= 65535 && c.block.x <= 1024 && c.block.y <= 1024 && c.block.z <= 64 &&
         size_t{c.block.x} * c.block.y * c.block.z <= 1024;
}

Region* reserve(const void* key, const char* name, size_t bytes, size_t align) {
  for (auto& s : d.shared) {
    if (s.key == key) return &s.region;
  }
  const size_t at = (d.shared_used + kGap + align - 1) / align * align;
  if (at + bytes + kGap > kSharedBytes) return nullptr;
  d.shared_used = at + bytes;
  d.shared_bytes += bytes;
  char* const p = d.arena + at;
  std::memset(p, 0xff, bytes);
  const auto begin = reinterpret_cast<Address>(p);
  d.shared.push_back({key, {begin, begin + bytes, true, true, false, name, {}, {}, nullptr}});
  return &d.shared.back().region;
}

// Named by what a case hands over, in its order.
Region region_of(const Buffer& b, const std::string& name) {
  const auto begin = reinterpret_cast<Address>(b.begin);
  Region r{begin,  begin + b.bytes, true,   b.use != Use::kReads, b.use != Use::kWrites, name,
           b.fill, b.look,          nullptr};
  if (r.writable) r.cells = std::make_unique<Cells>(b.bytes);
  return r;
}

}  // namespace

// ---- for tests --------------------------------------------------------------------------------

void begin_case(std::vector<Buffer> buffers) {
  d.regions.clear();
  d.faults.clear();
  d.last = nullptr;
  int number = 0;
  for (const Buffer& b : buffers) {
    const char* const use = b.use == Use::kReads    ? " (read)"
                            : b.use == Use::kWrites ? " (written)"
                                                    : " (updated)";
    d.regions.push_back(region_of(b, "buffer " + std::to_string(++number) + use));
  }
  seed_case();
  ++d.cases;
}

namespace {

void look_at_written(const Region& r) {
  for (size_t at = 0; at < r.cells->chunks.size(); ++at) {
    const auto& chunk = r.cells->chunks[at];
    if (chunk == nullptr) continue;
    for (size_t i = 0; i < Cells::kChunk;) {
      const size_t begin = i;
      while (i < Cells::kChunk && chunk[i].write_phase > 0) ++i;
      if (i > begin) r.look(at * Cells::kChunk + begin, i - begin);
      i += i == begin ? 1 : 0;
    }
  }
}

}  // namespace

std::vector<Fault> end_case() {
  for (const Region& r : d.regions) {
    if (r.look && d.faults.empty()) look_at_written(r);
  }
  d.regions.clear();
  d.last = nullptr;
  d.error = cudaSuccess;
  return std::move(d.faults);
}

void set_seed(std::uint64_t seed) { d.seed = seed; }
std::uint64_t seed() { return d.seed; }
void set_most_blocks(size_t blocks) { d.most_blocks = blocks; }

Totals totals() {
  Totals t{0, 0, d.cases, d.blocks, {}};
  std::set<std::string> run;
  for (const Kernel& k : d.kernels) {
    if (k.runs == 0) {
      t.missed.push_back(k.name);
      continue;
    }
    ++t.instantiations;
    for (const auto& [name, file] : d.declared) {
      const auto at = k.name.find(name);
      const bool whole = at != k.name.npos && (k.name.size() == at + name.size() ||
                                               std::strchr("<(", k.name[at + name.size()]));
      if (whole && k.name[at - 1] == ':') run.insert(name);
    }
  }
  for (const auto& [name, file] : d.declared) {
    if (!run.contains(name)) t.missed.push_back(name + " of " + file);
  }
  t.kernels = run.size();
  return t;
}

// ---- for kernels ------------------------------------------------------------------------------

int add_instantiation(const std::type_info& local) {
  int status = 0;
  char* const text = abi::__cxa_demangle(local.name(), nullptr, nullptr, &status);
  std::string name = text == nullptr ? local.name() : text;
  std::free(text);
  // void xaifast::(anonymous namespace)::kernel<...>(...)::Kernel, without void and parameters
  int depth = 0;
  size_t end = name.rfind("::Kernel");
  for (size_t i = end; i-- > 0;) {
    depth += (name[i] == ')') - (name[i] == '(');
    if (depth == 0) {
      end = i;
      break;
    }
  }
  name.resize(end);
  if (name.starts_with("void ")) name.erase(0, 5);
  for (const char* space : {"(anonymous namespace)::", "xaifast::"}) {
    for (size_t at; (at = name.find(space)) != name.npos;) name.erase(at, std::strlen(space));
  }
  device().kernels.push_back({"::" + name});
  return static_cast<int>(device().kernels.size()) - 1;
}

Declared::Declared(const char* file, std::initializer_list<const char*> kernels) {
  for (const char* name : kernels) device().declared[name] = file;
}

void enter(int instantiation, int most_threads) {
  if (d.kernel != instantiation) {
    d.kernel = instantiation;
    ++d.kernels[static_cast<size_t>(instantiation)].runs;
  }
  if (static_cast<int>(d.threads) > most_threads) {
    fault("launch", "has more threads in a block than its __launch_bounds__",
          d.configuration->where);
  }
}

void launch(const Configuration& c, void (*thread)(const void*), const void* call) {
  d.configuration = &c;
  d.kernel = -1;
  if (!launchable(c)) {
    d.error = cudaErrorInvalidConfiguration;
    return;
  }
  if (c.shared > most_shared_memory()) {
    d.error = cudaErrorInvalidValue;
    return;
  }
  if (d.arena == nullptr) {
    d.arena = static_cast<char*>(
        mmap(nullptr, kSharedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }
  d.body = thread;
  d.call = call;
  d.faulty = false;
  d.launch_phase = ++d.phase;
  d.threads = c.block.x * c.block.y * c.block.z;
  gridDim = c.grid;
  blockDim = c.block;
  make_fibers(d.threads);
  const size_t plane = size_t{c.grid.x} * c.grid.y;
  for (const size_t block : chosen_blocks(plane * c.grid.z)) {
    run_block({static_cast<unsigned>(block % c.grid.x),
               static_cast<unsigned>(block / c.grid.x % c.grid.y),
               static_cast<unsigned>(block / plane)});
    if (d.faulty) break;
  }
  if (d.faulty) d.error = cudaErrorLaunchFailure;
}

void* shared(const void* key, const char* name, size_t bytes, size_t align) {
  const bool checked = std::exchange(d.checking, false);
  const Region* const r = reserve(key, name, bytes, align);
  if (r == nullptr || d.shared_bytes > most_shared_memory()) {
    fault("launch", "has more shared memory in a block than CUDA gives", d.configuration->where);
  }
  d.checking = checked;
  return reinterpret_cast<void*>(r->begin);
}

void* dynamic_shared(const char* name, size_t align) {
  static const char key = 0;
  return shared(&key, name, d.configuration->shared, std::max<size_t>(align, 16));
}

void fault(const char* kind, const char* text, Where where) {
  d.checking = false;
  record(kind, head(kind) + "\n    " + here() + ": " + text + "\n    at   " + text_of(where));
  leave();
}

void barrier(Where where) {
  d.checking = false;
  d.current->where = where;
  if (++d.waiting < d.threads) {
    wait(State::kBarrier);
    return;
  }
  d.current->state = State::kBarrier;
  for (unsigned t = 0; t < d.threads; ++t) {
    const Where& other = d.fibers[t]->where;
    if (other.line() == where.line() && std::strcmp(other.file_name(), where.file_name()) == 0) {
      continue;
    }
    report_standstill();
    leave();
  }
  d.waiting = 0;
  ++d.phase;
  for (unsigned t = 0; t < d.threads; ++t) {
    if (t != d.me) wake(t);
  }
  d.ready.push_back(d.me);
  wait(State::kReady);
}

namespace {

unsigned first_of_warp() { return d.me / kWarp * kWarp; }
unsigned end_of_warp() { return std::min(first_of_warp() + kWarp, d.threads); }

void check_mask(const char* operation, std::uint32_t mask, Where where) {
  if ((mask >> d.me % kWarp & 1u) == 0) {
    fault("warp", (std::string(operation) + " by a lane that is not in its mask").c_str(), where);
  }
  const unsigned lanes = end_of_warp() - first_of_warp();
  if (lanes < kWarp && (mask >> lanes) != 0) {
    fault("warp", (std::string(operation) + " for lanes that the block does not have").c_str(),
          where);
  }
}

// Whether this lane is the last one of the mask to arrive.
bool all_here(std::uint32_t mask) {
  for (unsigned t = first_of_warp(); t < end_of_warp(); ++t) {
    const Fiber& f = *d.fibers[t];
    if ((mask >> t % kWarp & 1u) == 0 || t == d.me) continue;
    const Fiber& mine = *d.current;
    if (f.state != mine.state || f.mask != mask || f.where.line() != mine.where.line())
      return false;
    if (mine.state == State::kLockStep && std::strcmp(f.operation, mine.operation) != 0)
      return false;
  }
  return true;
}

void wake_lanes(std::uint32_t mask) {
  const unsigned first = first_of_warp();
  for (unsigned t = first; t < end_of_warp(); ++t) {
    if ((mask >> t % kWarp & 1u) != 0) wake(t);
  }
}

}  // namespace

void warp_barrier(std::uint32_t mask, Where where) {
  d.checking = false;
  Fiber& f = *d.current;
  if (mask == ~0u && d.threads - first_of_warp() < kWarp) {
    mask = (1u << (d.threads - first_of_warp())) - 1;  // the default names lanes that are not there
  }
  check_mask("__syncwarp", mask, where);
  f.where = where;
  f.mask = mask;
  f.state = State::kWarpBarrier;
  if (all_here(mask)) {
    std::uint32_t alive = 0;
    for (unsigned t = first_of_warp(); t < end_of_warp(); ++t) {
      alive |= d.fibers[t]->state == State::kDone ? 0u : 1u << t % kWarp;
    }
    if ((alive & ~mask) == 0) ++d.turns[d.me / kWarp];
    wake_lanes(mask);
    wait(State::kReady);
  } else {
    wait(State::kWarpBarrier);
  }
}

int lane_of_warp() { return static_cast<int>(d.me % kWarp); }

void in_lock_step(const char* operation, std::uint32_t mask, void* brought, Act act,
                  const void* extra, Where where) {
  d.checking = false;
  check_mask(operation, mask, where);
  Fiber& f = *d.current;
  f.operation = operation;
  f.where = where;
  f.mask = mask;
  f.brought = brought;
  f.state = State::kLockStep;
  if (!all_here(mask)) {
    wait(State::kLockStep);
    return;
  }
  void* lanes[32] = {};
  for (unsigned t = first_of_warp(); t < end_of_warp(); ++t) {
    if ((mask >> t % kWarp & 1u) != 0) lanes[t % kWarp] = d.fibers[t]->brought;
  }
  act(lanes, extra);
  d.checking = false;
  wake_lanes(mask);
  wait(State::kReady);
}

// ---- asynchronous copies ----------------------------------------------------------------------

void copy_async(void* to, const void* from, size_t bytes, bool there) {
  const auto pc = reinterpret_cast<Address>(__builtin_return_address(0));
  const auto p = reinterpret_cast<Address>(to), q = reinterpret_cast<Address>(from);
  d.checking = false;
  if (p % bytes != 0 || (there && q % bytes != 0)) {
    stop("misaligned", "copies to or from an address that is no multiple of its size", pc);
  }
  if (p - reinterpret_cast<Address>(d.arena) >= kSharedBytes) {
    stop("bounds", "copies to what is not shared memory", pc);
  }
  if (there) touch(q, bytes, false, false, pc);
  touch(p, bytes, true, false, pc);  // it may land at once
  std::memset(to, 0xff, bytes);
  for (size_t i = 0; i < bytes; ++i) {
    d.arena_cells[p - reinterpret_cast<Address>(d.arena) + i].in_flight = true;
  }
  d.current->batches.back().push_back({to, from, bytes, there});
  d.checking = true;
}

void copy_async_commit() { d.current->batches.emplace_back(); }

void copy_async_wait(int pending) {
  const auto pc = reinterpret_cast<Address>(__builtin_return_address(0));
  d.checking = false;
  auto& batches = d.current->batches;  // the last one is open
  while (batches.size() - 1 > static_cast<size_t>(pending)) {
    for (const Copy& copy : batches.front()) {
      touch(reinterpret_cast<Address>(copy.to), copy.bytes, true, false, pc);  // or as late as this
      if (copy.there) {
        std::memcpy(copy.to, copy.from, copy.bytes);
      } else {
        std::memset(copy.to, 0, copy.bytes);
      }
    }
    batches.erase(batches.begin());
  }
  d.checking = true;
}

void atomic_access(void* p, size_t bytes, Where) {
  const auto pc = reinterpret_cast<Address>(__builtin_return_address(0));
  d.checking = false;
  touch(reinterpret_cast<Address>(p), bytes, true, true, pc);
  d.checking = true;
}

// ---- the device's properties ------------------------------------------------------------------

void set_architecture(int compute_capability) { d.architecture = compute_capability; }

namespace {
int shared_of_multiprocessor() { return (d.architecture == 80 ? 164 : 228) << 10; }
}  // namespace

cudaError_t allow_dynamic_shared(int bytes) {
  if (bytes < 0 || bytes > shared_of_multiprocessor() - 1024) return cudaErrorInvalidValue;
  d.most_dynamic = std::max(48 << 10, bytes);
  return cudaSuccess;
}

int resident_blocks(int threads, size_t shared) {
  const size_t by_threads = 2048 / static_cast<size_t>(std::max(threads, 1));
  const size_t by_shared = static_cast<size_t>(shared_of_multiprocessor()) / (shared + 1024);
  return static_cast<int>(std::min({by_threads, by_shared, size_t{32}}));
}

}  // namespace emulation

// ---- CUDA's runtime ---------------------------------------------------------------------------

using emulation::d;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    default:
      return "invalid argument";
  }
}
cudaError_t cudaGetLastError() { return std::exchange(d.error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return d.error; }

cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  *p = std::malloc(bytes == 0 ? 1 : bytes);
  if (*p == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*p, 0xff, bytes);
  d.allocated.push_back(
      emulation::region_of({*p, bytes, emulation::Use::kWrites, {}, {}}, "memory of cudaMalloc"));
  d.last = nullptr;
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  const auto at = reinterpret_cast<std::uintptr_t>(p);
  const auto freed = std::erase_if(d.allocated, [&](const auto& r) { return r.begin == at; });
  d.last = nullptr;
  if (p != nullptr && freed == 0) return cudaErrorInvalidValue;
  std::free(p);
  return cudaSuccess;
}
namespace {
void mark_written(void* to, std::size_t bytes) {
  const auto p = reinterpret_cast<std::uintptr_t>(to);
  for (auto& r : d.allocated) {
    if (p < r.begin || p >= r.end) continue;
    for (std::size_t i = 0; i < bytes; ++i) (*r.cells)[p - r.begin + i] = {};
    for (std::size_t i = 0; i < bytes; ++i) (*r.cells)[p - r.begin + i].write_phase = 1;
  }
}
}  // namespace
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  mark_written(to, bytes);
  return cudaPeekAtLastError();
}
cudaError_t cudaMemset(void* p, int value, std::size_t bytes) {
  std::memset(p, value, bytes);
  mark_written(p, bytes);
  return cudaPeekAtLastError();
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = 32;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:  // A100, H200, B200
      *value = d.architecture == 80 ? 108 : d.architecture == 90 ? 132 : 148;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = d.architecture / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = d.architecture % 10;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = 48 << 10;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = emulation::shared_of_multiprocessor();
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = emulation::shared_of_multiprocessor() - 1024;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

// ---- what the compiler calls before each access -----------------------------------------------

using emulation::Address;

#define XAI_PC reinterpret_cast<Address>(__builtin_return_address(0))

namespace {

inline void access(const void* p, std::size_t n, bool write, Address pc) {
  if (!d.checking) return;
  const auto at = reinterpret_cast<Address>(p);
  if (at - reinterpret_cast<Address>(d.current->stack) < emulation::kStackBytes) return;
  d.checking = false;
  emulation::touch(at, n, write, false, pc);
  d.checking = true;
}

inline void aligned_access(const void* p, std::size_t n, bool write, Address pc) {
  // The compiler takes 16 bytes of two numbers as one access; vectors are checked by their type.
  if (d.checking && reinterpret_cast<Address>(p) % std::min<std::size_t>(n, 8) != 0) {
    emulation::stop("misaligned", "touches an address that is no multiple of its size", pc);
  }
  access(p, n, write, pc);
}

}  // namespace

// -fsanitize=undefined's calls: the first member of `data` is where in the source.
struct UndefinedAt {
  const char* file;
  std::uint32_t line, column;
};

namespace {

[[noreturn]] void undefined(const char* kind, const char* text, const UndefinedAt& at) {
  const std::string place = std::string(at.file) + ":" + std::to_string(at.line);
  if (d.current == nullptr) {
    std::fprintf(stderr, "%s on the host at %s: %s\n", kind, place.c_str(), text);
    std::abort();
  }
  emulation::stop(kind, std::string(text) + ", at " + place, XAI_PC);
}

}  // namespace

extern "C" {
#define XAI_UNDEFINED(name, kind, text)                                            \
  [[noreturn]] void __ubsan_handle_##name##_abort(UndefinedAt* at, void*, void*) { \
    undefined(kind, text, *at);                                                    \
  }
XAI_UNDEFINED(add_overflow, "overflow", "a sum of signed integers overflows")
XAI_UNDEFINED(sub_overflow, "overflow", "a difference of signed integers overflows")
XAI_UNDEFINED(mul_overflow, "overflow", "a product of signed integers overflows")
XAI_UNDEFINED(negate_overflow, "overflow", "a negated signed integer overflows")
XAI_UNDEFINED(divrem_overflow, "overflow", "a division by zero, or one that overflows")
XAI_UNDEFINED(shift_out_of_bounds, "overflow", "a shift by more bits than there are")
XAI_UNDEFINED(type_mismatch_v1, "misaligned", "touches an address that its type may not have")
#undef XAI_UNDEFINED
}

extern "C" {
#define XAI_SIZED(n)                                                               \
  void __tsan_read##n(void* p) { aligned_access(p, n, false, XAI_PC); }            \
  void __tsan_write##n(void* p) { aligned_access(p, n, true, XAI_PC); }            \
  void __tsan_unaligned_read##n(void* p) { access(p, n, false, XAI_PC); }          \
  void __tsan_unaligned_write##n(void* p) { access(p, n, true, XAI_PC); }          \
  void __tsan_volatile_read##n(void* p) { aligned_access(p, n, false, XAI_PC); }   \
  void __tsan_volatile_write##n(void* p) { aligned_access(p, n, true, XAI_PC); }   \
  void __tsan_unaligned_volatile_read##n(void* p) { access(p, n, false, XAI_PC); } \
  void __tsan_unaligned_volatile_write##n(void* p) { access(p, n, true, XAI_PC); }
XAI_SIZED(1)
XAI_SIZED(2)
XAI_SIZED(4)
XAI_SIZED(8)
XAI_SIZED(16)
#undef XAI_SIZED
void __tsan_read_range(void* p, std::size_t n) { access(p, n, false, XAI_PC); }
void __tsan_write_range(void* p, std::size_t n) { access(p, n, true, XAI_PC); }
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void* pc) {
  if (!d.checking) return;
  auto& f = *d.current;
  if (f.depth < emulation::kFrames) f.frames[f.depth] = reinterpret_cast<Address>(pc);
  ++f.depth;
}
void __tsan_func_exit() {
  if (d.checking && d.current->depth > 0) --d.current->depth;
}
}
