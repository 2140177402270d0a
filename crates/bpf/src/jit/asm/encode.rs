//! Instructions as bytes. One method is one instruction form; the shortest encoding is taken.

use super::{Alu, Asm, Cond, Gpr, Mem, SLOT, Shift, Size, Unary, Width};

/// An instruction under construction.
struct Ins {
    bytes: [u8; SLOT],
    len: usize,
}

/// The operand that the `r/m` field names.
#[derive(Clone, Copy)]
enum Rm {
    Reg(u8),
    Mem(Mem),
}

/// Operand-size prefix: 16 bits.
const P66: u8 = 0x66;
const NONE: u8 = 0;
const LOCK: u8 = 0xf0;

impl Ins {
    const fn new() -> Self {
        Self { bytes: [0; SLOT], len: 0 }
    }

    #[inline]
    fn byte(&mut self, b: u8) {
        self.bytes[self.len & (SLOT - 1)] = b;
        self.len += 1;
    }

    #[inline]
    fn imm8(&mut self, v: i32) {
        self.byte(v as u8);
    }

    #[inline]
    fn imm16(&mut self, v: i32) {
        for b in (v as u16).to_le_bytes() {
            self.byte(b);
        }
    }

    #[inline]
    fn imm32(&mut self, v: i32) {
        for b in v.to_le_bytes() {
            self.byte(b);
        }
    }

    /// Register field, then register or memory.
    #[inline]
    fn modrm(&mut self, reg: u8, rm: Rm) {
        let reg = (reg & 7) << 3;
        match rm {
            Rm::Reg(r) => self.byte(0xc0 | reg | (r & 7)),
            Rm::Mem(m) => self.mem(reg, m),
        }
    }

    fn mem(&mut self, reg: u8, m: Mem) {
        let base = m.base.n() & 7;
        // `rbp` and `r13` without displacement mean something else.
        let (mode, disp_len) = match m.disp {
            0 if base != 5 => (0x00, 0),
            -128..=127 => (0x40, 1),
            _ => (0x80, 4),
        };
        if let Some((index, shift)) = m.index {
            debug_assert!(index != Gpr::Rsp && shift < 4, "rsp is no index");
            self.byte(mode | reg | 4);
            self.byte((shift << 6) | ((index.n() & 7) << 3) | base);
        } else if base == 4 {
            self.byte(mode | reg | 4);
            self.byte(0x24);
        } else {
            self.byte(mode | reg | base);
        }
        match disp_len {
            0 => {}
            1 => self.imm8(m.disp),
            _ => self.imm32(m.disp),
        }
    }

    /// Prefixes, REX, opcode of one to three bytes, and operands. `byte_reg` names the register that is
    /// used as a byte: 4..=7 need REX to mean `spl..dil`.
    #[inline]
    fn legacy(prefix: u8, wide: bool, opcode: u32, reg: u8, rm: Rm, byte_reg: Option<u8>) -> Self {
        let mut i = Self::new();
        if prefix != NONE {
            i.byte(prefix);
        }
        let mut rex = (wide as u8) << 3 | (reg >> 3) << 2;
        match rm {
            Rm::Reg(r) => rex |= r >> 3,
            Rm::Mem(m) => {
                rex |= m.base.n() >> 3;
                if let Some((index, _)) = m.index {
                    rex |= (index.n() >> 3) << 1;
                }
            }
        }
        if rex != 0 || byte_reg.is_some_and(|r| r >= 4) {
            i.byte(0x40 | rex);
        }
        if opcode > 0xffff {
            i.byte((opcode >> 16) as u8);
        }
        if opcode > 0xff {
            i.byte((opcode >> 8) as u8);
        }
        i.byte(opcode as u8);
        i.modrm(reg, rm);
        i
    }

    /// A VEX instruction of map 2 (`0f 38`) or 3 (`0f 3a`) on general registers.
    fn vex(map: u8, pp: u8, wide: bool, vvvv: u8, opcode: u8, reg: u8, rm: Rm) -> Self {
        let mut i = Self::new();
        let (x, b) = match rm {
            Rm::Reg(r) => (0, r >> 3),
            Rm::Mem(m) => (m.index.map_or(0, |(index, _)| index.n() >> 3), m.base.n() >> 3),
        };
        i.byte(0xc4);
        i.byte(((reg >> 3) ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | map);
        i.byte((wide as u8) << 7 | (vvvv ^ 15) << 3 | pp);
        i.byte(opcode);
        i.modrm(reg, rm);
        i
    }
}

impl Width {
    const fn wide(self) -> bool {
        matches!(self, Self::W64)
    }
}

/// Prefix, REX.W, whether the byte form of the opcode is meant, and the byte register.
const fn sized(size: Size, reg: Gpr) -> (u8, bool, bool, Option<u8>) {
    match size {
        Size::B => (NONE, false, true, Some(reg.n())),
        Size::H => (P66, false, false, None),
        Size::W => (NONE, false, false, None),
        Size::D => (NONE, true, false, None),
    }
}

const fn fits8(v: i32) -> bool {
    v as i8 as i32 == v
}

impl Asm {
    #[inline]
    fn emit(&mut self, i: &Ins) {
        self.put(i.bytes, i.len);
    }

    fn plain(&mut self, bytes: &[u8]) {
        let mut i = Ins::new();
        for b in bytes {
            i.byte(*b);
        }
        self.emit(&i);
    }

    /// `op dst, src`.
    pub(crate) fn alu_rr(&mut self, op: Alu, w: Width, dst: Gpr, src: Gpr) {
        let opcode = (op as u32) << 3 | 3;
        self.emit(&Ins::legacy(NONE, w.wide(), opcode, dst.n(), Rm::Reg(src.n()), None));
    }

    /// `op dst, imm`.
    pub(crate) fn alu_ri(&mut self, op: Alu, w: Width, dst: Gpr, imm: i32) {
        if !fits8(imm) && dst == Gpr::Rax {
            let mut i = Ins::new();
            if w.wide() {
                i.byte(0x48);
            }
            i.byte((op as u8) << 3 | 5);
            i.imm32(imm);
            return self.emit(&i);
        }
        let opcode = if fits8(imm) { 0x83 } else { 0x81 };
        let mut i = Ins::legacy(NONE, w.wide(), opcode, op as u8, Rm::Reg(dst.n()), None);
        if fits8(imm) {
            i.imm8(imm)
        } else {
            i.imm32(imm)
        }
        self.emit(&i);
    }

    /// `op dst, [mem]`, 32 or 64 bits.
    pub(crate) fn alu_rm(&mut self, op: Alu, w: Width, dst: Gpr, mem: Mem) {
        let opcode = (op as u32) << 3 | 3;
        self.emit(&Ins::legacy(NONE, w.wide(), opcode, dst.n(), Rm::Mem(mem), None));
    }

    /// `op [mem], src`.
    pub(crate) fn alu_mr(&mut self, op: Alu, size: Size, mem: Mem, src: Gpr) {
        self.emit(&alu_mr(NONE, op, size, mem, src));
    }

    /// `lock op [mem], src`.
    pub(crate) fn lock_alu_mr(&mut self, op: Alu, size: Size, mem: Mem, src: Gpr) {
        self.plain(&[LOCK]);
        self.emit(&alu_mr(NONE, op, size, mem, src));
    }

    /// `op [mem], imm`; of 16 bits only with immediates of 8, because longer ones are slow to decode.
    pub(crate) fn alu_mi(&mut self, op: Alu, size: Size, mem: Mem, imm: i32) {
        debug_assert!(size != Size::H || fits8(imm));
        let (prefix, wide, byte, _) = sized(size, Gpr::Rax);
        let short = byte || fits8(imm);
        let opcode = if byte {
            0x80
        } else if short {
            0x83
        } else {
            0x81
        };
        let mut i = Ins::legacy(prefix, wide, opcode, op as u8, Rm::Mem(mem), None);
        if short {
            i.imm8(imm)
        } else {
            i.imm32(imm)
        }
        self.emit(&i);
    }

    /// `lock op [mem], imm` of 32 or 64 bits.
    pub(crate) fn lock_alu_mi(&mut self, op: Alu, size: Size, mem: Mem, imm: i32) {
        self.plain(&[LOCK]);
        self.alu_mi(op, size, mem, imm);
    }

    /// `inc dst` (`negative`: `dec`).
    pub(crate) fn inc(&mut self, w: Width, dst: Gpr, negative: bool) {
        self.emit(&Ins::legacy(NONE, w.wide(), 0xff, negative as u8, Rm::Reg(dst.n()), None));
    }

    /// `inc [mem]` (`negative`: `dec`).
    pub(crate) fn inc_m(&mut self, size: Size, mem: Mem, negative: bool) {
        let (prefix, wide, byte, _) = sized(size, Gpr::Rax);
        let opcode = if byte { 0xfe } else { 0xff };
        self.emit(&Ins::legacy(prefix, wide, opcode, negative as u8, Rm::Mem(mem), None));
    }

    /// `test a, b`.
    pub(crate) fn test_rr(&mut self, w: Width, a: Gpr, b: Gpr) {
        self.emit(&Ins::legacy(NONE, w.wide(), 0x85, b.n(), Rm::Reg(a.n()), None));
    }

    /// `test a, imm`.
    pub(crate) fn test_ri(&mut self, w: Width, a: Gpr, imm: i32) {
        // The byte form cannot be told apart if the tested sign bit is above the byte's own.
        let byte = (0..0x80).contains(&imm);
        let (wide, opcode) = if byte { (false, 0xf6) } else { (w.wide() && imm < 0, 0xf7) };
        let mut i = Ins::legacy(NONE, wide, opcode, 0, Rm::Reg(a.n()), byte.then_some(a.n()));
        if byte {
            i.imm8(imm)
        } else {
            i.imm32(imm)
        }
        self.emit(&i);
    }

    /// `test byte ptr [mem], imm` or of 32 bits.
    pub(crate) fn test_mi(&mut self, size: Size, mem: Mem, imm: i32) {
        debug_assert!(matches!(size, Size::B | Size::W));
        let opcode = if size == Size::B { 0xf6 } else { 0xf7 };
        let mut i = Ins::legacy(NONE, false, opcode, 0, Rm::Mem(mem), None);
        if size == Size::B {
            i.imm8(imm)
        } else {
            i.imm32(imm)
        }
        self.emit(&i);
    }

    /// `test [mem], reg` of 32 or 64 bits.
    pub(crate) fn test_mr(&mut self, w: Width, mem: Mem, reg: Gpr) {
        self.emit(&Ins::legacy(NONE, w.wide(), 0x85, reg.n(), Rm::Mem(mem), None));
    }

    /// `op dst`.
    pub(crate) fn unary(&mut self, op: Unary, w: Width, dst: Gpr) {
        self.emit(&Ins::legacy(NONE, w.wide(), 0xf7, op as u8, Rm::Reg(dst.n()), None));
    }

    /// `imul dst, src`.
    pub(crate) fn imul_rr(&mut self, w: Width, dst: Gpr, src: Gpr) {
        self.emit(&Ins::legacy(NONE, w.wide(), 0x0faf, dst.n(), Rm::Reg(src.n()), None));
    }

    /// `imul dst, [mem]`.
    pub(crate) fn imul_rm(&mut self, w: Width, dst: Gpr, mem: Mem) {
        self.emit(&Ins::legacy(NONE, w.wide(), 0x0faf, dst.n(), Rm::Mem(mem), None));
    }

    /// `imul dst, src, imm`.
    pub(crate) fn imul_rri(&mut self, w: Width, dst: Gpr, src: Gpr, imm: i32) {
        let opcode = if fits8(imm) { 0x6b } else { 0x69 };
        let mut i = Ins::legacy(NONE, w.wide(), opcode, dst.n(), Rm::Reg(src.n()), None);
        if fits8(imm) {
            i.imm8(imm)
        } else {
            i.imm32(imm)
        }
        self.emit(&i);
    }

    /// `cqo` or `cdq`: the sign of `rax` into `rdx`.
    pub(crate) fn sign_into_rdx(&mut self, w: Width) {
        self.plain(if w.wide() { &[0x48, 0x99] } else { &[0x99] });
    }

    /// `op dst, imm`.
    pub(crate) fn shift_ri(&mut self, op: Shift, w: Width, dst: Gpr, imm: u8) {
        let opcode = if imm == 1 { 0xd1 } else { 0xc1 };
        let mut i = Ins::legacy(NONE, w.wide(), opcode, op as u8, Rm::Reg(dst.n()), None);
        if imm != 1 {
            i.byte(imm);
        }
        self.emit(&i);
    }

    /// `op dst, cl`.
    pub(crate) fn shift_cl(&mut self, op: Shift, w: Width, dst: Gpr) {
        self.emit(&Ins::legacy(NONE, w.wide(), 0xd3, op as u8, Rm::Reg(dst.n()), None));
    }

    /// `shlx`, `shrx`, `sarx dst, src, count` (BMI2).
    pub(crate) fn shift_x(&mut self, op: Shift, w: Width, dst: Gpr, src: Gpr, count: Gpr) {
        let pp = match op {
            Shift::Shl => 1,
            Shift::Sar => 2,
            _ => 3,
        };
        self.emit(&Ins::vex(2, pp, w.wide(), count.n(), 0xf7, dst.n(), Rm::Reg(src.n())));
    }

    /// `rorx dst, src, imm` (BMI2).
    pub(crate) fn rorx(&mut self, w: Width, dst: Gpr, src: Gpr, imm: u8) {
        let mut i = Ins::vex(3, 3, w.wide(), 0, 0xf0, dst.n(), Rm::Reg(src.n()));
        i.byte(imm);
        self.emit(&i);
    }

    /// `rol dst, imm` of 16 bits: the upper part stays.
    pub(crate) fn rol16(&mut self, dst: Gpr, imm: u8) {
        let mut i = Ins::legacy(P66, false, 0xc1, 0, Rm::Reg(dst.n()), None);
        i.byte(imm);
        self.emit(&i);
    }

    /// `bswap dst`.
    pub(crate) fn bswap(&mut self, w: Width, dst: Gpr) {
        let rex = 0x40 | (w.wide() as u8) << 3 | dst.n() >> 3;
        if rex == 0x40 {
            self.plain(&[0x0f, 0xc8 | dst.n()]);
        } else {
            self.plain(&[rex, 0x0f, 0xc8 | (dst.n() & 7)]);
        }
    }

    /// `mov dst, src`.
    pub(crate) fn mov_rr(&mut self, w: Width, dst: Gpr, src: Gpr) {
        self.emit(&Ins::legacy(NONE, w.wide(), 0x8b, dst.n(), Rm::Reg(src.n()), None));
    }

    /// `mov dst, imm` in the shortest form that keeps the flags.
    pub(crate) fn mov_ri(&mut self, dst: Gpr, imm: u64) {
        let mut i;
        if imm <= u64::from(u32::MAX) {
            i = Ins::new();
            if dst.n() >= 8 {
                i.byte(0x41);
            }
            i.byte(0xb8 | (dst.n() & 7));
            i.imm32(imm as i32);
        } else if imm as i64 >= i64::from(i32::MIN) && (imm as i64) < 0 {
            i = Ins::legacy(NONE, true, 0xc7, 0, Rm::Reg(dst.n()), None);
            i.imm32(imm as i32);
        } else {
            i = Ins::new();
            i.byte(0x48 | dst.n() >> 3);
            i.byte(0xb8 | (dst.n() & 7));
            for b in imm.to_le_bytes() {
                i.byte(b);
            }
        }
        self.emit(&i);
    }

    /// `xor dst, dst`: 0, and the flags are gone.
    pub(crate) fn zero(&mut self, dst: Gpr) {
        self.alu_rr(Alu::Xor, Width::W32, dst, dst);
    }

    /// Sign-extends the lowest 8, 16 or 32 bits of `src` into `dst`.
    pub(crate) fn movsx(&mut self, w: Width, size: Size, dst: Gpr, src: Gpr) {
        let (opcode, byte) = sign_extension(size, src);
        self.emit(&Ins::legacy(NONE, w.wide(), opcode, dst.n(), Rm::Reg(src.n()), byte));
    }

    /// Zero-extends the lowest 8, 16 or 32 bits of `src` into `dst`.
    pub(crate) fn movzx(&mut self, size: Size, dst: Gpr, src: Gpr) {
        match size {
            Size::B => {
                self.emit(&Ins::legacy(NONE, false, 0x0fb6, dst.n(), Rm::Reg(src.n()), Some(src.n())));
            }
            Size::H => self.emit(&Ins::legacy(NONE, false, 0x0fb7, dst.n(), Rm::Reg(src.n()), None)),
            Size::W => self.mov_rr(Width::W32, dst, src),
            Size::D => self.mov_rr(Width::W64, dst, src),
        }
    }

    /// Loads and zero-extends.
    pub(crate) fn load(&mut self, size: Size, dst: Gpr, mem: Mem) {
        let (wide, opcode) = match size {
            Size::B => (false, 0x0fb6),
            Size::H => (false, 0x0fb7),
            Size::W => (false, 0x8b),
            Size::D => (true, 0x8b),
        };
        self.emit(&Ins::legacy(NONE, wide, opcode, dst.n(), Rm::Mem(mem), None));
    }

    /// Loads and sign-extends to 32 or 64 bits.
    pub(crate) fn load_sx(&mut self, w: Width, size: Size, dst: Gpr, mem: Mem) {
        let (opcode, _) = sign_extension(size, Gpr::Rax);
        self.emit(&Ins::legacy(NONE, w.wide(), opcode, dst.n(), Rm::Mem(mem), None));
    }

    /// Stores the lowest bytes of `src`.
    pub(crate) fn store(&mut self, size: Size, mem: Mem, src: Gpr) {
        let (prefix, wide, byte, byte_reg) = sized(size, src);
        let opcode = if byte { 0x88 } else { 0x89 };
        self.emit(&Ins::legacy(prefix, wide, opcode, src.n(), Rm::Mem(mem), byte_reg));
    }

    /// Stores an immediate, sign-extended to 8 bytes.
    pub(crate) fn store_imm(&mut self, size: Size, mem: Mem, imm: i32) {
        let (prefix, wide, byte, _) = sized(size, Gpr::Rax);
        let opcode = if byte { 0xc6 } else { 0xc7 };
        let mut i = Ins::legacy(prefix, wide, opcode, 0, Rm::Mem(mem), None);
        match size {
            Size::B => i.imm8(imm),
            Size::H => i.imm16(imm),
            Size::W | Size::D => i.imm32(imm),
        }
        self.emit(&i);
    }

    /// `movbe dst, [mem]` of 32 or 64 bits.
    pub(crate) fn load_be(&mut self, w: Width, dst: Gpr, mem: Mem) {
        self.emit(&Ins::legacy(NONE, w.wide(), 0x0f_38f0, dst.n(), Rm::Mem(mem), None));
    }

    /// `movbe [mem], src`.
    pub(crate) fn store_be(&mut self, size: Size, mem: Mem, src: Gpr) {
        debug_assert!(size != Size::B);
        let (prefix, wide, ..) = sized(size, src);
        self.emit(&Ins::legacy(prefix, wide, 0x0f_38f1, src.n(), Rm::Mem(mem), None));
    }

    /// `lea dst, [mem]`. The 32-bit form adds modulo 2^32.
    pub(crate) fn lea(&mut self, w: Width, dst: Gpr, mem: Mem) {
        self.emit(&Ins::legacy(NONE, w.wide(), 0x8d, dst.n(), Rm::Mem(mem), None));
    }

    /// `xchg a, b`.
    pub(crate) fn xchg_rr(&mut self, a: Gpr, b: Gpr) {
        self.emit(&Ins::legacy(NONE, true, 0x87, a.n(), Rm::Reg(b.n()), None));
    }

    /// `xchg [mem], reg`, atomic by itself.
    pub(crate) fn xchg_mr(&mut self, size: Size, mem: Mem, reg: Gpr) {
        let (prefix, wide, byte, byte_reg) = sized(size, reg);
        let opcode = if byte { 0x86 } else { 0x87 };
        self.emit(&Ins::legacy(prefix, wide, opcode, reg.n(), Rm::Mem(mem), byte_reg));
    }

    /// `lock xadd [mem], reg` of 32 or 64 bits.
    pub(crate) fn lock_xadd(&mut self, w: Width, mem: Mem, reg: Gpr) {
        self.plain(&[LOCK]);
        self.emit(&Ins::legacy(NONE, w.wide(), 0x0fc1, reg.n(), Rm::Mem(mem), None));
    }

    /// `lock cmpxchg [mem], reg` of 32 or 64 bits: compares with and answers in `rax`.
    pub(crate) fn lock_cmpxchg(&mut self, w: Width, mem: Mem, reg: Gpr) {
        self.plain(&[LOCK]);
        self.emit(&Ins::legacy(NONE, w.wide(), 0x0fb1, reg.n(), Rm::Mem(mem), None));
    }

    /// `setcc dst`: the lowest byte alone.
    pub(crate) fn setcc(&mut self, cond: Cond, dst: Gpr) {
        let opcode = 0x0f90 | u32::from(cond.n());
        self.emit(&Ins::legacy(NONE, false, opcode, 0, Rm::Reg(dst.n()), Some(dst.n())));
    }

    /// `cmovcc dst, src`.
    pub(crate) fn cmov(&mut self, cond: Cond, w: Width, dst: Gpr, src: Gpr) {
        let opcode = 0x0f40 | u32::from(cond.n());
        self.emit(&Ins::legacy(NONE, w.wide(), opcode, dst.n(), Rm::Reg(src.n()), None));
    }

    /// `jmp reg`.
    pub(crate) fn jmp_r(&mut self, reg: Gpr) {
        self.emit(&Ins::legacy(NONE, false, 0xff, 4, Rm::Reg(reg.n()), None));
    }

    /// `jmp [mem]`.
    pub(crate) fn jmp_m(&mut self, mem: Mem) {
        self.emit(&Ins::legacy(NONE, false, 0xff, 4, Rm::Mem(mem), None));
    }

    /// `call reg`.
    pub(crate) fn call_r(&mut self, reg: Gpr) {
        self.emit(&Ins::legacy(NONE, false, 0xff, 2, Rm::Reg(reg.n()), None));
    }

    /// `call [mem]`.
    pub(crate) fn call_m(&mut self, mem: Mem) {
        self.emit(&Ins::legacy(NONE, false, 0xff, 2, Rm::Mem(mem), None));
    }

    /// `push reg`.
    pub(crate) fn push(&mut self, reg: Gpr) {
        let low = 0x50 | (reg.n() & 7);
        if reg.n() >= 8 { self.plain(&[0x41, low]) } else { self.plain(&[low]) }
    }

    /// `pop reg`.
    pub(crate) fn pop(&mut self, reg: Gpr) {
        let low = 0x58 | (reg.n() & 7);
        if reg.n() >= 8 { self.plain(&[0x41, low]) } else { self.plain(&[low]) }
    }

    /// `ret`.
    pub(crate) fn ret(&mut self) {
        self.plain(&[0xc3]);
    }

    /// `ud2`: a place that is never reached.
    pub(crate) fn trap(&mut self) {
        self.plain(&[0x0f, 0x0b]);
    }

    /// `mfence`.
    pub(crate) fn mfence(&mut self) {
        self.plain(&[0x0f, 0xae, 0xf0]);
    }

    /// `prefetcht0 [mem]`.
    pub(crate) fn prefetch(&mut self, mem: Mem) {
        self.emit(&Ins::legacy(NONE, false, 0x0f18, 1, Rm::Mem(mem), None));
    }

    /// `crc32 dst, src` over 4 or 8 bytes (SSE 4.2).
    pub(crate) fn crc32(&mut self, w: Width, dst: Gpr, src: Gpr) {
        self.emit(&Ins::legacy(0xf2, w.wide(), 0x0f_38f1, dst.n(), Rm::Reg(src.n()), None));
    }

    /// `crc32 dst, [mem]` over 4 or 8 bytes (SSE 4.2).
    pub(crate) fn crc32_m(&mut self, w: Width, dst: Gpr, mem: Mem) {
        self.emit(&Ins::legacy(0xf2, w.wide(), 0x0f_38f1, dst.n(), Rm::Mem(mem), None));
    }

    /// The lowest 16 bits of a register to all eight lanes of xmm0.
    pub(crate) fn broadcast16_xmm0(&mut self, src: Gpr) {
        // movd xmm0, src
        self.emit(&Ins::legacy(P66, false, 0x0f6e, 0, Rm::Reg(src.n()), None));
        // pshuflw xmm0, xmm0, 0
        self.plain(&[0xf2, 0x0f, 0x70, 0xc0, 0x00]);
        // punpcklqdq xmm0, xmm0
        self.plain(&[0x66, 0x0f, 0x6c, 0xc0]);
    }

    /// `pcmpeqw xmm0, [mem]`; the address must be a multiple of 16.
    pub(crate) fn equal16_xmm0(&mut self, mem: Mem) {
        self.emit(&Ins::legacy(P66, false, 0x0f75, 0, Rm::Mem(mem), None));
    }

    /// `pmovmskb dst, xmm0`: the highest bit of each byte.
    pub(crate) fn mask_xmm0(&mut self, dst: Gpr) {
        self.emit(&Ins::legacy(P66, false, 0x0fd7, dst.n(), Rm::Reg(0), None));
    }

    /// `bsf dst, src`: the number of the lowest bit of a number that is not 0.
    pub(crate) fn bsf(&mut self, dst: Gpr, src: Gpr) {
        self.emit(&Ins::legacy(NONE, false, 0x0fbc, dst.n(), Rm::Reg(src.n()), None));
    }

    /// `xorps xmm0, xmm0`.
    pub(crate) fn zero_xmm0(&mut self) {
        self.plain(&[0x0f, 0x57, 0xc0]);
    }

    /// `movups [mem], xmm0`.
    pub(crate) fn store_xmm0(&mut self, mem: Mem) {
        self.emit(&Ins::legacy(NONE, false, 0x0f11, 0, Rm::Mem(mem), None));
    }
}

fn alu_mr(prefix: u8, op: Alu, size: Size, mem: Mem, src: Gpr) -> Ins {
    let (p, wide, byte, byte_reg) = sized(size, src);
    let prefix = if p == NONE { prefix } else { p };
    let opcode = (op as u32) << 3 | u32::from(!byte);
    Ins::legacy(prefix, wide, opcode, src.n(), Rm::Mem(mem), byte_reg)
}

/// Opcode of the sign-extending move and the byte register, if it reads one.
const fn sign_extension(size: Size, src: Gpr) -> (u32, Option<u8>) {
    match size {
        Size::B => (0x0fbe, Some(src.n())),
        Size::H => (0x0fbf, None),
        Size::W | Size::D => (0x63, None),
    }
}
