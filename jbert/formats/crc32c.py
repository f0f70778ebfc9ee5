"""CRC-32C, the checksum of TensorFlow checkpoints, in numpy: Python's zlib has another polynomial.

A CRC is linear, so the bytes are cut into lanes whose CRCs run side by side, two bytes a step, and
are then joined pairwise: crc(a + b) = advance(crc(a), len(b)) ^ crc(b).
"""

from functools import lru_cache

import numpy as np

POLYNOMIAL = 0x82F63B78
LANES = 1 << 13
# Bytes a lane takes in one pass; a lane stays in cache while its neighbours are visited.
LANE = 1 << 11
SHORT = 1 << 14


def masked_crc32c(data: memoryview | bytes) -> int:
    """LevelDB's form: a CRC of bytes that hold CRCs would otherwise be weak."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: memoryview | bytes) -> int:
    raw = np.frombuffer(data, np.uint8)
    crc = 0xFFFFFFFF
    step = LANES * LANE
    for start in range(0, len(raw), step):
        piece = raw[start : start + step]
        if len(piece) <= SHORT:
            for byte in piece.tolist():
                crc = (crc >> 8) ^ _BYTE_LIST[(crc ^ byte) & 0xFF]
        else:
            crc = _advance(crc, len(piece)) ^ _many_lanes(piece)
    return crc ^ 0xFFFFFFFF


def _many_lanes(piece: np.ndarray) -> int:
    """The CRC of `piece` from a zero register; zeros in front of it then change nothing."""
    lane = min(LANE, 2 * -(-len(piece) // (2 * LANES)))
    lanes = 1
    while lanes * lane < len(piece):
        lanes *= 2
    padded = np.zeros(lanes * lane, np.uint8)
    padded[len(padded) - len(piece) :] = piece
    words = padded.view("<u2").reshape(lanes, lane // 2)
    crcs = np.zeros(lanes, np.uint32)
    for column in range(words.shape[1]):
        crcs = (crcs >> np.uint32(16)) ^ _WORD[(crcs & np.uint32(0xFFFF)) ^ words[:, column]]
    operator = _zeros_operator(lane)
    while len(crcs) > 1:
        crcs = _apply(operator, crcs[0::2]) ^ crcs[1::2]
        operator = _apply(operator, operator)
    return int(crcs[0])


def _tables() -> tuple[np.ndarray, np.ndarray]:
    crcs = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crcs = (crcs >> np.uint32(1)) ^ np.where(crcs & np.uint32(1), np.uint32(POLYNOMIAL), 0)
    words = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(2):
        words = (words >> np.uint32(8)) ^ crcs[words & np.uint32(0xFF)]
    return crcs.astype(np.uint32), words.astype(np.uint32)


def _apply(operator: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """A linear map of 32-bit registers, given as the images of their 32 bits."""
    result = np.zeros_like(registers)
    for bit in range(32):
        result ^= np.where(registers >> np.uint32(bit) & np.uint32(1), operator[bit], np.uint32(0))
    return result


@lru_cache(maxsize=256)
def _zeros_operator(count: int) -> np.ndarray:
    """What `count` zero bytes do to a register."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    result, power = bits, (bits >> np.uint32(8)) ^ _BYTE[bits & np.uint32(0xFF)]
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result


def _advance(register: int, count: int) -> int:
    return int(_apply(_zeros_operator(count), np.array([register], np.uint32))[0])


_BYTE, _WORD = _tables()
_BYTE_LIST = _BYTE.tolist()
