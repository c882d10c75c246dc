// y = W x for the experts that up to 64 rows chose: each expert's matrix is read once for all of its rows, and the rings run on from
// expert to expert. For MXFP4.
//
//   product_experts_8, _16            items of up to 8 or 16 rows
//   product_experts_8_pair, _16_pair  gate and up with their activation
//
// Launch: block 32 * (4 * teams + 2), teams 1..4; grid: as many blocks as run at once; x_buffers 1 or 2, stages 2..MAX_STAGES.
// Dynamic shared memory x_buffers * tokens * (128 * steps + 16) + 4 * teams * stages * slot_bytes + 3072 * teams, for 16 rows 6144 * teams.
// Choices up to MAX_CHOICES and 128 * teams, experts up to MAX_EXPERTS. From sm_90 on; before, the kernels are empty.
//
// Every block sorts the choices by expert for itself, by ballots, so that all come to the same order. Units, a tile of an expert,
// are dealt out in runs: a block goes through one expert or two and keeps their rows. Four warps make a unit together, each two of the
// eight parts of the columns: 2880 columns are 12 records, which eight warps cannot share evenly. A part's sum is added to that of the
// parts before it, which comes from the warp before: the same sums in the same order as everywhere.
#include "product_async.cuh"
#include "product_dequant.cuh"
#include "product_store.cuh"

struct ExpertsArgs {
    ProductArgs product;     // x: f16 [rows, x_stride], a multiple of 64 columns; tokens: rows of an item at the most
    const int* chosen;       // [choices]
    const int* slot;         // [choices / used], below 0: a row that is not there; or null
    uint32_t choices, used;
    uint32_t experts;
    uint32_t x_divide;       // choice i reads row i / x_divide of x, and writes row i
    uint32_t x_buffers;
    uint32_t chosen_before;  // the choice is older than the kernel before
    const uint8_t* ahead;    // weights of the experts' next product, or null
    unsigned long long ahead_expert_bytes;
    uint32_t ahead_bytes;    // of an item, brought near when all of this launch are on their way
    uint32_t pad;
};

namespace {

constexpr int MAX_STAGES = 8, MAX_TEAMS = 4, TEAM = 4, PARTS = CHUNKS / TEAM;
constexpr int MAX_EXPERTS = 128, MAX_CHOICES = 256, MAX_ITEMS = MAX_EXPERTS + MAX_CHOICES / 8;
constexpr uint32_t NOBODY = 0xffff, STORE_ROWS = 4;

struct Item {
    uint16_t expert, first, count, pad;
};

struct Shared {
    uint64_t full[TEAM * MAX_TEAMS][MAX_STAGES], empty[TEAM * MAX_TEAMS][MAX_STAGES];
    uint64_t x_full[2], x_empty[2];
    uint64_t summed[MAX_TEAMS][TEAM - 1][2], taken[MAX_TEAMS][TEAM - 1][2];
    uint32_t items;
    Item item[MAX_ITEMS];
    uint16_t choice[MAX_CHOICES];            // by expert
    uint16_t start[MAX_EXPERTS];
    uint16_t count[MAX_CHOICES / 32][MAX_EXPERTS];  // by the warp that found them
};

// The same for up to 32 choices of no more rows than an item may have. One warp calls.
__device__ __forceinline__ void sort_few(const ExpertsArgs& a, Shared& sh, uint32_t expert, int lane) {
    const uint32_t same = __match_any_sync(~0u, expert), before = __popc(same & ((1u << lane) - 1));
    const bool first = before == 0 && expert != NOBODY;
    const uint32_t firsts = __ballot_sync(~0u, first);
    uint32_t start = 0, item = 0;
    for (int k = 0; k < a.choices; ++k) {
        const bool lower = __shfl_sync(~0u, expert, k) < expert;
        start += lower, item += lower && (firsts >> k & 1);
    }
    if (first) sh.item[item] = {(uint16_t)expert, (uint16_t)start, (uint16_t)__popc(same), 0};
    if (expert != NOBODY) sh.choice[start + before] = lane;
    if (lane == 0) sh.items = __popc(firsts);
}

// All choices by expert, and the items. All threads call.
__device__ __forceinline__ void sort_choices(const ExpertsArgs& a, Shared& sh, int warp, int lane) {
    const int warps = (a.choices + 31) / 32, most = a.product.tokens;
    const uint32_t i = threadIdx.x;
    uint32_t expert = NOBODY, before = 0;
    if (warp < warps) {
        if (i < a.choices) expert = __ldcg(a.chosen + i);
        // A row that is not there, or of no numbers.
        if (expert >= a.experts || (a.slot && __ldcg(a.slot + i / a.used) < 0)) expert = NOBODY;
    }
    if (warps == 1 && a.choices <= most * a.used) {
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

// What a block works on: units `first` on, item by item.
struct Run {
    const ExpertsArgs& a;
    Shared& sh;
    uint32_t tiles, first, last;
    int teams, records, x_row;

    __device__ __forceinline__ Run(const ExpertsArgs& args, Shared& shared) : a(args), sh(shared) {
        tiles = a.product.matrix[0].tiles, teams = (blockDim.x / 32 - 2) / TEAM, records = records_of(a.product.cols);
        const uint32_t units = sh.items * tiles;
        first = (uint64_t)units * blockIdx.x / gridDim.x, last = (uint64_t)units * (blockIdx.x + 1) / gridDim.x;
        x_row = steps_of(a.product.cols) * 128 + 16;
    }
    // Records before those of a part.
    __device__ __forceinline__ int record_of(int part) const { return part * records / CHUNKS; }
    __device__ __forceinline__ int x_bytes() const { return a.product.tokens * x_row; }
};

// Has this lane's share of what the next product begins with come to the second-level cache: the memory would have nothing to do
// until that product starts.
__device__ __forceinline__ void bring_near(const Run& run, int lane) {
    const ExpertsArgs& a = run.a;
    if (!a.ahead) return;
    const uint32_t warps = run.teams * TEAM, sixteens = a.ahead_bytes / 16;
    const uint64_t all = (uint64_t)run.sh.items * sixteens, shares = gridDim.x * warps, share = blockIdx.x * warps + lane;
    uint64_t at = all * share / shares;
    const uint64_t end = all * (share + 1) / shares;
    while (at < end) {
        const uint32_t item = at / sixteens, from = at % sixteens, count = min((uint64_t)(sixteens - from), end - at);
        const uint8_t* p = a.ahead + run.sh.item[item].expert * a.ahead_expert_bytes + (size_t)from * 16;
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(count * 16) : "memory");
        at += count;
    }
}

// One warp fills all rings: lane w that of warp w.
template <bool PAIR>
__device__ __forceinline__ void fill_rings(const Run& run, uint8_t* rings, int lane) {
    const ProductArgs& p = run.a.product;
    const int warps = run.teams * TEAM, stages = p.stages, quarter = lane % TEAM;
    const int begin = run.record_of(quarter * PARTS), end = run.record_of((quarter + 1) * PARTS);
    if (lane >= warps || begin >= end) return;
    uint8_t* ring = rings + lane * stages * p.slot_bytes;
    const ProductMatrix& m = p.matrix[0];
    const uint8_t* weights[2] = {m.weights, p.matrix[PAIR].weights};
    const uint32_t piece_bytes = m.piece_bytes, last_bytes = m.last_piece_bytes;
    uint32_t unit = run.first + lane / TEAM;
    int record = end, half = PAIR, slot = 0, round = 0;
    const uint8_t* from = nullptr;
    uint32_t stride = 0, beside = 0;
    size_t there = 0;
    unit -= run.teams;
    while (true) {
        if (record == end) {
            record = begin;
            if (PAIR && half == 0) {
                half = 1;
            } else {
                half = 0, unit += run.teams;
                if (unit >= run.last) return bring_near(run, lane);
                const uint32_t item = unit / run.tiles, tile = unit % run.tiles;
                beside = tile % BLOCK_TILES, stride = block_tiles(run.tiles, tile) * piece_bytes;
                there = run.sh.item[item].expert * m.expert_bytes + (size_t)(tile - beside) * m.tile_bytes;
            }
            from = weights[half] + there + (size_t)record * stride;
        }
        if (round == 0 || barrier_passed(&run.sh.empty[lane][slot], (round & 1) ^ 1)) {
            const uint32_t bytes = record + 1 == run.records ? last_bytes : piece_bytes;
            fill_begin(&run.sh.full[lane][slot], bytes, lane);
            fill_copy<true>(ring + slot * p.slot_bytes, from + beside * bytes, bytes, &run.sh.full[lane][slot], lane);
            from += stride, ++record;
            if (++slot == stages) slot = 0, ++round;
        }
    }
}

// One warp brings the rows of each item.
__device__ __forceinline__ void fill_rows(const Run& run, uint8_t* x, int lane) {
    const ProductArgs& p = run.a.product;
    const uint32_t bytes = steps_of(p.cols) * 128;
    int buffer = 0, round = 0;
    for (uint32_t i = run.first / run.tiles; i * run.tiles < run.last; ++i) {
        const Item item = run.sh.item[i];
        if (round) barrier_wait(&run.sh.x_empty[buffer], (round & 1) ^ 1);
        if (lane == 0) fill_begin(&run.sh.x_full[buffer], item.count * bytes, 0);
        __syncwarp();
        if (lane < item.count) {
            const uint32_t row = run.sh.choice[item.first + lane] / run.a.x_divide;
            fill_copy<false>(x + buffer * run.x_bytes() + lane * run.x_row, p.x + (size_t)row * p.x_stride * 2, bytes, &run.sh.x_full[buffer], 0);
        }
        if (++buffer == run.a.x_buffers) buffer = 0, ++round;
    }
}

// A warp's place in its ring.
struct Turn {
    int slot = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void next(int stages) {
        if (++slot == stages) slot = 0, parity ^= 1;
    }
};

template <int NT>
struct Rows {
    const uint8_t* at[NT];  // of each eight rows that of this lane, at its columns of a step
};

// A record's products.
template <uint32_t K, int NT>
__device__ __forceinline__ void multiply(const uint8_t* slot, const Rows<NT>& rows, int offset, int steps, int lane, float (&acc)[NT][4]) {
    Record<K> record;
    record.open(slot, lane);
#pragma unroll 1
    for (int n = 0; n < steps; ++n) {
        uint4 b[NT][2];
#pragma unroll
        for (int j = 0; j < NT; ++j) {
            b[j][0] = *reinterpret_cast<const uint4*>(rows.at[j] + offset + n * 128);
            b[j][1] = *reinterpret_cast<const uint4*>(rows.at[j] + offset + n * 128 + 16);
        }
        uint32_t a[4][4];
        record.step(n, a);
#pragma unroll
        for (int j = 0; j < NT; ++j) {
            mma_16816(acc[j], a[0], b[j][0].x, b[j][0].y);
            mma_16816(acc[j], a[1], b[j][0].z, b[j][0].w);
            mma_16816(acc[j], a[2], b[j][1].x, b[j][1].y);
            mma_16816(acc[j], a[3], b[j][1].z, b[j][1].w);
        }
    }
}

// Stores a tile's values: of each eight rows of activations lane (g, t) has tokens 2 t and 2 t + 1 of the weights' rows g and g + 8.
template <bool PAIR, int NT>
__device__ __forceinline__ void store_tile(const ProductArgs& p, const Sink& sink, uint32_t tile, const float (&sum)[2][NT][4], const float (&bias)[2][2],
                                           const int (&choice)[NT][2], int lane) {
#pragma unroll
    for (int j = 0; j < NT; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int to = choice[j][i & 1];
            const uint32_t row = tile * TILE_ROWS + (lane >> 2) + (i >> 1) * 8;
            const float sums[2] = {sum[0][j][i], sum[1][j][i]}, biases[2] = {bias[0][i >> 1], bias[1][i >> 1]};
            const float value = PAIR ? value_of_pair(p, sums, biases) : value_of(p, sums[0], biases[0]);
            if (to < 0) continue;
            if (p.store == STORE_ROWS) {
                __half* out = (__half*)sink.out + (size_t)to * sink.stride;
                out[row] = __float2half_rn(row < sink.rows ? value * p.store_scale : 0.0f);
                if (tile + 1 == sink.tiles)
                    for (uint32_t pad = row + TILE_ROWS; pad < (sink.rows + 63) / 64 * 64; pad += TILE_ROWS) out[pad] = __float2half_rn(0.0f);
            } else if (row < sink.rows) {
                ((float*)sink.out)[(size_t)to * sink.stride + row] = value;
            }
        }
}

template <uint32_t K, bool PAIR, int NT>
__device__ __forceinline__ void consume(const Run& run, const uint8_t* x, const uint8_t* rings, float4* sums, int warp, int lane) {
    const ProductArgs& p = run.a.product;
    Shared& sh = run.sh;
    const int stages = p.stages, slot_bytes = p.slot_bytes, team = warp / TEAM, quarter = warp % TEAM, steps = steps_of(p.cols);
    const bool stores = quarter + 1 == TEAM;
    const uint8_t* ring = rings + warp * stages * slot_bytes;
    Turn turn, hop;
    int buffer = 0;
    uint32_t x_parity = 0, unit = run.first + team;
#pragma unroll 1
    for (uint32_t i = run.first / run.tiles; i * run.tiles < run.last; ++i) {
        const Item item = sh.item[i];
        Rows<NT> rows;
        int choice[NT][2];
#pragma unroll
        for (int j = 0; j < NT; ++j) {
            rows.at[j] = x + buffer * run.x_bytes() + min(8 * j + (lane >> 2), item.count - 1) * run.x_row + (lane & 3) * 32;
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const int token = 8 * j + (lane & 3) * 2 + k;
                choice[j][k] = token < item.count ? sh.choice[item.first + token] : -1;
            }
        }
        barrier_wait(&sh.x_full[buffer], x_parity);
        const Sink sink(p.matrix[0], item.expert), up(p.matrix[PAIR], item.expert);
        const uint32_t end = min(run.last, (i + 1) * run.tiles);
#pragma unroll 1
        for (; unit < end; unit += run.teams) {
            const uint32_t tile = unit - i * run.tiles;
            float bias[2][2] = {}, sum[2][NT][4];
            if (stores) {
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    const uint32_t row = tile * TILE_ROWS + (lane >> 2) + r * 8;
                    bias[0][r] = sink.bias_of(row);
                    if (PAIR) bias[1][r] = up.bias_of(row);
                }
            }
#pragma unroll
            for (int half = 0; half < (PAIR ? 2 : 1); ++half) {
                float part[PARTS][NT][4] = {};
#pragma unroll
                for (int c = 0; c < PARTS; ++c) {
                    const int last = run.record_of(quarter * PARTS + c + 1);
#pragma unroll 1
                    for (int r = run.record_of(quarter * PARTS + c); r < last; ++r) {
                        barrier_wait(&sh.full[warp][turn.slot], turn.parity);
                        multiply<K, NT>(ring + turn.slot * slot_bytes, rows, r * 512, min(4, steps - 4 * r), lane, part[c]);
                        __syncwarp();
                        if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.empty[warp][turn.slot]);
                        turn.next(stages);
                    }
                }
                // What the parts before come to.
                float4* to = sums + ((team * (TEAM - 1) + quarter) * 2 + hop.slot) * NT * 32 + lane;
                const float4* from = to - 2 * NT * 32;
                if (quarter > 0) barrier_wait(&sh.summed[team][quarter - 1][hop.slot], hop.parity);
#pragma unroll
                for (int j = 0; j < NT; ++j) {
                    float4 s = quarter > 0 ? from[j * 32] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
                    for (int c = 0; c < PARTS; ++c) s.x += part[c][j][0], s.y += part[c][j][1], s.z += part[c][j][2], s.w += part[c][j][3];
                    sum[half][j][0] = s.x, sum[half][j][1] = s.y, sum[half][j][2] = s.z, sum[half][j][3] = s.w;
                }
                __syncwarp();
                if (quarter > 0) warp_arrive(&sh.taken[team][quarter - 1][hop.slot], lane);
                if (!stores) {
                    barrier_wait(&sh.taken[team][quarter][hop.slot], hop.parity ^ 1);
#pragma unroll
                    for (int j = 0; j < NT; ++j) to[j * 32] = make_float4(sum[half][j][0], sum[half][j][1], sum[half][j][2], sum[half][j][3]);
                    __syncwarp();
                    warp_arrive(&sh.summed[team][quarter][hop.slot], lane);
                }
                hop.next(2);
            }
            if (stores) store_tile<PAIR, NT>(p, sink, tile, sum, bias, choice, lane);
        }
        __syncwarp();
        warp_arrive(&sh.x_empty[buffer], lane);
        if (++buffer == run.a.x_buffers) buffer = 0, x_parity ^= 1;
    }
}

template <bool PAIR, int NT>
__device__ __forceinline__ void product_experts_body(const ExpertsArgs& a) {
#if BULK_COPY
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ Shared sh;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, warps = blockDim.x / 32 - 2;
    if (warp < warps && lane < a.product.stages) fill_barrier_init(&sh.full[warp][lane]), barrier_init(&sh.empty[warp][lane], WARP_ARRIVALS);
    if (warp == warps && lane < 2) fill_barrier_init(&sh.x_full[lane]), barrier_init(&sh.x_empty[lane], warps * WARP_ARRIVALS);
    if (warp == warps + 1 && lane < MAX_TEAMS * (TEAM - 1) * 2) barrier_init(&sh.summed[0][0][0] + lane, WARP_ARRIVALS), barrier_init(&sh.taken[0][0][0] + lane, WARP_ARRIVALS);
    barrier_init_done();
    // Who needs the choice waits for it, and lets the kernel after it start only then: that one finds the choice made.
    if (!a.chosen_before) wait_for_predecessor();
    dependents_may_start();
    sort_choices(a, sh, warp, lane);
    const Run run(a, sh);
    uint8_t* rings = shared + a.x_buffers * run.x_bytes();
    float4* sums = reinterpret_cast<float4*>(rings + warps * a.product.stages * a.product.slot_bytes);
    if (warp == warps) return fill_rings<PAIR>(run, rings, lane);
    if (a.chosen_before) wait_for_predecessor();
    if (warp > warps) return fill_rows(run, shared, lane);
    consume<KIND_MXFP4, PAIR, NT>(run, shared, rings, sums, warp, lane);
#endif
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32 * (TEAM * MAX_TEAMS + 2), 1) product_experts_8(const __grid_constant__ ExpertsArgs args) { product_experts_body<false, 1>(args); }
extern "C" __global__ void __launch_bounds__(32 * (TEAM * MAX_TEAMS + 2), 1) product_experts_8_pair(const __grid_constant__ ExpertsArgs args) { product_experts_body<true, 1>(args); }
extern "C" __global__ void __launch_bounds__(32 * (TEAM * MAX_TEAMS + 2), 1) product_experts_16(const __grid_constant__ ExpertsArgs args) { product_experts_body<false, 2>(args); }
extern "C" __global__ void __launch_bounds__(32 * (TEAM * MAX_TEAMS + 2), 1) product_experts_16_pair(const __grid_constant__ ExpertsArgs args) { product_experts_body<true, 2>(args); }
