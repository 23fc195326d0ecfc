"""Sixteen numbers at a time, in vector registers: what intrinsics of compiled loops are written in.

A loop over arrays of float32 reads and writes a first-level cache at every step. Written with these, an entry of all
models stays in registers from its bfloat16 bits to those of the result. Every operation is rounded by itself, as in the
torch path; a machine whose registers are narrower takes two or four of them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

LANES = 16
"""Entries at a time."""
SHORT, WORD = ir.VectorType(ir.IntType(16), LANES), ir.VectorType(ir.IntType(32), LANES)
FLOAT = ir.VectorType(ir.FloatType(), LANES)
_EXPONENT = 0x7F80


class Lanes:
    """A float32 number in every lane; comparisons give masks, one bit a lane."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def __add__(self, other: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fadd(self.value, other.value))

    def __sub__(self, other: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fsub(self.value, other.value))

    def __mul__(self, other: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fmul(self.value, other.value))

    def __truediv__(self, other: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fdiv(self.value, other.value))

    def __neg__(self) -> Lanes:
        return Lanes(self.builder, self.builder.fneg(self.value))

    def __abs__(self) -> Lanes:
        bits = self.builder.and_(self.builder.bitcast(self.value, WORD), ir.Constant(WORD, [0x7FFFFFFF] * LANES))
        return Lanes(self.builder, self.builder.bitcast(bits, FLOAT))

    def __lt__(self, other: Lanes) -> Any:
        return self.builder.fcmp_ordered("<", self.value, other.value)

    def __gt__(self, other: Lanes) -> Any:
        return self.builder.fcmp_ordered(">", self.value, other.value)

    def __ge__(self, other: Lanes) -> Any:
        return self.builder.fcmp_ordered(">=", self.value, other.value)

    def __le__(self, other: Lanes) -> Any:
        return self.builder.fcmp_ordered("<=", self.value, other.value)

    def nonzero(self) -> Any:
        """Where it is not 0."""
        return self.builder.fcmp_unordered("!=", self.value, ir.Constant(FLOAT, [0.0] * LANES))

    def where(self, mask: Any, other: Lanes) -> Lanes:
        """These where the mask is set, else the others."""
        return Lanes(self.builder, self.builder.select(mask, self.value, other.value))

    def bits(self) -> Any:
        """The numbers' bits."""
        return self.builder.bitcast(self.value, WORD)

    def rounded(self) -> Any:
        """Bits of bfloat16, ties to even."""
        builder, bits, sixteen = self.builder, self.bits(), ir.Constant(WORD, [16] * LANES)
        odd = builder.and_(builder.lshr(bits, sixteen), ir.Constant(WORD, [1] * LANES))
        up = builder.add(bits, builder.add(odd, ir.Constant(WORD, [0x7FFF] * LANES)))
        return builder.trunc(builder.lshr(up, sixteen), SHORT)


def constant(builder: Any, number: float) -> Lanes:
    """A number in every lane."""
    return Lanes(builder, ir.Constant(FLOAT, [number] * LANES))


def everywhere(builder: Any, number: Any) -> Any:
    """A scalar of a loop in every lane: float32, or 32 bits."""
    wide = ir.VectorType(number.type, LANES)
    first = builder.insert_element(ir.Constant(wide, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, ir.Constant(WORD, [0] * LANES))


def raw_at(builder: Any, address: Any, entry: Any) -> Any:
    """Bits of bfloat16 entries from an index on, behind an address."""
    first = builder.add(address, builder.shl(entry, ir.Constant(ir.IntType(64), 1)))
    return builder.load(builder.inttoptr(first, SHORT.as_pointer()), align=2)


def widened(builder: Any, raw: Any) -> Lanes:
    """bfloat16 → float32."""
    upper = builder.shl(builder.zext(raw, WORD), ir.Constant(WORD, [16] * LANES))
    return Lanes(builder, builder.bitcast(upper, FLOAT))


def odd(builder: Any, raw: Any) -> Any:
    """Where bfloat16 bits are NaN or infinity: a mask."""
    exponent = ir.Constant(SHORT, [_EXPONENT] * LANES)
    return builder.icmp_unsigned("==", builder.and_(raw, exponent), exponent)


def minus_zero(builder: Any, raw: Any) -> Any:
    """Where bfloat16 bits are −0: a mask."""
    return builder.icmp_unsigned("==", raw, ir.Constant(SHORT, [0x8000] * LANES))


def anywhere(builder: Any, mask: Any, bit: int) -> Any:
    """`bit` as int64 where any lane of a mask is set, else 0."""
    some = builder.icmp_unsigned("!=", builder.bitcast(mask, ir.IntType(LANES)), ir.Constant(ir.IntType(LANES), 0))
    return builder.select(some, ir.Constant(ir.IntType(64), bit), ir.Constant(ir.IntType(64), 0))


def data_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Pointer to an array's first entry."""
    return context.make_array(kind)(context, builder, array).data


def store(builder: Any, vector: Any, data: Any, index: Any) -> None:
    """Write lanes behind a pointer, from an index on."""
    place = builder.bitcast(builder.gep(data, [index]), vector.type.as_pointer())
    builder.store(vector, place, align=1)


def load(builder: Any, kind: Any, data: Any, index: Any) -> Any:
    """Read lanes of a vector type behind a pointer, from an index on."""
    return builder.load(builder.bitcast(builder.gep(data, [index]), kind.as_pointer()), align=1)


def number_at(builder: Any, data: Any, index: int) -> Lanes:
    """A float32 of an array in every lane."""
    return Lanes(builder, everywhere(builder, builder.load(builder.gep(data, [ir.Constant(ir.IntType(64), index)]))))
