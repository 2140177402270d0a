//! A packet as a line: `eth 02::1 > ff::ff, vlan 7, ipv4 10.0.0.1 > 10.0.0.2 ttl 3, udp 1000 > 53, len 60`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest packet that a line can make, bytes.
const LEN_MAX: usize = 1 << 17;
/// Bytes of the Ethernet header.
const ETH: usize = 14;

/// The bytes of a packet that is written as a line.
///
/// Layers follow each other, separated by commas: `eth SRC > DST [type N]`, `vlan ID`, `arp`, `ipv4 SRC > DST
/// [ttl N]`, `ipv6 SRC > DST [ttl N]`, `udp PORT > PORT`, `tcp PORT > PORT [flags SAFRP]`, `icmp TYPE`, `hex
/// BYTES` as they are, and `len N`, which fills up to so many bytes with 0, 1, 2 and so on. Lengths,
/// checksums of IPv4, and the types of what follows are filled in. `hex` alone is a whole packet.
///
/// # Errors
///
/// A sentence about the first part that cannot be read.
pub fn parse(line: &str) -> Result<Vec<u8>, String> {
    let mut packet = Builder::default();
    for layer in line.split(',').map(str::trim).filter(|l| !l.is_empty()) {
        packet.layer(layer).map_err(|e| format!("packet {line:?}: {layer:?}: {e}"))?;
    }
    if packet.bytes.is_empty() {
        return Err("a packet without bytes".to_owned());
    }
    packet.finish();
    Ok(packet.bytes)
}

/// Makes a packet one of another flow: the source port of UDP or TCP goes up by so much, else the last byte of the
/// source address. UDP's checksum is left out then, TCP's is no longer right.
pub(super) fn vary(bytes: &mut [u8], flow: u16) {
    let word = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (protocol, at) = match word(bytes, 12) {
        Some(0x0800) => (bytes.get(23), ETH + usize::from(bytes.get(14).map_or(5, |b| b & 0xf)) * 4),
        Some(0x86dd) => (bytes.get(20), ETH + 40),
        _ => (None, 0),
    };
    match (protocol.copied(), word(bytes, at)) {
        (Some(protocol @ (6 | 17)), Some(port)) => {
            bytes[at..at + 2].copy_from_slice(&port.wrapping_add(flow).to_be_bytes());
            if protocol == 17 && at + 8 <= bytes.len() {
                bytes[at + 6..at + 8].fill(0);
            }
        }
        _ => bytes.get_mut(11).into_iter().for_each(|last| *last = last.wrapping_add(flow as u8)),
    }
}

#[derive(Default)]
struct Builder {
    bytes: Vec<u8>,
    /// Where the type of what follows goes, if there is such a place.
    next_type: Option<NextType>,
    /// Where IP headers and UDP headers start whose lengths are filled in at last.
    ipv4: Vec<usize>,
    ipv6: Vec<usize>,
    udp: Vec<usize>,
}

#[derive(Clone, Copy)]
enum NextType {
    Ether(usize),
    Protocol(usize),
}

impl Builder {
    fn layer(&mut self, layer: &str) -> Result<(), String> {
        let words: Vec<&str> = layer.split_whitespace().collect();
        match words.as_slice() {
            ["eth", src, ">", dst, rest @ ..] => self.eth(mac(src)?, mac(dst)?, option(rest, "type")?),
            ["vlan", id] => self.vlan(number(id)?),
            ["ipv4", src, ">", dst, rest @ ..] => self.ipv4(src, dst, option(rest, "ttl")?),
            ["ipv6", src, ">", dst, rest @ ..] => self.ipv6(src, dst, option(rest, "ttl")?),
            ["udp", src, ">", dst] => self.udp(number(src)?, number(dst)?),
            ["tcp", src, ">", dst, rest @ ..] => self.tcp(number(src)?, number(dst)?, rest),
            ["icmp", kind] => self.icmp(number(kind)?),
            ["hex", digits @ ..] => self.hex(&digits.concat()),
            ["len", len] => self.fill(len),
            _ => Err("is no layer; there are eth, vlan, ipv4, ipv6, udp, tcp, icmp, hex and len".to_owned()),
        }
    }

    fn eth(&mut self, src: [u8; 6], dst: [u8; 6], ethertype: Option<u32>) -> Result<(), String> {
        self.bytes.extend(dst);
        self.bytes.extend(src);
        self.next_type = Some(NextType::Ether(self.bytes.len()));
        let ethertype = u16::try_from(ethertype.unwrap_or(0)).map_err(|_| "a type has 16 bits")?;
        self.bytes.extend(ethertype.to_be_bytes());
        Ok(())
    }

    fn vlan(&mut self, id: u16) -> Result<(), String> {
        self.say_type(0x8100, 0)?;
        self.bytes.extend(id.to_be_bytes());
        self.next_type = Some(NextType::Ether(self.bytes.len()));
        self.bytes.extend([0; 2]);
        Ok(())
    }

    fn ipv4(&mut self, src: &str, dst: &str, ttl: Option<u32>) -> Result<(), String> {
        let address = |s: &str| s.parse::<Ipv4Addr>().map_err(|_| format!("{s} is no IPv4 address"));
        let (src, dst) = (address(src)?, address(dst)?);
        self.say_type(0x0800, 4)?;
        let at = self.bytes.len();
        self.bytes.extend([0x45, 0, 0, 0, 0, 0, 0x40, 0, ttl.unwrap_or(64) as u8, 0xfd, 0, 0]);
        self.bytes.extend(src.octets());
        self.bytes.extend(dst.octets());
        self.next_type = Some(NextType::Protocol(at + 9));
        self.ipv4.push(at);
        Ok(())
    }

    fn ipv6(&mut self, src: &str, dst: &str, hops: Option<u32>) -> Result<(), String> {
        let address = |s: &str| s.parse::<Ipv6Addr>().map_err(|_| format!("{s} is no IPv6 address"));
        let (src, dst) = (address(src)?, address(dst)?);
        self.say_type(0x86dd, 41)?;
        let at = self.bytes.len();
        self.bytes.extend([0x60, 0, 0, 0, 0, 0, 59, hops.unwrap_or(64) as u8]);
        self.bytes.extend(src.octets());
        self.bytes.extend(dst.octets());
        self.next_type = Some(NextType::Protocol(at + 6));
        self.ipv6.push(at);
        Ok(())
    }

    fn udp(&mut self, src: u16, dst: u16) -> Result<(), String> {
        self.say_type(0, 17)?;
        self.udp.push(self.bytes.len());
        self.bytes.extend(src.to_be_bytes());
        self.bytes.extend(dst.to_be_bytes());
        self.bytes.extend([0; 4]);
        Ok(())
    }

    fn tcp(&mut self, src: u16, dst: u16, rest: &[&str]) -> Result<(), String> {
        let flags = match rest {
            [] => 0x02,
            ["flags", letters] => letters.chars().try_fold(0, |bits, c| {
                let bit = "FSRPAU".find(c).ok_or_else(|| format!("{c:?} is no flag of FSRPAU"))?;
                Ok::<u8, String>(bits | 1 << bit)
            })?,
            _ => return Err("only flags may follow the ports".to_owned()),
        };
        self.say_type(0, 6)?;
        self.bytes.extend(src.to_be_bytes());
        self.bytes.extend(dst.to_be_bytes());
        self.bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        Ok(())
    }

    fn icmp(&mut self, kind: u16) -> Result<(), String> {
        let kind = u8::try_from(kind).map_err(|_| "a type has 8 bits")?;
        self.say_type(0, 1)?;
        let checksum = !(u16::from(kind) << 8);
        self.bytes.extend([kind, 0]);
        self.bytes.extend(checksum.to_be_bytes());
        self.bytes.extend([0; 4]);
        Ok(())
    }

    fn hex(&mut self, digits: &str) -> Result<(), String> {
        if !digits.len().is_multiple_of(2) || digits.len() / 2 > LEN_MAX {
            return Err("an even number of hexadecimal digits, please".to_owned());
        }
        for i in (0..digits.len()).step_by(2) {
            let byte = digits.get(i..i + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
            self.bytes.push(byte.ok_or("not hexadecimal")?);
        }
        Ok(())
    }

    fn fill(&mut self, len: &str) -> Result<(), String> {
        let len = len.parse::<usize>().ok().filter(|n| *n <= LEN_MAX).ok_or("no such length")?;
        if len < self.bytes.len() {
            return Err(format!("the layers before it have {} bytes", self.bytes.len()));
        }
        for i in self.bytes.len()..len {
            self.bytes.push(i as u8);
        }
        Ok(())
    }

    /// Tells the layer before what follows.
    fn say_type(&mut self, ether: u16, protocol: u8) -> Result<(), String> {
        match self.next_type.take() {
            Some(NextType::Ether(at)) if ether != 0 => {
                self.bytes[at..at + 2].copy_from_slice(&ether.to_be_bytes());
            }
            Some(NextType::Protocol(at)) if protocol != 0 => self.bytes[at] = protocol,
            _ => return Err("cannot stand here".to_owned()),
        }
        Ok(())
    }

    /// Fills in lengths and checksums.
    fn finish(&mut self) {
        let len = self.bytes.len();
        for at in std::mem::take(&mut self.udp) {
            self.bytes[at + 4..at + 6].copy_from_slice(&((len - at) as u16).to_be_bytes());
        }
        for at in std::mem::take(&mut self.ipv6) {
            self.bytes[at + 4..at + 6].copy_from_slice(&((len - at - 40) as u16).to_be_bytes());
        }
        for at in std::mem::take(&mut self.ipv4) {
            self.bytes[at + 2..at + 4].copy_from_slice(&((len - at) as u16).to_be_bytes());
            let words = self.bytes[at..at + 20].as_chunks::<2>().0;
            let sum: u32 = words.iter().map(|w| u32::from(u16::from_be_bytes(*w))).sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
            self.bytes[at + 10..at + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        debug_assert!(self.bytes.len() <= LEN_MAX + ETH, "every layer is bounded");
    }
}

/// `02:00:00:00:00:01`, or with the middle left out as in IPv6: `02::1`, `ff::ff` for all ones.
pub(super) fn mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || format!("{text} is no hardware address");
    if text == "ff::ff" {
        return Ok([0xff; 6]);
    }
    let part = |p: &str| u8::from_str_radix(p, 16).map_err(|_| wrong());
    let mut mac = [0; 6];
    if let Some((first, last)) = text.split_once("::") {
        (mac[0], mac[5]) = (part(first)?, part(last)?);
        return Ok(mac);
    }
    let parts: Vec<_> = text.split(':').collect();
    if parts.len() != 6 {
        return Err(wrong());
    }
    for (byte, text) in mac.iter_mut().zip(parts) {
        *byte = part(text)?;
    }
    Ok(mac)
}

fn number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("{text} is no number below 65536"))
}

/// `NAME N` or nothing.
fn option(words: &[&str], name: &str) -> Result<Option<u32>, String> {
    match words {
        [] => Ok(None),
        [word, value] if *word == name => {
            let parsed = match value.strip_prefix("0x") {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => value.parse(),
            };
            parsed.map(Some).map_err(|_| format!("{value} is no number"))
        }
        _ => Err(format!("only {name} may follow the addresses")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn layers_know_what_follows_them() {
        let bytes =
            parse("eth 02::1 > 02:00:00:00:00:02, ipv4 10.0.0.1 > 10.0.0.2 ttl 3, udp 1 > 53, len 60")
                .unwrap();
        assert_eq!(&bytes[..14], &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!((bytes.len(), bytes[22], bytes[23]), (60, 3, 17));
        assert_eq!(u16::from_be_bytes([bytes[16], bytes[17]]), 46, "IPv4 length");
        assert_eq!(u16::from_be_bytes([bytes[38], bytes[39]]), 26, "UDP length");
        let sum: u32 =
            bytes[14..34].as_chunks::<2>().0.iter().map(|w| u32::from(u16::from_be_bytes(*w))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum is right");
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (line, text) in [
            ("eth 02::1 > nobody", "nobody is no hardware address"),
            ("udp 1 > 2", "cannot stand here"),
            ("eth 02::1 > 02::2, len 13", "the layers before it have 14 bytes"),
            ("eth 02::1 > 02::2, ipv4 1.2.3 > 4.5.6.7", "1.2.3 is no IPv4 address"),
            ("eth 02::1 > 02::2, gre", "is no layer"),
            ("eth 02::1 > 02::2 ttl 3", "only type may follow"),
            ("hex 123", "even number"),
            ("hex \u{e9}\u{e9}", "not hexadecimal"),
            ("len 999999999999999999", "no such length"),
            ("", "without bytes"),
        ] {
            assert!(parse(line).unwrap_err().contains(text), "{line}: {:?}", parse(line));
        }
    }
}
