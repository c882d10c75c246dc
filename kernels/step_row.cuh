// The program of step_row.cu, and what its warps share: rows that tell by themselves that they are there, who does which unit, and
// the rings.
//
// A row that one op makes and others read lies in memory that was filled with MISSING, the bits of a NaN that no computation makes.
// Who reads an element asks until it is no longer that: one way through the second-level cache from the store to the reader, where
// a barrier takes three, and no fence, for an element stands for nothing but itself. No element is written twice in a launch. There
// are two halves of such memory, which launches use in turn; in each launch, who stores an element puts MISSING back into the other.
#pragma once
#include "attend_row.cuh"
#include "product_row.cuh"

enum StepKind : uint32_t { STEP_PRODUCT = 0, STEP_PAIR = 1, STEP_ATTEND_64 = 2, STEP_ATTEND_128 = 3 };

struct alignas(16) StepOp {
    uint32_t kind;          // StepKind
    uint32_t groups;        // attention: kv heads * ceil(group / 16)
    const float* residual;  // STORE_ADD: the row that is added to; what comes goes to `out` of the matrix
    float* also;            // STORE_ADD: null, or a second place for it, outside of `rows`
    uint64_t pad;
    union {
        RowArgs row;        // of the product, stages and slot_bytes are not read
        Attend attend;
    };
};

struct StepArgs {
    const StepOp* ops;
    uint8_t* rows;        // [2][half_bytes], MISSING at first; ops name places in the first half
    uint32_t* turn;       // [blocks]: which half this launch uses, 0 at first
    uint64_t half_bytes;
    uint32_t n_ops;
    uint32_t x_bytes;     // shared memory for a row, or for attention
    uint32_t ring_bytes;  // of each warp that multiplies; at least two of the largest pieces
    uint32_t probe_ns;    // who waits for a row asks for one element so often at first; 0: for all at once
};

namespace {

constexpr int MULTIPLIERS = 16;  // warps that multiply; one more fills the rings, and one stores sums
constexpr int STEP_WARPS = MULTIPLIERS + 2;
constexpr int SLOTS = 8;         // pieces that a ring holds at the most
constexpr int SUMS = 2;          // units of a warp whose sums may wait to be stored
constexpr int OPS = 8;           // ops that a block knows at a time: how far the rings may run ahead
constexpr int STEP_ATTEND_64_WARPS = 2 * ATTEND_WARPS, STEP_ATTEND_128_WARPS = 4 * ATTEND_WARPS;
constexpr uint32_t MISSING = 0xffffffffu;
constexpr uint64_t PATIENCE_NS = 120'000'000'000;  // then an error is better than to hang

static_assert(MULTIPLIERS * 32 == NORM_THREADS, "a thread takes a piece of a row");
static_assert(sizeof(StepOp) % 16 == 0, "brought by bulk copies");
static_assert(sizeof(StepOp) == 352 && sizeof(StepArgs) == 48, "as src/device/cuda/params.rs has them");

__device__ __forceinline__ uint32_t element_now(const void* p) {
    uint32_t x;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
    return x;
}

__device__ __forceinline__ uint4 elements_now(const void* p) {
    uint4 x;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(p) : "memory");
    return x;
}

__device__ __forceinline__ void put_element(void* p, uint32_t x) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory"); }

__device__ __forceinline__ bool there(const uint4& x) { return max(max(x.x, x.y), max(x.z, x.w)) != MISSING; }

__device__ __forceinline__ uint64_t clock_ns() {
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

// Of who reads what is not there. Looks at the clock now and then.
struct Patience {
    uint32_t tries = 0;
    uint64_t since = 0;
    __device__ __forceinline__ void lose() {
        if (++tries % 8192) return;
        if (tries == 8192) since = clock_ns();
        if (clock_ns() - since > PATIENCE_NS) __trap();
    }
};

// Where rows lie in this launch.
struct Rows {
    uint8_t* base;
    uint64_t half_bytes;
    uint32_t second;

    __device__ __forceinline__ bool hold(const void* p) const { return (uint64_t)((const uint8_t*)p - base) < half_bytes; }

    template <class T>
    __device__ __forceinline__ T* now(T* p) const {
        return second && hold(p) ? (T*)((uint8_t*)p + half_bytes) : p;
    }

    // The place in the other half, of one that `hold`s.
    template <class T>
    __device__ __forceinline__ T* other(T* p) const {
        return second ? p : (T*)((uint8_t*)p + half_bytes);
    }
};

struct StepShared {
    Rows rows;
    StepOp ops[OPS];
    uint64_t op_full[OPS], op_empty[OPS];
    uint64_t full[MULTIPLIERS][SLOTS], empty[MULTIPLIERS][SLOTS];
    uint64_t summed[MULTIPLIERS][SUMS], stored[MULTIPLIERS][SUMS];
    uint64_t attended[ATTEND_WARPS];
    Place place;  // that attention is at
    uint32_t held[MULTIPLIERS][SLOTS];  // bytes of the ring that a piece takes
    float partial[SUMS][2][MULTIPLIERS][TILE_ROWS];
    float scratch[NORM_THREADS / 32];
};

// At addresses that the compiler knows: registers are short.
__shared__ StepShared sh;
extern __shared__ __align__(128) uint8_t row_and_rings[];

__device__ __forceinline__ float wait_for_element(const float* p) {
    Patience patience;
    uint32_t x;
    while ((x = element_now(p)) == MISSING) patience.lose();
    return __uint_as_float(x);
}

__device__ __forceinline__ Piece wait_for_piece(const float* row, uint32_t col) {
    Patience patience;
    uint4 a, b;
    while (a = elements_now(row + col), b = elements_now(row + col + 4), !there(a) || !there(b)) patience.lose();
    const auto f = [](uint32_t x) { return __uint_as_float(x); };
    return {f(a.x), f(a.y), f(a.z), f(a.w), f(b.x), f(b.y), f(b.z), f(b.w)};
}

// Rows are long and waiting may be too: so that asking leaves the way to memory to the weights, all lanes ask for what comes late.
__device__ __forceinline__ void probe(const void* p, uint32_t ns) {
    Patience patience;
    while (element_now(p) == MISSING) __nanosleep(ns), patience.lose();
}

// How the units of an op are dealt out. Those of all ops are counted through: unit g of the program goes to block g % blocks, and
// there to the teams in turn, so that what one op deals out unevenly the next ones even out. A team is a warp for each part of the
// columns whose sums are formed apart.
struct Deal {
    uint32_t first;      // the block's first unit; the others follow `blocks` apart
    int teams, parts;
    int first_team;      // of the block's first unit

    __device__ __forceinline__ Deal(const ProductArgs& a, uint32_t units_before) {
        const uint32_t blocks = gridDim.x, round = units_before / blocks, into = units_before - round * blocks;
        const bool next = blockIdx.x < into;
        first = blockIdx.x - into + (next ? blocks : 0);
        parts = min(records_of(a.cols), CHUNKS), teams = MULTIPLIERS / parts;
        first_team = (round + next) % teams;
    }

    // The first unit of a warp's team. Warps that are in no team have none.
    __device__ __forceinline__ uint32_t first_of(int warp) const {
        const int team = warp / parts, wait = team - first_team;
        return team < teams ? first + (wait < 0 ? wait + teams : wait) * gridDim.x : ~0u;
    }

    __device__ __forceinline__ uint32_t step() const { return teams * gridDim.x; }
};

// The records of a warp.
struct Span {
    int first, last;

    __device__ __forceinline__ Span(const ProductArgs& a, const Deal& deal, int warp) {
        const int part = warp % deal.parts, records = records_of(a.cols);
        first = deal.parts < CHUNKS ? part : part * records / CHUNKS, last = deal.parts < CHUNKS ? part + 1 : (part + 1) * records / CHUNKS;
    }
};

}  // namespace
