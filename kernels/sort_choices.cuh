// The choices of a pass's rows, sorted by expert by every block for itself: all come to the same order.
#pragma once
#include <stdint.h>

struct Choices {
    const int* chosen;     // [count]: the expert of each, row by row
    const int* slot;       // [count / used], below 0: a row that is not there; or null
    uint32_t count, used;  // up to MAX_CHOICES and 32 for each warp of the block; of a row
    uint32_t experts;      // up to MAX_EXPERTS
    uint32_t most;         // choices of an item, at least 8 or as many as there are rows
};

namespace {

constexpr int MAX_EXPERTS = 128, MAX_CHOICES = 256, MAX_ITEMS = MAX_EXPERTS + MAX_CHOICES / 8;
constexpr uint32_t NOBODY = 0xffff;

// Choices of one expert: `count` of them from `first` on.
struct Item {
    uint16_t expert, first, count, pad;
};

struct Sorted {
    uint32_t items;
    Item item[MAX_ITEMS];
    uint16_t choice[MAX_CHOICES];                   // by expert
    uint16_t start[MAX_EXPERTS];
    uint16_t count[MAX_CHOICES / 32][MAX_EXPERTS];  // by the warp that found them
};

// The same for up to 32 choices of no more rows than an item may have. One warp calls.
__device__ __forceinline__ void sort_few(const Choices& a, Sorted& sh, uint32_t expert, int lane) {
    const uint32_t same = __match_any_sync(~0u, expert), before = __popc(same & ((1u << lane) - 1));
    const bool first = before == 0 && expert != NOBODY;
    const uint32_t firsts = __ballot_sync(~0u, first);
    uint32_t start = 0, item = 0;
    for (int k = 0; k < a.count; ++k) {
        const bool lower = __shfl_sync(~0u, expert, k) < expert;
        start += lower, item += lower && (firsts >> k & 1);
    }
    if (first) sh.item[item] = {(uint16_t)expert, (uint16_t)start, (uint16_t)__popc(same), 0};
    if (expert != NOBODY) sh.choice[start + before] = lane;
    if (lane == 0) sh.items = __popc(firsts);
}

// All choices by expert, and the items. All threads call.
__device__ __forceinline__ void sort_choices(const Choices& a, Sorted& sh, int warp, int lane) {
    const int warps = (a.count + 31) / 32, most = a.most;
    const uint32_t i = threadIdx.x;
    uint32_t expert = NOBODY, before = 0;
    if (warp < warps) {
        if (i < a.count) expert = __ldcg(a.chosen + i);
        // A row that is not there, or of no numbers.
        if (expert >= a.experts || (a.slot && __ldcg(a.slot + i / a.used) < 0)) expert = NOBODY;
    }
    if (warps == 1 && a.count <= most * a.used) {
        if (warp == 0) sort_few(a, sh, expert, lane);
        return __syncthreads();
    }
    if (warp < warps) {
        for (int e = lane; e < a.experts; e += 32) sh.count[warp][e] = 0;
        __syncwarp();
        const uint32_t same = __match_any_sync(~0u, expert);
        before = __popc(same & ((1u << lane) - 1));
        if (before == 0 && expert != NOBODY) sh.count[warp][expert] = __popc(same);
    }
    __syncthreads();
    if (warp == 0) {
        int rows = 0, items = 0;
        for (int base = 0; base < a.experts; base += 32) {
            const int e = base + lane;
            int count = 0;
            if (e < a.experts)
                for (int w = 0; w < warps; ++w) {
                    const int more = sh.count[w][e];
                    sh.count[w][e] = count, count += more;
                }
            const int pieces = (count + most - 1) / most;
            int row = count, item = pieces;
#pragma unroll
            for (int o = 1; o < 32; o *= 2) {
                const int r = __shfl_up_sync(~0u, row, o), t = __shfl_up_sync(~0u, item, o);
                if (lane >= o) row += r, item += t;
            }
            const int first = rows + row - count, at = items + item - pieces;
            if (e < a.experts) sh.start[e] = first;
            for (int p = 0; p < pieces; ++p)
                sh.item[at + p] = {(uint16_t)e, (uint16_t)(first + p * most), (uint16_t)min(most, count - p * most), 0};
            rows += __shfl_sync(~0u, row, 31), items += __shfl_sync(~0u, item, 31);
        }
        if (lane == 0) sh.items = items;
    }
    __syncthreads();
    if (expert != NOBODY) sh.choice[sh.start[expert] + sh.count[warp][expert] + before] = i;
    __syncthreads();
}

}  // namespace
