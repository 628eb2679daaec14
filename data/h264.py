"""What H.264 packets say without being decoded: where decoding can start, and what nobody refers to."""

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.packet import Packet

REFRESH, PARAMETERS = 5, 7  # types of units: a slice of an instantaneous decoder refresh, a sequence parameter set
WITH_CHROMA_FORMAT = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)  # profiles that say more


def holds_refresh(packet: "Packet") -> bool:
    """Whether a packet forgets all that was decoded before it."""
    return any(_kind(unit) == REFRESH for unit in _units(packet))


def can_skip(packets: list["Packet"]) -> bool:
    """Whether `needed` may drop packets of a whole stream: each is known to be one whole 8-bit picture.

    A packet of an interlaced stream may be half of a picture. Deeper colours are left out for another reason: decord
    turns them into another RGB than PyAV, and videos keep the pixels they had.
    """
    if packets[0].stream.codec_context.name != "h264" or any(p.has_sidedata("new_extradata") for p in packets):
        return False
    sets = {bytes(unit) for unit in _parameter_sets(packets[0].stream.codec_context.extradata)}
    sets |= {bytes(unit) for p in packets if p.is_keyframe for unit in _units(p) if _kind(unit) == PARAMETERS}
    return len(sets) == 1 and _whole_8_bit_pictures(sets.pop())


def needed(packets: list["Packet"], times: Set[int]) -> list["Packet"]:
    """Those of a stream's packets without which the frames shown at `times` (pts) cannot be decoded.

    Nothing refers from behind a key packet to what is before it: the caller has made sure of that.
    """
    kept: list[Packet] = []
    before: list[Packet] = []  # since the last key packet or wanted frame
    for packet in packets:
        if packet.is_keyframe:
            before = []
        if packet.pts in times:
            kept += [*filter(_is_referred_to, before), packet]
            before = []
        else:
            before.append(packet)
    return kept


def _is_referred_to(packet: "Packet") -> bool:
    """Whether a unit of the packet says that others refer to it; a packet that is not understood is kept."""
    marks = [unit[0] & 0x60 for unit in _units(packet)]  # nal_ref_idc
    return any(marks) or not marks


def _kind(unit: memoryview) -> int:
    return unit[0] & 31  # nal_unit_type


def _units(packet: "Packet") -> Iterator[memoryview]:
    """The units of a packet; none where they do not follow their lengths, as they do in MP4 and Matroska."""
    extradata = packet.stream.codec_context.extradata
    if not extradata or len(extradata) < 7 or extradata[0] != 1:
        return
    data, at, prefix = memoryview(packet), 0, (extradata[4] & 3) + 1
    while at + prefix < len(data):
        start = at + prefix
        at = start + int.from_bytes(data[at:start], "big")
        if at > start:
            yield data[start:at]


def _parameter_sets(extradata: bytes | None) -> list[memoryview]:
    """The sequence parameter sets of an MP4 or Matroska file's decoder configuration."""
    sets: list[memoryview] = []
    if extradata and len(extradata) >= 7 and extradata[0] == 1:
        data, at = memoryview(extradata), 6
        for _ in range(extradata[5] & 31):
            start = at + 2
            at = start + int.from_bytes(data[at:start], "big")
            sets.append(data[start:at])
    return sets


def _whole_8_bit_pictures(parameters: bytes) -> bool:
    """Whether a sequence parameter set allows frames of 8-bit colours only, no fields; False where it is unclear."""
    bits = _Bits(parameters[1:].replace(b"\0\0\3", b"\0\0"))
    try:
        profile = bits.fixed(8)
        bits.fixed(16)  # constraints and level
        bits.number()
        if profile in WITH_CHROMA_FORMAT:
            if bits.number() == 3:  # 4:4:4
                bits.fixed(1)
            if bits.number() or bits.number():  # depth of luma and chroma, beyond 8
                return False
            if bits.fixed(2) & 1:  # matrices of its own, rare and long
                return False
        bits.number()
        order = bits.number()
        if order == 0:
            bits.number()
        elif order == 1:  # no encoder of today
            return False
        bits.number()  # reference frames
        bits.fixed(1)
        bits.number(), bits.number()  # width and height
        return bits.fixed(1) == 1  # frame_mbs_only_flag
    except ValueError:  # it ends too early
        return False


class _Bits:
    """Reads a parameter set bit by bit."""

    def __init__(self, data: bytes) -> None:
        self.bits = "".join(f"{byte:08b}" for byte in data)
        self.at = 0

    def fixed(self, width: int) -> int:
        """The next `width` bits; ValueError where none are left."""
        self.at += width
        return int(self.bits[self.at - width : self.at], 2)

    def number(self) -> int:
        """The next Exp-Golomb code: as many zeros as bits follow the first 1."""
        zeros = self.bits.index("1", self.at) - self.at
        self.at += zeros
        return self.fixed(zeros + 1) - 1
