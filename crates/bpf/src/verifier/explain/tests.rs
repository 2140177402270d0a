//! Stories of small programs.

use super::super::{Input, MapDef, Options, verify};
use super::*;
use crate::insn::Insn;

const fn i(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn::new(code, dst, src, off, imm)
}

const EXIT: Insn = i(0x95, 0, 0, 0, 0);

fn explained(insns: &[Insn], maps: &[MapDef]) -> Explanation {
    let input = Input {
        insns,
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
    };
    let opts = Options::default();
    let rejection = verify(&input, &opts).expect_err("is refused");
    explain(&input, &opts, &rejection)
}

fn points(e: &Explanation) -> Vec<u32> {
    e.story.iter().map(|l| l.insn).collect()
}

#[test]
fn a_missing_packet_check_is_the_sources_doing() {
    let e = explained(&[i(0x61, 2, 1, 0, 0), i(0x71, 0, 2, 13, 0), EXIT], &[]);
    assert_eq!((e.rule.id.to_string().as_str(), e.cause), ("EB0403", Cause::Source));
    assert_eq!((e.at.insn, points(&e)), (1, vec![0]));
    assert_eq!(e.story[0].text, "`ctx->data`: a packet pointer at offset 0, no byte checked from there on");
    assert_eq!(
        e.needed.as_deref(),
        Some("a comparison that proves 14 bytes from the packet's first byte; 0 are proven")
    );
}

#[test]
fn a_pointer_from_before_a_move_is_followed_over_copies_and_the_stack() {
    let e = explained(
        &[
            i(0xbf, 6, 1, 0, 0),
            i(0x61, 2, 1, 0, 0),
            i(0x7b, 10, 2, -8, 0),
            i(0x79, 7, 10, -8, 0),
            i(0xb7, 2, 0, 0, 0),
            i(0x85, 0, 0, 0, 44),
            i(0xbf, 3, 7, 0, 0),
            i(0x71, 0, 3, 0, 0),
            EXIT,
        ],
        &[],
    );
    assert_eq!(e.rule.id.to_string(), "EB0402");
    assert_eq!(points(&e), [1, 5]);
    assert!(e.story[1].text.contains("bpf_xdp_adjust_head()` may move the packet"), "{}", e.story[1].text);
}

#[test]
fn a_pointer_moved_too_far_is_a_limit() {
    // r2 = data; r4 = *(u32 *)(data of rx_queue_index); r2 += r4; if r2 + 1 > end goto out
    let e = explained(
        &[
            i(0x61, 2, 1, 0, 0),
            i(0x61, 3, 1, 4, 0),
            i(0x61, 4, 1, 16, 0),
            i(0x57, 4, 0, 0, 0x1ffff),
            i(0x0f, 2, 4, 0, 0),
            i(0xbf, 5, 2, 0, 0),
            i(0x07, 5, 0, 0, 1),
            i(0x2d, 5, 3, 1, 0),
            i(0x71, 0, 2, 0, 0),
            i(0xb7, 0, 0, 0, 2),
            EXIT,
        ],
        &[],
    );
    assert_eq!((e.rule.id.to_string().as_str(), e.cause), ("EB0403", Cause::Limit));
    assert!(points(&e).contains(&7) && points(&e).contains(&4), "{:?}", e.story);
}

#[test]
fn a_check_of_another_copy_is_the_compilers_doing() {
    // The check is made on the low half, the use with the number as it was read.
    let e = explained(
        &[
            i(0xb7, 0, 0, 0, 0),
            i(0x79, 2, 10, -8, 0),
            i(0xbf, 3, 2, 0, 0),
            i(0x67, 3, 0, 0, 32),
            i(0x77, 3, 0, 0, 32),
            i(0x25, 3, 0, 3, 8),
            i(0xbf, 4, 10, 0, 0),
            i(0x0f, 4, 2, 0, 0),
            i(0x71, 0, 4, -16, 0),
            EXIT,
        ],
        &[],
    );
    assert_eq!((e.rule.id.to_string().as_str(), e.cause), ("EB0207", Cause::Lowering));
    assert!(points(&e).contains(&5), "{:?}", e.story);
}

#[test]
fn code_that_nothing_leads_to_is_named_by_its_place() {
    let e = explained(&[i(0xb7, 0, 0, 0, 0), EXIT, EXIT], &[]);
    assert_eq!((e.rule.id.to_string().as_str(), e.at.insn), ("EB0104", 2));
    assert!(e.story.is_empty());
}

#[test]
fn registers_are_found_in_messages() {
    assert_eq!(subject("invalid access to packet, off=13 size=1, R2(id=0,off=13,r=0)"), Some(2));
    assert_eq!(subject("Possibly NULL pointer passed to helper arg2"), Some(2));
    assert_eq!(subject("arg#0 expected pointer to ctx, but got fp"), Some(1));
    assert_eq!(subject("R99 is invalid"), None);
    assert_eq!(subject("unreachable insn 2"), None);
}
