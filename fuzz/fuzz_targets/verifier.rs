//! Instructions from bytes: a verdict within the limits, and what is accepted can be linked and does not
//! fault.
//!
//!     cargo +nightly fuzz run verifier
#![no_main]

use std::sync::Arc;

use bpf::host::{Clock, Host};
use bpf::maps::{Map, MapContext};
use bpf::object::ProgramSpec;
use bpf::redirect::RedirectInfo;
use bpf::verifier::{Input, MapDef, Options, verify};
use bpf::vm::{Fault, FaultKind, Program, Run, Scratch};
use bpf::{Insn, maps};
use libfuzzer_sys::fuzz_target;
use mem::{Frame, RxqInfo, XdpBuff};
use uapi::bpf::MapType;

const RXQ: RxqInfo = RxqInfo { ifindex: 1, queue_index: 0, mem_type: 0, frag_size: 4096 };

struct StillHost;

impl Host for StillHost {
    fn ktime_ns(&mut self, _: Clock) -> u64 {
        1
    }

    fn prandom_u32(&mut self) -> u32 {
        7
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some(insns) = Insn::decode_all(&bytes[..bytes.len() & !7]) else { return };
    let spec = ProgramSpec::bare("fuzz", insns);
    let def = maps::MapDef::new(MapType::Array, 4, 8, 4);
    let defs = [MapDef {
        name: def.name.clone(),
        map_type: MapType::Array,
        key_size: 4,
        value_size: 8,
        max_entries: 4,
        flags: 0,
        value_type: None,
        has_btf: false,
        inner: None,
        frozen: false,
        contents: None,
    }];
    let input = Input::of_program(&spec, &defs, "GPL", None, None);
    let Ok(verified) = verify(&input, &Options::default()) else { return };
    let map = Map::create(def, &MapContext::default()).expect("an ordinary map");
    let program = Arc::new(Program::link_verified(&spec, 1, &[map], verified).expect("it was accepted"));
    let mut buff = XdpBuff::new(Frame::new(4096), 256, 100, &RXQ).expect("it fits");
    let (mut scratch, mut redirect, mut host) = (Scratch::new(), RedirectInfo::default(), StillHost);
    let guard = mem::epoch::pin();
    let run = Run::checked(&program, &guard, &mut scratch, &mut buff, &mut redirect, &mut host);
    match run.with_fuel(1 << 20).execute() {
        // Loops of `may_goto` and `bpf_loop` go on for millions of rounds.
        Ok(_) | Err(Fault { kind: FaultKind::OutOfFuel, .. }) => {}
        Err(fault) => panic!("it was accepted: {fault}"),
    }
});
