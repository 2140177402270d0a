//! Writing pcapng with the options that xdpdump writes: queue, packet id and verdict.
//!
//! No crate writes these options, so the four kinds of block are written here.

use std::io::{self, Write};

/// A pcapng file being written: one interface for each program and side (`name@fentry`, `name@fexit`).
pub struct Writer<W: Write> {
    out: W,
    interfaces: u32,
}

/// An interface of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterfaceId(u32);

/// What is said of a packet beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PacketOptions {
    /// Queue that it came in on (`epb_queue`).
    pub queue: Option<u32>,
    /// The same number for one packet at entry and exit (`epb_packetid`).
    pub packet_id: Option<u64>,
    /// What the program decided (`epb_verdict` of type eBPF_XDP).
    pub verdict: Option<u32>,
}

const LINKTYPE_ETHERNET: u16 = 1;
const OPT_END: u16 = 0;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_PACKETID: u16 = 5;
const EPB_QUEUE: u16 = 6;
const EPB_VERDICT: u16 = 7;
const VERDICT_EBPF_XDP: u8 = 2;

impl<W: Write> Writer<W> {
    /// Starts a file.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out, interfaces: 0 };
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        body.extend(1_u16.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend(u64::MAX.to_le_bytes());
        option(&mut body, SHB_USERAPPL, concat!("earlybird ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut body, OPT_END, &[]);
        writer.block(0x0a0d_0d0a, &body)?;
        Ok(writer)
    }

    /// Describes an interface with nanosecond time stamps.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn interface(&mut self, name: &str) -> io::Result<InterfaceId> {
        let mut body = Vec::new();
        body.extend(LINKTYPE_ETHERNET.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend(0_u32.to_le_bytes());
        option(&mut body, IF_NAME, name.as_bytes());
        option(&mut body, IF_TSRESOL, &[9]);
        option(&mut body, OPT_END, &[]);
        self.block(1, &body)?;
        self.interfaces += 1;
        Ok(InterfaceId(self.interfaces - 1))
    }

    /// Writes a packet.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn packet(
        &mut self,
        interface: InterfaceId,
        time_ns: u64,
        data: &[u8],
        options: PacketOptions,
    ) -> io::Result<()> {
        let mut body = Vec::with_capacity(data.len() + 64);
        body.extend(interface.0.to_le_bytes());
        body.extend(((time_ns >> 32) as u32).to_le_bytes());
        body.extend((time_ns as u32).to_le_bytes());
        body.extend((data.len() as u32).to_le_bytes());
        body.extend((data.len() as u32).to_le_bytes());
        body.extend(data);
        pad(&mut body);
        if let Some(id) = options.packet_id {
            option(&mut body, EPB_PACKETID, &id.to_le_bytes());
        }
        if let Some(queue) = options.queue {
            option(&mut body, EPB_QUEUE, &queue.to_le_bytes());
        }
        if let Some(verdict) = options.verdict {
            let mut value = vec![VERDICT_EBPF_XDP];
            value.extend(i64::from(verdict).to_le_bytes());
            option(&mut body, EPB_VERDICT, &value);
        }
        option(&mut body, OPT_END, &[]);
        self.block(6, &body)
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let len = (body.len() + 12) as u32;
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&len.to_le_bytes())?;
        self.out.write_all(body)?;
        self.out.write_all(&len.to_le_bytes())
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Reader;
    use std::path::Path;

    #[test]
    fn what_is_written_can_be_read_back() {
        let mut w = Writer::new(Vec::new()).unwrap();
        let entry = w.interface("p@fentry").unwrap();
        let exit = w.interface("p@fexit").unwrap();
        let options = PacketOptions { queue: Some(3), packet_id: Some(7), verdict: Some(2) };
        w.packet(entry, 1_700_000_000_123_456_789, &[1; 61], PacketOptions::default()).unwrap();
        w.packet(exit, 5, &[2; 14], options).unwrap();
        let bytes = w.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let read: Vec<_> = Reader::from_read(Path::new("t"), Box::new(std::io::Cursor::new(bytes)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(read[0].time_ns, 1_700_000_000_123_456_789);
        assert_eq!(read[0].data, vec![1; 61]);
        assert_eq!((read[1].time_ns, read[1].data.len()), (5, 14));
    }
}
