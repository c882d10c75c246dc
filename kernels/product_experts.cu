// y = W x for the experts that up to 64 rows chose: each expert's matrix is read once for all of its rows, and the rings run on from
// expert to expert. For MXFP4.
//
//   product_experts_8, _16            items of up to 8 or 16 rows
//   product_experts_8_pair, _16_pair  gate and up with their activation
//
// Launch: block 32 * (4 * teams + 2), teams 1..4; grid: as many blocks as run at once; x_buffers 1 or 2, stages 2..MAX_STAGES.
// Dynamic shared memory x_buffers * tokens * (128 * steps + 16) + 4 * teams * stages * slot_bytes + 3072 * teams, for 16 rows 6144 * teams.
// From sm_90 on; before, the kernels are empty.
//
// Every block sorts the choices by expert for itself, by ballots, so that all come to the same order. Units, `share` tiles of
// an expert, are dealt out in runs: a block goes through one expert or two and keeps their rows. Four warps, a team, make a tile, each two
// of the eight parts of the columns: 2880 columns are 12 records, which eight warps cannot share evenly. A part's sum is added to that of
// the parts before it, which comes from the warp before: the same sums in the same order as everywhere. Teams that share their rings take
// a tile of the unit each; the tiles lie side by side, and one copy brings a record of all.
#include "product_async.cuh"
#include "product_dequant.cuh"
#include "product_store.cuh"
#include "sort_choices.cuh"

struct ExpertsArgs {
    ProductArgs product;     // x: f16 [rows, x_stride], a multiple of 64 columns; tokens: rows of an item at the most
    Choices choices;         // most: tokens
    uint32_t x_divide;       // choice i reads row i / x_divide of x, and writes row i
    uint32_t x_buffers;
    uint32_t chosen_before;  // the choice is older than the kernel before
    uint32_t share;          // teams that share their rings: 1, or 2 or 4 of which teams is a multiple
};

namespace {

[[maybe_unused]] constexpr int MAX_STAGES = 8, MAX_TEAMS = 4, TEAM = 4, PARTS = CHUNKS / TEAM;
[[maybe_unused]] constexpr uint32_t STORE_ROWS = 4;

struct Shared {
    uint64_t full[TEAM * MAX_TEAMS][MAX_STAGES], empty[TEAM * MAX_TEAMS][MAX_STAGES];
    uint64_t x_full[2], x_empty[2];
    uint64_t summed[MAX_TEAMS][TEAM - 1][2], taken[MAX_TEAMS][TEAM - 1][2];
    Sorted sorted;
};

// What a block works on: units `first` on, item by item.
struct Run {
    const ExpertsArgs& a;
    Shared& sh;
    uint32_t tiles, units, first, last;  // units of an item
    int sets, share, records, x_row;     // sets of teams that share rings

    __device__ __forceinline__ Run(const ExpertsArgs& args, Shared& shared) : a(args), sh(shared) {
        share = a.share, sets = (blockDim.x / 32 - 2) / TEAM / share;
        tiles = a.product.matrix[0].tiles, units = (tiles + share - 1) / share, records = records_of(a.product.cols);
        const uint32_t all = sh.sorted.items * units;
        first = (uint64_t)all * blockIdx.x / gridDim.x, last = (uint64_t)all * (blockIdx.x + 1) / gridDim.x;
        x_row = steps_of(a.product.cols) * 128 + 16;
    }
    // Records before those of a part.
    __device__ __forceinline__ int record_of(int part) const { return part * records / CHUNKS; }
    __device__ __forceinline__ int x_bytes() const { return a.product.tokens * x_row; }
};

// One warp fills all rings: a lane for each quarter of each set.
template <bool PAIR>
__device__ __forceinline__ void fill_rings(const Run& run, uint8_t* rings, int lane) {
    const ProductArgs& p = run.a.product;
    const int stages = p.stages, quarter = lane % TEAM, slot_bytes = run.share * p.slot_bytes;
    const int begin = run.record_of(quarter * PARTS), end = run.record_of((quarter + 1) * PARTS);
    if (lane >= run.sets * TEAM || begin >= end) return;
    uint8_t* ring = rings + lane * stages * slot_bytes;
    const ProductMatrix& m = p.matrix[0];
    const uint8_t* up = p.matrix[PAIR].weights;
    const uint32_t piece_bytes = m.piece_bytes, last_bytes = m.last_piece_bytes;
    uint32_t unit = run.first + lane / TEAM - run.sets, stride = 0, beside = 0, count = 0;
    int record = end, half = PAIR, slot = 0, round = 0;
    const uint8_t* from = nullptr;
    size_t there = 0;
    while (true) {
        if (record == end) {
            record = begin;
            if (PAIR && half == 0) {
                half = 1;
            } else {
                half = 0, unit += run.sets;
                if (unit >= run.last) return;
                const uint32_t item = unit / run.units, tile = unit % run.units * run.share;
                beside = tile % BLOCK_TILES, stride = block_tiles(run.tiles, tile) * piece_bytes, count = min(run.tiles - tile, run.share);
                there = run.sh.sorted.item[item].expert * m.expert_bytes + (size_t)(tile - beside) * m.tile_bytes;
            }
            from = (half ? up : m.weights) + there + (size_t)record * stride;
        }
        if (round == 0 || barrier_passed(&run.sh.empty[lane][slot], (round & 1) ^ 1)) {
            const uint32_t bytes = record + 1 == run.records ? last_bytes : piece_bytes;
            fill_begin(&run.sh.full[lane][slot], count * bytes, lane);
            fill_copy<true>(ring + slot * slot_bytes, from + beside * bytes, count * bytes, &run.sh.full[lane][slot], lane);
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
    for (uint32_t i = run.first / run.units; i * run.units < run.last; ++i) {
        const Item item = run.sh.sorted.item[i];
        if (round) barrier_wait(&run.sh.x_empty[buffer], (round & 1) ^ 1);
        if (lane == 0) fill_begin(&run.sh.x_full[buffer], item.count * bytes, 0);
        __syncwarp();
        if (lane < item.count) {
            const uint32_t row = run.sh.sorted.choice[item.first + lane] / run.a.x_divide;
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

// The products of a step of a record.
template <uint32_t K, int NT>
__device__ __forceinline__ void multiply_step(Record<K>& record, const Rows<NT>& rows, int offset, int n, float (&acc)[NT][4]) {
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

// Stores a tile's values: of each eight rows of activations lane (g, t) has tokens 2 t and 2 t + 1 of the weights' rows g and g + 8.
template <bool PAIR, int NT>
__device__ __forceinline__ void store_tile(const ProductArgs& p, const Sink& sink, uint32_t tile, const float (&sum)[2][NT][4], const float (&bias)[2][2],
                                           const int (&choice)[NT][2], int lane) {
#pragma unroll
    for (int j = 0; j < NT; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int to = choice[j][i & 1];
            if (to < 0) continue;
            const uint32_t row = tile * TILE_ROWS + (lane >> 2) + (i >> 1) * 8;
            const float sums[2] = {sum[0][j][i], sum[1][j][i]}, biases[2] = {bias[0][i >> 1], bias[1][i >> 1]};
            const float value = PAIR ? value_of_pair(p, sums, biases) : value_of(p, sums[0], biases[0]);
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
    static_assert(PARTS == 2, "a warp keeps the sums of its first part beside those of its second");
    const ProductArgs& p = run.a.product;
    Shared& sh = run.sh;
    const int stages = p.stages, slot_bytes = run.share * p.slot_bytes, team = warp / TEAM, quarter = warp % TEAM, steps = steps_of(p.cols);
    const int set = team / run.share, beside = team % run.share, of = set * TEAM + quarter;
    const bool stores = quarter + 1 == TEAM;
    const uint8_t* ring = rings + of * stages * slot_bytes;
    Turn turn, hop;
    int buffer = 0;
    uint32_t x_parity = 0, unit = run.first + set;
#pragma unroll 1
    for (uint32_t i = run.first / run.units; i * run.units < run.last; ++i) {
        const Item item = sh.sorted.item[i];
        Rows<NT> rows;
        int choice[NT][2];
#pragma unroll
        for (int j = 0; j < NT; ++j) {
            rows.at[j] = x + buffer * run.x_bytes() + min(8 * j + (lane >> 2), item.count - 1) * run.x_row + (lane & 3) * 32;
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const int token = 8 * j + (lane & 3) * 2 + k;
                choice[j][k] = token < item.count ? sh.sorted.choice[item.first + token] : -1;
            }
        }
        barrier_wait(&sh.x_full[buffer], x_parity);
        const uint32_t end = min(run.last, (i + 1) * run.units);
#pragma unroll 1
        for (; unit < end; unit += run.sets) {
            // Past the last tile a team goes through what lies in the ring, for nothing.
            const uint32_t tile = (unit - i * run.units) * run.share + beside;
            float bias[2][2] = {}, sum[2][NT][4];
            if (stores && tile < run.tiles) {
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    const uint32_t row = tile * TILE_ROWS + (lane >> 2) + r * 8;
                    bias[0][r] = Sink(p.matrix[0], item.expert).bias_of(row);
                    if (PAIR) bias[1][r] = Sink(p.matrix[1], item.expert).bias_of(row);
                }
            }
#pragma unroll 1
            for (int half = 0; half < (PAIR ? 2 : 1); ++half) {
                float part[NT][4] = {}, before[NT][4];
                int r = run.record_of(quarter * PARTS);
#pragma unroll 1
                for (int c = 1; c <= PARTS; ++c) {
                    const int last = run.record_of(quarter * PARTS + c);
#pragma unroll
                    for (int j = 0; j < NT; ++j)
#pragma unroll
                        for (int k = 0; k < 4; ++k) before[j][k] = part[j][k], part[j][k] = 0.0f;
#pragma unroll 1
                    for (; r < last; ++r) {
                        barrier_wait(&sh.full[of][turn.slot], turn.parity);
                        const int n_steps = min(4, steps - 4 * r);
                        Record<K> record;
                        record.open(ring + turn.slot * slot_bytes + beside * (r + 1 == run.records ? p.matrix[0].last_piece_bytes : p.matrix[0].piece_bytes), lane);
                        if (n_steps == 4) {
#pragma unroll
                            for (int n = 0; n < 4; ++n) multiply_step<K, NT>(record, rows, r * 512, n, part);
                        } else {
#pragma unroll 1
                            for (int n = 0; n < n_steps; ++n) multiply_step<K, NT>(record, rows, r * 512, n, part);
                        }
                        __syncwarp();
                        if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.empty[of][turn.slot]);
                        turn.next(stages);
                    }
                }
                // What the parts before come to.
                float4* to = sums + ((team * (TEAM - 1) + quarter) * 2 + hop.slot) * NT * 32 + lane;
                const float4* from = to - 2 * NT * 32;
                if (quarter > 0) barrier_wait(&sh.summed[team][quarter - 1][hop.slot], hop.parity);
                float4 total[NT];
#pragma unroll
                for (int j = 0; j < NT; ++j) {
                    float4 s = quarter > 0 ? from[j * 32] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                    s.x += before[j][0], s.y += before[j][1], s.z += before[j][2], s.w += before[j][3];
                    s.x += part[j][0], s.y += part[j][1], s.z += part[j][2], s.w += part[j][3];
                    total[j] = s;
                    const float values[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
                    for (int k = 0; k < 4; ++k) {
                        if (!PAIR || half == 0) sum[0][j][k] = values[k];
                        sum[1][j][k] = values[k];
                    }
                }
                __syncwarp();
                if (quarter > 0) warp_arrive(&sh.taken[team][quarter - 1][hop.slot], lane);
                if (!stores) {
                    barrier_wait(&sh.taken[team][quarter][hop.slot], hop.parity ^ 1);
#pragma unroll
                    for (int j = 0; j < NT; ++j) to[j * 32] = total[j];
                    __syncwarp();
                    warp_arrive(&sh.summed[team][quarter][hop.slot], lane);
                }
                hop.next(2);
            }
            if (stores && tile < run.tiles) store_tile<PAIR, NT>(p, Sink(p.matrix[0], item.expert), tile, sum, bias, choice, lane);
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
    if (warp < warps && lane < a.product.stages) fill_barrier_init(&sh.full[warp][lane]), barrier_init(&sh.empty[warp][lane], a.share * WARP_ARRIVALS);
    if (warp == warps && lane < 2) fill_barrier_init(&sh.x_full[lane]), barrier_init(&sh.x_empty[lane], warps * WARP_ARRIVALS);
    if (warp == warps + 1 && lane < MAX_TEAMS * (TEAM - 1) * 2) barrier_init(&sh.summed[0][0][0] + lane, WARP_ARRIVALS), barrier_init(&sh.taken[0][0][0] + lane, WARP_ARRIVALS);
    barrier_init_done();
    // Who needs the choice waits for it, and lets the kernel after it start only then: that one finds the choice made.
    if (!a.chosen_before) wait_for_predecessor();
    dependents_may_start();
    sort_choices(a.choices, sh.sorted, warp, lane);
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

#define PRODUCT_EXPERTS(name, pair, nt) \
    extern "C" __global__ void __launch_bounds__(32 * (TEAM * MAX_TEAMS + 2), 1) name(const __grid_constant__ ExpertsArgs args) { product_experts_body<pair, nt>(args); }

PRODUCT_EXPERTS(product_experts_8, false, 1)
PRODUCT_EXPERTS(product_experts_8_pair, true, 1)
PRODUCT_EXPERTS(product_experts_16, false, 2)
PRODUCT_EXPERTS(product_experts_16_pair, true, 2)
