// y = W x for one row of activations, which may be a norm of an f32 row: a decode step of one sequence.
//
//   product_row       any matrices, a unit is 1 tile of 16 rows
//   product_row_pair  gate and up with their activation, a unit is 1 tile of each
//
// Launch: block 32 * (warps + 2), warps = min(records, 8); of a pair from `hidden` it may be twice that, up to 8. Grid (up to units,
// experts used or 1); dynamic shared memory x_bytes + warps * stages * slot_bytes, x_bytes = 128 * steps; stages 1..MAX_STAGES. From
// sm_90 on; before, the kernels are empty.
//
// The same sums in the same order as product_small.cu and its like. What differs is what a step of one sequence is short of, time
// between kernels and instructions: the norm is made here, by every block for itself; a block keeps the whole row; one warp fills
// the rings of all, and one stores sums, so that those that multiply do nothing else.
#include "product_row.cuh"

namespace {

constexpr int MAX_STAGES = 16;
constexpr int HELPERS = 2;  // warps beside those that multiply
constexpr int SUMS = 4;     // units whose sums may wait to be stored

// The row as f16 in shared memory, from records: a warp brings what it needs itself.
__device__ __forceinline__ void take_records(const RowArgs& a, int row, int first, int last, uint8_t* x) {
    const int end = min(32 * last, steps_of(a.product.cols) * 8), odd = row & 1;
    for (int piece = 32 * first + threadIdx.x % 32; piece < end; piece += 32) {
        const uint8_t* from = a.product.x + ((size_t)(piece / 32) * a.product.x_stride + row) * 512;
        *reinterpret_cast<uint4*>(x + piece * 16) = __ldcg(reinterpret_cast<const uint4*>(from + ((piece % 32) ^ odd) * 16));
    }
    __syncwarp();
}

// The rings of the warps that multiply, and the sums on their way to the warp that stores them.
struct Shared {
    uint64_t full[CHUNKS][MAX_STAGES], empty[CHUNKS][MAX_STAGES];
    uint64_t summed[SUMS], stored[SUMS];
    float partial[SUMS][2][CHUNKS][16];
    float scratch[NORM_THREADS / 32];
};

// What a warp that multiplies takes: records, and of a pair both sides or, where a row is so short that there are warps enough, one.
struct Share {
    int parts, sides, side, part, first, last;

    __device__ __forceinline__ Share(const ProductArgs& a, bool pair, int warp, int warps) {
        const int records = records_of(a.cols);
        parts = min(records, CHUNKS), sides = pair && warps > parts ? 2 : 1, side = warp / parts, part = warp - side * parts;
        first = parts < CHUNKS ? part : part * records / CHUNKS, last = parts < CHUNKS ? part + 1 : (part + 1) * records / CHUNKS;
    }
};

// One warp fills all rings: lane w that of warp w.
template <bool PAIR>
__device__ __forceinline__ void fill_rings(const RowArgs& a, Shared& sh, uint8_t* rings, int warps, int expert) {
    const int lane = threadIdx.x % 32, stages = a.product.stages;
    if (lane >= warps) return;
    const Share share(a.product, PAIR, lane, warps);
    Cursor c = {&a.product, PAIR, share.sides == 2, expert, share.first, share.last, steps_of(a.product.cols), blockIdx.x, gridDim.x, share.side};
    c.enter();
    uint8_t* ring = rings + lane * stages * a.product.slot_bytes;
    int slot = 0, round = 0;
    while (c.there()) {
        if (round == 0 || barrier_passed(&sh.empty[lane][slot], (round & 1) ^ 1)) {
            fill_begin(&sh.full[lane][slot], c.bytes, lane);
            fill_copy<true>(ring + slot * a.product.slot_bytes, c.from, c.bytes, &sh.full[lane][slot], lane);
            c.next();
            if (++slot == stages) slot = 0, ++round;
        }
    }
}

// One warp adds the sums of a unit and stores them.
template <bool PAIR>
__device__ __forceinline__ void store_sums(const RowArgs& a, Shared& sh, int expert) {
    const ProductArgs& args = a.product;
    const int lane = threadIdx.x % 32, parts = min(records_of(args.cols), CHUNKS);
    int buffer = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (uint32_t unit = blockIdx.x; unit < args.units; unit += gridDim.x) {
        const ProductMatrix& m = args.matrix[PAIR ? 0 : matrix_of(args, unit)];
        const uint32_t tile = PAIR ? unit : unit - m.first_unit, row = tile * TILE_ROWS + lane;
        const Sink sink(m, expert);
        float bias[2] = {0.0f, 0.0f}, sum[2] = {0.0f, 0.0f};
        if (lane < TILE_ROWS) {
            bias[0] = sink.bias_of(row);
            if (PAIR) bias[1] = Sink(args.matrix[1], expert).bias_of(row);
        }
        barrier_wait(&sh.summed[buffer], parity);
        if (lane < TILE_ROWS) {
#pragma unroll
            for (int h = 0; h < (PAIR ? 2 : 1); ++h)
#pragma unroll
                for (int w = 0; w < CHUNKS; ++w) sum[h] += w < parts ? sh.partial[buffer][h][w][lane] : 0.0f;
        }
        __syncwarp();
        warp_arrive(&sh.stored[buffer], lane);
        if (++buffer == SUMS) buffer = 0, parity ^= 1;
        if (lane >= TILE_ROWS) continue;
        if (PAIR)
            finish_pair(args, sink, row, blockIdx.y, sum, bias);
        else
            finish(args, sink, row, blockIdx.y, sum[0], bias[0]);
    }
}

template <bool PAIR>
__device__ __forceinline__ void product_row_body(const RowArgs& a) {
#if BULK_COPY
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ Shared sh;
    const ProductArgs& args = a.product;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, warps = blockDim.x / 32 - HELPERS, stages = args.stages;
    if (warp < warps && lane < stages) fill_barrier_init(&sh.full[warp][lane]), barrier_init(&sh.empty[warp][lane], WARP_ARRIVALS);
    if (warp == warps && lane < SUMS) barrier_init(&sh.summed[lane], warps * WARP_ARRIVALS), barrier_init(&sh.stored[lane], WARP_ARRIVALS);
    barrier_init_done();
    // Those who go to experts first wait for the choice. They let the product after them start only then, and so it finds the
    // choice made, and fetches its weights while it waits for its row.
    const bool choosing = a.chosen && !a.x_per_expert;
    if (choosing) wait_for_predecessor();
    dependents_may_start();
    const int expert = a.chosen ? __ldcg(a.chosen + blockIdx.y) : 0;
    const int steps = steps_of(args.cols), slot_bytes = args.slot_bytes;
    __syncthreads();
    if (warp == warps) return fill_rings<PAIR>(a, sh, shared + steps * 128, warps, expert);
    if (warp > warps) {
        if (!choosing) wait_for_predecessor();
        return store_sums<PAIR>(a, sh, expert);
    }

    const Share share(args, PAIR, warp, warps);
    const int first = share.first, last = share.last, half0 = share.sides == 2 ? share.side : 0, halves = PAIR ? share.sides == 2 ? half0 + 1 : 2 : 1;
    if (a.hidden) {
        const auto read = [](const float* from, uint32_t col) { return load_whole(from, col); };
        // As there is a warp for every record up to the eighth, each stands for up to two.
        NormedRow<2, decltype(read)> row(a, a.hidden, warps, read);
        if (a.norm != NORM_NONE) row.fetch_weight();
        if (!choosing) wait_for_predecessor();
        row.take(shared, sh.scratch);
    } else {
        if (!choosing) wait_for_predecessor();
        take_records(a, a.x_per_expert ? blockIdx.y : 0, first, last, shared);
    }

    const uint8_t* ring = shared + steps * 128 + warp * stages * slot_bytes;
    int slot = 0, buffer = 0, round = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (uint32_t unit = blockIdx.x; unit < args.units; unit += gridDim.x) {
        if (round) barrier_wait(&sh.stored[buffer], (round & 1) ^ 1);
        with_kind(args.matrix[PAIR ? 0 : matrix_of(args, unit)].kind, [&](auto record) {
            constexpr bool F16 = std::is_same<decltype(record), Record<KIND_F16>>::value;
            const int begin = F16 ? 4 * first : first, end = F16 ? min(4 * last, steps) : last;
#pragma unroll 1
            for (int half = half0; half < halves; ++half) {
                float acc[4] = {};
#pragma unroll 1
                for (int r = begin; r < end; ++r) {
                    barrier_wait(&sh.full[warp][slot], parity);
                    multiply<1>(record, ring + slot * slot_bytes, shared + r * (F16 ? 128 : 512), F16 ? 1 : min(4, steps - 4 * r), lane, acc);
                    __syncwarp();
                    if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.empty[warp][slot]);
                    if (++slot == stages) slot = 0, parity ^= 1;
                }
                if ((lane & 3) == 0) sh.partial[buffer][half][share.part][lane >> 2] = acc[0], sh.partial[buffer][half][share.part][(lane >> 2) + 8] = acc[2];
            }
        });
        __syncwarp();
        if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.summed[buffer]);
        if (++buffer == SUMS) buffer = 0, ++round;
    }
#endif
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32 * (CHUNKS + HELPERS), 2) product_row(const __grid_constant__ RowArgs args) { product_row_body<false>(args); }
extern "C" __global__ void __launch_bounds__(32 * (CHUNKS + HELPERS), 2) product_row_pair(const __grid_constant__ RowArgs args) { product_row_body<true>(args); }
