// A decode step of one sequence, or a part of it, in one launch: products and attention as product_row.cu and attend_decode.cu make
// them, to the bit.
//
// Launch: grid the multiprocessors, cooperative, for blocks wait for each other; block 32 * STEP_WARPS; dynamic shared memory x_bytes +
// MULTIPLIERS * ring_bytes. From sm_90 on; before, the kernel is empty.
//
// Between kernels a multiprocessor has no weights on their way to it. Here they never stop: which unit goes to which warp is known
// beforehand, so one warp fills the rings of all, over the ends of ops. Only those who multiply wait for an op's row, and they wait
// for the row alone (step_row.cuh). A block that has no unit of an op does not read its row.
//
// Nothing waits in a ring of its own: all go through the ops, and through the block's units of an op, in one order. A warp that
// multiplies waits for a row that earlier ops make, for pieces of weights in that order, and for the sums of earlier units to be
// stored; the one that stores waits for the sums of its next unit and for a row that it stored a part of before; the one that fills
// waits for room that the use of earlier pieces makes, and for the use of ops OPS before.
#include "step_row.cuh"

namespace {

#if BULK_COPY
// The row as f16 in shared memory, from records, by all warps that multiply.
__device__ __forceinline__ void take_records(const ProductArgs& a, const uint8_t* row, uint32_t probe_ns) {
    constexpr int AT_ONCE = 4, THREADS = 32 * MULTIPLIERS;
    const int pieces = a.cols / PIECE, all = steps_of(a.cols) * (STEP_COLS / PIECE);
    const auto from = [&](int piece) { return row + (size_t)(piece / 32) * a.x_stride * 512 + piece % 32 * 16; };
    if (probe_ns) probe(from(pieces - 1 - threadIdx.x / 32 % min(pieces, MULTIPLIERS)), probe_ns);
#pragma unroll 1
    for (int begin = threadIdx.x; begin < all; begin += AT_ONCE * THREADS) {
        Patience patience;
        uint4 v[AT_ONCE];
        bool all_there;
        do {
#pragma unroll
            for (int j = 0; j < AT_ONCE; ++j) v[j] = begin + j * THREADS < pieces ? elements_now(from(begin + j * THREADS)) : make_uint4(0, 0, 0, 0);
            all_there = there(v[0]);
#pragma unroll
            for (int j = 1; j < AT_ONCE; ++j) all_there &= there(v[j]);
            if (!all_there) patience.lose();
        } while (!all_there);
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j)
            if (begin + j * THREADS < all) *reinterpret_cast<uint4*>(row_and_rings + (begin + j * THREADS) * 16) = v[j];
    }
    __syncwarp();
    consumers_meet(MULTIPLIERS);
}

__device__ __forceinline__ void take_row(const RowArgs& a, uint32_t probe_ns) {
    if (!a.hidden) return take_records(a.product, sh.rows.now(a.product.x), probe_ns);
    const float* hidden = sh.rows.now(a.hidden);
    const auto read = [](const float* from, uint32_t col) { return wait_for_piece(from, col); };
    NormedRow<1, decltype(read)> row(a, hidden, MULTIPLIERS, read);
    if (a.norm != NORM_NONE) row.fetch_weight();
    if (probe_ns) probe(hidden + a.product.cols - 1 - threadIdx.x / 32 * TILE_ROWS % a.product.cols, probe_ns);
    row.take(row_and_rings, sh.scratch);
}

// What attend_row.cuh asks its kernel for.
template <int WARPS>
struct InStep {
    template <class T>
    __device__ __forceinline__ T* row(T* p) const {
        return sh.rows.now(p);
    }
    __device__ __forceinline__ float load(const float* p) const { return __uint_as_float(element_now(p)); }
    __device__ __forceinline__ bool there(float x) const { return __float_as_uint(x) != MISSING; }
    __device__ __forceinline__ void wait() const {}
    __device__ __forceinline__ void meet() const { asm volatile("bar.sync 2, %0;" ::"n"(32 * WARPS) : "memory"); }
    __device__ __forceinline__ void share(int turn) const { chunk_meet<WARPS>(4 + turn); }
};

// MISSING to the other half for the elements of a place, and zeros to this one if the row is not there.
template <int WARPS>
__device__ __forceinline__ void prepare_mixed(const Attend& p, const Place& place) {
    if (!sh.rows.hold(p.mixed.packed)) return;
    const int col0 = place.head0 * p.kv.dim, cols = place.heads * p.kv.dim;
    for (int i = 2 * threadIdx.x; i < cols; i += 2 * 32 * WARPS) {
        __half* to = p.mixed.packed + x_record_at(0, col0 + i, p.mixed.stride);
        put_element(sh.rows.other(to), MISSING);
        if (place.slot < 0) put_element(sh.rows.now(to), 0);
    }
}

// Tasks of an op of attention: a split of a group each.
__device__ __forceinline__ uint32_t tasks_of(const StepOp& op) {
    const Place any(op.attend, 0, 0, op.groups, 0);
    return op.groups * (any.slot < 0 ? 1 : any.n_splits);
}

// A block's part of an op of attention, by all warps that multiply. `parity` of the warp's barrier, which it returns.
template <int D, int WARPS>
__device__ __forceinline__ uint32_t attend(int slot, uint32_t parity) {
    const StepOp& op = sh.ops[slot];
    const Attend& p = op.attend;
    const uint32_t tasks = tasks_of(op);
    // Bulk copies write where the row was.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    consumers_meet(MULTIPLIERS);
    const int warp = threadIdx.x / 32;
    if (warp >= WARPS) return parity;
    const InStep<WARPS> way;
    auto& own = *reinterpret_cast<AttendShared<D, WARPS>*>(row_and_rings);
#pragma unroll 1
    for (uint32_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        if (threadIdx.x == 0) sh.place = Place(p, 0, task % op.groups, op.groups, task / op.groups);
        way.meet();
        if (sh.place.split == 0) prepare_mixed<WARPS>(p, sh.place);
        if (sh.place.there()) attend_split<D, 32, WARPS>(p, way, sh.place, own, row_and_rings + sizeof(own), &sh.attended[warp % ATTEND_WARPS], parity);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        way.meet();
    }
    return parity;
}

// A warp that multiplies.
struct Multiplier {
    const StepArgs& s;
    int warp, lane;
    const uint8_t* ring;
    uint32_t at = 0, pieces = 0;  // the place in the ring; pieces so far
    uint32_t phases = 0;          // of `stored`, a bit each
    uint32_t attended = 0;                   // parity

    __device__ __forceinline__ void product(const StepOp& op, uint32_t units_before) {
        const RowArgs& a = op.row;
        const ProductArgs& args = a.product;
        const Deal deal(args, units_before);
        if (deal.first >= args.units) return;
        // All that can be is done before the row is there.
        const Span part(args, deal, warp);
        const bool pair = op.kind == STEP_PAIR;
        const uint32_t all = args.units, unit_step = deal.step();
        const int steps = steps_of(args.cols);
        const auto kind_of = [&](uint32_t unit) { return args.matrix[pair || unit >= all ? 0 : matrix_of(args, unit)].kind; };
        uint32_t unit = deal.first_of(warp), kind = kind_of(unit), sum = 0;
        // The others are done with the row before, or with attention's memory in its place.
        consumers_meet(MULTIPLIERS);
        take_row(a, s.probe_ns);
#pragma unroll 1
        while (unit < all) {
            barrier_wait(&sh.stored[warp][sum], phases >> sum & 1 ^ 1);
            phases ^= 1 << sum;
            with_kind(kind, [&](auto record) { multiply_unit(record, steps, part, pair, sum); });
            __syncwarp();
            if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.summed[warp][sum]);
            unit += unit_step, kind = kind_of(unit), sum = (sum + 1) % SUMS;
        }
    }

    template <uint32_t K>
    __device__ __forceinline__ void multiply_unit(Record<K> record, int steps, const Span& part, bool pair, int sum) {
        constexpr bool F16 = K == KIND_F16;
        constexpr uint32_t BYTES = F16 ? Record<K>::P.step : Record<K>::P.record();
        const int begin = F16 ? 4 * part.first : part.first, end = F16 ? min(4 * part.last, steps) : part.last;
#pragma unroll 1
        for (int half = 0; half < (pair ? 2 : 1); ++half) {
            float acc[4] = {};
#pragma unroll 1
            for (int r = begin; r < end; ++r) {
                const int slot = pieces % SLOTS;
                if (at + BYTES > s.ring_bytes) at = 0;
                barrier_wait(&sh.full[warp][slot], pieces / SLOTS % 2);
                multiply<4>(record, ring + at, row_and_rings + r * (F16 ? 128 : 512), F16 ? 1 : min(4, steps - 4 * r), lane, acc);
                __syncwarp();
                if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.empty[warp][slot]);
                at += BYTES, ++pieces;
            }
            if ((lane & 3) == 0) sh.partial[sum][half][warp][lane >> 2] = acc[0], sh.partial[sum][half][warp][(lane >> 2) + 8] = acc[2];
        }
    }

    __device__ __forceinline__ void run() {
        uint32_t units_before = 0;
#pragma unroll 1
        for (uint32_t n = 0; n < s.n_ops; ++n) {
            const StepOp& op = sh.ops[n % OPS];
            barrier_wait(&sh.op_full[n % OPS], n / OPS % 2);
            if (op.kind <= STEP_PAIR)
                product(op, units_before), units_before += op.row.product.units;
            else if (blockIdx.x < tasks_of(op))
                attended = op.kind == STEP_ATTEND_64 ? attend<64, STEP_ATTEND_64_WARPS>(n % OPS, attended) : attend<128, STEP_ATTEND_128_WARPS>(n % OPS, attended);
            __syncwarp();
            warp_arrive(&sh.op_empty[n % OPS], lane);
        }
    }
};

// The warp that fills: lane w the ring of warp w, one more brings the ops.
struct Filler {
    const StepArgs& s;
    uint8_t* ring;  // of this lane
    int lane;
    uint32_t ops = 0, units_before = 0;
    uint32_t filled = 0, freed = 0, used = 0, at = 0;  // pieces; bytes of the ring
    Cursor cursor;
    bool open = false;

    __device__ __forceinline__ void bring_op() {
        uint64_t* full = &sh.op_full[ops % OPS];
        if (ops >= OPS && !barrier_passed_now(&sh.op_empty[ops % OPS], ops / OPS % 2 ^ 1)) return;
        fill_begin(full, sizeof(StepOp), lane);
        fill_copy<false>(&sh.ops[ops % OPS], s.ops + ops, sizeof(StepOp), full, lane);
        ++ops;
    }

    __device__ __forceinline__ void next_op() {
        barrier_arrive(&sh.op_empty[ops % OPS]);
        ++ops, open = false;
    }

    __device__ __forceinline__ void open_op() {
        const StepOp& op = sh.ops[ops % OPS];
        if (!barrier_passed_now(&sh.op_full[ops % OPS], ops / OPS % 2)) return;
        if (op.kind <= STEP_PAIR) {
            const ProductArgs& args = op.row.product;
            const Deal deal(args, units_before);
            const Span part(args, deal, lane);
            cursor = {&args, op.kind == STEP_PAIR, false, 0, part.first, part.last, steps_of(args.cols), deal.first_of(lane), deal.step()};
            cursor.enter();
            units_before += args.units;
            open = cursor.there();
        }
        if (!open) next_op();
    }

    __device__ __forceinline__ void fill() {
        if (freed < filled && barrier_passed_now(&sh.empty[lane][freed % SLOTS], freed / SLOTS % 2)) used -= sh.held[lane][freed % SLOTS], ++freed;
        const uint32_t bytes = cursor.full_bytes;
        const bool wraps = at + bytes > s.ring_bytes;
        const uint32_t left = wraps ? s.ring_bytes - at : 0;
        if (filled - freed == SLOTS || used + left + bytes > s.ring_bytes) return;
        if (wraps) at = 0;
        uint64_t* full = &sh.full[lane][filled % SLOTS];
        fill_begin(full, cursor.bytes, lane);
        fill_copy<true>(ring + at, cursor.from, cursor.bytes, full, lane);
        sh.held[lane][filled % SLOTS] = left + bytes;
        used += left + bytes, at += bytes, ++filled;
        cursor.next();
        if (!cursor.there()) next_op();
    }

    __device__ __forceinline__ void run() {
        if (lane > MULTIPLIERS) return;
        while (ops < s.n_ops) {
            if (lane == MULTIPLIERS)
                bring_op();
            else if (open)
                fill();
            else
                open_op();
        }
    }
};

// The warp that adds the sums of a unit and stores them. What it needs of the op and of the unit it has in registers before it waits
// for the sums.
struct Storer {
    const StepArgs& s;
    int lane;
    uint32_t phases = 0;  // of warp `lane`'s `summed`, a bit each

    // Where a matrix' results go: in this launch's half, and `other` bytes from there in the next one's.
    struct Target {
        Sink sink;
        bool shared;  // others of this launch read it
        int64_t other;

        __device__ __forceinline__ explicit Target(const ProductMatrix& m) : sink(m, 0), shared(sh.rows.hold(sink.out)) {
            uint8_t* out = (uint8_t*)sink.out;
            other = sh.rows.other(out) - sh.rows.now(out), sink.out = sh.rows.now(out);
        }

        // To a row that others of this launch read, and to one that those of the next will.
        __device__ __forceinline__ void hand_on(size_t at, uint32_t x) const {
            uint8_t* p = (uint8_t*)sink.out + at;
            put_element(p, x);
            put_element(p + other, MISSING);
        }
    };

    __device__ __forceinline__ void put_value(const ProductArgs& args, const Target& target, float* also, uint32_t row, float value, float before) const {
        const Sink& sink = target.sink;
        if (args.store == STORE_ADD) {
            // As the atomic addition of product_store.cuh rounds.
            asm("add.rn.ftz.f32 %0, %1, %2;" : "=f"(value) : "f"(before), "f"(value));
            if (also && row < sink.rows) also[row] = value;
        }
        if (!target.shared) {
            if (lane >= TILE_ROWS) return;
            if (args.store != STORE_ADD)
                put(args, sink, row, 0, value);
            else if (row < sink.rows)
                ((float*)sink.out)[row] = value;
        } else if (args.store == STORE_RECORDS) {
            const uint32_t h = __half_as_ushort(__float2half_rn(value * args.store_scale)), next = __shfl_down_sync(~0u, h, 1);
            if (row < sink.rows && row % 2 == 0) target.hand_on(x_record_at(0, row, sink.stride) * 2, h | next << 16);
        } else if (row < sink.rows) {
            target.hand_on((size_t)row * 4, __float_as_uint(value));
        }
    }

    __device__ __forceinline__ void product(const StepOp& op, uint32_t units_before) {
        const ProductArgs& all = op.row.product;
        const Deal deal(all, units_before);
        const bool pair = op.kind == STEP_PAIR;
        ProductArgs args;
        args.units = all.units, args.act = all.act, args.store = all.store, args.out_scale = all.out_scale, args.store_scale = all.store_scale;
        args.alpha = all.alpha, args.limit = all.limit;
        float* also = op.also;
        const float* residual = sh.rows.now(op.residual);
        int team = deal.first_team, done = 0;
#pragma unroll 1
        for (uint32_t unit = deal.first; unit < args.units; unit += gridDim.x, ++done) {
            const ProductMatrix& m = all.matrix[pair ? 0 : matrix_of(all, unit)];
            const Target target(m);
            // Lanes past the tile's rows stand for none.
            const uint32_t row = lane < TILE_ROWS ? (pair ? unit : unit - m.first_unit) * TILE_ROWS + lane : ~0u;
            const float bias[2] = {target.sink.bias_of(row), pair ? Sink(all.matrix[1], 0).bias_of(row) : 0.0f};
            const float before = args.store == STORE_ADD && row < target.sink.rows ? wait_for_element(residual + row) : 0.0f;
            const int warp0 = team * deal.parts, at = done / deal.teams % SUMS;
            const bool mine = lane >= warp0 && lane < warp0 + deal.parts;
            const float* partial = &sh.partial[at][0][warp0][lane % TILE_ROWS];
            if (mine) barrier_wait(&sh.summed[lane][at], phases >> at & 1);
            __syncwarp();
            float sum[2] = {0.0f, 0.0f};
#pragma unroll
            for (int i = 0; i < CHUNKS; ++i) {
                sum[0] += i < deal.parts ? partial[i * TILE_ROWS] : 0.0f;
                if (pair) sum[1] += i < deal.parts ? partial[(MULTIPLIERS + i) * TILE_ROWS] : 0.0f;
                if (WARP_ARRIVALS > 1 && i < deal.parts) barrier_arrive(&sh.stored[warp0 + i][at]);
            }
            put_value(args, target, also, row, pair ? value_of_pair(args, sum, bias) : value_of(args, sum[0], bias[0]), before);
            __syncwarp();
            if (mine) {
                if (WARP_ARRIVALS == 1) barrier_arrive(&sh.stored[lane][at]);
                phases ^= 1 << at;
            }
            if (++team == deal.teams) team = 0;
        }
    }

    __device__ __forceinline__ void run() {
        uint32_t units_before = 0;
#pragma unroll 1
        for (uint32_t n = 0; n < s.n_ops; ++n) {
            const StepOp& op = sh.ops[n % OPS];
            barrier_wait(&sh.op_full[n % OPS], n / OPS % 2);
            if (op.kind <= STEP_PAIR) product(op, units_before), units_before += op.row.product.units;
            __syncwarp();
            warp_arrive(&sh.op_empty[n % OPS], lane);
        }
    }
};

__device__ __forceinline__ void init_barriers() {
    const int i = threadIdx.x;
    if (i < MULTIPLIERS * SLOTS) fill_barrier_init(&sh.full[0][0] + i), barrier_init(&sh.empty[0][0] + i, WARP_ARRIVALS);
    if (i < MULTIPLIERS * SUMS) barrier_init(&sh.summed[0][0] + i, WARP_ARRIVALS), barrier_init(&sh.stored[0][0] + i, WARP_ARRIVALS);
    // The lanes that fill rings arrive each for itself.
    if (i < OPS) fill_barrier_init(&sh.op_full[i]), barrier_init(&sh.op_empty[i], (MULTIPLIERS + 1) * WARP_ARRIVALS + MULTIPLIERS);
    if (i < ATTEND_WARPS) fill_barrier_init(&sh.attended[i]);
    barrier_init_done();
    __syncthreads();
}
#endif

}  // namespace

extern "C" __global__ void __launch_bounds__(32 * STEP_WARPS, 1) step_row(const __grid_constant__ StepArgs s) {
#if BULK_COPY
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    init_barriers();
    uint8_t* rings = row_and_rings + s.x_bytes;
    if (warp == MULTIPLIERS) return Filler{s, rings + lane * s.ring_bytes, lane}.run();
    wait_for_predecessor();
    if (threadIdx.x == 0) {
        uint32_t* turn = s.turn + blockIdx.x;
        sh.rows = {s.rows, s.half_bytes, __ldcg(turn)};
        *turn = sh.rows.second ^ 1;
    }
    // All but the one that fills, who needs no rows.
    asm volatile("bar.sync 3, %0;" ::"n"(32 * (STEP_WARPS - 1)) : "memory");
    if (warp < MULTIPLIERS)
        Multiplier{s, warp, lane, rings + warp * s.ring_bytes}.run();
    else
        Storer{s, lane}.run();
#endif
}
