//! What a run came to: the JSON that tools read and the text that people read.

use std::fmt::Write as _;
use std::net::SocketAddr;

use bpf::host::HZ;
use bpf::kfuncs::Connection;
use serde::Serialize;
use serde_json::{Map, Value};
use uapi::xdp::XdpAction;

use super::Difference;

/// The result of `earlybird run`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Object file.
    pub object: String,
    /// Program, by function name.
    pub program: String,
    /// `engine`, `kernel` or `both`.
    pub backend: String,
    /// `interp` or `jit`; `null` if only the kernel ran.
    pub engine: Option<String>,
    /// Packets run.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets by verdict; return values that are no action by their number.
    pub verdicts: Map<String, Value>,
    /// Mean time of one run of the program, nanoseconds: the engine's, or the kernel's if it ran alone.
    pub ns_per_packet: f64,
    /// The kernel's, beside the engine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_ns_per_packet: Option<f64>,
    /// Where `XDP_REDIRECT` went (the kernel does not tell).
    pub redirects: Vec<RedirectCount>,
    /// What the maps hold after the run.
    pub maps: Map<String, Value>,
    /// Connections that the engine tracks after the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<ConnectionRow>,
    /// Records of ring buffers and perf events, and trace lines.
    pub events: u64,
    /// Where the two backends differ; the first ones if there are many.
    pub differences: Vec<Difference>,
    /// All differences, also those that are not listed.
    pub differences_total: u64,
    /// Sentences that a user should read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Packets that were redirected to one place.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct RedirectCount {
    /// Map; `null` for a redirect by interface number.
    pub map: Option<String>,
    /// Key in the map, or the interface's number; `null` for a broadcast.
    pub key: Option<u32>,
    /// Packets.
    pub count: u64,
}

/// A tracked connection.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct ConnectionRow {
    /// Number of its network namespace; `null` for the devices' own.
    pub netns: Option<u32>,
    /// Number of the IP protocol.
    pub protocol: u8,
    /// Who began it.
    pub src: SocketAddr,
    /// With whom.
    pub dst: SocketAddr,
    /// Where answers come from.
    pub reply_src: SocketAddr,
    /// Where answers go to.
    pub reply_dst: SocketAddr,
    /// Zone.
    pub zone: u16,
    /// `IPS_*` bits.
    pub status: u32,
    /// Mark.
    pub mark: u32,
    /// Milliseconds until it ends.
    pub timeout_ms: u64,
}

impl From<Connection> for ConnectionRow {
    fn from(connection: Connection) -> Self {
        let Connection { original, reply, .. } = connection;
        Self {
            netns: connection.netns,
            protocol: original.protocol,
            src: SocketAddr::new(original.src, original.sport),
            dst: SocketAddr::new(original.dst, original.dport),
            reply_src: SocketAddr::new(reply.src, reply.sport),
            reply_dst: SocketAddr::new(reply.dst, reply.dport),
            zone: connection.zone.id,
            status: connection.status,
            mark: connection.mark,
            timeout_ms: u64::from(connection.timeout) * (1000 / HZ),
        }
    }
}

impl Report {
    /// Counts a packet's verdict.
    pub(super) fn count_verdict(&mut self, retval: u32) {
        let name = XdpAction::from_raw(retval).map_or_else(|| retval.to_string(), |a| a.name().to_owned());
        let slot = self.verdicts.entry(name).or_insert_with(|| Value::from(0_u64));
        *slot = Value::from(slot.as_u64().unwrap_or(0) + 1);
    }

    /// The report as text, without colour.
    #[must_use]
    pub fn text(&self) -> String {
        let mut t = String::new();
        let engine = self.engine.as_ref().map(|e| format!(", {e}")).unwrap_or_default();
        let _ = writeln!(t, "{}: {} ({}{engine})", self.object, self.program, self.backend);
        let _ = writeln!(
            t,
            "{} packets, {} bytes, {:.1} ns a packet",
            self.packets, self.bytes, self.ns_per_packet
        );
        if let Some(ns) = self.kernel_ns_per_packet {
            let _ = writeln!(t, "kernel: {ns:.1} ns a packet");
        }
        for (name, count) in self.verdicts.iter().filter(|(_, n)| n.as_u64() != Some(0)) {
            let count = count.as_u64().unwrap_or(0);
            let share = 100.0 * count as f64 / self.packets.max(1) as f64;
            let _ = writeln!(t, "  {name:<13} {count:>10}  {share:5.1}%");
        }
        self.redirect_lines(&mut t);
        if self.events > 0 {
            let _ = writeln!(t, "{} events", self.events);
        }
        self.map_lines(&mut t);
        self.connection_lines(&mut t);
        for warning in &self.warnings {
            let _ = writeln!(t, "warning: {warning}");
        }
        self.difference_lines(&mut t);
        t
    }

    fn redirect_lines(&self, t: &mut String) {
        for r in &self.redirects {
            let key = r.key.map_or_else(|| "all".to_owned(), |k| k.to_string());
            let target = r.map.as_ref().map_or_else(|| format!("ifindex {key}"), |m| format!("{m}[{key}]"));
            let _ = writeln!(t, "  -> {target:<20} {:>10}", r.count);
        }
    }

    fn map_lines(&self, t: &mut String) {
        for (name, contents) in &self.maps {
            match contents {
                Value::Array(entries) if entries.is_empty() => {
                    let _ = writeln!(t, "map {name}: empty");
                }
                Value::Array(entries) => {
                    let _ = writeln!(t, "map {name}:");
                    for entry in entries {
                        let key = entry.get("key").map(|k| format!("{k}: ")).unwrap_or_default();
                        let value =
                            entry.get("value").or_else(|| entry.get("values")).unwrap_or(&Value::Null);
                        let _ = writeln!(t, "  {key}{value}");
                    }
                }
                other => {
                    let _ = writeln!(t, "map {name}: {other}");
                }
            }
        }
    }

    fn connection_lines(&self, t: &mut String) {
        const SHOWN: usize = 20;
        if self.connections.is_empty() {
            return;
        }
        let _ = writeln!(t, "{} connections:", self.connections.len());
        for c in self.connections.iter().take(SHOWN) {
            let protocol = match c.protocol {
                6 => "tcp",
                17 => "udp",
                _ => "?",
            };
            let (src, dst, back, ms) = (c.src, c.dst, (c.reply_src, c.reply_dst), c.timeout_ms);
            let translated = if back == (dst, src) {
                String::new()
            } else {
                format!(", answers {} -> {}", back.0, back.1)
            };
            let _ = writeln!(
                t,
                "  {protocol} {src} -> {dst}{translated}: status {:#x}, mark {:#x}, {ms} ms left",
                c.status, c.mark
            );
        }
        if self.connections.len() > SHOWN {
            let _ = writeln!(t, "  and {} more (--json shows all)", self.connections.len() - SHOWN);
        }
    }

    fn difference_lines(&self, t: &mut String) {
        if self.backend != "both" {
            return;
        }
        if self.differences_total == 0 {
            let _ = writeln!(t, "engine and kernel agree on every packet, byte and map entry");
            return;
        }
        let _ = writeln!(t, "engine and kernel DIFFER in {} places:", self.differences_total);
        for d in &self.differences {
            let _ =
                writeln!(t, "  packet {}, {}: engine {}, kernel {}", d.packet, d.field, d.engine, d.kernel);
        }
        let more = self.differences_total - self.differences.len() as u64;
        if more > 0 {
            let _ = writeln!(t, "  and {more} more");
        }
    }
}
