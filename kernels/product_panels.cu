// y = W x for 9 to 64 rows of activations that are short enough for a block to keep them: a decode step of many sequences of a small model.
//
//   product_panels_N        any matrices, a unit is 1 tile of 16 rows of weights; N = 16, 32, 64: rows of activations at the most
//   product_panels_N_pair   gate and up with their activation, a unit is 1 tile of each
//
// Launch: block 32 * (parts * teams + HELPERS), parts = min(records, 8), parts * teams <= 16, of 64 rows 8; any grid; dynamic shared memory
// x_bytes + parts * teams * (stages * slot_bytes + sums), x_bytes = steps * x_stride * 128, sums = 64 * N, of a pair twice that; stages 1..MAX_STAGES. x: panels, the
// readable rows of which are x_stride. From sm_90 on; before, the kernels are empty.
//
// The same sums in the same order as product_rows.cu, and its teams of warps; each fragment of weights meets all groups of 8 rows before
// the next is unpacked. Against product_many.cuh: no barrier that all warps pass, and each weight is unpacked by one warp alone.
#include "product_teams.cuh"

namespace {

struct Shared {
    uint64_t full[WARPS][MAX_STAGES], empty[WARPS][MAX_STAGES];
    uint64_t x_full[CHUNKS], summed[WARPS], stored[WARPS];  // of parts; of teams
};

// One warp fills all rings, lane w that of warp w, and has the panels of part w brought.
template <bool PAIR>
__device__ __forceinline__ void fill_rings(const ProductArgs& args, Shared& sh, uint8_t* x, uint8_t* rings, const Block& block) {
    const int lane = threadIdx.x % 32, stages = args.stages, records = records_of(args.cols), part = lane % block.parts, steps = steps_of(args.cols);
    const int first = part * records / block.parts, last = lane < block.warps ? (part + 1) * records / block.parts : first;
    Cursor<PAIR> c = {args, first, last, steps, blockIdx.x + lane / block.parts * gridDim.x, block.teams * gridDim.x};
    c.half = 0;
    c.enter();
    uint8_t* ring = rings + lane * stages * args.slot_bytes;
    const auto ask = [&](int slot) {
        fill_begin(&sh.full[lane][slot], c.bytes, lane);
        fill_copy<true>(ring + slot * args.slot_bytes, c.from, c.bytes, &sh.full[lane][slot], lane);
        c.next();
    };
    for (int slot = 0; slot < stages && c.there(); ++slot) ask(slot);
    __syncwarp();
    wait_for_predecessor();
    if (lane < block.parts) {
        const uint32_t panel = args.x_stride * 128, bytes = (min(4 * last, steps) - 4 * first) * panel;
        fill_begin(&sh.x_full[lane], bytes, lane);
        fill_copy<false>(x + 4 * first * panel, args.x + (size_t)4 * first * panel, bytes, &sh.x_full[lane], lane);
    }
    int slot = 0, round = 1;
    while (c.there()) {
        if (barrier_passed(&sh.empty[lane][slot], (round & 1) ^ 1)) {
            ask(slot);
            if (++slot == stages) slot = 0, ++round;
        }
    }
}

// The warps that store add the sums of a unit.
template <bool PAIR, int N>
__device__ __forceinline__ void store_sums(const ProductArgs& args, Shared& sh, const float* sums, const Block& block, int storer) {
    constexpr int WARP_SUMS = (PAIR ? 2 : 1) * N * TILE_ROWS;
    const int lane = threadIdx.x % 32, in_tile = lane % TILE_ROWS, values = args.tokens * TILE_ROWS;
    int team = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (uint32_t unit = blockIdx.x; unit < args.units; unit += gridDim.x) {
        const ProductMatrix& m = args.matrix[PAIR ? 0 : matrix_of(args, unit)];
        const uint32_t tile = PAIR ? unit : unit - m.first_unit, row = tile * TILE_ROWS + in_tile;
        const Sink sink(m, 0);
        const float bias[2] = {sink.bias_of(row), PAIR ? Sink(args.matrix[1], 0).bias_of(row) : 0.0f};
        const float* of_team = sums + team * block.parts * WARP_SUMS;
        barrier_wait(&sh.summed[team], parity);
#pragma unroll 1
        for (int value = storer * 32 + lane; value < values; value += 32 * STORERS) {
            float sum[2] = {0.0f, 0.0f};
#pragma unroll
            for (int h = 0; h < (PAIR ? 2 : 1); ++h)
#pragma unroll
                for (int w = 0; w < CHUNKS; ++w) sum[h] += w < block.parts ? of_team[w * WARP_SUMS + h * N * TILE_ROWS + value] : 0.0f;
            if (PAIR)
                finish_pair(args, sink, row, value / TILE_ROWS, sum, bias);
            else
                finish(args, sink, row, value / TILE_ROWS, sum[0], bias[0]);
        }
        __syncwarp();
        warp_arrive(&sh.stored[team], lane);
        if (++team == block.teams) team = 0, parity ^= 1;
    }
}

// Two steps' worth of 16 columns of 8 rows, as the B operands of two products.
__device__ __forceinline__ void load_columns(uint32_t at, uint32_t b[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(at) : "memory");
}

// `steps` steps of a record; x: the address of the first one's panel, `own` what of it a lane asks for.
template <uint32_t K, int N>
__device__ __forceinline__ void multiply(Record<K> record, const uint8_t* slot, uint32_t x, uint32_t panel, int steps, int lane, float (&acc)[N / 8][4]) {
    record.open(slot, lane);
    const uint32_t row = lane % 8, low = row * 128 + ((lane / 8) ^ row) * 16, high = row * 128 + ((4 + lane / 8) ^ row) * 16;
#pragma unroll 1
    for (int n = 0; n < steps; ++n, x += panel) {
        uint32_t a[4][4];
        record.step(n, a);
#pragma unroll
        for (int g = 0; g < N / 8; ++g) {
            uint32_t b[4];
            load_columns(x + g * 1024 + low, b);
            mma_16816(acc[g], a[0], b[0], b[1]);
            mma_16816(acc[g], a[1], b[2], b[3]);
            load_columns(x + g * 1024 + high, b);
            mma_16816(acc[g], a[2], b[0], b[1]);
            mma_16816(acc[g], a[3], b[2], b[3]);
        }
    }
}

template <bool PAIR, int N>
__device__ __forceinline__ void product_panels_body(const ProductArgs& args) {
#if BULK_COPY
    constexpr int WARP_SUMS = (PAIR ? 2 : 1) * N * TILE_ROWS;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ Shared sh;
    const Block block(args);
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, warps = block.warps, stages = args.stages;
    if (warp < warps && lane < stages) fill_barrier_init(&sh.full[warp][lane]), barrier_init(&sh.empty[warp][lane], WARP_ARRIVALS);
    if (warp < block.parts && lane == 0) fill_barrier_init(&sh.x_full[warp]);
    if (warp == warps && lane < block.teams) barrier_init(&sh.summed[lane], block.parts * WARP_ARRIVALS), barrier_init(&sh.stored[lane], STORERS * WARP_ARRIVALS);
    barrier_init_done();
    dependents_may_start();
    const int steps = steps_of(args.cols), slot_bytes = args.slot_bytes, records = records_of(args.cols);
    const uint32_t panel = args.x_stride * 128;
    uint8_t* rings = shared + steps * panel;
    float* sums = reinterpret_cast<float*>(rings + warps * stages * slot_bytes);
    __syncthreads();
    if (warp == warps) return fill_rings<PAIR>(args, sh, shared, rings, block);
    if (warp > warps) {
        wait_for_predecessor();
        return store_sums<PAIR, N>(args, sh, sums, block, warp - warps - 1);
    }

    const int part = warp % block.parts, team = warp / block.parts;
    const int first = part * records / block.parts, last = (part + 1) * records / block.parts;
    barrier_wait(&sh.x_full[part], 0);
    const uint8_t* ring = rings + warp * stages * slot_bytes;
    int slot = 0, round = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (uint32_t unit = blockIdx.x + team * gridDim.x; unit < args.units; unit += block.teams * gridDim.x, ++round) {
        with_kind(args.matrix[PAIR ? 0 : matrix_of(args, unit)].kind, [&](auto record) {
            constexpr bool F16 = std::is_same<decltype(record), Record<KIND_F16>>::value;
            const int begin = F16 ? 4 * first : first, end = F16 ? min(4 * last, steps) : last;
#pragma unroll 1
            for (int half = 0; half < (PAIR ? 2 : 1); ++half) {
                float acc[N / 8][4] = {};
#pragma unroll 1
                for (int r = begin; r < end; ++r) {
                    barrier_wait(&sh.full[warp][slot], parity);
                    multiply<decltype(record)::KIND, N>(record, ring + slot * slot_bytes, shared_address(shared) + r * (F16 ? 1 : 4) * panel, panel, F16 ? 1 : min(4, steps - 4 * r), lane, acc);
                    __syncwarp();
                    if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.empty[warp][slot]);
                    if (++slot == stages) slot = 0, parity ^= 1;
                }
                if (round && half == 0) barrier_wait(&sh.stored[team], (round & 1) ^ 1);
                float* to = sums + warp * WARP_SUMS + half * N * TILE_ROWS + 2 * (lane & 3) * TILE_ROWS + (lane >> 2);
#pragma unroll
                for (int g = 0; g < N / 8; ++g, to += 8 * TILE_ROWS) to[0] = acc[g][0], to[TILE_ROWS] = acc[g][1], to[8] = acc[g][2], to[TILE_ROWS + 8] = acc[g][3];
            }
        });
        __syncwarp();
        if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.summed[team]);
    }
#endif
}

}  // namespace

#define PRODUCT_PANELS(N) \
    extern "C" __global__ void __launch_bounds__(32 * ((N == 64 ? 8 : WARPS) + HELPERS), 1) product_panels_##N(const __grid_constant__ ProductArgs args) { product_panels_body<false, N>(args); } \
    extern "C" __global__ void __launch_bounds__(32 * ((N == 64 ? 8 : WARPS) + HELPERS), 1) product_panels_##N##_pair(const __grid_constant__ ProductArgs args) { product_panels_body<true, N>(args); }
PRODUCT_PANELS(16)
PRODUCT_PANELS(32)
PRODUCT_PANELS(64)
