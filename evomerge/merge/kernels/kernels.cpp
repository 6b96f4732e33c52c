// One pass over a tensor: read the parents once, compute in float32, write the result once.
//
// Every operation rounds where the plain functions in evomerge/methods round, in their order, so
// the bits are theirs; kernels.py holds the same passes in PyTorch. A block of BLOCK elements stays
// in the first-level cache, and each short loop over it is vectorised; TIES, the most common sum, is
// one loop (`merge_disjoint`). `native.py` mirrors the structs. Elements are ranked by magnitude,
// largest first, of equal ones the first in `tie_order` (random.py), which orders whole blocks; an
// Edge names the last element of such a ranking that is meant.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int BLOCK = 128;  // random.py: TIE_RUN
constexpr int MOST_MODELS = 32;

struct Edge {
  int64_t place;  // in tie_order
  uint32_t bits;  // of the magnitude, as float32
  uint32_t unused;
};

struct Source {
  const void* data;
  int64_t bfloat16;  // whether it is stored so; else float32
};

enum Mask { ALL, TOP, BAND, RANDOM };
enum Scaling { NONE, MULTIPLY, DIVIDE };

struct Model {
  Source source;
  Edge kept;     // TOP, BAND: the last element that is surely kept
  Edge maybe;    // TOP: the last element that is possibly kept
  Edge outlier;  // BAND: the last element that is too large
  int32_t mask;
  int32_t scaling;
  uint32_t key;  // RANDOM: of the hash
  uint32_t second_key;
  float density;
  float scale;
  float weight;
  int32_t missing;  // TOP: how many of the elements after `kept`, up to `maybe`, are kept too
};

enum Result { WEIGHTED, DISJOINT, LINEAR, PAIR, SCALED, PRUNED };
enum Aggregate { MEAN, SUM, MAX };

struct Task {
  void* out;
  int64_t out_bfloat16;
  int64_t count;
  Source base;  // data is null if there is none
  int64_t models;
  int32_t round_inputs;  // whether the recipe works in bfloat16
  int32_t result;
  int32_t normalize;
  int32_t by_count;
  int32_t aggregate;
  float divisor;
  float lambda;
  uint32_t unused;
};

inline uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

inline float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

// To the nearest bfloat16, ties to even, as PyTorch rounds.
inline uint16_t rounded(float x) {
  const uint32_t u = bits_of(x);
  const uint32_t nearest = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
  return (u & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : nearest;
}

void load(float* __restrict x, const Source& source, int64_t start, int n, bool round) {
  if (source.bfloat16) {
    const uint16_t* from = static_cast<const uint16_t*>(source.data) + start;
    for (int i = 0; i < n; i++) x[i] = float_of(static_cast<uint32_t>(from[i]) << 16);
  } else {
    const float* from = static_cast<const float*>(source.data) + start;
    for (int i = 0; i < n; i++) x[i] = from[i];
    if (round)
      for (int i = 0; i < n; i++) x[i] = float_of(static_cast<uint32_t>(rounded(x[i])) << 16);
  }
}

void store(const Task& task, int64_t start, int n, const float* __restrict x) {
  if (task.out_bfloat16) {
    uint16_t* to = static_cast<uint16_t*>(task.out) + start;
    for (int i = 0; i < n; i++) to[i] = rounded(x[i]);
  } else {
    std::memcpy(static_cast<float*>(task.out) + start, x, n * sizeof(float));
  }
}

// random.py: tie_order of the first element of a block; those after it follow.
inline int64_t place_of(int64_t start) {
  const uint64_t run = static_cast<uint64_t>(start) / BLOCK;
  uint64_t place = (run & 0x1FFFFFFu) ^ 0x13C6EF3u;
  for (const uint64_t factor : {0x1EB352Du, 0x06CA68Bu, 0x1EB352Du}) {
    place = (place * factor) & 0x1FFFFFFu;
    place ^= place >> 13;
  }
  return static_cast<int64_t>((run >> 25) << 32 | place << 7);
}

// The smallest magnitude that lies within an edge for all of a block. An edge that ends inside the
// block splits it: there the place of each element decides too.
inline uint32_t least(const Edge& edge, int64_t start, int n, bool* split) {
  const int64_t first = place_of(start);
  if (first + n - 1 <= edge.place) return edge.bits;
  if (first <= edge.place) *split = true;
  return edge.bits + 1;
}

inline bool within(const Edge& edge, uint32_t magnitude, int64_t place) {
  return magnitude > edge.bits || (magnitude == edge.bits && place <= edge.place);
}

// random.py: lowbias32 twice (Wellons 2018, https://nullprogram.com/blog/2018/07/31/).
inline uint32_t mixed(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  return x ^ (x >> 16);
}

void delta(float* __restrict x, const Task& task, const Model& model, int64_t start, int n,
           const float* __restrict base) {
  load(x, model.source, start, n, task.round_inputs);
  if (task.base.data)
    for (int i = 0; i < n; i++) x[i] = x[i] - base[i];
}

// Zero what the mask drops, then scale.
void reduce(float* __restrict x, const Model& model, int64_t start, int n) {
  if (model.mask == TOP) {
    bool split = false;
    const uint32_t threshold = least(model.kept, start, n, &split);
    if (split) {
      const int64_t place = place_of(start);
      for (int i = 0; i < n; i++)
        x[i] = within(model.kept, bits_of(x[i]) & 0x7FFFFFFFu, place + i) ? x[i] : x[i] * 0.0f;
    } else {
      for (int i = 0; i < n; i++)
        x[i] = (bits_of(x[i]) & 0x7FFFFFFFu) >= threshold ? x[i] : x[i] * 0.0f;
    }
  } else if (model.mask == BAND) {
    bool split = false;
    const uint32_t threshold = least(model.kept, start, n, &split);
    const uint32_t outlier = least(model.outlier, start, n, &split);
    const int64_t place = place_of(start);
    for (int i = 0; i < n; i++) {
      const uint32_t magnitude = bits_of(x[i]) & 0x7FFFFFFFu;
      const bool keep = split ? within(model.kept, magnitude, place + i) &&
                                    !within(model.outlier, magnitude, place + i)
                              : (magnitude >= threshold) & (magnitude < outlier);
      x[i] = keep ? x[i] : x[i] * 0.0f;
    }
  } else if (model.mask == RANDOM) {
    const uint32_t first = static_cast<uint32_t>(start);
    for (int i = 0; i < n; i++) {
      const uint32_t word = mixed(mixed((first + i) ^ model.key) ^ model.second_key);
      const float uniform = static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f;
      x[i] = uniform < model.density ? x[i] : x[i] * 0.0f;
    }
  }
  if (model.scaling == MULTIPLY)
    for (int i = 0; i < n; i++) x[i] = x[i] * model.scale;
  else if (model.scaling == DIVIDE)
    for (int i = 0; i < n; i++) x[i] = x[i] / model.scale;
}

// Whether a block holds an element of which `kept` and `maybe` do not say if it is kept.
bool undecided(const float* __restrict x, const Model& model, int64_t start, int n) {
  bool split = false;
  const uint32_t sure = least(model.kept, start, n, &split);
  const uint32_t possible = least(model.maybe, start, n, &split);
  if (split) return true;
  uint32_t found = 0;
  for (int i = 0; i < n; i++) {
    const uint32_t magnitude = bits_of(x[i]) & 0x7FFFFFFFu;
    found |= static_cast<uint32_t>(magnitude >= possible) & static_cast<uint32_t>(magnitude < sure);
  }
  return found;
}

// deltas.py: weighted_deltas, or elect_sign and disjoint_deltas; the result in `total`.
void combine(float* __restrict total, float (*__restrict parts)[BLOCK], const Task& task,
             const Model* models, int n) {
  const int count = static_cast<int>(task.models);
  for (int i = 0; i < n; i++) total[i] = 0.0f;
  if (task.result == WEIGHTED) {
    for (int k = 0; k < count; k++)
      for (int i = 0; i < n; i++) total[i] = total[i] + parts[k][i];
    if (task.normalize)
      for (int i = 0; i < n; i++) total[i] = total[i] / task.divisor;
    return;
  }
  float sign[BLOCK], divisor[BLOCK];
  if (task.by_count) {
    for (int k = 0; k < count; k++)
      for (int i = 0; i < n; i++)
        total[i] = total[i] + (parts[k][i] > 0.0f ? 1.0f : parts[k][i] < 0.0f ? -1.0f : 0.0f);
  } else {
    for (int k = 0; k < count; k++)
      for (int i = 0; i < n; i++) total[i] = total[i] + parts[k][i];
  }
  for (int i = 0; i < n; i++) {
    sign[i] = total[i] >= 0.0f ? 1.0f : -1.0f;
    total[i] = 0.0f;
    divisor[i] = 0.0f;
  }
  for (int k = 0; k < count; k++) {
    const float weight = models[k].weight;
    for (int i = 0; i < n; i++) {
      const float vote = parts[k][i] * sign[i];
      const float agreeing = vote < 0.0f ? 0.0f : vote;  // not-a-number stays
      total[i] = task.aggregate == MAX ? (agreeing > total[i] ? agreeing : total[i])
                                       : total[i] + agreeing;
      divisor[i] = divisor[i] + (vote > 0.0f ? weight : 0.0f);
    }
  }
  if (task.normalize && task.aggregate == MEAN)
    for (int i = 0; i < n; i++) total[i] = total[i] / (divisor[i] == 0.0f ? 1.0f : divisor[i]);
  for (int i = 0; i < n; i++) total[i] = total[i] * sign[i];
}

// One block; returns whether it has to be done again with exact edges.
bool merge_block(const Task& task, const Model* models, int64_t start, int n, bool guess) {
  float base[BLOCK], total[BLOCK], parts[MOST_MODELS][BLOCK];
  const int count = static_cast<int>(task.models);
  bool again = false;
  if (task.base.data) load(base, task.base, start, n, task.round_inputs);
  for (int k = 0; k < count; k++) {
    delta(parts[k], task, models[k], start, n, base);
    if (task.result == LINEAR || task.result == PAIR) continue;
    if (guess && models[k].mask == TOP) again |= undecided(parts[k], models[k], start, n);
    reduce(parts[k], models[k], start, n);
    if (task.result != PRUNED)
      for (int i = 0; i < n; i++) parts[k][i] = parts[k][i] * models[k].weight;
  }
  if (again) return true;
  if (task.result == SCALED || task.result == PRUNED) {
    store(task, start, n, parts[0]);
    return false;
  }
  if (task.result == LINEAR) {
    for (int i = 0; i < n; i++) total[i] = 0.0f;
    for (int k = 0; k < count; k++)
      for (int i = 0; i < n; i++) total[i] = std::fma(parts[k][i], models[k].weight, total[i]);
    if (task.normalize)
      for (int i = 0; i < n; i++) total[i] = total[i] / task.divisor;
  } else if (task.result == PAIR) {
    for (int i = 0; i < n; i++)
      total[i] = models[0].weight * parts[0][i] + models[1].weight * parts[1][i];
    if (task.normalize)
      for (int i = 0; i < n; i++) total[i] = total[i] / task.divisor;
    if (task.base.data)
      for (int i = 0; i < n; i++) total[i] = base[i] + total[i];
  } else {
    combine(total, parts, task, models, n);
    if (task.lambda != 1.0f)
      for (int i = 0; i < n; i++) total[i] = total[i] * task.lambda;
    for (int i = 0; i < n; i++) total[i] = base[i] + total[i];
  }
  store(task, start, n, total);
  return false;
}

inline float value(float x) { return x; }
inline float value(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

// TIES as one loop whose values stay in registers, for a number of models known to the compiler;
// as `merge_block` otherwise. Factors of 1 stand for what a task does not ask for.
// Whether brackets are open and parts are scaled is known to the compiler too.
template <typename Stored, bool Open, bool Scaled, std::size_t... K>
bool merge_fused(const Task& task, const Model* models, int64_t start, int n, const uint32_t* sure,
                 const uint32_t* possible) {
  constexpr int COUNT = sizeof...(K);
  const Stored* const base = static_cast<const Stored*>(task.base.data) + start;
  const Stored* const from[COUNT] = {static_cast<const Stored*>(models[K].source.data) + start...};
  const float weight[COUNT] = {models[K].weight...};
  const float scale[COUNT] = {(models[K].scaling == MULTIPLY ? models[K].scale : 1.0f)...};
  const bool mean = task.normalize && task.aggregate == MEAN;
  const float lambda = task.lambda;
  float merged[BLOCK];
  uint32_t open = 0;
  for (int i = 0; i < n; i++) {
    const float origin = value(base[i]);
    const float delta[COUNT] = {value(from[K][i]) - origin...};
    const uint32_t magnitude[COUNT] = {(bits_of(delta[K]) & 0x7FFFFFFFu)...};
    if (Open)
      open |= (static_cast<uint32_t>(magnitude[K] - possible[K] < sure[K] - possible[K]) | ...);
    const float part[COUNT] = {
        Scaled ? delta[K] * (magnitude[K] >= sure[K] ? scale[K] : 0.0f) * weight[K]
               : delta[K] * (magnitude[K] >= sure[K] ? weight[K] : 0.0f)...};
    const float sign = (0.0f + ... + part[K]) >= 0.0f ? 1.0f : -1.0f;
    const float vote[COUNT] = {part[K] * sign...};
    const float total = (0.0f + ... + (vote[K] < 0.0f ? 0.0f : vote[K]));  // not-a-number stays
    const float agreed = (0.0f + ... + (vote[K] > 0.0f ? weight[K] : 0.0f));
    const float divisor = mean && agreed != 0.0f ? agreed : 1.0f;
    merged[i] = origin + total / divisor * sign * lambda;
  }
  if (open) return true;
  store(task, start, n, merged);
  return false;
}

// A block that an edge splits is left to `merge_block`, where nothing is guessed. Where all elements
// of the magnitude in question lie outside, nothing is open.
template <typename Stored, std::size_t... K>
bool merge_disjoint(const Task& task, const Model* models, int64_t start, int n, bool guess) {
  bool split = false;
  const uint32_t sure[] = {
      (models[K].mask == TOP ? least(models[K].kept, start, n, &split) : 0)...};
  const uint32_t possible[] = {
      (models[K].mask == TOP && guess ? least(models[K].maybe, start, n, &split) : sure[K])...};
  if (split) return guess || merge_block(task, models, start, n, false);
  if (((models[K].scaling != NONE) || ...))
    return merge_fused<Stored, true, true, K...>(task, models, start, n, sure, possible);
  if (((possible[K] != sure[K]) || ...))
    return merge_fused<Stored, true, false, K...>(task, models, start, n, sure, possible);
  return merge_fused<Stored, false, false, K...>(task, models, start, n, sure, possible);
}

using Pass = bool (*)(const Task&, const Model*, int64_t, int, bool);

template <typename Stored>
Pass disjoint_of(int64_t count) {
  switch (count) {
    case 2: return merge_disjoint<Stored, 0, 1>;
    case 3: return merge_disjoint<Stored, 0, 1, 2>;
    case 4: return merge_disjoint<Stored, 0, 1, 2, 3>;
    default: return merge_block;
  }
}

// The loop that does a task's blocks.
Pass pass_of(const Task& task, const Model* models) {
  if (task.result != DISJOINT || task.by_count || task.aggregate == MAX) return merge_block;
  for (int64_t k = 0; k < task.models; k++) {
    if (models[k].source.bfloat16 != task.base.bfloat16) return merge_block;
    if (models[k].mask != ALL && models[k].mask != TOP) return merge_block;
    if (models[k].scaling == DIVIDE) return merge_block;
  }
  if (task.base.bfloat16) return disjoint_of<uint16_t>(task.models);
  return task.round_inputs ? merge_block : disjoint_of<float>(task.models);
}

// A sum of magnitudes in the order of PyTorch's float32 sums: rows of four vectors of eight numbers,
// one sum for each place in a row. It has four levels; each passes its sum on to the next when it
// has taken 2^power of the one below. Less than a vector of numbers is summed in rows of four.
class Sum {
 public:
  static constexpr int ROW = 32;

  explicit Sum(int64_t count) {
    while ((int64_t{1} << (4 * power + 3)) <= count / ROW - 1) power++;
  }

  void add(const float* __restrict x) {
    for (int i = 0; i < ROW; i++) sums[0][i] = sums[0][i] + std::fabs(x[i]);
    rows++;
    for (int level = 1; level < LEVELS; level++) {
      if (rows & ((int64_t{1} << (level * power)) - 1)) return;
      for (int i = 0; i < ROW; i++) {
        sums[level][i] = sums[level][i] + sums[level - 1][i];
        sums[level - 1][i] = 0.0f;
      }
    }
  }

  float finished(const float* x, int n) {
    if (rows == 0 && n < LANES) return few(x, n);
    for (; n >= ROW; n -= ROW, x += ROW) add(x);
    for (int level = 1; level < LEVELS; level++)
      for (int i = 0; i < ROW; i++) sums[0][i] = sums[0][i] + sums[level][i];
    float* const total = sums[0];
    for (; n >= LANES; n -= LANES, x += LANES)
      for (int i = 0; i < LANES; i++) total[i] = total[i] + std::fabs(x[i]);
    for (int i = LANES; i < ROW; i++) total[i % LANES] = total[i % LANES] + total[i];
    float result = 0.0f;
    for (int i = 0; i < n; i++) result = result + std::fabs(x[i]);
    for (int i = 0; i < LANES; i++) result = result + total[i];
    return result;
  }

 private:
  static float few(const float* x, int n) {
    float column[4] = {};
    const int whole = n / 4 * 4;
    for (int i = 0; i < whole; i++) column[i % 4] = column[i % 4] + std::fabs(x[i]);
    for (int i = whole; i < n; i++) column[0] = column[0] + std::fabs(x[i]);
    return column[0] + column[1] + column[2] + column[3];
  }

  static constexpr int LANES = 8, LEVELS = 4;
  float sums[LEVELS][ROW] = {};
  int64_t rows = 0;
  int power = 4;
};

inline int length(const Task& task, int64_t start) {
  return static_cast<int>(task.count - start < BLOCK ? task.count - start : BLOCK);
}

// Add the keys (ranking.py) of a block's undecided elements.
void collect(const Task& task, const Model& model, int64_t start, std::vector<int64_t>* keys) {
  float base[BLOCK], x[BLOCK];
  const int n = length(task, start);
  if (task.base.data) load(base, task.base, start, n, task.round_inputs);
  delta(x, task, model, start, n, base);
  if (!undecided(x, model, start, n)) return;
  const int64_t place = place_of(start);
  for (int i = 0; i < n; i++) {
    const uint32_t magnitude = bits_of(x[i]) & 0x7FFFFFFFu;
    if (within(model.maybe, magnitude, place + i) && !within(model.kept, magnitude, place + i))
      keys->push_back((static_cast<int64_t>(0x7FFFFFFFu - magnitude) << 32) | (place + i));
  }
}

// Close a bracket, given the blocks that hold all elements that it leaves open; false if those are
// not as many as were promised.
bool close_bracket(const Task& task, Model* model, const std::vector<int64_t>& starts) {
  if (model->mask != TOP || model->missing == 0) return true;
  std::vector<int64_t> keys;
  for (const int64_t start : starts) collect(task, *model, start, &keys);
  if (static_cast<int64_t>(keys.size()) < model->missing) return false;
  const auto last = keys.begin() + (model->missing - 1);
  std::nth_element(keys.begin(), last, keys.end());
  model->kept = {*last & 0xFFFFFFFF, 0x7FFFFFFFu - static_cast<uint32_t>(*last >> 32), 0};
  return true;
}

}  // namespace

extern "C" {

// Merge all blocks. One pass under open brackets tells in which blocks they matter; those are done
// again. Returns 0, or 1 if a bracket does not fit the tensors.
int32_t evomerge_merge(const Task* task, const Model* given) {
  std::vector<Model> models(given, given + task->models);
  const Pass merge_one = pass_of(*task, models.data());
  bool guess = false;
  for (const Model& model : models) guess |= model.mask == TOP && model.missing > 0;
  std::vector<int64_t> again;
  for (int64_t start = 0; start < task->count; start += BLOCK)
    if (merge_one(*task, models.data(), start, length(*task, start), guess)) again.push_back(start);
  for (Model& model : models)
    if (!close_bracket(*task, &model, again)) return 1;
  for (const int64_t start : again)
    merge_one(*task, models.data(), start, length(*task, start), false);
  return 0;
}

// The keys of one model's undecided elements; returns how many there are, of which at most
// `capacity` are written.
int64_t evomerge_undecided(const Task* task, const Model* model, int64_t* keys, int64_t capacity) {
  std::vector<int64_t> found;
  for (int64_t start = 0; start < task->count; start += BLOCK) collect(*task, *model, start, &found);
  const int64_t count = static_cast<int64_t>(found.size());
  std::copy_n(found.begin(), std::min(count, capacity), keys);
  return count;
}

// The sum of the magnitudes that a mask leaves of one model's delta, unscaled.
float evomerge_norm(const Task* task, const Model* model) {
  float base[BLOCK], x[BLOCK];
  Model plain = *model;
  plain.scaling = NONE;
  Sum sum(task->count);
  int64_t start = 0;
  for (;; start += BLOCK) {
    const int n = length(*task, start);
    if (task->base.data) load(base, task->base, start, n, task->round_inputs);
    delta(x, *task, plain, start, n, base);
    reduce(x, plain, start, n);
    if (start + BLOCK >= task->count) return sum.finished(x, n);
    for (int i = 0; i < BLOCK; i += Sum::ROW) sum.add(x + i);
  }
}

}  // extern "C"
