//! Small programs: what is accepted, and the kernel's words for what is not.

use uapi::Errno;
use uapi::bpf::MapType;

use super::{Branch, Input, MapDef, Options, Place, Rejection, Verified, verify};
use crate::insn::Insn;

const fn i(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn::new(code, dst, src, off, imm)
}

const EXIT: Insn = i(0x95, 0, 0, 0, 0);

fn run(insns: &[Insn], maps: &[MapDef]) -> Result<Verified, Box<Rejection>> {
    verify(&Input { insns, ..empty(maps) }, &Options::default())
}

fn empty(maps: &[MapDef]) -> Input<'_> {
    Input {
        insns: &[],
        subprogs: &[],
        line_info: &[],
        kfuncs: &[],
        ksyms: &[],
        maps,
        btf: None,
        kernel_btf: None,
        gpl: true,
        attach_type: 0,
        prog_flags: 0,
    }
}

fn refused(insns: &[Insn]) -> (Errno, u32, String) {
    let r = run(insns, &[]).expect_err("is refused");
    (r.errno, r.insn, r.message)
}

fn array() -> MapDef {
    MapDef {
        name: "a".to_owned(),
        map_type: MapType::Array,
        key_size: 4,
        value_size: 8,
        max_entries: 4,
        flags: 0,
        value_type: None,
        has_btf: false,
        inner: None,
        frozen: false,
        contents: None,
    }
}

#[test]
fn a_return_value_has_to_be_set() {
    assert_eq!(refused(&[EXIT]), (Errno::EACCES, 0, "R0 !read_ok".to_owned()));
    assert!(run(&[i(0xb7, 0, 0, 0, 2), EXIT], &[]).is_ok());
}

#[test]
fn packet_bytes_are_readable_after_a_check_only() {
    let load = |checked: bool| {
        let mut p = vec![i(0x61, 2, 1, 0, 0), i(0x61, 3, 1, 4, 0), i(0xbf, 4, 2, 0, 0), i(0x07, 4, 0, 0, 14)];
        if checked {
            p.push(i(0x2d, 4, 3, 1, 0));
        }
        p.extend([i(0x71, 0, 2, 13, 0), i(0xb7, 0, 0, 0, 2), EXIT]);
        p
    };
    let v = run(&load(true), &[]).expect("is accepted");
    assert_eq!(v.facts()[5].place, Place::Packet);
    assert_eq!(v.facts()[4].branch, Branch::Both);
    let (errno, insn, message) = refused(&load(false));
    assert_eq!((errno, insn), (Errno::EACCES, 4));
    assert_eq!(
        message,
        "invalid access to packet, off=13 size=1, R2(id=0,off=13,r=0)\nR2 offset is outside of the packet"
    );
}

#[test]
fn a_lookup_may_fail_unless_the_key_is_a_constant_within_an_array() {
    let program = |key: i32| {
        [
            i(0x62, 10, 0, -8, key),
            i(0xbf, 2, 10, 0, 0),
            i(0x07, 2, 0, 0, -8),
            i(0x18, 1, 5, 0, 0),
            i(0, 0, 0, 0, 0),
            i(0x85, 0, 0, 0, 1),
            i(0x79, 0, 0, 0, 0),
            EXIT,
        ]
    };
    let v = run(&program(3), &[array()]).expect("is accepted");
    assert!(v.facts()[5].never_null);
    assert_eq!((v.facts()[5].map, v.facts()[5].key), (Some(0), Some(3)));
    assert_eq!(v.facts()[6].place, Place::MapValue(Some(0)));
    let r = run(&program(4), &[array()]).expect_err("is refused");
    assert_eq!(r.message, "R0 invalid mem access 'map_value_or_null'");
}

#[test]
fn a_loop_ends_or_is_refused() {
    let counted = [i(0xb7, 0, 0, 0, 0), i(0x07, 0, 0, 0, 1), i(0xa5, 0, 0, -2, 100), EXIT];
    let v = run(&counted, &[]).expect("is accepted");
    assert_eq!(v.stats().processed_insns, 202);
    let to_the_first = [i(0xb7, 0, 0, 0, 0), i(0x15, 0, 0, -2, 0), EXIT];
    assert!(refused(&to_the_first).2.starts_with("infinite loop detected"));
    let endless = [i(0xb7, 0, 0, 0, 0), i(0x15, 0, 0, -1, 0), EXIT];
    let (errno, insn, message) = refused(&endless);
    assert_eq!((errno, insn), (Errno::EINVAL, 1));
    assert!(message.starts_with("infinite loop detected at insn 1"), "{message}");
}

/// Linux 6.18.44 accepts this one, and removes the branch that reads outside of the packet.
#[test]
fn what_an_atomic_instruction_fetched_is_traced_to_where_it_lay() {
    let program = [
        i(0x61, 2, 1, 0, 0),
        i(0x61, 3, 1, 4, 0),
        i(0xbf, 4, 2, 0, 0),
        i(0x07, 4, 0, 0, 8),
        i(0x2d, 4, 3, 9, 0),
        i(0x71, 4, 2, 0, 0),
        i(0x7b, 10, 4, -8, 0),
        // On one path the number is known, on the other it is not.
        i(0x55, 4, 0, 1, 0x27),
        i(0xb7, 5, 0, 0, 0),
        i(0xb7, 0, 0, 0, 1),
        i(0xdb, 10, 0, -8, 0x51),
        i(0x15, 0, 0, 2, 0x27),
        i(0x71, 0, 2, 100, 0),
        i(0x05, 0, 0, 0, 0),
        i(0xb7, 0, 0, 0, 2),
        EXIT,
    ];
    let (errno, insn, message) = refused(&program);
    assert_eq!((errno, insn), (Errno::EACCES, 12));
    assert!(message.starts_with("invalid access to packet, off=100"), "{message}");
}

#[test]
fn what_is_learnt_of_a_number_holds_for_its_32_bit_sums_zero_extended() {
    // Where r5 is 0, r0 is 0xffffffff and not -1: the bad load is reached.
    let program = [
        i(0x61, 5, 1, 16, 0),
        i(0xbf, 0, 5, 0, 0),
        i(0x14, 0, 0, 0, 1),
        i(0x55, 5, 0, 2, 0),
        i(0xc5, 0, 0, 1, 0),
        i(0x79, 0, 9, 0, 0),
        i(0xb7, 0, 0, 0, 2),
        EXIT,
    ];
    assert_eq!(refused(&program), (Errno::EACCES, 5, "R9 !read_ok".to_owned()));
}

#[test]
fn a_sign_extending_fill_is_not_linked_to_what_was_spilled() {
    // Where r2 is 0xffff, r3 is -1: the bad load is reached.
    let program = [
        i(0x61, 2, 1, 16, 0),
        i(0xdc, 2, 0, 0, 16),
        i(0x7b, 10, 2, -8, 0),
        i(0x89, 3, 10, -8, 0),
        i(0x55, 2, 0, 2, 0xffff),
        i(0x65, 3, 0, 1, 0),
        i(0x79, 0, 9, 0, 0),
        i(0xb7, 0, 0, 0, 2),
        EXIT,
    ];
    assert_eq!(refused(&program), (Errno::EACCES, 6, "R9 !read_ok".to_owned()));
}

#[test]
fn a_pointer_beyond_the_end_may_be_before_it_again_once_moved_back() {
    let program = |back: i32| {
        [
            i(0x61, 2, 1, 0, 0),
            i(0x61, 3, 1, 4, 0),
            i(0x07, 2, 0, 0, 100),
            i(0xad, 3, 2, 2, 0),
            i(0xb7, 0, 0, 0, 2),
            EXIT,
            i(0x07, 2, 0, 0, back),
            i(0x2d, 2, 3, 1, 0),
            i(0x79, 0, 9, 0, 0),
            i(0xb7, 0, 0, 0, 2),
            EXIT,
        ]
    };
    assert!(run(&program(1), &[]).is_ok());
    assert_eq!(refused(&program(-100)), (Errno::EACCES, 8, "R9 !read_ok".to_owned()));
}

#[test]
fn malformed_code_is_refused_before_it_is_walked() {
    assert_eq!(refused(&[i(0xb7, 0, 0, 0, 0)]).2, "last insn is not an exit or jmp");
    assert_eq!(refused(&[i(0x05, 0, 0, 5, 0), EXIT]).2, "jump out of range from insn 0 to 6");
    assert_eq!(refused(&[EXIT, EXIT]).2, "unreachable insn 1");
    assert_eq!(refused(&[i(0x18, 0, 0, 0, 1), EXIT, EXIT]).2, "invalid bpf_ld_imm64 insn");
    assert_eq!(refused(&[i(0xff, 0, 0, 0, 0), EXIT]).2, "unknown opcode ff");
}

/// Random numbers (xorshift64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 8) as usize % n
    }
}

#[test]
fn random_bytes_end_in_a_verdict() {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20_000 {
        let n = rng.next() % 12 + 1;
        let mut insns: Vec<Insn> = (0..n).map(|_| Insn::decode(rng.next().to_le_bytes())).collect();
        for x in &mut insns {
            // Most random jumps and registers are refused at once: make some of them possible.
            if rng.next().is_multiple_of(2) {
                x.dst %= 11;
                x.src %= 11;
                x.off %= 8;
            }
        }
        insns.push(EXIT);
        let _ = run(&insns, &[array()]);
    }
}

/// Sound programs of several shapes, for damaging.
fn shapes() -> Vec<Vec<Insn>> {
    let wide = |dst, src, imm| [i(0x18, dst, src, 0, imm), i(0, 0, 0, 0, 0)];
    let mut lookup = vec![i(0x62, 10, 0, -8, 1), i(0xbf, 2, 10, 0, 0), i(0x07, 2, 0, 0, -8)];
    lookup.extend(wide(1, 5, 0));
    lookup.extend([i(0x85, 0, 0, 0, 1), i(0x15, 0, 0, 2, 0), i(0x79, 1, 0, 0, 0), i(0xdb, 0, 1, 0, 1)]);
    lookup.extend([i(0xb7, 0, 0, 0, 2), EXIT]);
    let packet = vec![
        i(0x61, 2, 1, 0, 0),
        i(0x61, 3, 1, 4, 0),
        i(0xbf, 4, 2, 0, 0),
        i(0x07, 4, 0, 0, 14),
        i(0x2d, 4, 3, 3, 0),
        i(0x71, 5, 2, 13, 0),
        i(0x57, 5, 0, 0, 7),
        i(0x0f, 2, 5, 0, 0),
        i(0xb7, 0, 0, 0, 2),
        EXIT,
    ];
    let calls = vec![
        i(0xb7, 6, 0, 0, 0),
        i(0x85, 0, 1, 0, 3),
        i(0x07, 6, 0, 0, 1),
        i(0xa5, 6, 0, -3, 5),
        EXIT,
        i(0x7a, 10, 0, -8, 3),
        i(0x79, 0, 10, -8, 0),
        i(0xe5, 0, 0, 1, 0),
        i(0x05, 0, 0, -2, 0),
        EXIT,
    ];
    vec![lookup, packet, calls]
}

fn damage(rng: &mut Rng, insns: &mut Vec<Insn>) {
    let at = rng.below(insns.len());
    match rng.below(9) {
        0 => insns[at].code = rng.next() as u8,
        1 => insns[at].off = rng.next() as i16,
        2 => insns[at].off = insns[at].off.wrapping_add((rng.below(5) as i16) - 2),
        3 => insns[at].imm = rng.next() as i32,
        4 => insns[at].imm = insns[at].imm.wrapping_add((rng.below(5) as i32) - 2),
        5 => (insns[at].dst, insns[at].src) = (rng.below(16) as u8, rng.below(16) as u8),
        6 => drop(insns.remove(at)),
        7 => {
            let copy = insns[rng.below(insns.len())];
            insns.insert(at, copy);
        }
        _ => {
            let other = rng.below(insns.len());
            insns.swap(at, other);
        }
    }
    if insns.is_empty() {
        insns.push(EXIT);
    }
}

#[test]
fn damaged_programs_end_in_a_verdict() {
    let shapes = shapes();
    for shape in &shapes {
        run(shape, &[array()]).unwrap_or_else(|r| panic!("{r}"));
    }
    let mut rng = Rng(0x1234_5678_9abc_def1);
    let mut accepted = 0;
    for _ in 0..30_000 {
        let mut insns = shapes[rng.below(shapes.len())].clone();
        for _ in 0..=rng.below(4) {
            damage(&mut rng, &mut insns);
        }
        let functions: Vec<_> = (0..rng.below(3))
            .map(|n| crate::object::Subprog {
                name: format!("f{n}"),
                start: if n == 0 { 0 } else { rng.next() as u32 % 32 },
                btf: None,
                is_global: n % 2 == 0,
            })
            .collect();
        let maps = [array()];
        let input = Input { insns: &insns, subprogs: &functions, ..empty(&maps) };
        let options = Options { log_level: rng.below(3) as u32, ..Options::default() };
        accepted += u32::from(verify(&input, &options).is_ok());
    }
    // Some damage does no harm, or the test shows nothing.
    assert!((1_000..29_000).contains(&accepted), "{accepted} accepted");
}
