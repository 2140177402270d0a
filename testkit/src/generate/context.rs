//! Contexts of `BPF_PROG_TEST_RUN`, good and bad.

use uapi::xdp::XdpMd;

use super::Rng;

/// A context for a packet, and the bytes of metadata that must stand before the packet for it. `ifindexes`
/// are devices that exist.
pub fn context(rng: &mut Rng, packet_len: usize, ifindexes: &[u32]) -> (Option<XdpMd>, Vec<u8>) {
    if rng.one_in(2) {
        return (None, Vec::new());
    }
    let meta_len = match rng.below(8) {
        0..=3 => 0,
        4..=6 => 4 * rng.index(17),
        // Too long, or not a multiple of 4.
        _ => rng.index(300),
    };
    let meta = rng.bytes(meta_len);
    let all = (meta_len + packet_len) as u64;
    let mut ctx = XdpMd { data: meta_len as u32, data_end: all as u32, ..XdpMd::default() };
    if rng.one_in(4) {
        // The linear part ends early; the rest becomes fragments.
        ctx.data_end = rng.range(meta_len as i64, all as i64) as u32;
    }
    if rng.one_in(3) && !ifindexes.is_empty() {
        ctx.ingress_ifindex = rng.pick(ifindexes);
    }
    if rng.one_in(60) {
        spoil(rng, &mut ctx);
    }
    (Some(ctx), meta)
}

/// Makes a context that is refused, or nearly so.
fn spoil(rng: &mut Rng, ctx: &mut XdpMd) {
    match rng.below(7) {
        0 => ctx.data_meta = rng.below(8) as u32,
        1 => ctx.egress_ifindex = rng.below(3) as u32,
        2 => ctx.rx_queue_index = rng.below(3) as u32,
        3 => ctx.data_end = ctx.data_end.wrapping_add(rng.range(-2, 2) as u32),
        4 => ctx.ingress_ifindex = rng.u32() >> 1,
        5 => ctx.data = ctx.data.wrapping_add(rng.range(-5, 5) as u32),
        _ => ctx.data_end = rng.u32(),
    }
}
