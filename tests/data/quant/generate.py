"""Writes checksums.txt: what the reference implementation makes of pseudo-random blocks.

Run with the packages `gguf` and `numpy` installed: python3 generate.py > checksums.txt
The test in src/quant makes the same blocks, so that the file need not hold them. All bits are
random, those of the scales too: infinities, NaN (counted as one value) and subnormals occur.
"""

import numpy as np
from gguf import GGMLQuantizationType, GGML_QUANT_SIZES
from gguf.quants import dequantize

TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4".split()
LINES, BLOCKS_A_LINE = 8, 32
MASK = (1 << 64) - 1


def random_bytes(seed, count):
    state = (seed * 0x9E3779B97F4A7C15 | 1) & MASK
    out = bytearray()
    for _ in range(count):
        state ^= state << 13 & MASK
        state ^= state >> 7
        state ^= state << 17 & MASK
        out.append(state >> 56)
    return np.frombuffer(bytes(out), dtype=np.uint8)


def checksum(values):
    bits = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))
    sum = 0xCBF29CE484222325
    for word in bits.ravel().tolist():
        sum = (sum ^ word) * 0x100000001B3 & MASK
    return sum


np.seterr(all="ignore")
for name in TYPES:
    qtype = GGMLQuantizationType[name]
    block_bytes = GGML_QUANT_SIZES[qtype][1]
    sums = []
    for line in range(LINES):
        data = random_bytes(int(qtype) * 100 + line + 1, BLOCKS_A_LINE * block_bytes)
        if name in ("F32", "F16"):
            values = data.view(np.dtype("float" + name[1:])).astype(np.float32)
        else:
            values = dequantize(data.reshape(BLOCKS_A_LINE, block_bytes), qtype)
        sums.append(f"{checksum(np.ascontiguousarray(values)):016x}")
    print(name, *sums)
