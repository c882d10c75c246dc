// Sorts the choices of all rows by expert, so that each expert's matrix is read once for all rows that chose it.
//
// Choices of one expert lie side by side from a multiple of `align` on, in the order of the rows; pieces of at most `most` of
// them are the items of the products. Which place a choice gets does not change its result.
#include "common.cuh"

struct Item {
    int expert, x_row, out_row, count;
};

struct Group {
    const int* chosen;     // [n, used]
    int* places;           // [n, used]
    Item* items;
    uint32_t* item_count;
    const int* slot;       // [n]; below 0: a row that is not there
    int n;
    int used;
    int experts;
    int align;
    int most;
    int spare;  // the place of rows that are not there
};

constexpr int MAX_EXPERTS = 1024;
constexpr int THREADS = 1024;  // one for each expert, too
constexpr int STAGED = 8192;  // choices that are kept in shared memory; those past it are read again and again
constexpr uint32_t NOBODY = 0xffff;

// The expert of choice i; NOBODY for a row that is not there.
__device__ __forceinline__ uint32_t choice(const Group& p, int i) { return p.slot[i / p.used] < 0 ? NOBODY : (uint32_t)p.chosen[i]; }

// Places each of one expert's choices, in order, from `start` on; returns how many there are. A whole warp calls.
__device__ __forceinline__ int place_choices(const Group& p, const uint16_t* staged, uint32_t expert, int start, bool write) {
    int lane = threadIdx.x % 32, count = 0, all = p.n * p.used;
    for (int base = 0; base < all; base += 32) {
        int i = base + lane;
        bool mine = i < all && (i < STAGED ? (uint32_t)staged[i] : choice(p, i)) == expert;
        uint32_t those = __ballot_sync(0xffffffffu, mine);
        if (write && mine) p.places[i] = start + count + __popc(those & ((1u << lane) - 1));
        count += __popc(those);
    }
    return count;
}

// What the threads before this one have, in all. All threads call, and a barrier lies before.
__device__ __forceinline__ int2 sums_before(int2 mine, int2* totals) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int2 sum = mine;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
        const int x = __shfl_up_sync(0xffffffffu, sum.x, o), y = __shfl_up_sync(0xffffffffu, sum.y, o);
        if (lane >= o) sum.x += x, sum.y += y;
    }
    if (lane == 31) totals[warp] = sum;
    __syncthreads();
    int2 before = make_int2(sum.x - mine.x, sum.y - mine.y);
    for (int w = 0; w < warp; w++) before.x += totals[w].x, before.y += totals[w].y;
    return before;
}

// grid 1, block 1024
extern "C" __global__ void __launch_bounds__(THREADS) group_experts(const Group p) {
    __shared__ int counts[MAX_EXPERTS], starts[MAX_EXPERTS];
    __shared__ uint16_t staged[STAGED];
    __shared__ int2 totals[THREADS / 32];
    pdl_begin();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = threadIdx.x; i < p.n * p.used; i += THREADS) {
        uint32_t expert = choice(p, i);
        if (i < STAGED) staged[i] = expert;
        if (expert == NOBODY) p.places[i] = p.spare;
    }
    __syncthreads();
    for (int e = warp; e < p.experts; e += THREADS / 32) {
        int count = place_choices(p, staged, e, 0, false);
        if (lane == 0) counts[e] = count;
    }
    __syncthreads();
    const int expert = threadIdx.x, count = expert < p.experts ? counts[expert] : 0;
    const int pieces = (count + p.most - 1) / p.most, padded = (count + p.align - 1) / p.align * p.align;
    const int2 before = sums_before(make_int2(padded, pieces), totals);
    if (expert < p.experts) {
        starts[expert] = before.x;
        for (int i = 0; i < pieces; i++) {
            const int first = i * p.most, row = before.x + first;
            p.items[before.y + i] = {expert, row, row, min(p.most, count - first)};
        }
    }
    if (expert == THREADS - 1) *p.item_count = before.y + pieces;
    __syncthreads();
    for (int e = warp; e < p.experts; e += THREADS / 32) place_choices(p, staged, e, starts[e], true);
}
