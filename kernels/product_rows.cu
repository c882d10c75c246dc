// y = W x for 1 to 8 rows of activations: a decode step of few sequences.
//
//   product_rows       any matrices, a unit is 1 tile of 16 rows
//   product_rows_pair  gate and up with their activation, a unit is 1 tile of each
//
// Launch: block 32 * (parts * teams + HELPERS), parts = min(records, 8), parts * teams <= 16; any grid; dynamic shared memory x_bytes + parts *
// teams * stages * slot_bytes. With `resident` a block keeps all of x: x_bytes = records * tokens * 512. Else a slot of the rings has a record of
// x behind its weights, slot_bytes counts both, and x_bytes = 0; not for pairs or F16. stages 1..MAX_STAGES. From sm_90 on; before, the kernels
// are empty.
//
// The same sums in the same order as product_small.cu and its like, in the manner of product_row.cu: a team of warps takes a unit, one warp
// fills the rings of all, few store sums, and those that multiply do nothing else. One block a multiprocessor, for its teams share x.
#include "product_teams.cuh"

struct RowsArgs {
    ProductArgs product;  // x: records
    uint32_t resident;    // whether a block keeps x
    uint32_t pad;
};

namespace {

constexpr int TOKEN_SUMS = 20;  // 16 rows, and room to keep off each other's banks
constexpr int ROWS = 8;

// The rings of the warps that multiply, and the sums on their way to the warps that store them.
template <bool PAIR>
struct Shared {
    uint64_t full[WARPS][MAX_STAGES], empty[WARPS][MAX_STAGES];
    uint64_t x_full[CHUNKS], summed[WARPS], stored[WARPS];  // of parts; of teams
    float partial[WARPS][PAIR ? 2 : 1][ROWS * TOKEN_SUMS];
};

// One warp fills all rings: lane w that of warp w; and with x in shared memory, what the warps of part w need of it.
template <bool PAIR>
__device__ __forceinline__ void fill_rings(const RowsArgs& a, Shared<PAIR>& sh, uint8_t* x, uint8_t* rings, const Block& block) {
    const ProductArgs& args = a.product;
    const int lane = threadIdx.x % 32, stages = args.stages, records = records_of(args.cols), part = lane % block.parts;
    const uint32_t x_bytes = args.tokens * 512, beside = a.resident ? 0 : x_bytes;
    const int first = part * records / block.parts, last = lane < block.warps ? (part + 1) * records / block.parts : first;
    Cursor<PAIR> c = {args, first, last, steps_of(args.cols), blockIdx.x + lane / block.parts * gridDim.x, block.teams * gridDim.x};
    c.half = 0;
    c.enter();
    uint8_t* ring = rings + lane * stages * args.slot_bytes;
    const auto ask = [&](int slot) {
        fill_begin(&sh.full[lane][slot], c.bytes + beside, lane);
        fill_copy<true>(ring + slot * args.slot_bytes, c.from, c.bytes, &sh.full[lane][slot], lane);
    };
    const auto ask_x = [&](int slot, int record) {
        fill_copy<false>(ring + (slot + 1) * args.slot_bytes - x_bytes, args.x + (size_t)record * args.x_stride * 512, x_bytes, &sh.full[lane][slot], lane);
    };
    int asked = 0;
    for (; asked < stages && c.there(); ++asked) ask(asked), c.next();
    __syncwarp();
    wait_for_predecessor();
    if (beside) {
        for (int i = 0, record = first; i < asked; ++i) {
            ask_x(i, record);
            if (++record == last) record = first;
        }
    } else if (lane < block.parts) {
        fill_begin(&sh.x_full[lane], (last - first) * x_bytes, lane);
        for (int r = first; r < last; ++r) fill_copy<false>(x + r * x_bytes, args.x + (size_t)r * args.x_stride * 512, x_bytes, &sh.x_full[lane], lane);
    }
    int slot = 0, round = 1;
    while (c.there()) {
        if (barrier_passed(&sh.empty[lane][slot], (round & 1) ^ 1)) {
            ask(slot);
            if (beside) ask_x(slot, c.piece);
            c.next();
            if (++slot == stages) slot = 0, ++round;
        }
    }
}

// The warps that store add the sums of a unit.
template <bool PAIR>
__device__ __forceinline__ void store_sums(const RowsArgs& a, Shared<PAIR>& sh, const Block& block, int storer) {
    const ProductArgs& args = a.product;
    const int lane = threadIdx.x % 32, in_tile = lane % TILE_ROWS, token = storer * 2 + lane / TILE_ROWS;
    const bool mine = token < (int)args.tokens;
    int team = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (uint32_t unit = blockIdx.x; unit < args.units; unit += gridDim.x) {
        const ProductMatrix& m = args.matrix[PAIR ? 0 : matrix_of(args, unit)];
        const uint32_t tile = PAIR ? unit : unit - m.first_unit, row = tile * TILE_ROWS + in_tile;
        const Sink sink(m, 0);
        const float bias[2] = {sink.bias_of(row), PAIR ? Sink(args.matrix[1], 0).bias_of(row) : 0.0f};
        barrier_wait(&sh.summed[team], parity);
        float sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int h = 0; h < (PAIR ? 2 : 1); ++h)
#pragma unroll
            for (int w = 0; w < CHUNKS; ++w) sum[h] += w < block.parts ? sh.partial[team * block.parts + w][h][token * TOKEN_SUMS + in_tile] : 0.0f;
        __syncwarp();
        warp_arrive(&sh.stored[team], lane);
        if (++team == block.teams) team = 0, parity ^= 1;
        if (!mine) continue;
        if (PAIR)
            finish_pair(args, sink, row, token, sum, bias);
        else
            finish(args, sink, row, token, sum[0], bias[0]);
    }
}

// `steps` steps of a record from `n0` of x on.
template <uint32_t K>
__device__ __forceinline__ void multiply(Record<K> record, const uint8_t* slot, const uint8_t* x, int odd, int n0, int steps, int lane, float acc[4]) {
    record.open(slot, lane);
    const int piece = 8 * n0 + 2 * (lane & 3);
    const uint8_t *even_piece = x + (piece ^ odd) * 16, *odd_piece = x + ((piece + 1) ^ odd) * 16;
#pragma unroll 1
    for (int n = 0; n < steps; ++n) {
        const uint4 b0 = *reinterpret_cast<const uint4*>(even_piece + n * 128);
        const uint4 b1 = *reinterpret_cast<const uint4*>(odd_piece + n * 128);
        uint32_t a[4][4];
        record.step(n, a);
        mma_16816(acc, a[0], b0.x, b0.y);
        mma_16816(acc, a[1], b0.z, b0.w);
        mma_16816(acc, a[2], b1.x, b1.y);
        mma_16816(acc, a[3], b1.z, b1.w);
    }
}

template <bool PAIR>
__device__ __forceinline__ void product_rows_body(const RowsArgs& a) {
#if BULK_COPY
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ Shared<PAIR> sh;
    const ProductArgs& args = a.product;
    const Block block(args);
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, warps = block.warps, stages = args.stages;
    if (warp < warps && lane < stages) fill_barrier_init(&sh.full[warp][lane]), barrier_init(&sh.empty[warp][lane], WARP_ARRIVALS);
    if (warp < block.parts && lane == 0) fill_barrier_init(&sh.x_full[warp]);
    if (warp == warps && lane < block.teams) barrier_init(&sh.summed[lane], block.parts * WARP_ARRIVALS), barrier_init(&sh.stored[lane], STORERS * WARP_ARRIVALS);
    barrier_init_done();
    dependents_may_start();
    const int steps = steps_of(args.cols), slot_bytes = args.slot_bytes, records = records_of(args.cols), tokens = args.tokens;
    uint8_t* rings = shared + (a.resident ? records * tokens * 512 : 0);
    __syncthreads();
    if (warp == warps) return fill_rings<PAIR>(a, sh, shared, rings, block);
    if (warp > warps) {
        wait_for_predecessor();
        return store_sums<PAIR>(a, sh, block, warp - warps - 1);
    }

    const int part = warp % block.parts, team = warp / block.parts;
    const int first = part * records / block.parts, last = (part + 1) * records / block.parts;
    if (a.resident) barrier_wait(&sh.x_full[part], 0);

    const int token = min(lane >> 2, tokens - 1), odd = token & 1;
    const uint8_t *ring = rings + warp * stages * slot_bytes, *own = shared + token * 512;
    const int x_in_slot = slot_bytes - tokens * 512 + token * 512;
    int slot = 0, round = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (uint32_t unit = blockIdx.x + team * gridDim.x; unit < args.units; unit += block.teams * gridDim.x, ++round) {
        with_kind(args.matrix[PAIR ? 0 : matrix_of(args, unit)].kind, [&](auto record) {
            constexpr bool F16 = std::is_same<decltype(record), Record<KIND_F16>>::value;
            const int begin = F16 ? 4 * first : first, end = F16 ? min(4 * last, steps) : last;
#pragma unroll 1
            for (int half = 0; half < (PAIR ? 2 : 1); ++half) {
                float acc[4] = {};
#pragma unroll 1
                for (int r = begin; r < end; ++r) {
                    barrier_wait(&sh.full[warp][slot], parity);
                    const uint8_t* weights = ring + slot * slot_bytes;
                    const uint8_t* x = a.resident ? own + (F16 ? r / 4 : r) * tokens * 512 : weights + x_in_slot;
                    multiply(record, weights, x, odd, F16 ? r % 4 : 0, F16 ? 1 : min(4, steps - 4 * r), lane, acc);
                    __syncwarp();
                    if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.empty[warp][slot]);
                    if (++slot == stages) slot = 0, parity ^= 1;
                }
                if (round && half == 0) barrier_wait(&sh.stored[team], (round & 1) ^ 1);
                float* to = &sh.partial[warp][half][2 * (lane & 3) * TOKEN_SUMS + (lane >> 2)];
                to[0] = acc[0], to[TOKEN_SUMS] = acc[1], to[8] = acc[2], to[TOKEN_SUMS + 8] = acc[3];
            }
        });
        __syncwarp();
        if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.summed[team]);
    }
#endif
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32 * (WARPS + HELPERS), 1) product_rows(const __grid_constant__ RowsArgs args) { product_rows_body<false>(args); }
extern "C" __global__ void __launch_bounds__(32 * (WARPS + HELPERS), 1) product_rows_pair(const __grid_constant__ RowsArgs args) { product_rows_body<true>(args); }
