//! Packets: well-formed ones of many kinds, then mostly left alone, sometimes damaged, sometimes garbage.

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder,
    PacketBuilderStep, TcpHeader,
};

use super::Rng;

/// Addresses, ports and networks that packets and maps have in common.
pub(super) const PORTS: &[u16] = &[22, 23, 53, 80, 123, 443, 8080, 20000, 1024, 65535];
pub(super) const VIDS: &[u16] = &[1, 10, 100, 4094];

/// An address of one of a few small networks, rarely any other.
pub(super) fn ipv4(rng: &mut Rng) -> [u8; 4] {
    let host = rng.below(6) as u8 + 1;
    match rng.below(12) {
        0..=4 => [10, 0, 0, host],
        5..=7 => [192, 0, 2, host],
        8 | 9 => [198, 51, 100, host],
        10 => rng.pick(&[[224, 0, 0, 251], [255; 4], [127, 0, 0, 1], [0; 4]]),
        _ => rng.u32().to_be_bytes(),
    }
}

/// As [`ipv4`], for IPv6.
pub(super) fn ipv6(rng: &mut Rng) -> [u8; 16] {
    let mut address = match rng.below(10) {
        0..=4 => [0xfd; 16],
        5..=7 => [0x20; 16],
        8 => rng.pick(&[[0xff; 16], [0; 16], [0xfe; 16]]),
        _ => return rng.bytes(16).try_into().expect("16 bytes"),
    };
    address[2..15].fill(0);
    address[15] = rng.below(6) as u8 + 1;
    address
}

/// A packet, at least an Ethernet header long but for one in a few hundred, and at most a few thousand
/// bytes.
pub fn packet(rng: &mut Rng) -> Vec<u8> {
    let mut data = match rng.below(20) {
        0 => garbage(rng),
        1 => arp(rng),
        _ => ip_packet(rng),
    };
    if rng.one_in(6) {
        damage(rng, &mut data);
    }
    if data.len() < 60 && !rng.one_in(3) {
        data.resize(60, 0);
    }
    if data.len() < 14 && !rng.one_in(8) {
        data.resize(14, 0);
    }
    data
}

fn garbage(rng: &mut Rng) -> Vec<u8> {
    let len = rng.index(200);
    let mut data = rng.bytes(len);
    if rng.one_in(2) && data.len() >= 14 {
        data[12..14].copy_from_slice(&rng.pick(&[0x0800_u16, 0x86dd, 0x8100, 0x88a8, 0x0806]).to_be_bytes());
    }
    data
}

fn arp(rng: &mut Rng) -> Vec<u8> {
    let mut data = ethernet(rng).to_vec();
    data.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, rng.below(3) as u8]);
    data.extend(mac(rng).into_iter().chain(ipv4(rng)).chain(mac(rng)).chain(ipv4(rng)));
    data
}

fn mac(rng: &mut Rng) -> [u8; 6] {
    match rng.below(8) {
        0 => [0xff; 6],
        1 => [0x01, 0, 0x5e, 0, 0, 1],
        _ => [2, 0, 0, 0, 0, rng.below(4) as u8],
    }
}

fn ethernet(rng: &mut Rng) -> [u8; 12] {
    let mut addresses = [0; 12];
    addresses[..6].copy_from_slice(&mac(rng));
    addresses[6..].copy_from_slice(&mac(rng));
    addresses
}

/// An IP packet, sometimes in VLANs, sometimes in a tunnel.
fn ip_packet(rng: &mut Rng) -> Vec<u8> {
    let mut data = ethernet(rng).to_vec();
    if rng.one_in(5) {
        for _ in 0..=rng.below(3) {
            let tag = rng.pick(VIDS) | (rng.below(16) as u16) << 12;
            data.extend(rng.pick(&[0x8100_u16, 0x8100, 0x88a8]).to_be_bytes());
            data.extend(tag.to_be_bytes());
        }
    }
    let mut inner = transport(rng);
    if rng.one_in(6) {
        inner = tunnel(rng, inner);
    }
    let is_v6 = inner.first().is_some_and(|b| b >> 4 == 6);
    data.extend(if is_v6 { 0x86dd_u16 } else { 0x0800 }.to_be_bytes());
    data.extend(inner);
    data
}

/// A packet within IPIP, 6in4, IPv6 tunnels or GRE.
fn tunnel(rng: &mut Rng, inner: Vec<u8>) -> Vec<u8> {
    let inner_is_v6 = inner.first().is_some_and(|b| b >> 4 == 6);
    let (protocol, payload) = if rng.one_in(2) {
        (if inner_is_v6 { IpNumber(41) } else { IpNumber::IPV4 }, inner)
    } else {
        let flags: u16 = rng.pick(&[0, 0, 0x2000, 0x8000, 0x0001]);
        let mut gre = flags.to_be_bytes().to_vec();
        gre.extend(if inner_is_v6 { 0x86dd_u16 } else { 0x0800 }.to_be_bytes());
        let options = (flags & 0xb000).count_ones() as usize * 4;
        gre.extend(rng.bytes(options));
        gre.extend(inner);
        (IpNumber::GRE, gre)
    };
    let mut data = Vec::new();
    if rng.one_in(3) {
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: payload.len() as u16,
            next_header: protocol,
            hop_limit: 64,
            source: ipv6(rng),
            destination: ipv6(rng),
        };
        data.extend(header.to_bytes());
    } else {
        let mut header =
            Ipv4Header::new(payload.len() as u16, 64, protocol, ipv4(rng), ipv4(rng)).expect("it is short");
        header.header_checksum = header.calc_header_checksum();
        data.extend(header.to_bytes());
    }
    data.extend(payload);
    data
}

/// An IP packet with what is in it, without link header.
fn transport(rng: &mut Rng) -> Vec<u8> {
    let ttl = rng.pick(&[64, 64, 255, 1, 0, 2]);
    let payload_len = match rng.below(12) {
        0..=5 => rng.index(64),
        6..=9 => rng.index(600),
        10 => rng.index(1473),
        _ => rng.index(9000),
    };
    let payload = rng.bytes(payload_len);
    // The builder wants a link header first; it is cut off again.
    let step = PacketBuilder::ethernet2([0; 6], [0; 6]);
    let (step, is_v6) = if rng.one_in(3) {
        (step.ipv6(ipv6(rng), ipv6(rng), ttl), true)
    } else {
        let (source, destination) = (ipv4(rng), ipv4(rng));
        let mut header = Ipv4Header::new(0, ttl, IpNumber::UDP, source, destination).expect("it is short");
        header.identification = rng.u32() as u16;
        header.dont_fragment = rng.one_in(2);
        if rng.one_in(12) {
            header.more_fragments = rng.one_in(2);
            header.fragment_offset = (rng.below(200) as u16).try_into().expect("13 bits");
        }
        if rng.one_in(10) {
            let options = [[1; 4], [1; 4], [7, 7, 4, 0]].concat();
            header.options = options[..4 * (rng.index(3) + 1)].try_into().expect("a multiple of 4");
        }
        (step.ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())), false)
    };
    let mut data = Vec::new();
    let written = finish(rng, step, is_v6, &mut data, &payload);
    debug_assert!(written, "the parts fit each other");
    data.split_off(14.min(data.len()))
}

fn finish(
    rng: &mut Rng,
    step: PacketBuilderStep<etherparse::IpHeaders>,
    is_v6: bool,
    data: &mut Vec<u8>,
    payload: &[u8],
) -> bool {
    let (source, destination) = (rng.pick(PORTS), rng.pick(PORTS));
    match rng.below(10) {
        0..=3 => step.udp(source, destination).write(data, payload).is_ok(),
        4..=7 => {
            let mut tcp = TcpHeader::new(source, destination, rng.u32(), rng.pick(&[512, 0, 65535]));
            (tcp.syn, tcp.ack) = (rng.one_in(2), rng.one_in(2));
            (tcp.fin, tcp.rst, tcp.psh) = (rng.one_in(8), rng.one_in(8), rng.one_in(2));
            tcp.acknowledgment_number = rng.u32();
            if rng.one_in(2) {
                let options = [2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 0, 0];
                let _ = tcp.set_options_raw(&options[..4 * (rng.index(3) + 1)]);
            }
            step.tcp_header(tcp).write(data, payload).is_ok()
        }
        8 if is_v6 => {
            let kind = Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: rng.u32() as u16 });
            step.icmpv6(kind).write(data, payload).is_ok()
        }
        8 => {
            let kind = Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: rng.u32() as u16 });
            step.icmpv4(kind).write(data, payload).is_ok()
        }
        _ => {
            let protocol: u8 = rng.pick(&[132, 50, 58, 1, 2, 89, 255, 0, 43, 44, 60]);
            if !is_v6 {
                return step.write(data, IpNumber(protocol), payload).is_ok();
            }
            // The builder has its own mind about numbers of extension headers.
            let written = step.write(data, IpNumber(59), payload).is_ok();
            data[14 + 6] = protocol;
            written
        }
    }
}

/// Cuts, grows or changes a packet.
fn damage(rng: &mut Rng, data: &mut Vec<u8>) {
    match rng.below(5) {
        0 => data.truncate(rng.index(data.len() + 1)),
        1 => {
            let more = rng.index(64);
            data.extend(rng.bytes(more));
        }
        2 if !data.is_empty() => {
            // Headers are where it matters.
            for _ in 0..=rng.below(4) {
                let at = rng.index(data.len().min(60));
                data[at] = rng.u64() as u8;
            }
        }
        3 if !data.is_empty() => {
            let at = rng.index(data.len());
            data[at] ^= 1 << rng.below(8);
        }
        _ => {
            let at = rng.index(data.len() + 1);
            data.splice(at..at, rng.bytes(4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_packets_of_every_kind() {
        let all = |seed| {
            let mut rng = Rng::new(seed);
            (0..2000).map(|_| packet(&mut rng)).collect::<Vec<_>>()
        };
        let packets = all(1);
        assert_eq!(packets, all(1));
        assert_ne!(packets, all(2));
        let with = |f: &dyn Fn(&[u8]) -> bool| packets.iter().filter(|p| f(p)).count();
        assert!(with(&|p| p.len() > 34 && p[12..14] == [8, 0] && p[23] == 17) > 100, "UDP over IPv4");
        assert!(with(&|p| p.len() > 54 && p[12..14] == [0x86, 0xdd] && p[20] == 6) > 50, "TCP over IPv6");
        assert!(with(&|p| p.len() > 14 && p[12..14] == [0x81, 0]) > 50, "VLAN");
        assert!(with(&|p| p.len() > 3520) > 20, "more than a linear page holds");
        assert!(with(&|p| p.len() < 14) < 20, "nearly all can be run");
    }
}
