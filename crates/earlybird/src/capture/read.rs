//! Reading captures, on the parser of `pcap-parser`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use pcap_parser::{Block, PcapBlockOwned, PcapError, traits::PcapReaderIterator};

/// A packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedPacket {
    /// When it was seen, nanoseconds since 1970.
    pub time_ns: u64,
    /// The captured bytes, from the Ethernet header on.
    pub data: Vec<u8>,
    /// Bytes that it had on the wire.
    pub wire_len: u32,
}

/// A capture cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Reason.
        source: std::io::Error,
    },
    /// Not a capture, or a damaged one.
    #[error("{}: {reason}", path.display())]
    Format {
        /// File.
        path: PathBuf,
        /// What is wrong, with the packet that it was found after.
        reason: String,
    },
    /// Packets without Ethernet headers.
    #[error(
        "{}: link type {link_type} ({name}); XDP programs see Ethernet frames (link type 1), convert the capture or \
         make it on an Ethernet device",
        path.display()
    )]
    LinkType {
        /// File.
        path: PathBuf,
        /// `LINKTYPE_*`.
        link_type: i32,
        /// What libpcap calls it, if we know.
        name: &'static str,
    },
}

/// Time units of one capture interface.
#[derive(Clone, Copy)]
struct Clock {
    offset_s: i64,
    units_per_s: u64,
}

impl Clock {
    fn ns(self, units: u64) -> u64 {
        let ns = u128::from(units) * 1_000_000_000 / u128::from(self.units_per_s.max(1));
        let shifted = ns as i128 + i128::from(self.offset_s) * 1_000_000_000;
        u64::try_from(shifted).unwrap_or(0)
    }
}

/// A capture being read.
pub struct Reader {
    path: PathBuf,
    parser: Box<dyn PcapReaderIterator + Send>,
    clocks: Vec<Clock>,
    capacity: usize,
    packets: u64,
    bytes_read: u64,
    done: bool,
}

/// What one block of the file means to us.
enum Step {
    Packet(CapturedPacket),
    Skip,
}

const CAPACITY: usize = 1 << 16;
const ETHERNET: i32 = 1;
/// The largest block that is believed, bytes.
const BLOCK_MAX: usize = 16 << 20;

impl Reader {
    /// Opens a pcap file (both byte orders, microseconds and nanoseconds) or a pcapng file.
    ///
    /// # Errors
    ///
    /// [`CaptureError`] if it cannot be opened or is neither.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = File::open(path).map_err(|source| CaptureError::Io { path: path.into(), source })?;
        Self::from_read(path, Box::new(file))
    }

    /// Reads a capture from anything; `path` is for messages.
    ///
    /// # Errors
    ///
    /// As [`Reader::open`].
    pub fn from_read(path: &Path, input: Box<dyn Read + Send>) -> Result<Self, CaptureError> {
        let parser = pcap_parser::create_reader(CAPACITY, input).map_err(|e| {
            let reason = match e {
                PcapError::Eof => "the file is empty".to_owned(),
                PcapError::ReadError => "reading failed".to_owned(),
                _ => "neither a pcap nor a pcapng file".to_owned(),
            };
            CaptureError::Format { path: path.into(), reason }
        })?;
        let path = path.to_owned();
        Ok(Self {
            path,
            parser,
            clocks: Vec::new(),
            capacity: CAPACITY,
            packets: 0,
            bytes_read: 0,
            done: false,
        })
    }

    /// Bytes of the file that have been read, for progress.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn format(&self, reason: impl Into<String>) -> CaptureError {
        let reason = format!("{} (after {} packets)", reason.into(), self.packets);
        CaptureError::Format { path: self.path.clone(), reason }
    }

    fn next_step(&mut self) -> Result<Option<Step>, CaptureError> {
        let path = &self.path;
        match self.parser.next() {
            Ok((size, block)) => {
                let step = read_block(&mut self.clocks, block, path);
                self.bytes_read += size as u64;
                self.parser.consume(size);
                step.map(Some)
            }
            Err(PcapError::Eof) => Ok(None),
            Err(PcapError::Incomplete(_)) => self.refill().map(|()| Some(Step::Skip)),
            Err(PcapError::BufferTooSmall) => self.grow().map(|()| Some(Step::Skip)),
            Err(PcapError::UnexpectedEof) => Err(self.format("the file ends in the middle of a packet")),
            Err(PcapError::ReadError) => Err(self.format("reading failed")),
            Err(_) => Err(self.format("the file is damaged here")),
        }
    }

    fn refill(&mut self) -> Result<(), CaptureError> {
        if self.parser.refill().is_err() {
            return Err(self.format("reading failed"));
        }
        Ok(())
    }

    fn grow(&mut self) -> Result<(), CaptureError> {
        self.capacity *= 2;
        if self.capacity > BLOCK_MAX || !self.parser.grow(self.capacity) {
            return Err(self.format(format!("a block of more than {BLOCK_MAX} bytes")));
        }
        self.refill()
    }
}

impl Iterator for Reader {
    type Item = Result<CapturedPacket, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            match self.next_step() {
                Ok(Some(Step::Skip)) => {}
                Ok(Some(Step::Packet(packet))) => {
                    self.packets += 1;
                    return Some(Ok(packet));
                }
                Ok(None) => self.done = true,
                Err(e) => {
                    self.done = true;
                    return Some(Err(e));
                }
            }
        }
        None
    }
}

fn check_link_type(link_type: i32, path: &Path) -> Result<(), CaptureError> {
    if link_type == ETHERNET {
        return Ok(());
    }
    let name = match link_type {
        0 => "NULL, BSD loopback",
        101 => "RAW, IP without link header",
        105 => "IEEE802_11, wireless",
        113 => "LINUX_SLL, captured on \"any\"",
        127 => "IEEE802_11_RADIOTAP, wireless",
        228 => "IPV4",
        229 => "IPV6",
        276 => "LINUX_SLL2, captured on \"any\"",
        _ => "not Ethernet",
    };
    Err(CaptureError::LinkType { path: path.into(), link_type, name })
}

fn read_block(clocks: &mut Vec<Clock>, block: PcapBlockOwned<'_>, path: &Path) -> Result<Step, CaptureError> {
    let packet = |clock: Clock, units: u64, wire_len: u32, data: &[u8], captured: u32| {
        let data = data[..data.len().min(captured as usize)].to_vec();
        Step::Packet(CapturedPacket { time_ns: clock.ns(units), data, wire_len })
    };
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            check_link_type(header.network.0, path)?;
            let units_per_s = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
            clocks.push(Clock { offset_s: 0, units_per_s });
        }
        PcapBlockOwned::Legacy(p) => {
            let clock = clocks.last().copied().unwrap_or(Clock { offset_s: 0, units_per_s: 1_000_000 });
            let units = u64::from(p.ts_sec) * clock.units_per_s + u64::from(p.ts_usec);
            return Ok(packet(clock, units, p.origlen, p.data, p.caplen));
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => clocks.clear(),
        PcapBlockOwned::NG(Block::InterfaceDescription(i)) => {
            check_link_type(i.linktype.0, path)?;
            let units_per_s = i.ts_resolution().unwrap_or(1_000_000);
            clocks.push(Clock { offset_s: i.ts_offset(), units_per_s });
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(p)) => {
            let Some(clock) = clocks.get(p.if_id as usize).copied() else {
                let reason = format!("a packet of interface {}, which the file does not describe", p.if_id);
                return Err(CaptureError::Format { path: path.into(), reason });
            };
            let units = (u64::from(p.ts_high) << 32) | u64::from(p.ts_low);
            return Ok(packet(clock, units, p.origlen, p.data, p.caplen));
        }
        PcapBlockOwned::NG(Block::SimplePacket(p)) => {
            let clock = Clock { offset_s: 0, units_per_s: 1 };
            return Ok(packet(clock, 0, p.origlen, p.data, p.origlen));
        }
        PcapBlockOwned::NG(_) => {}
    }
    Ok(Step::Skip)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
