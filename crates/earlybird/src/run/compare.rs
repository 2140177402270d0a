//! Where the engine and the kernel differ.

use bpf::maps::MapDef;
use control::{Loaded, OutputEvent, TestRunOutput};
use serde::Serialize;
use serde_json::{Value, json};
use uapi::bpf::MapType;
use uapi::xdp::XdpAction;

use super::MapView;
use super::maps::{Entries, entries};

/// One thing that the two backends gave differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Packet, counted from 1; the last one for what was only looked at after the run.
    pub packet: u64,
    /// What differs: `verdict`, `data`, `metadata`, `linear`, `event`, `map NAME[KEY]`.
    pub field: String,
    /// What the engine gave.
    pub engine: Value,
    /// What the kernel gave.
    pub kernel: Value,
}

/// Differences of one packet's results.
pub(super) fn outputs(packet: u64, engine: &TestRunOutput, kernel: &TestRunOutput) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut differ = |field: &str, engine: Value, kernel: Value| {
        if engine != kernel {
            found.push(Difference { packet, field: field.to_owned(), engine, kernel });
        }
    };
    differ("verdict", verdict(engine.retval), verdict(kernel.retval));
    differ("metadata", json!(engine.ctx.data), json!(kernel.ctx.data));
    differ("linear", json!(engine.ctx.data_end), json!(kernel.ctx.data_end));
    if engine.data != kernel.data {
        let at = engine.data.iter().zip(&kernel.data).position(|(a, b)| a != b);
        let at = at.unwrap_or(engine.data.len().min(kernel.data.len()));
        differ("data", excerpt(&engine.data, at), excerpt(&kernel.data, at));
    }
    if kernel.off_script > 0 {
        differ(
            "helper calls",
            json!("as scripted"),
            json!(format!("{} calls off the script", kernel.off_script)),
        );
    }
    found
}

fn verdict(retval: u32) -> Value {
    XdpAction::from_raw(retval).map_or_else(|| json!(retval), |a| json!(a.name()))
}

/// Length, first differing offset, and the bytes around it.
fn excerpt(data: &[u8], at: usize) -> Value {
    let from = at.saturating_sub(4).min(data.len());
    let to = (at + 12).min(data.len());
    let bytes: Vec<String> = data[from..to].iter().map(|b| format!("{b:02x}")).collect();
    json!({"len": data.len(), "offset": from, "bytes": bytes.join(" ")})
}

/// Differences of what programs sent to user space.
pub(super) fn events(packet: u64, engine: &[OutputEvent], kernel: &[OutputEvent]) -> Vec<Difference> {
    // The kernel's trace lines go to a pipe of the whole machine, which is not read.
    let comparable = |e: &&OutputEvent| !matches!(e, OutputEvent::Trace(_));
    let ours: Vec<_> = engine.iter().filter(comparable).collect();
    let theirs: Vec<_> = kernel.iter().filter(comparable).collect();
    if ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| a.agrees(b)) {
        return Vec::new();
    }
    let text = |events: &[&OutputEvent]| json!(events.iter().map(|e| format!("{e:?}")).collect::<Vec<_>>());
    vec![Difference { packet, field: "event".into(), engine: text(&ours), kernel: text(&theirs) }]
}

/// Differences of what the maps hold.
pub(super) fn maps(
    packet: u64,
    view: &MapView<'_>,
    engine: &dyn Loaded,
    kernel: &dyn Loaded,
    which: impl Fn(&MapDef) -> bool,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let pairs = engine.maps().iter().zip(kernel.maps()).enumerate();
    for (index, (ours, theirs)) in pairs.filter(|(_, (m, _))| which(&m.def)) {
        let both = (entries(engine, index, &ours.def), entries(kernel, index, &theirs.def));
        if let (Some(a), Some(b)) = both {
            found.extend(one_map(packet, view, index, &ours.name, &ours.def, a, b));
        }
    }
    found
}

fn one_map(
    packet: u64,
    view: &MapView<'_>,
    index: usize,
    name: &str,
    def: &MapDef,
    engine: Entries,
    kernel: Entries,
) -> Vec<Difference> {
    let comparable = |value: &[u8]| value[..comparable_len(def, value.len())].to_vec();
    let get = |all: &Entries, key: &[u8]| {
        let at = all.binary_search_by(|(k, _)| k.as_slice().cmp(key)).ok()?;
        Some(comparable(&all[at].1))
    };
    let mut keys: Vec<&[u8]> = engine.iter().chain(&kernel).map(|(k, _)| k.as_slice()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .filter_map(|key| {
            let (a, b) = (get(&engine, key), get(&kernel, key));
            let show = |v: Option<Vec<u8>>| v.map_or(Value::Null, |v| view.value_json(index, &v));
            (a != b).then(|| Difference {
                packet,
                field: format!("map {name}[{}]", view.key_text(index, key)),
                engine: show(a),
                kernel: show(b),
            })
        })
        .collect()
}

/// Bytes of a value that mean the same in both homes: ids of programs and maps do not.
fn comparable_len(def: &MapDef, len: usize) -> usize {
    match def.map_type {
        MapType::ProgArray | MapType::ArrayOfMaps | MapType::HashOfMaps => 0,
        MapType::Devmap | MapType::DevmapHash | MapType::Cpumap => len.min(4),
        _ => len,
    }
}
