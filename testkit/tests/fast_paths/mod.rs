//! Helpers that compiled programs do by themselves: the same answers, bytes and contexts as the helpers', at
//! every edge of what is done in place.

use bpf::object::{ObjectSpec, ProgramSpec};
use control::{Backend, EngineKind, LoadOptions, Loaded, TestRun};
use testkit::asm::assemble;
use testkit::generate::Rng;
use uapi::xdp::XdpMd;

use super::Engine;

/// The packet's first words are arguments: r7, r8 and r9 get them; r6 is the context.
const HEAD: &str = "
    mov %r6, %r1
    ldxw %r2, [%r1]
    ldxw %r3, [%r1+4]
    mov %r4, %r2
    add %r4, 64
    mov %r0, 1
    jgt %r4, %r3, exit
    ldxw %r7, [%r2]
    ldxw %r8, [%r2+4]
    ldxw %r9, [%r2+8]
";

/// Buffers of the packet's bytes on the stack: 64 at -64, 64 at -128.
fn buffers() -> String {
    let copy = |i: usize| {
        let (from, to) = (8 * (i % 8), 8 * i as i64 - 128);
        format!("ldxdw %r1, [%r2+{from}]\nstxdw [%r10{to}], %r1\n")
    };
    (0..16).map(copy).collect()
}

/// What is on the stack from -64 on, mixed into r0.
fn digest() -> String {
    let mix = |i: i64| format!("ldxdw %r1, [%r10{}]\nmul %r0, 31\nxor %r0, %r1\n", 8 * i - 64);
    let words: String = (0..8).map(mix).collect();
    format!("{words}mov %r1, %r0\nrsh %r1, 32\nxor %r0, %r1\nexit\n")
}

fn load(kind: EngineKind, text: &str, frags: bool) -> Box<dyn Loaded> {
    let insns = assemble(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let programs = vec![ProgramSpec { frags, ..ProgramSpec::bare("p", insns) }];
    let spec = ObjectSpec { name: "fast".into(), license: "GPL".into(), programs, ..ObjectSpec::default() };
    let mut engine = Engine::backend();
    let options = LoadOptions { engine: kind, ..LoadOptions::default() };
    engine.load(&spec, &options).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Offsets around everything that is checked.
fn offset(rng: &mut Rng, len: u32) -> u32 {
    let near = |rng: &mut Rng, at: i64| (at + rng.below(9) as i64 - 4) as u32;
    match rng.below(9) {
        0 => rng.below(260) as u32 * 4,
        1 => (rng.below(260) as i64 * -4) as u32,
        2 => near(rng, 0),
        3 => near(rng, i64::from(len)),
        4 => near(rng, -i64::from(len)),
        5 => near(rng, -216),
        6 => near(rng, 0xffff),
        7 => near(rng, i64::from(i32::MIN)),
        _ => rng.below(64) as u32,
    }
}

fn compare(text: &str, frags: bool, runs: u32) {
    let (mut expected, mut got) = (load(EngineKind::Interp, text, frags), load(EngineKind::Jit, text, frags));
    let mut rng = Rng::new(text.len() as u64);
    for run in 0..runs {
        let long = frags && rng.below(3) == 0;
        let len = 64 + if long { 3000 + rng.below(4000) } else { rng.below(200) } as usize;
        let meta = if rng.below(2) == 0 { 0 } else { 4 * rng.below(16) as usize };
        let mut data: Vec<u8> = (0..meta + len).map(|_| rng.u64() as u8).collect();
        for i in 0..3 {
            let word = offset(&mut rng, len as u32);
            data[meta + 4 * i..][..4].copy_from_slice(&word.to_le_bytes());
        }
        let end = data.len().min(3000) as u32;
        let ctx = (meta > 0).then(|| XdpMd { data: meta as u32, data_end: end, ..XdpMd::default() });
        let request = TestRun { data, ctx, ..TestRun::default() };
        let (a, b) = (expected.test_run("p", &request), got.test_run("p", &request));
        let facts = |r: Result<control::TestRunOutput, control::TestRunError>| {
            r.map(|r| (r.retval, r.data, r.ctx)).map_err(|e| e.errno)
        };
        assert_eq!(facts(a), facts(b), "run {run} of\n{text}\nwith {request:x?}");
    }
}

#[test]
fn moved_ends_are_the_same_compiled() {
    const ADJUST: [(&str, u32); 3] = [("head", 44), ("meta", 54), ("tail", 65)];
    for frags in [false, true] {
        for (first, a) in ADJUST {
            for (second, b) in ADJUST {
                let text = format!(
                    "# {first}, {second}\n{HEAD}
                    mov %r1, %r6\nmov %r2, %r7\ncall {a}\nmov %r7, %r0
                    mov %r1, %r6\nmov %r2, %r8\ncall {b}\nmul %r7, 31\nadd %r7, %r0
                    mov %r1, %r6\ncall 188\nmul %r7, 31\nadd %r0, %r7\nexit\n"
                );
                compare(&text, frags, 400);
            }
        }
    }
}

#[test]
fn copies_are_the_same_compiled() {
    for len in [1, 2, 3, 4, 7, 8, 13, 16, 31, 64] {
        for (call, frags) in [(189, false), (189, true), (190, false), (190, true)] {
            let text = format!(
                "{HEAD}{}mov %r1, %r6\nmov %r2, %r7\nmov %r3, %r10\nadd %r3, -64\nmov %r4, {len}\ncall {call}\n{}",
                buffers(),
                digest()
            );
            compare(&text, frags, 200);
        }
    }
}

#[test]
fn checksums_are_the_same_compiled() {
    for from in [0, 4, 8, 12, 20, 36, 64, 128] {
        for to in [0, 4, 8, 12, 20, 36, 64, 128] {
            let text = format!(
                "{HEAD}{}mov %r1, %r10\nadd %r1, -128\nmov %r2, {from}\nmov %r3, %r10\nadd %r3, -128
                mov %r4, {to}\nmov %r5, %r9\ncall 28\nexit\n",
                buffers()
            );
            compare(&text, false, 40);
        }
    }
    // A size that only the run knows, on either side, and a buffer of zeros.
    for (sizes, seed) in [("%r2, 0|%r4, %r7", "%r9"), ("%r2, %r7|%r4, 0", "%r9"), ("%r2, 0|%r4, %r7", "0")] {
        let (from, to) = sizes.split_once('|').expect("two sizes");
        for fill in [buffers(), (1..=16).map(|i| format!("stdw [%r10-{}], 0\n", 8 * i)).collect()] {
            let text = format!(
                "{HEAD}{fill}and %r7, 127\nmov %r1, %r10\nadd %r1, -128\nmov {from}\nmov %r3, %r10
                add %r3, -128\nmov {to}\nmov %r5, {seed}\ncall 28\nexit\n"
            );
            compare(&text, false, 400);
        }
    }
}
