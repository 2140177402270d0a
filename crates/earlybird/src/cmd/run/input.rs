//! Where the packets and their context come from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use earlybird::capture::{CapturedPacket, Reader};
use serde_json::Value;
use uapi::xdp::XdpMd;

use crate::cmd::Failure;

#[derive(Args)]
#[group(required = true, multiple = false, id = "source")]
struct Source {
    /// Capture with Ethernet frames (pcap or pcapng)
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,

    /// One packet in hexadecimal; spaces and colons are ignored
    #[arg(long, value_name = "HEX")]
    packet: Option<String>,

    /// One packet: the bytes of a file
    #[arg(long, value_name = "FILE")]
    packet_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct PacketArgs {
    #[command(flatten)]
    source: Source,

    /// Stop after this many packets
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// The packets of a run.
pub(super) enum Packets {
    Capture { reader: Box<Reader>, left: u64, size: u64 },
    One(Option<CapturedPacket>),
}

impl Packets {
    pub(super) fn open(args: &PacketArgs) -> Result<Self, Failure> {
        let one = |data: Vec<u8>| {
            let wire_len = data.len() as u32;
            Self::One(Some(CapturedPacket { time_ns: 0, data, wire_len }))
        };
        let source = &args.source;
        if let Some(text) = &source.packet {
            let data =
                hex(text).ok_or_else(|| Failure::Usage(anyhow!("--packet: not hexadecimal: {text:?}")))?;
            return Ok(one(data));
        }
        if let Some(path) = &source.packet_file {
            let data = std::fs::read(path).with_context(|| path.display().to_string())?;
            return Ok(one(data));
        }
        let path = source.pcap.as_deref().unwrap_or(Path::new(""));
        let reader = Box::new(Reader::open(path).map_err(anyhow::Error::from)?);
        let size = std::fs::metadata(path).map_or(0, |m| m.len());
        Ok(Self::Capture { reader, left: args.limit.unwrap_or(u64::MAX), size })
    }

    /// Bytes of the capture, for a progress bar.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Capture { size, .. } => *size,
            Self::One(_) => 0,
        }
    }
}

impl Iterator for Packets {
    type Item = Result<CapturedPacket>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Capture { left: 0, .. } => None,
            Self::Capture { reader, left, .. } => {
                *left -= 1;
                reader.next().map(|p| p.map_err(anyhow::Error::from))
            }
            Self::One(packet) => packet.take().map(Ok),
        }
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let digits: Option<Vec<u32>> =
        text.chars().filter(|c| !c.is_whitespace() && *c != ':').map(|c| c.to_digit(16)).collect();
    let digits = digits?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[a, b]| (a * 16 + b) as u8).collect())
}

/// The context of each packet and the metadata before it. A `data_end` of 0 is filled in from the packet.
pub(super) fn context(
    text: Option<&str>,
    ifindex: Option<u32>,
    rx_queue: Option<u32>,
) -> Result<(Option<XdpMd>, Vec<u8>)> {
    let (mut ctx, metadata) = match text {
        None if ifindex.is_none() && rx_queue.is_none() => return Ok((None, Vec::new())),
        None => (XdpMd::default(), Vec::new()),
        Some(text) if text.trim_start().starts_with('{') => json_context(text)?,
        Some(path) => (binary_context(Path::new(path))?, Vec::new()),
    };
    ctx.ingress_ifindex = ifindex.unwrap_or(ctx.ingress_ifindex);
    ctx.rx_queue_index = rx_queue.unwrap_or(ctx.rx_queue_index);
    if ctx.rx_queue_index != 0 && ctx.ingress_ifindex == 0 {
        bail!("--rx-queue needs --ifindex: a queue belongs to a device (the kernel answers EINVAL)");
    }
    Ok((Some(ctx), metadata))
}

fn json_context(text: &str) -> Result<(XdpMd, Vec<u8>)> {
    let json: serde_json::Map<String, Value> = serde_json::from_str(text).context("--ctx-in")?;
    let mut ctx = XdpMd::default();
    let mut metadata = Vec::new();
    for (name, value) in &json {
        let number = || {
            let n = value.as_u64().and_then(|n| u32::try_from(n).ok());
            n.with_context(|| format!("--ctx-in: {name}: {value} is no 32-bit number"))
        };
        match name.as_str() {
            "metadata" => {
                let bytes = value.as_str().and_then(hex);
                metadata =
                    bytes.with_context(|| format!("--ctx-in: {name}: {value} is no hexadecimal string"))?;
            }
            "linear" | "data_end" => ctx.data_end = number()?,
            "ingress_ifindex" => ctx.ingress_ifindex = number()?,
            "rx_queue_index" => ctx.rx_queue_index = number()?,
            "egress_ifindex" => ctx.egress_ifindex = number()?,
            "data_meta" => ctx.data_meta = number()?,
            "data" => ctx.data = number()?,
            _ => bail!(
                "--ctx-in: {name:?} is no member; there are metadata, linear, ingress_ifindex, rx_queue_index, \
                 egress_ifindex, data, data_meta, data_end"
            ),
        }
    }
    if !metadata.is_empty() {
        ctx.data = metadata.len() as u32;
        if ctx.data_end != 0 {
            ctx.data_end += ctx.data;
        }
    }
    Ok((ctx, metadata))
}

fn binary_context(path: &Path) -> Result<XdpMd> {
    let bytes = std::fs::read(path).with_context(|| format!("--ctx-in {}", path.display()))?;
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || words.len() > 6 {
        bail!("--ctx-in {}: {} bytes, but a struct xdp_md has 24", path.display(), bytes.len());
    }
    let word = |i: usize| words.get(i).map_or(0, |w| u32::from_le_bytes(*w));
    Ok(XdpMd {
        data: word(0),
        data_end: word(1),
        data_meta: word(2),
        ingress_ifindex: word(3),
        rx_queue_index: word(4),
        egress_ifindex: word(5),
    })
}
