//! IPsec states: `bpf_xdp_get_xfrm_state`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mem::SharedSlice;
use uapi::Errno;

use crate::helpers::{Args, Reply};
use crate::host::{XfrmQuery, XfrmState};
use crate::vm::{RegionKind, Run};

const STATE: RegionKind = RegionKind::Object("xfrm_state");

/// Offsets and size of `struct bpf_xfrm_state_opts`.
const ERROR: usize = 0;
const NETNS: usize = 4;
const MARK: usize = 8;
const DADDR: usize = 12;
const SPI: usize = 28;
const PROTO: usize = 32;
const FAMILY: usize = 34;
const OPTS_SIZE: u32 = 36;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Finds a state by destination, index and protocol.
///
/// Kernel: `net/xfrm/xfrm_state_bpf.c bpf_xdp_get_xfrm_state, v6.18`
pub(super) fn get_state(run: &mut Run<'_, '_>, [ctx, opts, opts_len, ..]: Args) -> Reply {
    run.check_ctx(ctx)?;
    let len = opts_len as u32;
    let bytes = run.write(opts, len.into())?;
    if len < 4 {
        return Ok(0);
    }
    let asked = if len == OPTS_SIZE { query(bytes) } else { Err(Errno::EINVAL) };
    let found = match asked {
        Ok(Some(query)) => run.host.xfrm_state(&query),
        Ok(None) => Ok(None),
        Err(e) => Err(e),
    };
    match found.and_then(|state| state.ok_or(Errno::ENOENT)) {
        Ok(state) => {
            let addr = run.memory.own(STATE, &image(&state), false)?;
            run.acquire(addr, STATE);
            Ok(addr)
        }
        Err(e) => {
            run.write(opts, len.into())?.write_u32(ERROR, e.as_ret() as u32);
            Ok(0)
        }
    }
}

/// Gives a state back.
///
/// Kernel: `net/xfrm/xfrm_state_bpf.c bpf_xdp_xfrm_state_release, v6.18`
pub(super) fn release(run: &mut Run<'_, '_>, [state, ..]: Args) -> Reply {
    run.release(state)?;
    run.memory.retire(state);
    Ok(0)
}

/// What is asked for; `None` for a family that has no states.
fn query(opts: SharedSlice<'_>) -> Result<Option<XfrmQuery>, Errno> {
    let netns = opts.read_u32(NETNS) as i32;
    if netns < -1 {
        return Err(Errno::EINVAL);
    }
    let mut ip = [0; 16];
    opts.copy_to(DADDR, &mut ip);
    let [a, b, c, d, ..] = ip;
    let daddr: IpAddr = match opts.read_u16(FAMILY) {
        AF_INET => Ipv4Addr::new(a, b, c, d).into(),
        AF_INET6 => Ipv6Addr::from(ip).into(),
        _ => return Ok(None),
    };
    Ok(Some(XfrmQuery {
        netns: u32::try_from(netns).ok(),
        mark: opts.read_u32(MARK),
        daddr,
        spi: u32::from_be(opts.read_u32(SPI)),
        protocol: opts.read_u8(PROTO),
    }))
}

/// `sizeof(struct xfrm_state)` of the kernel that is the reference, and offsets of what programs read there.
pub(super) const SIZE: usize = 816;
const OFF_ID: usize = 116;
const OFF_MARK: usize = 196;
const OFF_IF_ID: usize = 204;
const OFF_KM_STATE: usize = 232;
const OFF_PROPS: usize = 248;
const OFF_REPLAY: usize = 468;
/// `XFRM_STATE_VALID`.
const VALID: u8 = 1;

/// The state as `struct xfrm_state`.
fn image(state: &XfrmState) -> [u8; SIZE] {
    let mut image = [0; SIZE];
    let mut put = |offset: usize, bytes: &[u8]| image[offset..][..bytes.len()].copy_from_slice(bytes);
    for (offset, ip) in [(OFF_ID, state.daddr), (OFF_PROPS + 12, state.saddr)] {
        match ip {
            IpAddr::V4(ip) => put(offset, &ip.octets()),
            IpAddr::V6(ip) => put(offset, &ip.octets()),
        }
    }
    put(OFF_ID + 16, &state.spi.to_be_bytes());
    put(OFF_ID + 20, &[state.protocol]);
    put(OFF_MARK, &state.mark.to_le_bytes());
    put(OFF_MARK + 4, &state.mark_mask.to_le_bytes());
    put(OFF_IF_ID, &state.if_id.to_le_bytes());
    put(OFF_KM_STATE, &[VALID]);
    put(OFF_PROPS, &state.reqid.to_le_bytes());
    put(OFF_PROPS + 4, &[state.mode, state.replay_window]);
    put(OFF_PROPS + 10, &if state.daddr.is_ipv4() { AF_INET } else { AF_INET6 }.to_le_bytes());
    for (i, number) in [state.oseq, state.seq, state.bitmap].into_iter().enumerate() {
        put(OFF_REPLAY + 4 * i, &number.to_le_bytes());
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helpers::tests::world::{World, give, kcall, with_run};

    #[test]
    fn a_state_is_found_and_given_back() {
        let state = XfrmState {
            netns: None,
            daddr: [10, 0, 0, 2].into(),
            saddr: [10, 0, 0, 1].into(),
            spi: 0x1234,
            protocol: 50,
            mark: 5,
            mark_mask: 0xff,
            if_id: 3,
            reqid: 7,
            mode: 1,
            replay_window: 32,
            oseq: 1,
            seq: 2,
            bitmap: 3,
        };
        with_run(64, World { xfrm: Some(state), ..World::default() }, |run| {
            let mut bytes = [0; 36];
            bytes[4..8].fill(0xff);
            bytes[12..16].copy_from_slice(&[10, 0, 0, 2]);
            bytes[28..32].copy_from_slice(&[0, 0, 0x12, 0x34]);
            (bytes[8], bytes[32], bytes[34]) = (5, 50, 2);
            let (ctx, opts) = (run.memory.ctx(), give(run, &bytes));
            let found = kcall(run, "bpf_xdp_get_xfrm_state", [ctx, opts, 36, 0, 0]);
            let seen = run.read(found, 816).unwrap();
            assert_eq!((seen.read_u32(116), seen.read_u32(260)), (0x0200_000a, 0x0100_000a));
            assert_eq!((seen.read_u32(132), seen.read_u8(136)), (0x3412_0000, 50));
            assert_eq!((seen.read_u32(248), seen.read_u16(258), seen.read_u32(204)), (7, 2, 3));
            kcall(run, "bpf_xdp_xfrm_state_release", [found, 0, 0, 0, 0]);
            assert!(run.read(found, 1).is_err());
            for (at, value, len, error) in [
                (28, 1, 36, Errno::ENOENT),
                (34, 3, 36, Errno::ENOENT),
                (4, 0xfe, 36, Errno::EINVAL),
                (4, 0xff, 35, Errno::EINVAL),
            ] {
                let mut wrong = bytes;
                wrong[at] = value;
                let opts = give(run, &wrong);
                assert_eq!(kcall(run, "bpf_xdp_get_xfrm_state", [ctx, opts, len, 0, 0]), 0);
                assert_eq!(run.read(opts, 4).unwrap().read_u32(0) as i32, error.as_ret() as i32);
            }
        });
    }
}
