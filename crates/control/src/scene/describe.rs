//! A packet's headers as a line, in the words that [`super::parse_packet`] reads.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// VLAN tags that are looked into.
const TAGS_MAX: usize = 4;

/// The headers of an Ethernet frame as far as they are known, then `len N`: the layers that
/// [`super::parse_packet`] has, and `hex BYTES` for what is something else. Payload is not told.
#[must_use]
pub fn describe(frame: &[u8]) -> String {
    let mut line = String::new();
    if ethernet(frame, &mut line).is_none() {
        line = format!("hex {}", super::run::hex(&frame[..frame.len().min(14)]));
    }
    let _ = write!(line, ", len {}", frame.len());
    line
}

fn ethernet(frame: &[u8], line: &mut String) -> Option<()> {
    let (dst, src) = (frame.get(..6)?, frame.get(6..12)?);
    let _ = write!(line, "eth {} > {}", mac(src), mac(dst));
    let mut at = 12;
    for _ in 0..=TAGS_MAX {
        let ethertype = word(frame, at)?;
        match ethertype {
            0x8100 | 0x88a8 => {
                let Some(tag) = word(frame, at + 2) else { break };
                let _ = write!(line, ", vlan {}", tag & 0xfff);
                at += 4;
                continue;
            }
            0x0800 => ipv4(frame.get(at + 2..)?, line),
            0x86dd => ipv6(frame.get(at + 2..)?, line),
            0x0806 => arp(frame.get(at + 2..)?, line),
            other => {
                let _ = write!(line, " type {other:#06x}");
                None
            }
        };
        break;
    }
    Some(())
}

fn ipv4(bytes: &[u8], line: &mut String) -> Option<()> {
    let header = bytes.get(..20)?;
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let _ = write!(line, ", ipv4 {} > {} ttl {}", address(12), address(16), header[8]);
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if fragment > 0 {
        return None;
    }
    let length = usize::from(header[0] & 0xf) * 4;
    transport(header[9], bytes.get(length.max(20)..)?, line)
}

fn ipv6(bytes: &[u8], line: &mut String) -> Option<()> {
    let header = bytes.get(..40)?;
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().unwrap_or_default();
        Ipv6Addr::from(octets)
    };
    let _ = write!(line, ", ipv6 {} > {} ttl {}", address(8), address(24), header[7]);
    transport(header[6], bytes.get(40..)?, line)
}

fn transport(protocol: u8, bytes: &[u8], line: &mut String) -> Option<()> {
    let ports = |bytes: &[u8]| Some((word(bytes, 0)?, word(bytes, 2)?));
    match protocol {
        1 | 58 => {
            let _ = write!(line, ", icmp {}", bytes.first()?);
        }
        6 => {
            let (from, to) = ports(bytes)?;
            let flags = *bytes.get(13)?;
            let letters: String =
                "FSRPAU".char_indices().filter(|(bit, _)| flags & (1 << bit) != 0).map(|(_, c)| c).collect();
            let _ = write!(line, ", tcp {from} > {to} flags {letters}");
        }
        17 => {
            let (from, to) = ports(bytes)?;
            let _ = write!(line, ", udp {from} > {to}");
        }
        other => {
            let _ = write!(line, " (protocol {other})");
        }
    }
    Some(())
}

fn arp(bytes: &[u8], line: &mut String) -> Option<()> {
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
    let what = match word(bytes, 6)? {
        1 => "who-has",
        2 => "reply",
        _ => "other",
    };
    let _ = write!(line, ", arp {what} {} from {}", address(24)?, address(14)?);
    Some(())
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::describe;
    use crate::scene::parse_packet;

    #[test]
    fn a_description_makes_the_same_packet() {
        for line in [
            "eth 02:00:00:00:00:01 > 02:00:00:00:00:02, ipv4 10.0.0.1 > 10.0.0.2 ttl 3, udp 1 > 53, len 60",
            "eth 02:00:00:00:00:01 > 02:00:00:00:00:02, vlan 7, ipv6 fd00::1 > fd00::2 ttl 64, tcp 1 > 80 flags SA, len 90",
            "eth 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff type 0x88b5, len 60",
            "eth 02:00:00:00:00:01 > 02:00:00:00:00:02, ipv4 10.0.0.1 > 10.0.0.2 ttl 64, icmp 8, len 98",
        ] {
            assert_eq!(describe(&parse_packet(line).unwrap()), line);
        }
    }

    #[test]
    fn short_and_strange_packets_are_described_too() {
        assert_eq!(describe(&[1, 2]), "hex 0102, len 2");
        let whole = parse_packet("eth 02::1 > 02::2, ipv6 fd00::1 > fd00::2, tcp 1 > 2, len 100").unwrap();
        for len in 0..whole.len() {
            assert!(describe(&whole[..len]).ends_with(&format!("len {len}")));
        }
    }
}
