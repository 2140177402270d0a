//! SYN cookies: the kernel's construction, keyed with the host's secrets.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;
use uapi::Errno;
use uapi::bpf::func;

use super::sock::{SocketHandle, handle};
use super::{Args, Reply, errno, scripted};
use crate::host::{HZ, Secret, tcp_state};
use crate::vm::{Fault, Run};

/// Bits of a cookie below the minute that it was made in.
const COOKIE_BITS: u32 = 24;
const COOKIE_MASK: u32 = (1 << COOKIE_BITS) - 1;
/// How long a minute's count lasts, ticks.
const PERIOD: u64 = 60 * HZ;
/// A cookie is good in the minute that it was made in and the next.
const MAX_AGE: u32 = 2;

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;

/// Segment sizes that a cookie can carry.
const MSS4: [u16; 4] = [536, 1300, 1440, 1460];
const MSS6: [u16; 4] = [1220, 1420, 1440, 8940];
/// Segment size of a connection request that names none.
const MSS4_DEFAULT: u16 = 536;
const MSS6_DEFAULT: u16 = 1220;
/// Segment size that a listener takes for a request that names none.
const MSS4_CLAMP: u16 = 536;

/// SipHash-2-4, the kernel's keyed hash.
///
/// Kernel: `lib/siphash.c siphash, v6.18`
pub(super) fn keyed(key: [u64; 2], bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(key[0], key[1]);
    hasher.write(bytes);
    hasher.finish()
}

/// Kernel: `net/core/filter.c bpf_tcp_raw_gen_syncookie_ipv4, v6.18`
pub(super) fn tcp_raw_gen_syncookie_ipv4(run: &mut Run<'_, '_>, [iph, th, th_len, ..]: Args) -> Reply {
    scripted(run, func::TCP_RAW_GEN_SYNCOOKIE_IPV4, |run| {
        let (flow, th) = (ipv4_flow(run, iph)?, Tcp::read(run, th, th_len)?);
        let Some(th) = th.filter(Tcp::is_whole) else { return errno(Errno::EINVAL) };
        let mss = th.mss_option().unwrap_or(MSS4_DEFAULT);
        Ok(Jar::new(run, flow).generate(&th, mss))
    })
}

/// Kernel: `net/core/filter.c bpf_tcp_raw_gen_syncookie_ipv6, v6.18`
pub(super) fn tcp_raw_gen_syncookie_ipv6(run: &mut Run<'_, '_>, [iph, th, th_len, ..]: Args) -> Reply {
    scripted(run, func::TCP_RAW_GEN_SYNCOOKIE_IPV6, |run| {
        let (flow, th) = (ipv6_flow(run, iph)?, Tcp::read(run, th, th_len)?);
        let Some(th) = th.filter(Tcp::is_whole) else { return errno(Errno::EINVAL) };
        let mss = th.mss_option().unwrap_or(MSS6_DEFAULT);
        Ok(Jar::new(run, flow).generate(&th, mss))
    })
}

/// Kernel: `net/core/filter.c bpf_tcp_raw_check_syncookie_ipv4, v6.18`
pub(super) fn tcp_raw_check_syncookie_ipv4(run: &mut Run<'_, '_>, [iph, th, ..]: Args) -> Reply {
    scripted(run, func::TCP_RAW_CHECK_SYNCOOKIE_IPV4, |run| {
        let flow = ipv4_flow(run, iph)?;
        raw_check(run, flow, th)
    })
}

/// Kernel: `net/core/filter.c bpf_tcp_raw_check_syncookie_ipv6, v6.18`
pub(super) fn tcp_raw_check_syncookie_ipv6(run: &mut Run<'_, '_>, [iph, th, ..]: Args) -> Reply {
    scripted(run, func::TCP_RAW_CHECK_SYNCOOKIE_IPV6, |run| {
        let flow = ipv6_flow(run, iph)?;
        raw_check(run, flow, th)
    })
}

fn raw_check(run: &mut Run<'_, '_>, flow: Flow, th: u64) -> Reply {
    let th = Tcp { header: run.read(th, TCP_LEN as u64)?.to_vec() };
    match Jar::new(run, flow).check(&th) {
        Some(_) => Ok(0),
        None => errno(Errno::EACCES),
    }
}

/// Whether the acknowledgement that a listener got carries a cookie of its.
///
/// Kernel: `net/core/filter.c bpf_tcp_check_syncookie, v6.18`
pub(super) fn tcp_check_syncookie(run: &mut Run<'_, '_>, args: Args) -> Reply {
    scripted(run, func::TCP_CHECK_SYNCOOKIE, |run| Ok(check(run, args)?.map_or_else(Errno::as_ret, |()| 0)))
}

fn check(run: &mut Run<'_, '_>, [sk, iph, iph_len, th, th_len]: Args) -> Result<Result<(), Errno>, Fault> {
    let Some(th) = Tcp::read(run, th, th_len)? else { return Ok(Err(Errno::EINVAL)) };
    let sk = handle(run, sk)?;
    if !sk.is_listener() {
        return Ok(Err(Errno::EINVAL));
    }
    let policy = run.host.syncookie_policy(sk.id);
    if !policy.enabled {
        return Ok(Err(Errno::EINVAL));
    }
    if !th.has(ACK) || th.has(RST) || th.has(SYN) {
        return Ok(Err(Errno::ENOENT));
    }
    if (iph_len as u32 as usize) < IPV4_LEN {
        return Ok(Err(Errno::EINVAL));
    }
    if !policy.recent_overflow {
        return Ok(Err(Errno::ENOENT));
    }
    let flow = match flow_of(run, &sk, iph, iph_len)? {
        Ok(flow) => flow,
        Err(e) => return Ok(Err(e)),
    };
    Ok(Jar::new(run, flow).check(&th).map(|_| ()).ok_or(Errno::ENOENT))
}

/// The cookie that a listener answers a connection request with: cookie, and segment size from bit 32.
///
/// Kernel: `net/core/filter.c bpf_tcp_gen_syncookie, v6.18`
pub(super) fn tcp_gen_syncookie(run: &mut Run<'_, '_>, args: Args) -> Reply {
    scripted(run, func::TCP_GEN_SYNCOOKIE, |run| Ok(generate(run, args)?.unwrap_or_else(Errno::as_ret)))
}

fn generate(
    run: &mut Run<'_, '_>,
    [sk, iph, iph_len, th, th_len]: Args,
) -> Result<Result<u64, Errno>, Fault> {
    let Some(th) = Tcp::read(run, th, th_len)?.filter(Tcp::is_whole) else { return Ok(Err(Errno::EINVAL)) };
    let sk = handle(run, sk)?;
    if !sk.is_listener() {
        return Ok(Err(Errno::EINVAL));
    }
    let policy = run.host.syncookie_policy(sk.id);
    if !policy.enabled {
        return Ok(Err(Errno::ENOENT));
    }
    if !th.has(SYN) || th.has(ACK) || th.has(FIN) || th.has(RST) {
        return Ok(Err(Errno::EINVAL));
    }
    if (iph_len as u32 as usize) < IPV4_LEN {
        return Ok(Err(Errno::EINVAL));
    }
    let flow = match flow_of(run, &sk, iph, iph_len)? {
        Ok(flow) => flow,
        Err(e) => return Ok(Err(e)),
    };
    if !policy.generate {
        return Ok(Err(Errno::ENOENT));
    }
    let clamp = if flow.is_ipv6 { MSS6_DEFAULT } else { MSS4_CLAMP };
    let cookie = Jar::new(run, flow).generate(&th, th.mss_option().unwrap_or(clamp));
    run.host.syncookie_sent(sk.id);
    Ok(Ok(cookie))
}

impl SocketHandle {
    fn is_listener(&self) -> bool {
        self.is_tcp && self.state == u32::from(tcp_state::LISTEN)
    }
}

/// The flow of a packet that has come in at a listener; the error if the listener does not take it.
fn flow_of(
    run: &Run<'_, '_>,
    sk: &SocketHandle,
    iph: u64,
    iph_len: u64,
) -> Result<Result<Flow, Errno>, Fault> {
    let is_ipv6_socket = sk.family == super::fib::AF_INET6;
    let version = run.read(iph, IPV4_LEN as u64)?.read_u8(0) >> 4;
    Ok(match version {
        4 if is_ipv6_socket && sk.ipv6_only => Err(Errno::EINVAL),
        4 => Ok(ipv4_flow(run, iph)?),
        6 if (iph_len as u32 as usize) < IPV6_LEN || !is_ipv6_socket => Err(Errno::EINVAL),
        6 => Ok(ipv6_flow(run, iph)?),
        _ => Err(Errno::EPROTONOSUPPORT),
    })
}

/// Addresses of a packet, source first, in network order.
struct Flow {
    addresses: Vec<u8>,
    is_ipv6: bool,
}

fn ipv4_flow(run: &Run<'_, '_>, iph: u64) -> Result<Flow, Fault> {
    let mut addresses = vec![0; 8];
    run.read(iph, IPV4_LEN as u64)?.copy_to(12, &mut addresses);
    Ok(Flow { addresses, is_ipv6: false })
}

fn ipv6_flow(run: &Run<'_, '_>, iph: u64) -> Result<Flow, Fault> {
    let mut addresses = vec![0; 32];
    run.read(iph, IPV6_LEN as u64)?.copy_to(8, &mut addresses);
    Ok(Flow { addresses, is_ipv6: true })
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A TCP header with its options.
struct Tcp {
    header: Vec<u8>,
}

impl Tcp {
    /// `None` if it is too short.
    fn read(run: &Run<'_, '_>, th: u64, len: u64) -> Result<Option<Self>, Fault> {
        let header = run.read(th, u64::from(len as u32))?.to_vec();
        Ok((header.len() >= TCP_LEN).then_some(Self { header }))
    }

    /// Whether the length is what the header says.
    fn is_whole(&self) -> bool {
        self.header.len() == usize::from(self.header[12] >> 4) * 4
    }

    fn has(&self, flag: u8) -> bool {
        self.header[13] & flag != 0
    }

    fn ports(&self) -> [u8; 4] {
        [self.header[0], self.header[1], self.header[2], self.header[3]]
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.header[at], self.header[at + 1], self.header[at + 2], self.header[at + 3]])
    }

    /// The last segment size that the options name before anything malformed.
    ///
    /// Kernel: `net/ipv4/tcp_input.c tcp_parse_mss_option, v6.18`
    fn mss_option(&self) -> Option<u16> {
        let mut options = &self.header[TCP_LEN..];
        let mut mss = None;
        while let [kind, rest @ ..] = options {
            let len = match (kind, rest) {
                (0, _) => break,
                (1, _) => 1,
                (_, [len, ..]) if (2..=options.len()).contains(&usize::from(*len)) => usize::from(*len),
                _ => break,
            };
            if let [2, 4, high, low, ..] = options {
                mss = Some(u16::from_be_bytes([*high, *low])).filter(|mss| *mss != 0).or(mss);
            }
            options = &options[len..];
        }
        mss
    }
}

/// Cookies of one flow at one time.
struct Jar {
    flow: Flow,
    keys: [[u64; 2]; 2],
    minute: u32,
}

impl Jar {
    fn new(run: &mut Run<'_, '_>, flow: Flow) -> Self {
        let keys = match flow.is_ipv6 {
            false => [Secret::SynCookie4, Secret::SynCookie4Timed],
            true => [Secret::SynCookie6, Secret::SynCookie6Timed],
        };
        let minute = (run.host.jiffies64() / PERIOD) as u32;
        Self { flow, keys: keys.map(|which| run.host.secret(which)), minute }
    }

    /// Kernel: `net/ipv4/syncookies.c, net/ipv6/syncookies.c cookie_hash, v6.18`
    fn hash(&self, th: &Tcp, count: u32, key: usize) -> u32 {
        let [s0, s1, d0, d1] = th.ports();
        let mut bytes = self.flow.addresses.clone();
        if self.flow.is_ipv6 {
            bytes.extend(count.to_le_bytes());
            bytes.extend([s0, s1, d0, d1]);
        } else {
            // Both ports as one number, the source in the upper half.
            bytes.extend([d0, d1, s0, s1]);
            bytes.extend(count.to_le_bytes());
        }
        keyed(self.keys[key], &bytes) as u32
    }

    fn sizes(&self) -> [u16; 4] {
        if self.flow.is_ipv6 { MSS6 } else { MSS4 }
    }

    /// The cookie, and from bit 32 the segment size that it carries.
    ///
    /// Kernel: `net/ipv4/syncookies.c __cookie_v4_init_sequence, v6.18`
    fn generate(&self, th: &Tcp, mss: u16) -> u64 {
        let index = self.sizes().iter().rposition(|size| mss >= *size).unwrap_or(0);
        let timed = self.hash(th, self.minute, 1).wrapping_add(index as u32) & COOKIE_MASK;
        let cookie = self
            .hash(th, 0, 0)
            .wrapping_add(th.number(4))
            .wrapping_add(self.minute << COOKIE_BITS)
            .wrapping_add(timed);
        u64::from(cookie) | u64::from(self.sizes()[index]) << 32
    }

    /// The segment size of a good cookie.
    ///
    /// Kernel: `net/ipv4/syncookies.c __cookie_v4_check, v6.18`
    fn check(&self, th: &Tcp) -> Option<u16> {
        let cookie = th.number(8).wrapping_sub(1);
        let cookie = cookie.wrapping_sub(self.hash(th, 0, 0).wrapping_add(th.number(4).wrapping_sub(1)));
        let age = self.minute.wrapping_sub(cookie >> COOKIE_BITS) & (u32::MAX >> COOKIE_BITS);
        if age >= MAX_AGE {
            return None;
        }
        let index = cookie.wrapping_sub(self.hash(th, self.minute.wrapping_sub(age), 1)) & COOKIE_MASK;
        self.sizes().get(index as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(flags: u8, seq: u32, ack: u32, options: &[u8]) -> Tcp {
        let mut header = vec![0x12, 0x34, 0, 80];
        header.extend(seq.to_be_bytes());
        header.extend(ack.to_be_bytes());
        header.extend([((TCP_LEN + options.len()) as u8 / 4) << 4, flags, 0, 0, 0, 0, 0, 0]);
        header.extend(options);
        Tcp { header }
    }

    fn jar(is_ipv6: bool, minute: u32) -> Jar {
        let addresses = vec![10; if is_ipv6 { 32 } else { 8 }];
        Jar { flow: Flow { addresses, is_ipv6 }, keys: [[1, 2], [3, 4]], minute }
    }

    #[test]
    fn the_hash_is_siphash_2_4() {
        // The last line of the reference implementation's vectors that is 8 bytes long.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(keyed(key, &[0, 1, 2, 3, 4, 5, 6, 7]), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn a_cookie_comes_back_within_two_minutes_and_carries_the_size() {
        for (is_ipv6, mss, carried) in
            [(false, 1400, 1300), (false, 1, 536), (true, 1440, 1440), (true, 9000, 8940)]
        {
            let cookie = jar(is_ipv6, 100).generate(&tcp(SYN, 7, 0, &[]), mss);
            assert_eq!(cookie >> 32, u64::from(carried));
            let ack = tcp(ACK, 8, (cookie as u32).wrapping_add(1), &[]);
            assert_eq!(jar(is_ipv6, 100).check(&ack), Some(carried));
            assert_eq!(jar(is_ipv6, 101).check(&ack), Some(carried));
            assert_eq!(jar(is_ipv6, 102).check(&ack), None);
            assert_eq!(jar(is_ipv6, 99).check(&ack), None);
            assert_eq!(jar(is_ipv6, 100).check(&tcp(ACK, 8, (cookie as u32).wrapping_add(9), &[])), None);
        }
    }

    #[test]
    fn options_are_read_up_to_the_first_malformed_one() {
        let mss = |options: &[u8]| tcp(SYN, 0, 0, options).mss_option();
        assert_eq!(mss(&[2, 4, 5, 0xb4]), Some(1460));
        assert_eq!(mss(&[1, 1, 1, 1, 2, 4, 5, 0xb4]), Some(1460));
        assert_eq!(mss(&[2, 4, 5, 0xb4, 2, 4, 2, 0]), Some(512), "the last counts");
        assert_eq!(mss(&[2, 4, 5, 0xb4, 2, 4, 0, 0]), Some(1460), "0 is none");
        assert_eq!(mss(&[0, 0, 0, 0, 2, 4, 5, 0xb4]), None);
        assert_eq!(mss(&[3, 1, 0, 0, 2, 4, 5, 0xb4]), None);
        assert_eq!(mss(&[3, 9, 0, 0, 2, 4, 5, 0xb4]), None);
        assert_eq!(mss(&[2, 4, 5, 0xb4, 3, 0, 0, 0]), Some(1460));
        assert_eq!(mss(&[1, 1, 1, 2]), None);
    }
}
