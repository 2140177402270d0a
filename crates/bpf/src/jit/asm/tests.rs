//! Every instruction form against a disassembler of somebody else's, and the linker's arithmetic.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use super::*;

fn disassemble(bytes: &[u8], base: u64) -> Vec<String> {
    let mut decoder = Decoder::with_ip(64, bytes, base, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(false);
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    options.set_displacement_leading_zeros(false);
    options.set_small_hex_numbers_in_decimal(true);
    options.set_show_branch_size(false);
    let mut all = Vec::new();
    while decoder.can_decode() {
        let insn = decoder.decode();
        let mut text = String::new();
        formatter.format(&insn, &mut text);
        all.push(text);
    }
    all
}

fn bytes_of(f: impl FnOnce(&mut Asm)) -> Vec<u8> {
    let mut asm = Asm::default();
    f(&mut asm);
    asm.link(&[], 0).expect("no calls").bytes
}

/// The one instruction that `f` writes, as text.
fn text_of(f: impl FnOnce(&mut Asm)) -> String {
    let bytes = bytes_of(f);
    let mut all = disassemble(&bytes, 0);
    assert_eq!(all.len(), 1, "{bytes:02x?} is {all:?}");
    all.remove(0)
}

const R64: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const R32: [&str; 16] = [
    "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d", "r13d",
    "r14d", "r15d",
];
const R16: [&str; 16] = [
    "ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w",
    "r15w",
];
const R8: [&str; 16] = [
    "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b", "r12b", "r13b", "r14b",
    "r15b",
];

fn reg(w: Width, r: Gpr) -> &'static str {
    if w == Width::W64 { R64[r.n() as usize] } else { R32[r.n() as usize] }
}

fn sized_reg(size: Size, r: Gpr) -> &'static str {
    [R8, R16, R32, R64][size as usize][r.n() as usize]
}

const WIDTHS: [Width; 2] = [Width::W32, Width::W64];
const SIZES: [Size; 4] = [Size::B, Size::H, Size::W, Size::D];
const ALUS: [(Alu, &str); 6] = [
    (Alu::Add, "add"),
    (Alu::Or, "or"),
    (Alu::And, "and"),
    (Alu::Sub, "sub"),
    (Alu::Xor, "xor"),
    (Alu::Cmp, "cmp"),
];
const CONDS: [(Cond, &str); 12] = [
    (Cond::B, "b"),
    (Cond::Ae, "ae"),
    (Cond::E, "e"),
    (Cond::Ne, "ne"),
    (Cond::Be, "be"),
    (Cond::A, "a"),
    (Cond::S, "s"),
    (Cond::Ns, "ns"),
    (Cond::L, "l"),
    (Cond::Ge, "ge"),
    (Cond::Le, "le"),
    (Cond::G, "g"),
];

/// Memory operands of every shape, with their text.
fn mems() -> Vec<(Mem, String)> {
    let mut all = Vec::new();
    for base in Gpr::ALL {
        let b = R64[base.n() as usize];
        for (disp, text) in
            [(0, ""), (8, "+8"), (-8, "-8"), (127, "+0x7f"), (128, "+0x80"), (-0x12345, "-0x12345")]
        {
            all.push((Mem::new(base, disp), format!("[{b}{text}]")));
        }
        for index in Gpr::ALL.into_iter().filter(|r| *r != Gpr::Rsp) {
            let i = R64[index.n() as usize];
            for shift in 0..4 {
                let scale = if shift == 0 { String::new() } else { format!("*{}", 1 << shift) };
                all.push((Mem::indexed(base, index, shift, 0), format!("[{b}+{i}{scale}]")));
                all.push((Mem::indexed(base, index, shift, 64), format!("[{b}+{i}{scale}+0x40]")));
            }
        }
    }
    all
}

fn pairs() -> impl Iterator<Item = (Gpr, Gpr)> {
    Gpr::ALL.into_iter().flat_map(|a| Gpr::ALL.into_iter().map(move |b| (a, b)))
}

fn ptr(size: Size) -> &'static str {
    ["byte ptr", "word ptr", "dword ptr", "qword ptr"][size as usize]
}

/// As iced prints an immediate of an operand of so many bits.
fn imm(v: i32, bits: u32) -> String {
    let v = if bits == 64 { i64::from(v) as u64 } else { u64::from(v as u32) & ((1 << bits) - 1) };
    if v < 10 { v.to_string() } else { format!("{v:#x}") }
}

#[test]
fn arithmetic_of_registers() {
    for (a, b) in pairs() {
        for w in WIDTHS {
            let (ra, rb) = (reg(w, a), reg(w, b));
            for (op, name) in ALUS {
                assert_eq!(text_of(|s| s.alu_rr(op, w, a, b)), format!("{name} {ra},{rb}"));
            }
            assert_eq!(text_of(|s| s.test_rr(w, a, b)), format!("test {ra},{rb}"));
            assert_eq!(text_of(|s| s.imul_rr(w, a, b)), format!("imul {ra},{rb}"));
            let source = if a == b { ra.to_owned() } else { format!("{ra},{rb}") };
            assert_eq!(text_of(|s| s.imul_rri(w, a, b, -3)), format!("imul {source},{}", imm(-3, w.bits())));
            assert_eq!(text_of(|s| s.imul_rri(w, a, b, 1000)), format!("imul {source},0x3e8"));
            assert_eq!(text_of(|s| s.mov_rr(w, a, b)), format!("mov {ra},{rb}"));
            assert_eq!(text_of(|s| s.rorx(w, a, b, 24)), format!("rorx {ra},{rb},0x18"));
            for (cond, cc) in CONDS {
                assert_eq!(text_of(|s| s.cmov(cond, w, a, b)), format!("cmov{cc} {ra},{rb}"));
            }
            assert_eq!(text_of(|s| s.crc32(w, a, b)), format!("crc32 {},{rb}", reg(w, a)));
        }
        if a != b && a != Gpr::Rax && b != Gpr::Rax {
            assert_eq!(
                text_of(|s| s.xchg_rr(a, b)),
                format!("xchg {},{}", reg(Width::W64, b), reg(Width::W64, a))
            );
        }
    }
}

impl Width {
    const fn bits(self) -> u32 {
        if matches!(self, Self::W64) { 64 } else { 32 }
    }
}

#[test]
fn arithmetic_of_a_register_and_an_immediate() {
    for r in Gpr::ALL {
        for w in WIDTHS {
            let name = reg(w, r);
            for v in [0, 1, -1, 127, 128, -128, -129, i32::MAX, i32::MIN] {
                for (op, text) in ALUS {
                    assert_eq!(
                        text_of(|s| s.alu_ri(op, w, r, v)),
                        format!("{text} {name},{}", imm(v, w.bits()))
                    );
                }
            }
            for v in [128, 0x1234, i32::MAX] {
                // A positive mask needs no 64-bit form.
                assert_eq!(text_of(|s| s.test_ri(w, r, v)), format!("test {},{v:#x}", reg(Width::W32, r)));
            }
            assert_eq!(text_of(|s| s.test_ri(w, r, 2)), format!("test {},2", R8[r.n() as usize]));
            assert_eq!(text_of(|s| s.test_ri(w, r, -2)), format!("test {name},{}", imm(-2, w.bits())));
            assert_eq!(text_of(|s| s.inc(w, r, false)), format!("inc {name}"));
            assert_eq!(text_of(|s| s.inc(w, r, true)), format!("dec {name}"));
            assert_eq!(text_of(|s| s.bswap(w, r)), format!("bswap {name}"));
            for (op, text) in [
                (Unary::Not, "not"),
                (Unary::Neg, "neg"),
                (Unary::Mul, "mul"),
                (Unary::Div, "div"),
                (Unary::Idiv, "idiv"),
            ] {
                assert_eq!(text_of(|s| s.unary(op, w, r)), format!("{text} {name}"));
            }
            for (op, text) in [
                (Shift::Shl, "shl"),
                (Shift::Shr, "shr"),
                (Shift::Sar, "sar"),
                (Shift::Rol, "rol"),
                (Shift::Ror, "ror"),
            ] {
                assert_eq!(text_of(|s| s.shift_ri(op, w, r, 1)), format!("{text} {name},1"));
                assert_eq!(text_of(|s| s.shift_ri(op, w, r, 31)), format!("{text} {name},0x1f"));
                assert_eq!(text_of(|s| s.shift_cl(op, w, r)), format!("{text} {name},cl"));
            }
        }
        assert_eq!(text_of(|s| s.rol16(r, 8)), format!("rol {},8", R16[r.n() as usize]));
        assert_eq!(text_of(|s| s.push(r)), format!("push {}", R64[r.n() as usize]));
        assert_eq!(text_of(|s| s.pop(r)), format!("pop {}", R64[r.n() as usize]));
        assert_eq!(text_of(|s| s.jmp_r(r)), format!("jmp {}", R64[r.n() as usize]));
        assert_eq!(text_of(|s| s.call_r(r)), format!("call {}", R64[r.n() as usize]));
        for (cond, cc) in CONDS {
            assert_eq!(text_of(|s| s.setcc(cond, r)), format!("set{cc} {}", R8[r.n() as usize]));
        }
    }
}

#[test]
fn shifts_by_a_register() {
    for (a, b) in pairs() {
        for count in Gpr::ALL {
            for w in WIDTHS {
                for (op, name) in [(Shift::Shl, "shlx"), (Shift::Shr, "shrx"), (Shift::Sar, "sarx")] {
                    let expected = format!("{name} {},{},{}", reg(w, a), reg(w, b), reg(w, count));
                    assert_eq!(text_of(|s| s.shift_x(op, w, a, b, count)), expected);
                }
            }
        }
    }
}

#[test]
fn extensions() {
    for (a, b) in pairs() {
        for w in WIDTHS {
            let (wa, rb) = (reg(w, a), b.n() as usize);
            assert_eq!(text_of(|s| s.movsx(w, Size::B, a, b)), format!("movsx {wa},{}", R8[rb]));
            assert_eq!(text_of(|s| s.movsx(w, Size::H, a, b)), format!("movsx {wa},{}", R16[rb]));
        }
        let ra = a.n() as usize;
        assert_eq!(
            text_of(|s| s.movsx(Width::W64, Size::W, a, b)),
            format!("movsxd {},{}", R64[ra], R32[b.n() as usize])
        );
        assert_eq!(text_of(|s| s.movzx(Size::B, a, b)), format!("movzx {},{}", R32[ra], R8[b.n() as usize]));
        assert_eq!(text_of(|s| s.movzx(Size::H, a, b)), format!("movzx {},{}", R32[ra], R16[b.n() as usize]));
        assert_eq!(text_of(|s| s.movzx(Size::W, a, b)), format!("mov {},{}", R32[ra], R32[b.n() as usize]));
    }
}

#[test]
fn constants() {
    for r in Gpr::ALL {
        let (n32, n64) = (reg(Width::W32, r), reg(Width::W64, r));
        let text = |v| text_of(|s| s.mov_ri(r, v));
        assert_eq!(text(0), format!("mov {n32},0"));
        assert_eq!(text(0xffff_ffff), format!("mov {n32},0xffffffff"));
        assert_eq!(text(0x1_0000_0000), format!("mov {n64},0x100000000"));
        assert_eq!(text(u64::MAX), format!("mov {n64},0xffffffffffffffff"));
        assert_eq!(text(0xffff_ffff_8000_0000), format!("mov {n64},0xffffffff80000000"));
        assert_eq!(text(0xffff_ffff_7fff_ffff), format!("mov {n64},0xffffffff7fffffff"));
        assert_eq!(text_of(|s| s.zero(r)), format!("xor {n32},{n32}"));
    }
}

#[test]
fn loads_and_stores_of_every_address() {
    for (mem, text) in mems() {
        for r in Gpr::ALL {
            let (n32, n64) = (reg(Width::W32, r), reg(Width::W64, r));
            let load = |size| text_of(|s| s.load(size, r, mem));
            assert_eq!(load(Size::B), format!("movzx {n32},byte ptr {text}"));
            assert_eq!(load(Size::H), format!("movzx {n32},word ptr {text}"));
            assert_eq!(load(Size::W), format!("mov {n32},{text}"));
            assert_eq!(load(Size::D), format!("mov {n64},{text}"));
            for size in SIZES {
                assert_eq!(text_of(|s| s.store(size, mem, r)), format!("mov {text},{}", sized_reg(size, r)));
            }
            assert_eq!(text_of(|s| s.lea(Width::W64, r, mem)), format!("lea {n64},{text}"));
        }
    }
}

#[test]
fn other_forms_with_memory() {
    for (mem, text) in mems().into_iter().step_by(7) {
        for r in Gpr::ALL {
            for w in WIDTHS {
                let (n, size) = (reg(w, r), if w == Width::W64 { Size::D } else { Size::W });
                for (op, name) in ALUS {
                    assert_eq!(text_of(|s| s.alu_rm(op, w, r, mem)), format!("{name} {n},{text}"));
                    if op != Alu::Cmp {
                        let locked = format!("lock {name} {text},{n}");
                        assert_eq!(text_of(|s| s.lock_alu_mr(op, size, mem, r)), locked);
                    }
                }
                assert_eq!(text_of(|s| s.imul_rm(w, r, mem)), format!("imul {n},{text}"));
                assert_eq!(text_of(|s| s.load_be(w, r, mem)), format!("movbe {n},{text}"));
                assert_eq!(text_of(|s| s.load_sx(w, Size::B, r, mem)), format!("movsx {n},byte ptr {text}"));
                assert_eq!(text_of(|s| s.load_sx(w, Size::H, r, mem)), format!("movsx {n},word ptr {text}"));
                assert_eq!(text_of(|s| s.test_mr(w, mem, r)), format!("test {text},{n}"));
                assert_eq!(text_of(|s| s.lock_xadd(w, mem, r)), format!("lock xadd {text},{n}"));
                assert_eq!(text_of(|s| s.lock_cmpxchg(w, mem, r)), format!("lock cmpxchg {text},{n}"));
                assert_eq!(text_of(|s| s.crc32_m(w, r, mem)), format!("crc32 {n},{} {text}", ptr(size)));
            }
            let n64 = reg(Width::W64, r);
            assert_eq!(text_of(|s| s.load_sx(Width::W64, Size::W, r, mem)), format!("movsxd {n64},{text}"));
            for size in SIZES {
                let n = sized_reg(size, r);
                for (op, name) in ALUS {
                    assert_eq!(text_of(|s| s.alu_mr(op, size, mem, r)), format!("{name} {text},{n}"));
                }
                assert_eq!(text_of(|s| s.xchg_mr(size, mem, r)), format!("xchg {text},{n}"));
                if size != Size::B {
                    assert_eq!(text_of(|s| s.store_be(size, mem, r)), format!("movbe {text},{n}"));
                }
            }
        }
        for (size, bits) in SIZES.into_iter().zip([8, 16, 32, 64]) {
            let p = ptr(size);
            for (op, name) in ALUS {
                for v in [1, -1, 100] {
                    let expected = format!("{name} {p} {text},{}", imm(v, bits));
                    assert_eq!(text_of(|s| s.alu_mi(op, size, mem, v)), expected);
                }
            }
            for v in [0, 0x1234_5678, -1] {
                assert_eq!(
                    text_of(|s| s.store_imm(size, mem, v)),
                    format!("mov {p} {text},{}", imm(v, bits))
                );
            }
            assert_eq!(text_of(|s| s.inc_m(size, mem, false)), format!("inc {p} {text}"));
            assert_eq!(text_of(|s| s.inc_m(size, mem, true)), format!("dec {p} {text}"));
        }
        assert_eq!(
            text_of(|s| s.alu_mi(Alu::Add, Size::W, mem, 1000)),
            format!("add dword ptr {text},0x3e8")
        );
        assert_eq!(
            text_of(|s| s.lock_alu_mi(Alu::Add, Size::D, mem, 1000)),
            format!("lock add qword ptr {text},0x3e8")
        );
        assert_eq!(text_of(|s| s.test_mi(Size::B, mem, 0x40)), format!("test byte ptr {text},0x40"));
        assert_eq!(text_of(|s| s.test_mi(Size::W, mem, 0x4000)), format!("test dword ptr {text},0x4000"));
        assert_eq!(text_of(|s| s.jmp_m(mem)), format!("jmp qword ptr {text}"));
        assert_eq!(text_of(|s| s.call_m(mem)), format!("call qword ptr {text}"));
        assert_eq!(text_of(|s| s.prefetch(mem)), format!("prefetcht0 {text}"));
        assert_eq!(text_of(|s| s.store_xmm0(mem)), format!("movups {text},xmm0"));
    }
}

#[test]
fn forms_of_vectors() {
    for r in Gpr::ALL {
        let n = reg(Width::W32, r);
        let broadcast = disassemble(&bytes_of(|s| s.broadcast16_xmm0(r)), 0);
        assert_eq!(broadcast, [&format!("movd xmm0,{n}"), "pshuflw xmm0,xmm0,0", "punpcklqdq xmm0,xmm0"]);
        assert_eq!(text_of(|s| s.mask_xmm0(r)), format!("pmovmskb {n},xmm0"));
    }
    for (a, b) in pairs() {
        assert_eq!(text_of(|s| s.bsf(a, b)), format!("bsf {},{}", reg(Width::W32, a), reg(Width::W32, b)));
    }
    for (mem, text) in mems().into_iter().step_by(7) {
        assert_eq!(text_of(|s| s.equal16_xmm0(mem)), format!("pcmpeqw xmm0,{text}"));
    }
}

#[test]
fn forms_without_operands() {
    assert_eq!(text_of(|s| s.sign_into_rdx(Width::W64)), "cqo");
    assert_eq!(text_of(|s| s.sign_into_rdx(Width::W32)), "cdq");
    assert_eq!(text_of(Asm::ret), "ret");
    assert_eq!(text_of(Asm::trap), "ud2");
    assert_eq!(text_of(Asm::mfence), "mfence");
    assert_eq!(text_of(Asm::zero_xmm0), "xorps xmm0,xmm0");
}

#[test]
fn jumps_are_short_where_their_target_is_near() {
    let mut asm = Asm::default();
    let (near, far) = (asm.label(), asm.label());
    asm.jcc(Cond::E, near);
    asm.jmp(far);
    asm.bind(near);
    for _ in 0..200 {
        asm.ret();
    }
    asm.bind(far);
    asm.jmp(far);
    let linked = asm.link(&[], 0x1000).expect("no calls");
    let text = disassemble(&linked.bytes, 0x1000);
    assert_eq!((linked.offset(near), linked.offset(far)), (Some(7), Some(207)));
    assert_eq!(text[..2], ["je 0x1007", "jmp 0x10cf"]);
    assert_eq!(text.last().map(String::as_str), Some("jmp 0x10cf"));
    assert_eq!(linked.bytes.len(), 209);
}

#[test]
fn a_jump_to_the_next_instruction_vanishes() {
    let mut asm = Asm::default();
    let next = asm.label();
    asm.jmp(next);
    asm.bind(next);
    asm.ret();
    assert_eq!(asm.link(&[], 0).expect("no calls").bytes, [0xc3]);
}

#[test]
fn padding_is_run_through_instead_of_jumped_over() {
    let mut asm = Asm::default();
    let aligned = asm.label();
    asm.zero(Gpr::Rax);
    asm.jmp(aligned);
    asm.align(4);
    asm.bind(aligned);
    asm.ret();
    let linked = asm.link(&[], 0).expect("no calls");
    assert_eq!((linked.offset(aligned), linked.bytes.len()), (Some(16), 17));
    assert!(disassemble(&linked.bytes, 0).iter().all(|t| !t.starts_with("jmp")));
}

#[test]
fn the_rare_stream_follows_the_usual_one() {
    let mut asm = Asm::default();
    let (rare, back) = (asm.label(), asm.label());
    asm.enter(0);
    asm.jcc(Cond::Ne, rare);
    asm.switch(true);
    asm.bind(rare);
    asm.zero(Gpr::Rax);
    asm.jmp(back);
    asm.switch(false);
    asm.bind(back);
    asm.leave(0);
    asm.ret();
    asm.align(4);
    let frame = Frame { enter: bytes_of(|s| s.push(Gpr::Rbx)), leave: bytes_of(|s| s.pop(Gpr::Rbx)) };
    assert!(asm.max_len(std::slice::from_ref(&frame)) >= 10);
    let linked = asm.link(&[frame], 0).expect("no calls");
    let text: Vec<_> = disassemble(&linked.bytes, 0).into_iter().filter(|t| !t.contains("nop")).collect();
    assert_eq!(text, ["push rbx", "jne 0x10", "pop rbx", "ret", "xor eax,eax", "jmp 3"]);
}

#[test]
fn calls_and_addresses_are_relative() {
    let mut asm = Asm::default();
    let f = asm.label();
    asm.call_addr(0x7000_0000);
    asm.call(f);
    asm.lea_label(Gpr::R9, f);
    asm.bind(f);
    asm.ret();
    let linked = asm.link(&[], 0x1000_0000).expect("within reach");
    let text = disassemble(&linked.bytes, 0x1000_0000);
    assert_eq!(text, ["call 0x70000000", "call 0x10000011", "lea r9,[0x10000011]", "ret"]);
}

#[test]
fn a_call_out_of_reach_is_an_error() {
    let mut asm = Asm::default();
    asm.call_addr(0x7fff_0000_0000);
    assert_eq!(asm.link(&[], 0x1000).err(), Some(link::OutOfReach));
}

#[test]
fn padding_is_made_of_whole_instructions() {
    for n in 1..16 {
        let mut asm = Asm::default();
        for _ in 0..16 - n {
            asm.ret();
        }
        asm.align(4);
        let bytes = asm.link(&[], 0).expect("no calls").bytes;
        assert_eq!(bytes.len(), 16);
        let pads = disassemble(&bytes, 0).split_off(16 - n);
        assert!(pads.len() <= 2 && pads.iter().all(|t| t.contains("nop") || t == "xchg ax,ax"), "{pads:?}");
    }
}
